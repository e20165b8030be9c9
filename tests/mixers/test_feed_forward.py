"""The feed-forward layers: their widths, and how large what a gated one multiplies is at the start."""

import pytest
import torch

import unimatrix
from unimatrix.errors import UserError
from unimatrix.mixers import GatedMLPConfig, Size
from unimatrix.mixers.initial import draw_weights


def size(d_model: int) -> Size:
    return Size(vocab_size=259, d_model=d_model, depth=2)


@pytest.mark.parametrize(
    ("settings", "d_model", "width"),
    [
        ({}, 64, 168),
        ({}, 1, 8),
        ({"expansion": 4.5}, 64, 288),
        ({"expansion": 4.5}, 240, 1080),
        ({"expansion": 3}, 10, 32),
        ({"expansion": 0.001}, 64, 8),
        ({"width": 5}, 64, 5),
    ],
)
def test_its_width_follows_the_model_or_is_what_is_said(settings, d_model, width):
    config = GatedMLPConfig(**settings).resolved(size(d_model))
    assert config.width == width
    assert config.resolved(size(d_model)) == config
    assert config.build(size(d_model)).down.in_features == width


@pytest.mark.parametrize("d_model", [32, 256])
@pytest.mark.parametrize("gain", [0.5, 2.0])
def test_gain_is_the_size_of_what_is_multiplied_at_any_width(d_model, gain):
    torch.manual_seed(0)
    mlp = GatedMLPConfig(gain=gain).build(size(d_model))
    draw_weights(mlp, 0.01)
    x = torch.randn(256, d_model)
    for products in mlp.gate_and_up(x).detach().chunk(2, dim=-1):
        assert products.std().item() == pytest.approx(gain, rel=0.1)
    assert mlp.down.weight.std().item() == pytest.approx(0.01, rel=0.1)


def test_without_it_all_start_alike():
    mlp = GatedMLPConfig().build(size(64))
    draw_weights(mlp, 0.03)
    for weight in mlp.parameters():
        assert weight.std().item() == pytest.approx(0.03, rel=0.1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"width": 8, "expansion": 2.0},
            "width: expected None beside an expansion, got 8",
        ),
        ({"gain": 0.0}, "gain: expected a positive number, got 0"),
        ({"expansion": -1.0}, "expansion: expected a positive number, got -1"),
        ({"expansion": 1e30}, "expansion: expected at least 0 and below 1024, got 1e\\+30"),
        ({"gain": float("nan")}, "gain: expected a number or None, got nan"),
        ({"width": 0}, "width: expected a whole number of at least 1, got 0"),
    ],
)
def test_bad_settings_are_one_line(settings, message):
    with pytest.raises(UserError, match=message):
        GatedMLPConfig(**settings)


def test_a_width_takes_the_place_of_an_expansion():
    with pytest.raises(UserError, match="width: expected None beside an expansion, got 24"):
        unimatrix.build("unimatrix", width=24)
    model = unimatrix.build("unimatrix", width=24, mlp_expansion=None)
    assert model.blocks[1].feed_forward.down.in_features == 24


def test_the_preset_s_follows_its_width_under_its_short_name():
    narrow = unimatrix.build("unimatrix", d_model=32, mlp_expansion=2)
    assert [block.feed_forward.down.in_features for block in narrow.blocks] == [64, 64]
