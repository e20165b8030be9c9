"""Student's t without scipy, against published values, and the intervals built on it."""

import math
import random

import pytest

from unimatrix.lab.intervals import (
    mean_interval,
    paired_differences,
    regularised_incomplete_beta,
    student_t_cdf,
    student_t_quantile,
)


# printed tables of Student's t
@pytest.mark.parametrize(
    ("probability", "dof", "expected"),
    [
        (0.975, 1, 12.706204736432095),
        (0.975, 2, 4.302652729911275),
        (0.975, 3, 3.182446305284263),
        (0.975, 4, 2.776445105197799),
        (0.975, 9, 2.2621571627409915),
        (0.975, 30, 2.0422724563012373),
        (0.975, 120, 1.9799304050824402),
        (0.95, 4, 2.13184678632665),
        (0.995, 4, 4.604094871349993),
        (0.9995, 10, 4.586893858702636),
        (0.6, 5, 0.2671808657041464),
    ],
)
def test_quantile_is_the_printed_one(probability: float, dof: int, expected: float) -> None:
    assert student_t_quantile(probability, dof) == pytest.approx(expected, rel=1e-10)


def test_quantile_has_closed_forms_at_one_and_two_degrees() -> None:
    for probability in (0.6, 0.9, 0.99, 0.9999):
        cauchy = math.tan(math.pi * (probability - 0.5))
        a = 2.0 * probability - 1.0
        two = a * math.sqrt(2.0 / (1.0 - a * a))
        assert student_t_quantile(probability, 1) == pytest.approx(cauchy, rel=1e-10)
        assert student_t_quantile(probability, 2) == pytest.approx(two, rel=1e-10)


def test_quantile_inverts_the_distribution_and_is_symmetric() -> None:
    for dof in (1, 3, 7, 50, 1000):
        for probability in (0.001, 0.2, 0.5, 0.77, 0.999):
            t = student_t_quantile(probability, dof)
            assert student_t_cdf(t, dof) == pytest.approx(probability, abs=1e-12)
            assert student_t_quantile(1.0 - probability, dof) == pytest.approx(-t, rel=1e-9, abs=1e-9)


def test_quantile_tends_to_the_normal_one() -> None:
    assert student_t_quantile(0.975, 10**6) == pytest.approx(1.959963984540054, abs=1e-5)


@pytest.mark.parametrize(("probability", "dof"), [(0.0, 3), (1.0, 3), (-0.1, 3), (0.5, 0)])
def test_quantile_refuses_what_is_no_question(probability: float, dof: int) -> None:
    with pytest.raises(ValueError, match="expected"):
        student_t_quantile(probability, dof)


def test_incomplete_beta_at_its_ends_and_on_polynomials() -> None:
    assert regularised_incomplete_beta(2.0, 3.0, 0.0) == 0.0
    assert regularised_incomplete_beta(2.0, 3.0, 1.0) == 1.0
    # I_x(2, 3) is a polynomial: the chance of at least 2 successes in 4 throws
    for x in (0.1, 0.37, 0.5, 0.93):
        binomial = sum(math.comb(4, k) * x**k * (1 - x) ** (4 - k) for k in range(2, 5))
        assert regularised_incomplete_beta(2.0, 3.0, x) == pytest.approx(binomial, rel=1e-13)


def test_interval_of_known_numbers() -> None:
    # mean 3, s = sqrt(2.5), t_4 = 2.776445: the half width is 1.963243
    interval = mean_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (interval.mean, interval.n) == (3.0, 5)
    assert interval.half_width == pytest.approx(1.963243161478, rel=1e-9)
    assert interval.low == pytest.approx(3.0 - 1.963243161478, rel=1e-9)
    assert interval.high == pytest.approx(3.0 + 1.963243161478, rel=1e-9)


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    generator = random.Random(5)
    trials = 4000
    hits = 0
    for _ in range(trials):
        interval = mean_interval([generator.gauss(1.5, 2.0) for _ in range(4)])
        hits += interval.low <= 1.5 <= interval.high
    # 95 % +- five standard errors
    assert abs(hits / trials - 0.95) < 5 * math.sqrt(0.95 * 0.05 / trials)


def test_one_value_says_nothing_of_the_spread() -> None:
    interval = mean_interval([4.2])
    assert (interval.mean, interval.low, interval.high, interval.half_width) == (
        4.2,
        -math.inf,
        math.inf,
        math.inf,
    )


def test_equal_values_have_an_interval_of_no_length() -> None:
    assert mean_interval([2.0, 2.0, 2.0]).half_width == 0.0


def test_no_value_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        mean_interval([])


def test_pairs_are_the_seeds_that_both_have_in_order() -> None:
    assert paired_differences({11: 5.0, 7: 4.0, 3: 9.0}, {7: 1.0, 11: 3.0, 13: 0.0}) == (3.0, 2.0)
    assert paired_differences({1: 1.0}, {2: 1.0}) == ()
