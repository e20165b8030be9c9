"""Means, Student-t intervals and paired differences over seeds: all the statistics that a verdict needs.

Nothing here knows a model or a table: numbers in, numbers out, the standard library alone. An interval
speaks of the seeds (initialisation, dropout, order of batches), never of the corpus: every seed trains and
evaluates on the same text.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A mean over seeds with its two-sided confidence interval, in the unit of the values.

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


def _beta_continued_fraction(a: float, b: float, x: float) -> float:
    """Continued fraction of the incomplete beta function, by Lentz's method; x < (a + 1) / (a + b + 2)."""
    tiny = 1e-300
    c, d = 1.0, 1.0 / max(1.0 - (a + b) * x / (a + 1.0), tiny)
    fraction = d
    for m in range(1, 10_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        factor = 1.0
        for term in (even, odd):
            d = 1.0 + term * d
            d = 1.0 / (d if abs(d) > tiny else tiny)
            c = 1.0 + term / c
            c = c if abs(c) > tiny else tiny
            factor = c * d
            fraction *= factor
        if abs(factor - 1.0) < 1e-15:
            break
    return fraction


def regularised_incomplete_beta(a: float, b: float, x: float) -> float:
    """I_x(a, b) for a, b > 0 and 0 <= x <= 1."""
    if x <= 0.0 or x >= 1.0:
        return min(max(x, 0.0), 1.0)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    # converges fast only on this side; the symmetry I_x(a, b) = 1 - I_{1-x}(b, a) gives the other
    if x < (a + 1.0) / (a + b + 2.0):
        return math.exp(log_front) * _beta_continued_fraction(a, b, x) / a
    return 1.0 - math.exp(log_front) * _beta_continued_fraction(b, a, 1.0 - x) / b


def student_t_cdf(t: float, degrees_of_freedom: float) -> float:
    """P(T <= t) of Student's t distribution."""
    tail = 0.5 * regularised_incomplete_beta(
        degrees_of_freedom / 2.0, 0.5, degrees_of_freedom / (degrees_of_freedom + t * t)
    )
    return 1.0 - tail if t > 0 else tail


def student_t_quantile(probability: float, degrees_of_freedom: int) -> float:
    """The t with P(T <= t) = probability, to about 1e-12 relative, by bisection.

    Raises:
        ValueError: the probability lies outside (0, 1), or there is no degree of freedom.
    """
    if not 0.0 < probability < 1.0:
        raise ValueError(f"probability: expected a number in (0, 1), got {probability}")
    if degrees_of_freedom < 1:
        raise ValueError(f"degrees_of_freedom: expected at least 1, got {degrees_of_freedom}")
    if probability < 0.5:
        return -student_t_quantile(1.0 - probability, degrees_of_freedom)
    low, high = 0.0, 1.0
    while student_t_cdf(high, degrees_of_freedom) < probability:
        high *= 2.0
    for _ in range(200):
        middle = (low + high) / 2.0
        if middle in (low, high):
            break
        if student_t_cdf(middle, degrees_of_freedom) < probability:
            low = middle
        else:
            high = middle
    return (low + high) / 2.0


def mean_interval(values: Sequence[float], *, confidence: float = CONFIDENCE) -> Interval:
    """The mean and its two-sided Student-t interval: mean +- t_{n-1} * s / sqrt(n).

    Raises:
        ValueError: no value at all.
    """
    n = len(values)
    if n == 0:
        raise ValueError("values: expected at least one value, got none")
    mean = math.fsum(values) / n
    if n == 1:
        return Interval(mean=mean, low=-math.inf, high=math.inf, n=1)
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    half = student_t_quantile((1.0 + confidence) / 2.0, n - 1) * math.sqrt(variance / n)
    return Interval(mean=mean, low=mean - half, high=mean + half, n=n)


def paired_differences(left: Mapping[int, float], right: Mapping[int, float]) -> tuple[float, ...]:
    """left - right for every seed that both have, in the order of the seeds."""
    return tuple(left[seed] - right[seed] for seed in sorted(left.keys() & right.keys()))
