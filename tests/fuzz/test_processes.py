"""The same cases through real processes: streams, exit codes and crashes as a shell sees them."""

import pytest
from fuzz.files import FILES, file_targets
from fuzz.harness import COUNTED, STARTED_SECONDS, in_processes, run
from fuzz.options import option_targets

OPTIONS = {target.name: target for target in option_targets()}
# one of each type of value, and those that end in a file
SOME_OPTIONS = (
    *("train --steps", "train --lr", "train --out", "train TEXT", "train --name", "train --write-gate"),
    *("eval CHECKPOINT", "generate --prompt", "generate --top-p", "inspect --figure", "reproduce --seeds"),
    *("report --out", "report --studies", "bench throughput --models", "bench decode --seconds"),
)


@pytest.mark.full_fuzz
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", FILES)
def test_damaged_files_in_processes_of_their_own(world, record_property, name) -> None:
    (target,) = [target for target in file_targets(world) if target.name == name]
    with in_processes(executed=False):
        record_property(COUNTED, ("forked process", f"file {name}", run(target, world, 7)))
    if name.endswith("json") and "inspections" not in name:
        with in_processes(executed=True):
            record_property(
                COUNTED, ("new process", f"file {name}", run(target, world, 3, seconds=STARTED_SECONDS))
            )


@pytest.mark.full_fuzz
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", SOME_OPTIONS)
def test_options_in_processes_of_their_own(world, record_property, name) -> None:
    with in_processes(executed=False):
        record_property(COUNTED, ("forked process", f"option {name}", run(OPTIONS[name], world, 8)))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["checksums.json", "trainer.json"])
def test_a_damaged_file_in_a_process_of_its_own(world, record_property, name) -> None:
    (target,) = [target for target in file_targets(world) if target.name == name]
    with in_processes(executed=False):
        record_property(COUNTED, ("forked process", f"file {name}", run(target, world, 2)))
    with in_processes(executed=True):
        record_property(
            COUNTED, ("new process", f"file {name}", run(target, world, 1, seconds=STARTED_SECONDS))
        )
