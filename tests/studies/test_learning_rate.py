"""The rule of the learning rate by width, and the study that it is held to."""

import pytest

from unimatrix.lab.claims import Measured
from unimatrix.models import build, parameter_count
from unimatrix.studies.beyond.learning_rate import EXPERIMENTS, FACTOR, HOLDS, OFF, WIDTHS, BestOf
from unimatrix.train.recipe import TUNED_RATE, TUNED_WIDTH, rate_of_width


def test_the_widths_have_the_parameters_that_are_said():
    counts = [parameter_count(build("unimatrix", d_model=w, num_heads=h)) for w, h in WIDTHS.items()]
    assert counts == [171_033, 646_177, 2_209_487]


def test_each_width_trains_at_the_rule_s_rate_and_around_it():
    for width, at in EXPERIMENTS.items():
        rates = [at[off].optim.lr for off in OFF]
        assert at[0].optim.lr == rate_of_width(width)
        assert rates == pytest.approx([rate_of_width(width) * FACTOR**off for off in OFF], rel=0.01)
        assert {one.model.changes["d_model"] for one in at.values()} == {width}
    assert EXPERIMENTS[TUNED_WIDTH][0].optim.lr == TUNED_RATE
    names = [one.name for at in EXPERIMENTS.values() for one in at.values()]
    assert len(set(names)) == len(WIDTHS) * len(OFF)


def fake(values):
    """Samples of the widest model, by how far off the rule the rate is, in two seeds."""

    class Run:
        def __init__(self, value):
            self.metrics = {"bpb": value}

    at = EXPERIMENTS[max(WIDTHS)]
    return {at[off].name: {seed: Run(value + 0.1 * seed) for seed in (1, 2)} for off, value in values.items()}


def test_the_claim_asks_that_the_best_rate_is_between_the_rule_s_neighbours():
    good = fake({-2: 3.0, -1: 2.2, 0: 2.0, 1: 2.1, 2: 4.0})
    assert HOLDS.judge(good).outcome == "reproduced"
    assert HOLDS.judge(fake({-2: 3.0, -1: 2.2, 0: 2.0, 1: 1.9, 2: 1.8})).outcome == "not reproduced"
    # the curve may turn a second time, and the best of all lie among the outer two
    assert HOLDS.judge(fake({-2: 2.8, -1: 3.1, 0: 3.0, 1: 3.1, 2: 3.2})).outcome == "not reproduced"
    assert HOLDS.judge(fake({-2: 3.2, -1: 3.1, 0: 3.0, 1: 3.1, 2: 2.8})).outcome == "not reproduced"
    labels = [comparison.label for comparison in HOLDS.comparisons]
    assert labels == [
        f"{words} - rule's rate" for words in ("1 / 2.25", "1 / 1.5", "1.5 times", "2.25 times")
    ]
    best = BestOf(tuple(EXPERIMENTS[max(WIDTHS)].values()))
    assert best.by_seed(good) == pytest.approx({1: 2.1, 2: 2.2})
    del good[EXPERIMENTS[max(WIDTHS)][2].name][2]
    assert best.by_seed(good) == pytest.approx({1: 2.1})
    assert Measured(EXPERIMENTS[64][0], "bpb").by_seed(good) == {}
