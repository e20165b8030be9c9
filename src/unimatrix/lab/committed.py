"""The project's own finished runs, in docs/results: shown for what is not trained here, and what other
people's numbers are held against.

A checkout has them, an installed package has not. One's own number and theirs are of the same settings, text
and kind of device, or they are not compared.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from unimatrix.lab.frames import unit_of
from unimatrix.lab.intervals import Interval, mean_interval, prediction_interval
from unimatrix.lab.results import RESULTS, Result, Samples, read_results, select
from unimatrix.lab.study import Study

# the one place where they are, as `unimatrix reproduce` wrote them: results.jsonl and all that is beside it
COMMITTED = Path(__file__).parents[3] / "docs" / "results"


def committed_rows(folder: Path = COMMITTED) -> list[Result]:
    """All committed rows, oldest first; none in an installed package.

    Raises:
        UserError: a line is not a result.
    """
    return read_results(folder / RESULTS)


def is_committed(folder: Path) -> bool:
    """Whether the folder is the committed runs' own: nothing there is held against them, it is they."""
    return folder.resolve() == COMMITTED.resolve()


def seconds_by_experiment(rows: Iterable[Result]) -> dict[str, float]:
    """Median seconds of training, of whatever settings: how long to expect a run to take.

    A machine that was busy or asleep stretches single runs a hundredfold; a mean would count them.
    """
    seconds: dict[str, list[float]] = {}
    for row in (row for row in rows if not row.was_measured):
        seconds.setdefault(row.experiment, []).append(row.seconds)
    return {name: median(found) for name, found in seconds.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """One number of one's own beside the committed ones.

    row, column: as they are labelled. ours: the mean of all committed seeds, with its 95 % interval.
    one_more: where the value of one more seed lies with 95 %, by the committed seeds other than this one:
    what is judged is no part of what it is judged by.
    """

    study: str
    row: str
    column: str
    seed: int
    value: float
    digits: int
    ours: Interval
    one_more: Interval

    @property
    def inside(self) -> bool:
        """Whether the value lies where one more seed would, in the digits that the column shows."""
        low, value, high = (
            round(number, self.digits) for number in (self.one_more.low, self.value, self.one_more.high)
        )
        return low <= value <= high

    @property
    def text(self) -> str:
        """ "yours 5.131, ours 5.130 ± 0.018; one more seed: 5.101 to 5.159"."""
        value, mean, half, low, high = (
            f"{number:,.{self.digits}f}"
            for number in (
                *(self.value, self.ours.mean, self.ours.half_width),
                *(self.one_more.low, self.one_more.high),
            )
        )
        return f"yours {value}, ours {mean} ± {half}; one more seed: {low} to {high}"


def agreements(study: Study, samples: Samples, committed: Iterable[Result]) -> tuple[Agreement, ...]:
    """Each number of a study's table beside the committed runs, where at least two other seeds are there.

    samples: one's own. What is measured, and seconds, are left out: they are the machine's.
    """
    if study.measurement is not None:
        return ()
    identities = {name: next(iter(runs.values())).identity for name, runs in samples.items() if runs}
    theirs = select(committed, identities)
    found = []
    for row in study.trained:
        for column in study.columns:
            # a column of one seed shows again what another shows of all
            if column.seed is not None or unit_of(column.metric or column.key) == "s":
                continue
            all_seeds = column.by_seed(row, theirs)
            for seed, value in column.by_seed(row, samples).items():
                others = [number for other, number in all_seeds.items() if other != seed]
                if len(others) < 2:
                    continue
                found.append(
                    Agreement(
                        study=study.name,
                        row=row.name,
                        column=column.title,
                        seed=seed,
                        value=value,
                        digits=column.digits,
                        ours=mean_interval(tuple(all_seeds.values())),
                        one_more=prediction_interval(others),
                    )
                )
    return tuple(found)
