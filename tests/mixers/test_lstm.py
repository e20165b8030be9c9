"""The LSTM's mixer against its formula, in pieces, with padding and documents anywhere; the peer's ledger."""

import pytest
import torch
import torch.nn.functional as F
from recurrent_mixers import check_pieces_padding_and_documents
from tolerances import assert_close
from torch import Tensor

import unimatrix
from unimatrix.bench.ceiling import measure_ceiling
from unimatrix.errors import UserError
from unimatrix.mixers import LSTMMixer, LSTMState
from unimatrix.models import PEER_PRESETS, parameter_count
from unimatrix.models.estimate import estimate

D, W = 6, 5


def randomised() -> LSTMMixer:
    torch.manual_seed(0)
    mixer = LSTMMixer(D, W)
    for parameter in mixer.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    return mixer.double().requires_grad_(False)


def random_stream(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def formula(mixer: LSTMMixer, x: Tensor) -> tuple[Tensor, LSTMState]:
    """[T, D] to [T, D] and the state of one row, token by token."""
    weights = dict(mixer.lstm.named_parameters())
    h = c = torch.zeros(W, dtype=x.dtype)
    outputs = []
    for u in x:
        gates = weights["weight_ih_l0"] @ u + weights["bias_ih_l0"]
        gates = gates + weights["weight_hh_l0"] @ h + weights["bias_hh_l0"]
        write, keep, new, read = gates.split(W)
        c = torch.sigmoid(keep) * c + torch.sigmoid(write) * torch.tanh(new)
        h = torch.sigmoid(read) * torch.tanh(c)
        outputs.append(mixer.readout.weight @ h + mixer.readout.bias)
    return torch.stack(outputs), LSTMState(h, c)


def test_it_is_the_formula_with_its_gradients():
    mixer, x = randomised().requires_grad_(True), random_stream(2, 9, D).requires_grad_()
    leaves = [x, *mixer.parameters()]
    y, state = mixer(x)
    rows = [formula(mixer, row) for row in x]
    expected = torch.stack([one for one, _ in rows])
    assert_close(y, expected, "output")
    for mine, theirs in zip(state, zip(*(last for _, last in rows), strict=True), strict=True):
        assert_close(mine, torch.stack(theirs), "state")
    weight, of_state = random_stream(2, 9, D), random_stream(2, W)
    got = torch.autograd.grad((y * weight).sum() + (state.cell * of_state).sum(), leaves)
    last = torch.stack([last.cell for _, last in rows])
    wanted = torch.autograd.grad((expected * weight).sum() + (last * of_state).sum(), leaves)
    for mine, theirs in zip(got, wanted, strict=True):
        assert theirs.any()
        assert_close(mine, theirs, "gradient")


@pytest.mark.parametrize("cuts", [(1,), (2, 2, 3, 9), tuple(range(1, 20))], ids=len)
def test_pieces_padding_and_documents_anywhere(cuts):
    check_pieces_padding_and_documents(randomised(), random_stream(2, 20, D), cuts)


def test_a_state_that_nothing_follows_comes_back_as_the_caller_s_own():
    mixer = randomised()
    state = LSTMState(random_stream(2, W), random_stream(2, W))
    y, after = mixer(random_stream(2, 0, D), state)
    assert y.shape == (2, 0, D)
    for mine, given in zip(after, state, strict=True):
        assert torch.equal(mine, given)
        assert mine.data_ptr() != given.data_ptr()


def test_the_ledger_of_the_peer():
    """V D; in each of 2 blocks two products with 4 gates, two biases, the readout, a norm; the last one."""
    d = 90
    block = 8 * d**2 + 8 * d + d**2 + d + d
    for vocab_size, count in ((259, 171_000), (64, 153_450)):
        model = unimatrix.build("lstm", vocab_size=vocab_size)
        assert parameter_count(model) == vocab_size * d + 2 * block + d == count
        assert estimate(model.config).parameters == count
        assert f"{count:,}" in PEER_PRESETS["lstm"].about
    products = 259 * d + 2 * (9 * d**2 + 3 * d)
    assert measure_ceiling(unimatrix.build("lstm"), 2, 4).multiply_adds == 2 * 4 * products


def test_every_weight_learns_and_starts_as_torch_s():
    torch.manual_seed(0)
    model = unimatrix.build("lstm", head={"kind": "scaled", "scale": 12.0})
    drawn = model.blocks[0].mixer.lstm.weight_hh_l0
    assert 0.9 / 90**0.5 < drawn.abs().max() <= 1 / 90**0.5
    ids = torch.randint(0, 256, (2, 24))
    logits, _ = model(ids)
    F.cross_entropy(logits.flatten(0, 1), ids.roll(-1).flatten()).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().sum() > 0, key


def test_its_width_is_a_count():
    with pytest.raises(UserError, match=r"width: expected a whole number of at least 1, got 0"):
        unimatrix.build("lstm", **{"layers.*.mixer.width": 0})
