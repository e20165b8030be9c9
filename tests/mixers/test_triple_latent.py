"""The triple latent as a mixer and the local convolution, against formulas written out once more."""

import pytest
import torch
import torch.nn.functional as F
from tolerances import assert_close

from unimatrix.mixers import ConvolutionState, LocalConvolution, TripleLatentMixer

SLOTS = pytest.mark.parametrize("slots", [None, 3], ids=["dense", "slots"])


def randomise(module: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return module.double().requires_grad_(False)


def random_stream(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def holes(batch: int, length: int) -> torch.Tensor:
    """A mask with holes everywhere and left padding in the first row, the last row without one real token."""
    mask = torch.rand(batch, length, generator=torch.Generator().manual_seed(2)) > 0.4
    mask[0, :5] = False
    mask[-1] = False
    return mask


@SLOTS
def test_triple_latent_mixer_is_its_formula(slots):
    mixer = randomise(TripleLatentMixer(12, 2, 4, num_slots=slots))
    u = random_stream(1, 9, 12)
    rows = mixer.write_and_query.weight @ u[0].T  # a, b, q_l, q_r of both heads, then the two retentions
    a, b, q_l, q_r = rows[:32].T.view(9, 4, 2, 4).unbind(1)
    retention = torch.sigmoid(rows[32:].T + mixer.retention_bias).view(9, 2, 2)

    def place(vector: torch.Tensor) -> torch.Tensor:
        return vector if slots is None else (mixer.addresses @ vector).softmax(0)

    total = torch.zeros(2, 4, dtype=torch.float64)
    pairs = torch.zeros(2, slots or 4, 4, dtype=torch.float64)
    expected = []
    for t in range(9):
        read = []
        for h in range(2):
            keep_sum, keep_pairs = retention[t, 0, h], retention[t, 1, h]
            pairs[h] = keep_pairs * pairs[h] + (1 - keep_pairs) * torch.outer(place(total[h]), b[t, h])
            read.append((pairs[h].T @ place(q_l[t, h])) * q_r[t, h])
            total[h] = keep_sum * total[h] + (1 - keep_sum) * a[t, h]
        expected.append(mixer.readout.weight @ torch.cat(read))
    y, last = mixer(u)
    assert_close(y[0], torch.stack(expected), "output")
    assert_close(last.sum[0], total, "state")
    assert_close(last.pairs[0], pairs, "state")


@SLOTS
def test_its_state_starts_empty(slots):
    mixer = TripleLatentMixer(12, 2, 4, num_slots=slots)
    state = mixer.init_state(5)
    assert state.sum.shape == (5, 2, 4)
    assert state.pairs.shape == (5, 2, slots or 4, 4)
    assert {part.dtype for part in state} == {torch.float32}
    assert not any(part.any() for part in state)
    assert {part.dtype for part in mixer.bfloat16().init_state(1)} == {torch.float32}
    assert {part.dtype for part in mixer.double().init_state(1)} == {torch.float64}


def test_only_slots_have_addresses():
    assert TripleLatentMixer(12, 2, 4).addresses is None
    torch.manual_seed(0)
    addresses = TripleLatentMixer(12, 2, 4, num_slots=1000).addresses
    assert addresses.mean().item() == pytest.approx(0.0, abs=0.05)
    assert addresses.std().item() == pytest.approx(1.0, abs=0.05)


def test_retentions_next_to_one_survive_bfloat16():
    """A sum kept at 1 - e^-12 moves: a retention rounded to bfloat16 would be 1 and write nothing."""
    mixer = TripleLatentMixer(8, 1, 8).bfloat16().requires_grad_(False)
    mixer.retention_bias.fill_(12.0)
    u = torch.ones(1, 1, 8, dtype=torch.bfloat16)
    assert (mixer.write_and_query(u)[..., :8] != 0).all()
    assert (mixer(u)[1].sum != 0).all()


def mixers() -> list:
    """All that is tested in pieces and with masks, by name."""
    return [
        pytest.param(lambda: TripleLatentMixer(12, 2, 4), id="dense"),
        pytest.param(lambda: TripleLatentMixer(12, 2, 4, num_slots=3), id="slots"),
        pytest.param(lambda: LocalConvolution(12, 4), id="convolution"),
        pytest.param(lambda: LocalConvolution(12, 1), id="convolution of one"),
    ]


@pytest.mark.parametrize("make", mixers())
@pytest.mark.parametrize("cuts", [(1,), (2, 2, 3, 9), tuple(range(1, 20))], ids=len)
def test_pieces_equal_the_whole(make, cuts):
    mixer = randomise(make())
    x = random_stream(2, 20, 12)
    whole, last = mixer(x)
    state, pieces = None, []
    for start, stop in zip((0, *cuts), (*cuts, 20), strict=True):
        y, state = mixer(x[:, start:stop], state)
        pieces.append(y)
    assert_close(torch.cat(pieces, 1), whole, "output")
    for mine, theirs in zip(state, last, strict=True):
        assert_close(mine, theirs, "state")


@pytest.mark.parametrize("make", mixers())
def test_masked_pieces_equal_the_text_without_its_holes(make):
    mixer = randomise(make())
    x, mask = random_stream(3, 20, 12), holes(3, 20)
    state, pieces = None, []
    for start, stop in ((0, 3), (3, 3), (3, 4), (4, 20)):
        y, state = mixer(x[:, start:stop], state, mask=mask[:, start:stop])
        pieces.append(y)
    y = torch.cat(pieces, 1)
    for row in range(3):
        real = mask[row]
        expected, last = mixer(x[row : row + 1, real])
        assert_close(y[row : row + 1, real], expected, "output")
        for mine, theirs in zip(state, last, strict=True):
            assert_close(mine[row : row + 1], theirs, "state")


@pytest.mark.parametrize("make", mixers())
def test_gradients_pass_over_the_holes(make):
    """Of the weights and of the text: those of the text without its holes, and none at a hole."""
    mixer = randomise(make()).requires_grad_(True)
    x, mask = random_stream(1, 20, 12).requires_grad_(), holes(2, 20)[:1]
    leaves = [x, *mixer.parameters()]
    y, _ = mixer(x, mask=mask)
    got = torch.autograd.grad((y[mask] * random_stream(20, 12)[mask[0]]).sum(), leaves)
    dense, _ = mixer(x[mask][None])
    expected = torch.autograd.grad((dense[0] * random_stream(20, 12)[mask[0]]).sum(), leaves)
    for mine, theirs in zip(got, expected, strict=True):
        assert theirs.any()
        assert_close(mine, theirs, "gradient")
    assert (got[0][~mask] == 0).all()


@pytest.mark.parametrize("kernel_size", [1, 2, 5])
@pytest.mark.parametrize("length", [1, 3, 20])
def test_local_convolution_is_torchs_conv1d(kernel_size, length):
    mixer = randomise(LocalConvolution(6, kernel_size)).requires_grad_(True)
    x = random_stream(2, length, 6).requires_grad_()
    # [D, K D] with the oldest token first, as conv1d has it: [out, in, K]
    weight = mixer.mix.weight.view(6, kernel_size, 6).permute(0, 2, 1)
    mixed = F.conv1d(F.pad(x.mT, (kernel_size - 1, 0)), weight, mixer.mix.bias)
    expected = F.gelu(mixed).mT
    y, state = mixer(x)
    assert_close(y, expected, "output")
    padded = F.pad(x, (0, 0, kernel_size - 1, 0))
    assert torch.equal(state.recent, padded[:, length:])
    leaves = [x, *mixer.parameters()]
    for mine, theirs in zip(
        torch.autograd.grad(y.square().sum(), leaves),
        torch.autograd.grad(expected.square().sum(), leaves),
        strict=True,
    ):
        assert_close(mine, theirs, "gradient")


def test_local_convolution_learns_from_the_tokens_that_it_carries():
    mixer = randomise(LocalConvolution(6, 3))
    x, recent = random_stream(2, 4, 6), random_stream(2, 2, 6).requires_grad_()
    y, state = mixer(x, ConvolutionState(recent))
    whole, _ = mixer(torch.cat([recent, x], 1))
    assert_close(y, whole[:, 2:], "output")
    got = torch.autograd.grad(y.square().sum(), recent)[0]
    assert_close(got, torch.autograd.grad(whole[:, 2:].square().sum(), recent)[0], "gradient")
    assert torch.equal(state.recent, x[:, -2:])


@pytest.mark.parametrize("mask", [None, torch.tensor([True] * 6 + [False, True])])
def test_a_text_that_went_wrong_is_over_for_the_convolution_where_the_next_one_starts(mask):
    mixer, x = randomise(LocalConvolution(6, 3)), random_stream(2, 8, 6)
    starts = torch.arange(8).eq(5).expand(2, 8)
    mask = None if mask is None else mask.expand(2, 8)
    expected, after = mixer(x, starts=starts, mask=mask)
    spoilt = x.clone()
    spoilt[:, 4] = torch.inf
    y, state = mixer(spoilt, starts=starts, mask=mask)
    real = slice(None) if mask is None else mask[0, 5:]
    assert torch.equal(y[:, 5:][:, real], expected[:, 5:][:, real])
    assert torch.equal(state.recent, after.recent)
    assert torch.isfinite(state.recent).all()


def test_no_token_leaves_the_convolutions_state():
    mixer = randomise(LocalConvolution(6, 3))
    state = ConvolutionState(random_stream(2, 2, 6))
    for mask in (None, torch.ones(2, 0, dtype=torch.bool)):
        y, after = mixer(random_stream(2, 0, 6), state, mask=mask)
        assert y.shape == (2, 0, 6)
        assert torch.equal(after.recent, state.recent)
        assert after.recent.data_ptr() != state.recent.data_ptr()
