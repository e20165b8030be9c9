"""What a search came to: every contestant's recipe, and how long a step takes by it; a file that is kept.

The search itself is unimatrix.lab.search.
"""

import dataclasses
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from unimatrix.atomic import replace_file
from unimatrix.lab.results import Result
from unimatrix.lab.search import CHOICE, DIVERGED, Budget, Made, bits, is_whole
from unimatrix.train import Experiment


@dataclass(frozen=True, kw_only=True, slots=True)
class Best:
    """A contestant's best run, what it was ordered by, and which choice of each setting it had, from 0."""

    bpb: float
    experiment: Experiment
    choices: dict[str, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipes:
    """What a search came to: the recipes, and how long a step of each model takes that is trained by them.

    text, budget, made: what was searched on, with how much, and how its runs were made. steps, seconds:
    contestant -> the fewest and the most that a run of the search had. windows, streams: contestant -> its
    best run by the bits per byte of windows, and of a stream. seconds_per_step: experiment -> the mean, of
    all in turns. timed_by, timed_on: the commit and the machine that took these, where these are others.
    """

    text: str
    budget: Budget
    made: Made
    steps: dict[str, tuple[int, int]]
    seconds: dict[str, tuple[float, float]]
    windows: dict[str, Best]
    streams: dict[str, Best]
    seconds_per_step: dict[str, float]
    timed_by: str = ""
    timed_on: str = ""

    def is_of(self, row: Result) -> bool:
        """Whether a row is one of the search's."""
        return Made.of(row) == self.made and _number(row) < self.budget.runs

    def write(self, path: Path) -> None:
        """The file that `unimatrix.codec.read_record` reads."""
        names = ("text", "steps", "seconds", "seconds_per_step", "timed_by", "timed_on")
        told: dict[str, Any] = {name: getattr(self, name) for name in names}
        told |= {name: dataclasses.asdict(getattr(self, name)) for name in ("budget", "made")}
        for name in ("windows", "streams"):
            told[name] = {
                contestant: dataclasses.asdict(best) | {"experiment": best.experiment.to_dict()}
                for contestant, best in getattr(self, name).items()
            }
        replace_file(path, json.dumps(told, indent=1).encode() + b"\n")


def best_of(rows: Mapping[str, Sequence[Result]], metric: str = "bpb") -> dict[str, Best]:
    """Each contestant's best run, of those that have measured this."""
    found = {name: min(runs, key=lambda row: bits(row, metric)) for name, runs in rows.items()}
    return {
        name: Best(
            bpb=row.metrics[metric], experiment=Experiment.from_dict(row.config), choices=_choices(row)
        )
        for name, row in found.items()
        if metric in row.metrics
    }


def _choices(row: Result) -> dict[str, int]:
    """Which choice of each setting a run had."""
    told = {name: at for name, at in row.metrics.items() if name.startswith(CHOICE)}
    return {name.removeprefix(CHOICE): int(at) for name, at in told.items()}


Number = TypeVar("Number", int, float)


def range_of(rows: Mapping[str, Sequence[Result]], read: Callable[[Result], Number]) -> dict[str, Any]:
    """Contestant -> the least and the most that its runs have of a number, those that diverged left out."""
    found = {name: [read(row) for row in runs if DIVERGED not in row.metrics] for name, runs in rows.items()}
    return {name: (min(values), max(values)) for name, values in found.items() if values}


def by_contestant(rows: Iterable[Result]) -> dict[str, list[Result]]:
    """The newest whole row of each run in a file, by contestant, in the order of their numbers."""
    newest = {row.experiment: row for row in rows if _OF_A_SEARCH.fullmatch(row.experiment) and is_whole(row)}
    found: dict[str, list[Result]] = {}
    for row in sorted(newest.values(), key=_number):
        found.setdefault(row.experiment.split(".")[1], []).append(row)
    return found


_OF_A_SEARCH = re.compile(r"search\.[^.]+\.(\d+)")


def _number(row: Result) -> int:
    """Which of its contestant's runs it is; more than any, of another row."""
    found = _OF_A_SEARCH.fullmatch(row.experiment)
    return sys.maxsize if found is None else int(found[1])
