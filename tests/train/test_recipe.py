"""The recipe for texts of one's own: the learning rate follows the width."""

import pytest

from unimatrix.data.tasks import TASKS
from unimatrix.errors import UserError
from unimatrix.train import ModelChoice
from unimatrix.train.recipe import (
    OWN_TEXT,
    PRESET,
    RATE_OF_OTHERS,
    TUNED_RATE,
    TUNED_WIDTH,
    on_task,
    rate_for,
    rate_of_width,
)


def test_the_preset_s_rate_falls_with_its_width_and_never_rises_above_what_was_tuned():
    rates = [rate_of_width(width) for width in (8, 32, TUNED_WIDTH, 128, 240, 256, 1024)]
    assert rates[:3] == [TUNED_RATE] * 3
    assert (rate_of_width(64), rate_of_width(240)) == (6e-3, 8.26e-4)  # as the preset's page says
    assert rates == sorted(rates, reverse=True)
    assert len(set(rates[2:])) == len(rates[2:])
    assert OWN_TEXT.optim.lr == rate_for(OWN_TEXT.model) == TUNED_RATE


def test_the_rate_is_that_of_the_model_in_whatever_words_it_is_chosen():
    def asked(**changes):
        return rate_for(ModelChoice(preset=PRESET, changes=changes, max_positions=None))

    assert asked(d_model=240, num_heads=15) == asked(d_model=240, depth=2) == rate_of_width(240)
    assert rate_for(ModelChoice(preset="transformer", changes={"d_model": 240})) == RATE_OF_OTHERS
    assert rate_for(ModelChoice(config=ModelChoice().resolved(259))) == RATE_OF_OTHERS  # type: ignore[reportArgumentType]
    with pytest.raises(UserError, match="d_model"):
        asked(d_model=0)


def test_every_task_has_a_recipe():
    for kind in TASKS:
        recipe = on_task(kind)
        assert (recipe.name, recipe.task.kind, recipe.loop.seq_len) == (kind, kind, recipe.task.length)
    with pytest.raises(UserError, match="expected one of recall"):
        on_task("recal")
