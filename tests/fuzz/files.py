"""A target for each file that is read: damaged, it is met in one line that names it, and nothing is lost."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fuzz.harness import Accepted, Target, check_command, scratch, works_or_is_refused
from fuzz.values import Bytes, damaged_json, damaged_tensors
from fuzz.world import ON_RULER
from hypothesis import strategies as st

from unimatrix.cli.model_options import SHORT
from unimatrix.hf.checksums import CHECKSUMS, write_checksums
from unimatrix.lab import report as report_module
from unimatrix.lab import run as reproduce
from unimatrix.lab.charts import draw_slots, specification
from unimatrix.lab.look import read_trace
from unimatrix.lab.results import latest_identities, read_results, select
from unimatrix.studies.catalogue import STUDIES

# (bytes to be put in the file's place, whether the checksums are made to agree with it)
Damage = tuple[bytes, bool]


def _in_run(
    name: str,
    commands: Callable[[Path], list[list[str]]],
    *,
    inside: str = "checkpoint-000002",
    of: str = "run",
) -> Any:
    """A check: the file of one of the world's runs is replaced, and each command is given the run."""

    def check(world: Any, damage: Damage) -> None:
        data, agreeing = damage
        with scratch(getattr(world, of)) as run:
            path = run / inside / name
            path.write_bytes(data)
            if agreeing and inside and name != CHECKSUMS:
                # of all files that are there
                (path.parent / CHECKSUMS).unlink()
                write_checksums(path.parent)
            for arguments in commands(run):
                check_command(
                    arguments,
                    path.name,
                    path.parent.name,
                    "preset",
                    "model",
                    "evaluation",
                    "the run in",
                    *SHORT,
                    folder=run,
                )

    return check


def _generate(run: Path) -> list[str]:
    return ["generate", str(run), "--prompt", "ab", "--max-new-tokens", "2", "--temperature", "0"]


def _read_model(run: Path) -> list[list[str]]:
    return [_generate(run), ["eval", str(run), "--data", str(run.parent / "sea.txt")]][:1]


def _resume(run: Path) -> list[list[str]]:
    # the last one, which may write
    return [["eval", str(run)], ["train", "--resume", "--out", str(run), "--steps", "3"]]


def _check_sharded(world: Any, data: bytes) -> None:
    with scratch(world.sharded) as folder:
        (folder / "model.safetensors.index.json").write_bytes(data)
        check_command(_generate(folder), folder.name, folder=folder)


def _check_state(world: Any, data: bytes) -> None:
    with scratch(world.run) as folder:
        (folder / "ab.state").write_bytes(data)
        check_command(
            [*_generate(folder), "--load-state", str(folder / "ab.state")], "ab.state", folder=folder
        )


def _in_results(name: str) -> Any:
    """A check: that file of a reproduction's folder is replaced, and its report asked for."""

    def check(world: Any, data: bytes) -> None:
        with scratch(world.results) as folder, pytest.MonkeyPatch.context() as patch:
            (folder / name).write_bytes(data)
            # the drawing takes seconds, and is the same for all
            patch.setattr(report_module, "write_report", _accept)
            check_command(["report", "--out", str(folder), "--studies", "table1"], name, folder=folder)

    return check


def _check_rows(world: Any, data: bytes) -> None:
    with scratch() as folder:
        (path := folder / world.rows.name).write_bytes(data)
        check_command(["eval", str(world.run), *ON_RULER, "--rows", str(path)], path.name, folder=folder)


def _accept(*_: Any, **__: Any) -> Any:
    raise Accepted


def _check_look(world: Any, data: bytes) -> None:
    table = STUDIES["table5"]
    assert table.inspection is not None
    rows = read_results(world.results / reproduce.RESULTS)
    samples = select(rows, latest_identities(rows, table.names))
    with scratch(world.results) as folder:
        (path,) = (folder / "inspections").glob("*-seed7.json")
        path.write_bytes(data)
        with works_or_is_refused(path.name):
            traced = read_trace(folder, table.inspection, samples)
            if traced is not None:
                specification(draw_slots(traced))


def _json(path: Path) -> st.SearchStrategy[bytes]:
    return damaged_json(json.loads(path.read_bytes()))


def _lines(path: Path) -> st.SearchStrategy[bytes]:
    """A file of lines with one of them damaged."""
    first, second, *rest = path.read_bytes().splitlines(keepends=True)
    damaged = damaged_json(json.loads(second)).map(lambda data: Bytes(data.replace(b"\n", b" ") + b"\n"))
    several = damaged.map(lambda line: Bytes(first + line + b"".join(rest)))
    return st.one_of(several, several, damaged.map(lambda line: Bytes(line[:-1])))


def file_targets(world: Any) -> list[Target]:
    """One for each reader."""
    here = world.checkpoint

    def of_run(name: str, values: Any, commands: Any, **where: Any) -> Target:
        return Target("file", name, st.tuples(values, st.booleans()), _in_run(name, commands, **where))

    def of_older_run(name: str, **where: Any) -> Target:
        path = world.older / where.get("inside", "checkpoint-000002") / name
        check = _in_run(name, _resume, of="older", **where)
        return Target("file", f"older {name}", st.tuples(_json(path), st.booleans()), check)

    (look,) = (world.results / "inspections").glob("*-seed7.json")
    traced = json.loads(look.read_bytes())
    short = traced | {
        "traced": traced["traced"] | {"history": {"steps": traced["traced"]["history"]["steps"][:2]}}
    }
    return [
        of_run("config.json", _json(here / "config.json"), lambda run: [_generate(run), *_resume(run)]),
        of_run("generation_config.json", _json(here / "generation_config.json"), _read_model),
        of_run("tokenizer_config.json", _json(here / "tokenizer_config.json"), _read_model),
        of_run("checksums.json", _json(here / "checksums.json"), lambda run: [_generate(run), *_resume(run)]),
        of_run("trainer.json", _json(here / "trainer.json"), _resume),
        of_run("run.json", _json(world.run / "run.json"), lambda run: _resume(run)[1:], inside=""),
        of_run(
            "model.safetensors",
            damaged_tensors((here / "model.safetensors").read_bytes()),
            lambda run: [_generate(run), *_resume(run)],
        ),
        of_run(
            "optimizer.safetensors", damaged_tensors((here / "optimizer.safetensors").read_bytes()), _resume
        ),
        of_run("rng.safetensors", damaged_tensors((here / "rng.safetensors").read_bytes()), _resume),
        Target(
            "file",
            "model.safetensors.index.json",
            _json(world.sharded / "model.safetensors.index.json"),
            _check_sharded,
        ),
        Target("file", "a saved state", damaged_tensors(world.state.read_bytes()), _check_state),
        of_older_run("config.json"),
        of_older_run("trainer.json"),
        of_older_run("run.json", inside=""),
        *(
            Target("file", name, _lines(world.results / name), _in_results(name))
            for name in (reproduce.RESULTS, reproduce.GAVE_UP)
        ),
        Target("file", "ruler.jsonl", _lines(world.rows), _check_rows),
        Target("file", "inspections/*.json", damaged_json(short), _check_look),
    ]


FILES = (
    *(
        "config.json",
        "generation_config.json",
        "tokenizer_config.json",
        "checksums.json",
        "trainer.json",
        "run.json",
    ),
    *("model.safetensors", "optimizer.safetensors", "rng.safetensors", "model.safetensors.index.json"),
    "a saved state",
    *("older config.json", "older trainer.json", "older run.json", "inspections/*.json"),
    *("results.jsonl", "gave_up.jsonl", "ruler.jsonl"),
)
