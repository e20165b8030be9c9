"""The paper's claims as values, and how each is judged: reproduced, not reproduced, or undecided.

The rule, for every claim that compares numbers: take the difference of the two sides seed by seed (two models
trained with the same seed; or a model and a fixed number, one that the paper prints or that is counted), and
the 95 % Student-t interval of its mean. The verdict is "reproduced" if the whole interval lies on the claim's
side, "not reproduced" if the whole interval lies on the other side, and "undecided" otherwise; with fewer
than two seeds it is always undecided. Nor does a claim count as reproduced by the seeds that are left where a
run of one could not go on, or came to no finite number: it is undecided then, and names them. So "at least
75.6 %" asks for more than a mean of 75.6: its whole interval. A claim with several comparisons is reproduced
if all of them are, not reproduced if any is not, else undecided. Claims about parameter counts have nothing
random in them and are decided exactly. A claim that the paper makes of named seeds is decided as it was made,
seed by seed and without an interval; so is one of "every" answer, which a single miss refutes, however wide
an interval that ends at the most there can be. The intervals speak of the seeds, not of the data; they are
corrected neither for the number of claims nor for the comparisons within one: of many that must all hold and
just do, one in forty lies on the other side by chance.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Literal, Protocol, get_args

from unimatrix.lab.intervals import Interval, mean_interval, paired_differences
from unimatrix.lab.results import Samples, lost_seeds, metric_by_seed
from unimatrix.train.config import Experiment

Outcome = Literal["reproduced", "not reproduced", "undecided"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
Side = Literal["above", "at or above", "below", "at or below", "within"]
SEEDS_FOR_A_CLAIM = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """A judged claim: the outcome, the number of paired seeds behind it (None: exact), and the numbers.

    noun: what is counted: "seed", or "repeat" of what was measured instead of trained.
    on_shown: it rests on the project's own runs, which are shown instead of trained.
    """

    outcome: Outcome
    seeds: int | None
    details: tuple[str, ...]
    noun: str = "seed"
    on_shown: bool = False

    @property
    def text(self) -> str:
        """The outcome in words, with the number of seeds wherever it is undecided."""
        if self.outcome == "undecided" and self.seeds is not None:
            return f"undecided at n = {self.seeds} {self.noun}{'' if self.seeds == 1 else 's'}"
        return self.outcome


class Claim(Protocol):
    """What a study holds: a sentence, where the paper says it, and a way to judge it.

    judges: the ids of the paper's claims (unimatrix.lab.paper) that its verdict is evidence for.
    touches: those that it has something to say of by an experiment that the paper never made: it stands
        beside them, and decides none.
    """

    @property
    def statement(self) -> str: ...

    @property
    def source(self) -> str: ...

    @property
    def judges(self) -> tuple[str, ...]: ...

    @property
    def touches(self) -> tuple[str, ...]: ...

    def judge(self, samples: Samples) -> Verdict: ...


@dataclass(frozen=True, slots=True)
class Unit:
    """What differences are printed in, and what the values themselves are; digits after the point."""

    difference: str
    value: str
    digits: int


BPB = Unit("BPB", "BPB", 4)
POINTS = Unit("points", "%", 2)
SECONDS = Unit("s", "s", 1)


class Quantity(Protocol):
    """One side of a comparison: a number for each seed."""

    def by_seed(self, samples: Samples) -> Mapping[int, float]: ...


@dataclass(frozen=True, slots=True)
class Measured:
    """A metric of an experiment."""

    experiment: Experiment
    metric: str

    def by_seed(self, samples: Samples) -> Mapping[int, float]:
        """The metric of every seed that has run."""
        return metric_by_seed(samples, self.experiment.name, self.metric)


@dataclass(frozen=True, slots=True)
class Gain:
    """What one metric has over another, seed by seed: for comparing a difference with a difference."""

    left: Measured
    right: Measured

    def by_seed(self, samples: Samples) -> Mapping[int, float]:
        """left - right of every seed that both have."""
        left, right = self.left.by_seed(samples), self.right.by_seed(samples)
        return {seed: left[seed] - right[seed] for seed in left if seed in right}


@dataclass(frozen=True, slots=True)
class Comparison:
    """left - right, and the side of `bound` on which the claim wants the whole interval of its mean.

    right may be a fixed number. "below": < bound; "at or below": <= bound; "above", "at or above" likewise.
    "within": inside (-bound, bound), the interval form of the test of equivalence (at 95 %, stricter than the
    usual 90 % interval of two one-sided tests at 5 %).

    label: what the difference is called in the details, e.g. "Core - Transformer".
    noun: "repeat" where what is compared was measured instead of trained.
    condition: it is none that is claimed, but one that a claim rests on and that noise is not to decide: from
        two seeds on it holds unless the whole interval lies on the other side. The claim is undecided then,
        as of what it says itself nothing is shown.
    """

    label: str
    left: Quantity
    side: Side
    right: Quantity | float
    unit: Unit
    bound: float = 0.0
    noun: str = "seed"
    condition: bool = False

    def by_seed(self, samples: Samples) -> dict[int, float]:
        """The difference of every seed that both sides have, in the order of the seeds."""
        left = self.left.by_seed(samples)
        if isinstance(self.right, int | float):
            right: Mapping[int, float] = dict.fromkeys(left, self.right)
        else:
            right = self.right.by_seed(samples)
        return dict(zip(sorted(left.keys() & right.keys()), paired_differences(left, right), strict=True))

    def lost(self, samples: Samples) -> list[int]:
        """The seeds of which a run could not go on, or has no such number."""
        lost: set[int] = set()
        for side in (self.left, self.right):
            if isinstance(side, int | float):
                continue
            names = [found.name for found in _experiments(side)]
            lost.update(*(lost_seeds(samples, name) for name in names))
            if names:
                ran = [set(samples.get(name, {})) for name in names]
                lost |= set.intersection(*ran) - side.by_seed(samples).keys()
        return sorted(lost)

    def difference(self, samples: Samples) -> Interval | None:
        """The paired difference over the seeds that both sides have; None if there is no such seed."""
        values = tuple(self.by_seed(samples).values())
        return mean_interval(values) if values else None

    def holds(self, difference: float) -> bool:
        """Whether one seed's difference lies on the claim's side, whatever other seeds do."""
        return self._judged(difference, difference) == "reproduced"

    def outcome(self, interval: Interval | None, lost: Sequence[int] = ()) -> Outcome:
        """The rule of this module's docstring; lost: as `lost` gives it."""
        if interval is None or interval.n < 2:
            return "undecided"
        outcome = self._judged(interval.low, interval.high)
        if self.condition:
            outcome = "undecided" if outcome == "not reproduced" else "reproduced"
        return "undecided" if lost and outcome == "reproduced" else outcome

    def _judged(self, low: float, high: float) -> Outcome:
        if self.side == "within":
            inside = low > -self.bound and high < self.bound
            outside = low >= self.bound or high <= -self.bound
        else:
            low, high = low - self.bound, high - self.bound
            if self.side in ("above", "at or above"):
                low, high = -high, -low
            strict = self.side in ("above", "below")
            inside = high < 0 or (high == 0 and not strict)
            outside = low > 0 or (low == 0 and strict)
        if inside:
            return "reproduced"
        return "not reproduced" if outside else "undecided"

    def detail(self, interval: Interval | None, lost: Sequence[int] = ()) -> str:
        """One line: the difference, its interval, how many seeds, what is claimed of it, which are lost."""
        told = self._detail(interval)
        if not lost:
            return told
        seeds = f"{self.noun}{'' if len(lost) == 1 else 's'} {_listed(lost)}"
        if interval is None:
            return f"{self.label}: of {seeds} a run came to no such number"
        return f"{told}; without {seeds}, of which a run came to no such number"

    def _detail(self, interval: Interval | None) -> str:
        fixed = self.right if isinstance(self.right, int | float) else None
        if interval is None:
            return f"{self.label}: no {self.noun} has {'both runs' if fixed is None else 'run'}"
        digits = self.unit.digits
        text = f"{self.label} = {interval.mean:+,.{digits}f} {self.unit.difference}"
        if interval.n < 2:
            text += f", one {self.noun}: no interval"
        else:
            counted = "pairs" if fixed is None and self.noun == "seed" else f"{self.noun}s"
            bounds = f"[{interval.low:+,.{digits}f}, {interval.high:+,.{digits}f}]"
            text += f", 95 % interval {bounds}, n = {interval.n} {counted}"
        if fixed is not None:
            text += f", mean {fixed + interval.mean:,.{digits}f} {self.unit.value}"
        claimed = (
            "a condition, kept unless the whole interval is beyond it:" if self.condition else "claimed:"
        )
        return f"{text}; {claimed} {self.side} {self.bound + 0.0:g}"


def _experiments(found: object) -> Iterator[Experiment]:
    """What a side of a comparison is made of, however deep in it."""
    if isinstance(found, Experiment):
        yield found
    elif isinstance(found, tuple):
        for one in found:
            yield from _experiments(one)
    elif is_dataclass(found):
        for part in fields(found):
            yield from _experiments(getattr(found, part.name))


@dataclass(frozen=True, slots=True)
class ComparedClaim:
    """A claim about measured numbers: one or more comparisons, all of which must hold.

    quotes: numbers that the statement quotes and no comparison has as they are, such as the ends of a range.
    """

    statement: str
    source: str
    comparisons: tuple[Comparison, ...]
    judges: tuple[str, ...] = ()
    touches: tuple[str, ...] = ()
    quotes: tuple[float, ...] = ()

    def judge(self, samples: Samples) -> Verdict:
        """The verdict over the seeds that are there."""
        intervals = [comparison.difference(samples) for comparison in self.comparisons]
        lost = [comparison.lost(samples) for comparison in self.comparisons]
        judged = list(zip(self.comparisons, intervals, lost, strict=True))
        return Verdict(
            outcome=conjunction(
                [comparison.outcome(interval, gone) for comparison, interval, gone in judged]
            ),
            seeds=min(0 if interval is None else interval.n for interval in intervals),
            details=tuple(comparison.detail(interval, gone) for comparison, interval, gone in judged),
            noun=self.comparisons[0].noun,
        )


@dataclass(frozen=True, slots=True)
class CountedClaim:
    """A claim about what is counted without any run, such as how many answers a task can have."""

    statement: str
    source: str
    holds: bool
    details: tuple[str, ...]
    judges: tuple[str, ...] = ()
    touches: tuple[str, ...] = ()

    def judge(self, samples: Samples) -> Verdict:
        """Exact, whatever has run."""
        outcome: Outcome = "reproduced" if self.holds else "not reproduced"
        return Verdict(outcome=outcome, seeds=None, details=self.details)


@dataclass(frozen=True, slots=True)
class SeedBySeedClaim:
    """A claim about single runs with named seeds, judged in each: as the paper made it, or of "every" answer.

    Reproduced if the comparisons hold in each of `seeds`, not reproduced if one fails in one, undecided while
    one has not run. The details name every seed that has run; the others decide nothing.
    """

    statement: str
    source: str
    seeds: tuple[int, ...]
    comparisons: tuple[Comparison, ...]
    judges: tuple[str, ...] = ()
    touches: tuple[str, ...] = ()

    def judge(self, samples: Samples) -> Verdict:
        """The verdict over the named seeds that are there."""
        found = [(comparison, comparison.by_seed(samples)) for comparison in self.comparisons]
        ran = [seed for seed in self.seeds if all(seed in differences for _, differences in found)]
        outcome: Outcome = "reproduced" if len(ran) == len(self.seeds) else "undecided"
        if not all(one.holds(by[seed]) for one, by in found for seed in self.seeds if seed in by):
            outcome = "not reproduced"
        details = [line for comparison, by in found for line in self._details(comparison, by)]
        return Verdict(outcome=outcome, seeds=len(ran), details=tuple(details))

    def _details(self, comparison: Comparison, differences: Mapping[int, float]) -> tuple[str, ...]:
        """Each seed's difference; in how many of them the comparison holds, and in which it must."""
        unit = comparison.unit
        if not differences:
            return (comparison.detail(None),)
        each = ", ".join(f"{value:+,.{unit.digits}f} (seed {seed})" for seed, value in differences.items())
        count = sum(comparison.holds(value) for value in differences.values())
        seeds = f"{len(differences)} {'seed' if len(differences) == 1 else 'seeds'}"
        claimed = f"claimed: in seeds {_listed(self.seeds)}"
        missing = [seed for seed in self.seeds if seed not in differences]
        if missing:
            claimed += f", of which {_listed(missing)} {'has' if len(missing) == 1 else 'have'} not run"
        return (
            f"{comparison.label} = {each}, {unit.difference}",
            f"{comparison.side} {comparison.bound + 0.0:g} in {count} of {seeds}; {claimed}",
        )


def _listed(seeds: Sequence[int]) -> str:
    *first, last = map(str, seeds)
    return f"{', '.join(first)} and {last}" if first else last


def conjunction(outcomes: Sequence[Outcome]) -> Outcome:
    """Of what must all hold: reproduced if all are, not reproduced if any is not, else undecided."""
    if "not reproduced" in outcomes:
        return "not reproduced"
    return "undecided" if "undecided" in outcomes else "reproduced"


@dataclass(frozen=True, slots=True)
class FewerParameters:
    """A model has fewer parameters than another, by the percentage that the paper prints, if it prints one.

    Exact: the counts are those of the models that were built for the runs.
    """

    statement: str
    source: str
    model: Experiment
    baseline: Experiment
    percent: float | None = None
    judges: tuple[str, ...] = ()
    touches: tuple[str, ...] = ()

    def judge(self, samples: Samples) -> Verdict:
        """Reproduced if the count is smaller and its saving, rounded to one digit, is the printed one."""
        counts = _parameters(samples, self.model, self.baseline)
        if counts is None:
            return _NOT_RUN
        ours, theirs = counts
        saved = 100.0 * (theirs - ours) / theirs
        as_printed = self.percent is None or _as_in_print(saved) == self.percent
        detail = f"{ours:,} against {theirs:,}: {abs(saved):.2f} % {'fewer' if saved >= 0 else 'more'}"
        if self.percent is not None:
            detail += f" (the paper prints {self.percent} %)"
        outcome: Outcome = "reproduced" if ours < theirs and as_printed else "not reproduced"
        return Verdict(outcome=outcome, seeds=None, details=(detail,))


@dataclass(frozen=True, slots=True)
class ShareOfParameters:
    """A model has the printed percentage of another's parameters; exact, as `FewerParameters`."""

    statement: str
    source: str
    model: Experiment
    baseline: Experiment
    percent: float
    judges: tuple[str, ...] = ()
    touches: tuple[str, ...] = ()

    def judge(self, samples: Samples) -> Verdict:
        """Reproduced if the share, rounded to one digit, is the printed one."""
        counts = _parameters(samples, self.model, self.baseline)
        if counts is None:
            return _NOT_RUN
        ours, theirs = counts
        share = 100.0 * ours / theirs
        outcome: Outcome = "reproduced" if _as_in_print(share) == self.percent else "not reproduced"
        detail = f"{ours:,} of {theirs:,}: {share:.2f} % (the paper prints {self.percent} %)"
        return Verdict(outcome=outcome, seeds=None, details=(detail,))


_NOT_RUN = Verdict(outcome="undecided", seeds=0, details=("a model has not run yet",))


def _parameters(samples: Samples, *pair: Experiment) -> tuple[int, int] | None:
    """The two counts; None if one of the models has not run."""
    ours, theirs = (next(iter(samples.get(found.name, {}).values()), None) for found in pair)
    return None if ours is None or theirs is None else (ours.parameters, theirs.parameters)


def _as_in_print(percent: float) -> float:
    """One digit, half up: 52.45 becomes 52.5."""
    return math.floor(percent * 10 + 0.5) / 10
