"""The paper's claims as values, and how each is judged: reproduced, not reproduced, or undecided.

The rule, for every claim that compares measured numbers: take the difference of the two models seed by
seed (both trained with the same seed), and the 95 % Student-t interval of its mean. The verdict is
"reproduced" if the whole interval lies on the claim's side, "not reproduced" if the whole interval lies on
the other side, and "undecided" otherwise; with fewer than two seeds it is always undecided. A claim with
several comparisons is reproduced if all of them are, not reproduced if any is not, else undecided. Claims
about parameter counts have nothing random in them and are decided exactly. The interval speaks of the
seeds, not of the corpus; the intervals are not corrected for the number of claims.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from unimatrix.paper.results import Samples, metric_by_seed
from unimatrix.paper.statistics import Interval, mean_interval, paired_differences

Outcome = Literal["reproduced", "not reproduced", "undecided"]
SEEDS_FOR_A_CLAIM = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """A judged claim: the outcome, the number of paired seeds behind it (None: exact), and the numbers."""

    outcome: Outcome
    seeds: int | None
    details: tuple[str, ...]

    @property
    def text(self) -> str:
        """The outcome in words, with the number of seeds wherever it is undecided."""
        if self.outcome == "undecided" and self.seeds is not None:
            return f"undecided at n = {self.seeds} {'seed' if self.seeds == 1 else 'seeds'}"
        return self.outcome


class Claim(Protocol):
    """What a table holds: a sentence, where the paper says it, and a way to judge it."""

    @property
    def statement(self) -> str: ...

    @property
    def source(self) -> str: ...

    def judge(self, samples: Samples) -> Verdict: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """left - right of one metric, and the side on which the claim wants the whole interval.

    "below": < 0. "at or below": <= 0. "within": inside (-margin, margin), the interval form of the test of
    equivalence (at 95 %, stricter than the usual 90 % interval of two one-sided tests at 5 %).
    """

    left: str
    right: str
    side: Literal["below", "at or below", "within"]
    metric: str = "bpb"
    unit: str = "BPB"
    margin: float = 0.0

    def difference(self, samples: Samples) -> Interval | None:
        """The paired difference over the seeds that both have; None if there is no such seed."""
        values = paired_differences(
            metric_by_seed(samples, self.left, self.metric), metric_by_seed(samples, self.right, self.metric)
        )
        return mean_interval(values) if values else None

    def outcome(self, interval: Interval | None) -> Outcome:
        """The rule of this module's docstring."""
        if interval is None or interval.n < 2:
            return "undecided"
        if self.side == "within":
            inside = interval.low > -self.margin and interval.high < self.margin
            outside = interval.low >= self.margin or interval.high <= -self.margin
        else:
            strict = self.side == "below"
            inside = interval.high < 0 or (interval.high == 0 and not strict)
            outside = interval.low > 0 or (interval.low == 0 and strict)
        if inside:
            return "reproduced"
        return "not reproduced" if outside else "undecided"

    def detail(self, interval: Interval | None, label: str) -> str:
        """One line of numbers: the difference, its interval, the number of pairs."""
        if interval is None:
            return f"{label}: no seed has both runs"
        if interval.n < 2:
            return f"{label} = {interval.mean:+.4f} {self.unit}, one seed: no interval"
        bounds = f"[{interval.low:+.4f}, {interval.high:+.4f}]"
        return f"{label} = {interval.mean:+.4f} {self.unit}, 95 % interval {bounds}, n = {interval.n} pairs"


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparedClaim:
    """A claim about measured numbers: one or more paired comparisons, all of which must hold.

    labels: what each comparison is called in the details, e.g. "Core - Transformer".
    """

    statement: str
    source: str
    comparisons: tuple[Comparison, ...]
    labels: tuple[str, ...]

    def judge(self, samples: Samples) -> Verdict:
        """The verdict over the seeds that are there."""
        intervals = [comparison.difference(samples) for comparison in self.comparisons]
        outcomes: list[Outcome] = [
            comparison.outcome(interval)
            for comparison, interval in zip(self.comparisons, intervals, strict=True)
        ]
        lines = zip(self.comparisons, intervals, self.labels, strict=True)
        return Verdict(
            outcome=_conjunction(outcomes),
            seeds=min(0 if interval is None else interval.n for interval in intervals),
            details=tuple(comparison.detail(interval, label) for comparison, interval, label in lines),
        )


def _conjunction(outcomes: Sequence[Outcome]) -> Outcome:
    if "not reproduced" in outcomes:
        return "not reproduced"
    return "undecided" if "undecided" in outcomes else "reproduced"


@dataclass(frozen=True, kw_only=True, slots=True)
class FewerParameters:
    """A model has fewer parameters than another, by the percentage that the paper prints, if it prints one.

    Exact: the counts are those of the models that were built for the runs.
    """

    statement: str
    source: str
    model: str
    baseline: str
    percent: float | None = None

    def judge(self, samples: Samples) -> Verdict:
        """Reproduced if the count is smaller and its saving, rounded to one digit, is the printed one."""
        counts = [
            next((result.parameters for result in samples.get(experiment, {}).values()), None)
            for experiment in (self.model, self.baseline)
        ]
        ours, theirs = counts
        if ours is None or theirs is None:
            return Verdict(outcome="undecided", seeds=0, details=("a model has not run yet",))
        saved = 100.0 * (theirs - ours) / theirs
        # half up, as in print: 52.45 % becomes 52.5 %
        as_printed = self.percent is None or math.floor(saved * 10 + 0.5) / 10 == self.percent
        detail = f"{ours:,} against {theirs:,}: {abs(saved):.2f} % {'fewer' if saved >= 0 else 'more'}"
        if self.percent is not None:
            detail += f" (the paper prints {self.percent} %)"
        outcome: Outcome = "reproduced" if ours < theirs and as_printed else "not reproduced"
        return Verdict(outcome=outcome, seeds=None, details=(detail,))
