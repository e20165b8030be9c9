"""The short convolution before a recurrence, against torch's own, in pieces and with padding anywhere."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from tolerances import assert_close

import unimatrix
from unimatrix.mixers import MatrixStateMixer, Reading
from unimatrix.mixers.short_convolution import ShortConvolution

X = torch.randn(2, 23, 6, generator=torch.Generator().manual_seed(0))
MASK = torch.rand(2, 23, generator=torch.Generator().manual_seed(1)) > 0.3


@pytest.mark.parametrize("kernel_size", [1, 2, 4])
def test_it_is_torchs_depthwise_convolution(kernel_size):
    conv = ShortConvolution(6, kernel_size)
    y, recent = conv(X, None)
    padded = F.pad(X.transpose(1, 2), (kernel_size - 1, 0))
    expected = F.silu(F.conv1d(padded, conv.weight.T[:, None], groups=6)).transpose(1, 2)
    assert_close(y, expected, "output")
    assert torch.equal(recent, X[:, 23 - (kernel_size - 1) :])


@pytest.mark.parametrize("kernel_size", [1, 2, 4])
@pytest.mark.parametrize("cuts", [(0, 1, 2, 23), (0, 11, 23), (0, 22, 23)])
def test_pieces_and_padding(kernel_size, cuts):
    conv = ShortConvolution(6, kernel_size)
    whole, _ = conv(X, None, mask=MASK)
    for row in range(2):
        alone, _ = conv(X[row : row + 1, MASK[row]], None)
        assert_close(whole[row][MASK[row]], alone[0], "output")
    recent, pieces = None, []
    for start, stop in itertools.pairwise(cuts):
        y, recent = conv(X[:, start:stop], recent, mask=MASK[:, start:stop])
        pieces.append(y)
    assert_close(torch.cat(pieces, 1)[MASK], whole[MASK], "output")


def test_it_starts_as_torch_starts_one():
    torch.manual_seed(0)
    weight = ShortConvolution(512, 4).weight.detach()
    assert weight.abs().max() <= 0.5
    assert weight.std().item() == pytest.approx(0.5 / 3**0.5, rel=0.05)


@pytest.mark.parametrize("settings", [{}, {"rule_mixing": True}, {"spectral_norm": True}])
def test_a_matrix_state_mixes_what_it_made_of_q_k_and_v(settings):
    torch.manual_seed(0)
    mixer = MatrixStateMixer(12, 2, 4, kernel_size=4, **settings).double()
    u = torch.randn(2, 9, 12, dtype=torch.float64)
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.mul_(3.0)
    y, state = mixer(u)
    first, carried = mixer(u[:, :4])
    second, last = mixer(u[:, 4:], carried)
    assert_close(torch.cat([first, second], 1), y, "output")
    assert_close(last.recent, state.recent, "state")
    assert torch.equal(mixer(u, mixer.init_state(2))[0], y)
    without = MatrixStateMixer(12, 2, 4, **settings)
    assert without(u.float())[1].recent is None
    assert "convolution.weight" not in without.state_dict()
    given, _ = mixer.give(u, None, Reading(None, u, wanted=frozenset({"error"})), unimatrix.mixers.Given())
    assert given.error.shape == (2, 9, 2)


def test_in_a_model_it_is_one_setting():
    model = unimatrix.build("unimatrix-core", kernel_size=4).eval()
    assert model.blocks[0].mixer.convolution.weight.shape == (4, 3 * 64)
    ids = torch.arange(30)[None]
    whole, _ = model(ids)
    _, state = model(ids[:, :29])
    assert_close(model(ids[:, 29:], state)[0], whole[:, 29:], "logits")
