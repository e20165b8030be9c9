"""Intervals over seeds, against Student's quantiles from elsewhere and by drawing."""

import math
import random
import statistics

import pytest
from scipy import stats

from unimatrix.lab.intervals import mean_interval, paired_differences, prediction_interval

# quantiles of Student's t to 17 digits, from the incomplete beta function in 30: (confidence, n, t_{n-1})
QUANTILES = [
    (0.95, 2, 12.706204736174705),
    (0.95, 3, 4.3026527297494639),
    (0.95, 4, 3.1824463052837096),
    (0.95, 5, 2.7764451051977944),
    (0.95, 10, 2.2621571627982055),
    (0.95, 31, 2.0422724563012383),
    (0.95, 121, 1.9799304050824408),
    (0.90, 5, 2.1318467863266503),
    (0.99, 5, 4.6040948713499932),
    (0.999, 11, 4.5868938587026359),
]


@pytest.mark.parametrize(("confidence", "n", "t"), QUANTILES)
def test_intervals_are_as_wide_as_the_quantiles_say(confidence, n, t) -> None:
    values = [0.3 * seed % 1.7 for seed in range(n)]
    spread = statistics.stdev(values)
    mean = mean_interval(values, confidence=confidence)
    one_more = prediction_interval(values, confidence=confidence)
    assert mean.half_width == pytest.approx(t * spread / math.sqrt(n), rel=1e-9)
    assert one_more.half_width == pytest.approx(t * spread * math.sqrt(1 + 1 / n), rel=1e-9)
    assert mean.mean == one_more.mean == pytest.approx(statistics.fmean(values), rel=1e-14)


def test_the_interval_is_that_of_the_paired_test() -> None:
    left, right = [5.10, 5.13, 5.09, 5.15], [5.16, 5.12, 5.20, 5.17]
    expected = stats.ttest_rel(left, right).confidence_interval(0.95)
    pairs = paired_differences(dict(enumerate(left)), dict(enumerate(right)))
    found = mean_interval(pairs)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-12)


def test_interval_of_known_numbers() -> None:
    # mean 3, s = sqrt(2.5), t_4 = 2.776445: the half width is 1.963243
    interval = mean_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (interval.mean, interval.n) == (3.0, 5)
    assert interval.half_width == pytest.approx(1.963243161478, rel=1e-9)
    assert interval.low == pytest.approx(3.0 - 1.963243161478, rel=1e-9)
    assert interval.high == pytest.approx(3.0 + 1.963243161478, rel=1e-9)


def test_intervals_cover_as_often_as_they_say() -> None:
    generator = random.Random(5)
    trials = 4000
    means = further = 0
    for _ in range(trials):
        values = [generator.gauss(1.5, 2.0) for _ in range(4)]
        mean, one_more = mean_interval(values), prediction_interval(values)
        means += mean.low <= 1.5 <= mean.high
        further += one_more.low <= generator.gauss(1.5, 2.0) <= one_more.high
    # 95 % +- five standard errors
    for hits in (means, further):
        assert abs(hits / trials - 0.95) < 5 * math.sqrt(0.95 * 0.05 / trials)


@pytest.mark.parametrize("interval_of", [mean_interval, prediction_interval])
def test_one_value_says_nothing_of_the_spread(interval_of) -> None:
    found = interval_of([4.2])
    assert (found.mean, found.low, found.high, found.half_width) == (4.2, -math.inf, math.inf, math.inf)


def test_equal_values_have_an_interval_of_no_length() -> None:
    assert mean_interval([2.0, 2.0, 2.0]).half_width == 0.0
    assert prediction_interval([2.0, 2.0, 2.0]).half_width == 0.0


def test_no_value_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        mean_interval([])
    with pytest.raises(ValueError, match="at least one"):
        prediction_interval([])


def test_pairs_are_the_seeds_that_both_have_in_order() -> None:
    assert paired_differences({11: 5.0, 7: 4.0, 3: 9.0}, {7: 1.0, 11: 3.0, 13: 0.0}) == (3.0, 2.0)
    assert paired_differences({1: 1.0}, {2: 1.0}) == ()
