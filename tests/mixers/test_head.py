"""Heads: what they make of the stream's products, and that the model they stand in stays what it is."""

import pytest
import torch
from tolerances import assert_close
from trained_size import random_ids

import unimatrix
from unimatrix.mixers import ScaledHeadConfig
from unimatrix.models import ModelConfig

IDS = random_ids(2, 12)


@pytest.mark.parametrize("preset", ["unimatrix-core", "transformer", "unimatrix-sparse-pointer"])
def test_scaled_logits_are_the_same_words_times_a_constant(preset):
    torch.manual_seed(0)
    model = unimatrix.build(preset, head=ScaledHeadConfig(scale=8.0)).eval()
    torch.manual_seed(0)
    plain = unimatrix.build(preset).eval()
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))
    features, same = model.features(IDS), plain.features(IDS)
    assert torch.equal(features.hidden, same.hidden)
    assert torch.equal(model.words(features), 8.0 * plain.words(same))
    # votes are no words: they count as ever
    votes, expected = (m.logits(f) - m.words(f) for m, f in ((model, features), (plain, same)))
    assert_close(votes, expected, "logits")
    assert model.tied


def test_the_scale_is_a_setting():
    model = unimatrix.build("unimatrix-core", head="scaled", **{"head.scale": 3.0})
    assert model.config.head == ScaledHeadConfig(scale=3.0)
    assert ModelConfig.from_dict(model.config.to_dict()) == model.config
    for scale in (0.0, -1.0, float("nan"), "8"):
        with pytest.raises(unimatrix.UserError, match="scale: expected"):
            ScaledHeadConfig(scale=scale)  # type: ignore[arg-type]
