"""What the cases are tried in, how many there are of each, and the table of counts at the end.

pytest tests/fuzz                       two of each target
pytest tests/fuzz --fuzz-cases full     fifty of each, real processes, and the planted faults
"""

import collections

import pytest
from fuzz.harness import COUNTED
from fuzz.world import World, build_world

FEW, FULL = 2, 50


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz-cases", default=str(FEW), help="cases of each target: a number, or full")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "full_fuzz: runs with --fuzz-cases full alone")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What only the full run does is left out of the others, and counted as deselected."""
    if config.getoption("--fuzz-cases", str(FEW)) == "full":
        return
    left_out = [item for item in items if item.get_closest_marker("full_fuzz")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session")
def cases(pytestconfig: pytest.Config) -> int:
    """How many cases of each target."""
    asked = pytestconfig.getoption("--fuzz-cases", str(FEW))
    return FULL if asked == "full" else int(asked)


def pytest_terminal_summary(terminalreporter) -> None:
    """The number of cases by kind and target."""
    counts: collections.Counter[tuple[str, str]] = collections.Counter()
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            for name, value in report.user_properties:
                if name == COUNTED and report.when == "call":
                    kind, target, number = value
                    counts[kind, target] += number
    if not counts:
        return
    terminalreporter.section("fuzz cases")
    kinds = list(dict.fromkeys(kind for kind, _ in counts))
    for kind in kinds:
        mine = {target: number for (of, target), number in counts.items() if of == kind}
        fewest = min(mine.values())
        terminalreporter.write_line(
            f"{kind}: {len(mine)} targets, {sum(mine.values())} cases, at least {fewest}"
        )
        if terminalreporter.verbosity > 0 or len(mine) < 30:
            for target, number in sorted(mine.items()):
                terminalreporter.write_line(f"    {number:>5}  {target}")
    terminalreporter.write_line(f"in all: {sum(counts.values())} cases")


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return build_world(tmp_path_factory.mktemp("fuzz"))
