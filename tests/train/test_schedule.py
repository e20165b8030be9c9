"""The learning rate of every step, against values worked out by hand."""

import pytest

from unimatrix.train.config import OptimConfig
from unimatrix.train.schedule import learning_rate


def rates(steps, **settings):
    optim = OptimConfig(lr=1.0, **settings)
    return [learning_rate(optim, step=step, steps=steps) for step in range(steps)]


def test_constant():
    assert rates(5) == [1.0] * 5


def test_warm_up_reaches_the_peak_and_stays():
    assert rates(6, warmup_steps=4) == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_linear_ends_at_its_share_of_the_peak():
    assert rates(5, schedule="linear") == pytest.approx([1.0, 0.75, 0.5, 0.25, 0.0])
    assert rates(5, schedule="linear", final_lr_share=0.2) == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])


def test_cosine_is_half_way_in_the_middle():
    assert rates(5, schedule="cosine") == pytest.approx([1.0, 0.85355339, 0.5, 0.14644661, 0.0])


def test_warm_up_then_decay():
    assert rates(7, schedule="linear", warmup_steps=2) == pytest.approx([0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0])


@pytest.mark.parametrize("schedule", ["constant", "cosine", "linear"])
def test_odd_lengths_are_no_trouble(schedule):
    for steps, warmup in [(1, 0), (1, 5), (2, 2), (3, 2)]:
        assert all(0.0 <= rate <= 1.0 for rate in rates(steps, schedule=schedule, warmup_steps=warmup))
