"""The Transformer of today: rotary positions against complex numbers, normalised q and k, RMSNorm, gates."""

import pytest
import torch
import torch.nn.functional as F
from tolerances import assert_close
from trained_size import random_ids, trained_size

import unimatrix
from unimatrix import UserError
from unimatrix.mixers import AttentionConfig, CausalAttention, GatedMLP, Size
from unimatrix.mixers.attention import _rotated

NAME = "transformer-modern"
IDS = random_ids(3, 40)
MASK = torch.ones(3, 40, dtype=torch.bool)
MASK[0, :9] = MASK[1, 20:24] = False


def test_turning_is_a_product_with_a_complex_number_of_length_one():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 11, 8, dtype=torch.float64)
    positions = torch.randint(0, 1000, (2, 11))
    turned, same = _rotated(x, x, positions, 10_000.0)
    assert torch.equal(turned, same)
    rates = torch.tensor([10_000.0 ** (-2 * i / 8) for i in range(4)], dtype=torch.float64)
    numbers = torch.complex(x[..., :4], x[..., 4:]) * torch.exp(1j * positions[:, None, :, None] * rates)
    assert_close(turned, torch.cat([numbers.real, numbers.imag], -1), "output")


def test_attention_by_the_formula():
    torch.manual_seed(0)
    mixer = CausalAttention(12, 2, rotary_base=100.0, qk_norm=True).double()
    x = torch.randn(2, 7, 12, dtype=torch.float64)
    y, _ = mixer(x)
    q, k, v = mixer.qkv(x).view(2, 7, 3, 2, 6).permute(2, 0, 3, 1, 4)
    q, k = (z / (z.square().mean(-1, keepdim=True) + 1e-12).sqrt() for z in (q, k))
    q, k = _rotated(q, k, torch.arange(7)[None], 100.0)
    scores = (q @ k.mT / 6**0.5).masked_fill(torch.ones(7, 7).triu(1).bool(), -torch.inf)
    expected = mixer.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
    assert_close(y, expected, "output")


def test_only_distances_count():
    """Rotary attention reads the same wherever its text begins; padding inside takes no position."""
    model = trained_size(NAME)
    whole, _ = model(IDS, mask=MASK)
    for row in range(3):
        assert_close(whole[row][MASK[row]], model(IDS[row : row + 1, MASK[row]])[0][0], "logits")


def test_pieces_and_steps_give_the_whole():
    model = trained_size(NAME)
    whole, _ = model(IDS, mask=MASK)
    state, pieces = None, []
    for start, stop in ((0, 1), (1, 17), (17, 18), (18, 40)):
        logits, state = model(IDS[:, start:stop], state, mask=MASK[:, start:stop])
        pieces.append(logits)
    assert_close(torch.cat(pieces, 1)[MASK], whole[MASK], "logits")


def test_its_parts_are_what_it_says():
    model = unimatrix.build(NAME)
    assert model.positions is None
    assert {type(module) for module in model.modules() if "Norm" in type(module).__name__} == {
        torch.nn.RMSNorm
    }
    mlp = model.blocks[0].feed_forward
    assert isinstance(mlp, GatedMLP)
    x = torch.randn(2, 3, 64)
    gate, up = mlp.gate_and_up.weight.chunk(2)
    assert_close(mlp(x), F.linear(F.silu(x @ gate.mT) * (x @ up.mT), mlp.down.weight), "output")
    assert mlp.down.in_features == 168
    assert all(
        (module.weight == 1).all() for module in model.modules() if isinstance(module, torch.nn.RMSNorm)
    )


def test_a_state_keeps_no_more_alive_than_it_holds():
    _, state = trained_size(NAME)(IDS)
    for step in state.steps:
        for tensor in step["mixer"][:2]:
            assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rotary_base": 1.0}, "rotary_base: expected a number above 1, got 1.0"),
        ({"rotary_base": 100.0, "num_heads": 4}, "rotary_base: expected heads of an even width, got 3"),
    ],
)
def test_bad_settings_are_one_line(settings, message):
    with pytest.raises(UserError, match=message):
        AttentionConfig(**settings).check(Size(259, 12, 3))
