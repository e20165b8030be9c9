"""M2RNN's mixer against its formula, in pieces, with padding anywhere, its start; the peer's ledger."""

import pytest
import torch
import torch.nn.functional as F
from recurrent_mixers import check_pieces_padding_and_documents
from tolerances import assert_close
from torch import Tensor

import unimatrix
from unimatrix.errors import UserError
from unimatrix.mixers import M2RNNMixer
from unimatrix.models import PEER_PRESETS, parameter_count
from unimatrix.models.estimate import estimate
from unimatrix.ops import backends_of

D, H, K, V, KERNEL = 12, 3, 5, 4, 3
INNER = H * V


def randomised(backend: str = "auto") -> M2RNNMixer:
    torch.manual_seed(0)
    mixer = M2RNNMixer(D, H, K, V, kernel_size=KERNEL, backend=backend)  # type: ignore[arg-type]
    for name, parameter in mixer.named_parameters():
        torch.nn.init.normal_(parameter, std=0.2 if name == "transition" else 0.5)
    return mixer.double().requires_grad_(False)


def random_stream(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def formula(mixer: M2RNNMixer, x: Tensor) -> tuple[Tensor, Tensor]:
    """[T, D] to [T, D] and the last matrices [H, K, V], token by token, a projection at a time."""
    to_q, to_k, to_v, to_g, to_x = mixer.project.weight.split([K, K, INNER, INNER, H])
    past = [torch.zeros(2 * K + INNER, dtype=x.dtype) for _ in range(KERNEL - 1)]
    h, outputs = torch.zeros(H, K, V, dtype=x.dtype), []
    for u in x:
        past.append(torch.cat([to_q @ u, to_k @ u, to_v @ u]))
        convolved = sum(
            w * before for w, before in zip(mixer.convolution.weight, past[-KERNEL:], strict=True)
        )
        q, k, v = F.silu(convolved).split([K, K, INNER])  # type: ignore[arg-type]
        g, step = to_g @ u, to_x @ u
        read = []
        for head in range(H):
            v_h = v[head * V : (head + 1) * V]
            keep = torch.exp(-torch.exp(mixer.decay[head]) * F.softplus(step[head] + mixer.step_bias[head]))
            candidate = torch.tanh(h[head] @ mixer.transition[head] + torch.outer(k, v_h))
            h = h.index_copy(0, torch.tensor([head]), (keep * h[head] + (1 - keep) * candidate)[None])
            read.append(h[head].mT @ q + mixer.direct[head] * v_h)
        y = torch.cat(read) * g * torch.sigmoid(g)
        y = mixer.norm.weight * y / torch.sqrt(y.square().mean() + 1e-5)
        outputs.append(mixer.readout.weight @ y)
    return torch.stack(outputs), h


@pytest.mark.parametrize("backend", ["reference", "compiled", "auto"])
def test_every_form_is_the_formula(backend):
    mixer, x = randomised(backend), random_stream(2, 19, D)
    y, state = mixer(x)
    for row in range(2):
        expected, last = formula(mixer, x[row])
        assert_close(y[row], expected, "output")
        assert_close(state.matrix[row], last, "state")
    assert mixer.backend.ran == ("compiled" if backend == "auto" else backend)


def test_gradients_are_the_formulas():
    mixer, x = randomised().requires_grad_(True), random_stream(1, 9, D).requires_grad_()
    leaves = [x, *mixer.parameters()]
    weight, of_state = random_stream(9, D), random_stream(H, K, V)
    y, state = mixer(x)
    got = torch.autograd.grad((y[0] * weight).sum() + (state.matrix[0] * of_state).sum(), leaves)
    expected_y, last = formula(mixer, x[0])
    expected = torch.autograd.grad((expected_y * weight).sum() + (last * of_state).sum(), leaves)
    for mine, theirs in zip(got, expected, strict=True):
        assert theirs.any()
        assert_close(mine, theirs, "gradient")


@pytest.mark.parametrize("cuts", [(1,), (2, 2, 3, 9), tuple(range(1, 20))], ids=len)
def test_pieces_and_padding_anywhere(cuts):
    check_pieces_padding_and_documents(randomised(), random_stream(2, 20, D), cuts)


def test_it_starts_as_the_source_says():
    torch.manual_seed(0)
    mixer = unimatrix.build("m2rnn", num_heads=64).blocks[0].mixer
    assert torch.equal(mixer.transition, torch.eye(16).expand(64, 16, 16))
    assert (mixer.direct == 1).all()
    rate, step = mixer.decay.exp(), F.softplus(mixer.step_bias)
    assert 0 < rate.min() < 2 < 14 < rate.max() < 16
    assert 0.999e-3 < step.min() < 3e-3 < 0.03 < step.max() < 0.1001


def test_the_ledger_of_the_peer():
    """V D; in each of 3 blocks q, k, v, gate and retentions, the convolution, W, decay, bias, direct, a norm,
    the readout, the MLP and two norms; and the last norm. No positions."""
    d, heads, key, value, kernel = 64, 3, 64, 16, 4
    inner = heads * value
    mixer = d * (2 * key + 2 * inner + heads) + kernel * (2 * key + inner) + heads * value**2
    mixer += 2 * heads + inner + inner + inner * d
    block = mixer + 8 * d**2 + 5 * d + 2 * d
    for vocab_size, count in ((259, 173_810), (64, 161_330)):
        model = unimatrix.build("m2rnn", vocab_size=vocab_size)
        assert parameter_count(model) == vocab_size * d + 3 * block + d == count
        assert estimate(model.config).parameters == count
        assert f"{count:,}" in PEER_PRESETS["m2rnn"].about
        mamba2 = parameter_count(unimatrix.build("mamba2", vocab_size=vocab_size))
        assert abs(count / mamba2 - 1) < 0.002


def test_every_weight_learns_and_the_loop_runs():
    torch.manual_seed(0)
    model = unimatrix.build("m2rnn")
    ids = torch.randint(0, 256, (2, 24))
    logits, _ = model(ids)
    F.cross_entropy(logits.flatten(0, 1), ids.roll(-1).flatten()).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().sum() > 0, key
    assert set(backends_of(model).values()) == {"compiled"}


def test_chunks_are_refused_by_name_and_sizes_are_counts():
    model = unimatrix.build("m2rnn", backend="chunked")
    with pytest.raises(UserError, match=r"backend 'chunked' of m2rnn cannot run here"):
        model(torch.zeros(1, 3, dtype=torch.int64))
    for name in ("num_heads", "key_dim", "value_dim", "kernel_size"):
        with pytest.raises(UserError, match=rf"{name}: expected a whole number of at least 1, got 0"):
            unimatrix.build("m2rnn", **{f"layers.*.mixer.{name}": 0})
