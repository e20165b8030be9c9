"""Means, Student-t intervals and paired differences over seeds: all the statistics that a verdict needs.

Nothing here knows a model or a study: numbers in, numbers out. An interval speaks of the seeds
(initialisation, dropout, order of batches), never of the corpus: every seed trains and evaluates on the same
text.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A mean over seeds with a two-sided interval, in the unit of the values.

    With a single value the interval is the whole line (-inf, inf): one seed says nothing about spread.
    """

    mean: float
    low: float
    high: float
    n: int

    @property
    def half_width(self) -> float:
        """Half the interval's length; inf for one value."""
        return math.inf if self.n < 2 else (self.high - self.low) / 2


def mean_interval(values: Sequence[float], *, confidence: float = CONFIDENCE) -> Interval:
    """The mean and its two-sided Student-t interval: mean +- t_{n-1} * s / sqrt(n).

    Raises:
        ValueError: no value at all.
    """
    return _interval(values, confidence, variance_share=1 / max(1, len(values)))


def prediction_interval(values: Sequence[float], *, confidence: float = CONFIDENCE) -> Interval:
    """Where one further value lies with that confidence: mean +- t_{n-1} * s * sqrt(1 + 1 / n).

    It holds for a value that is drawn as these were and is none of them.

    Raises:
        ValueError: no value at all.
    """
    return _interval(values, confidence, variance_share=1 + 1 / max(1, len(values)))


def _interval(values: Sequence[float], confidence: float, *, variance_share: float) -> Interval:
    n = len(values)
    if n == 0:
        raise ValueError("values: expected at least one value, got none")
    mean = math.fsum(values) / n
    if n == 1:
        return Interval(mean=mean, low=-math.inf, high=math.inf, n=1)
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    # imported here: what a study is can be known without it
    from scipy import stats

    half = float(stats.t.ppf((1 + confidence) / 2, n - 1)) * math.sqrt(variance * variance_share)
    return Interval(mean=mean, low=mean - half, high=mean + half, n=n)


def paired_differences(left: Mapping[int, float], right: Mapping[int, float]) -> tuple[float, ...]:
    """left - right for every seed that both have, in the order of the seeds."""
    return tuple(left[seed] - right[seed] for seed in sorted(left.keys() & right.keys()))
