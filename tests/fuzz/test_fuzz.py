"""Every file that is read, every option, every public argument: it works, or is refused in one line."""

import pytest
from fuzz.arguments import argument_names, argument_targets, calls, public_ops
from fuzz.files import FILES, file_targets
from fuzz.harness import COUNTED, Accepted, run
from fuzz.options import all_options, commands, option_targets, standing_in, stopped_where_accepted

from unimatrix.cli import COMMANDS, main
from unimatrix.cli.bench import MEASUREMENTS

# torch's own, when torch.compile is first imported; transformers', which asks for a length
pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit"),
    pytest.mark.filterwarnings("ignore:Using the model-agnostic default:UserWarning"),
]
OPTIONS = {target.name: target for target in option_targets()}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_told_in_one_line_and_nothing_is_lost(world, cases, record_property, name) -> None:
    (target,) = [target for target in file_targets(world) if target.name == name]
    record_property(COUNTED, ("file", name, run(target, world, cases)))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_takes_its_value_or_names_itself(world, cases, record_property, name) -> None:
    record_property(COUNTED, ("option", name, run(OPTIONS[name], world, cases)))


@pytest.fixture(scope="session")
def arguments(world):
    return {target.name: target for target in argument_targets(world)}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", argument_names())
def test_an_argument_is_taken_or_named(world, arguments, cases, record_property, name) -> None:
    record_property(COUNTED, ("argument", name, run(arguments[name], world, cases)))


@pytest.mark.parametrize("name", [f"bench {one}" for one in MEASUREMENTS])
def test_a_measurement_ends_where_its_options_are_taken(tmp_path, name) -> None:
    # else each case that is accepted would measure for minutes
    with standing_in(tmp_path), stopped_where_accepted(), pytest.raises(Accepted):
        main(commands()[name][1])


def test_every_command_and_every_file_has_its_targets(world) -> None:
    assert {target.name for target in file_targets(world)} == set(FILES)
    named = {command.split()[0] for command in commands()}
    assert named == set(COMMANDS)
    assert {name for name in commands() if name.startswith("bench ")} == {
        f"bench {one}" for one in MEASUREMENTS
    }
    assert len(all_options()) > 120
    for call in calls():
        call.function(**call.given(world)) if call.name != "train" else None
    assert {name.split(" ")[0] for name in argument_names()} >= {f"ops.{op}" for op in public_ops()}
