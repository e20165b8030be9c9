"""The loops of a decoding step, of the matrix state and of votes, held to what they stand for in torch."""

import pytest
import torch
from tolerances import assert_close
from torch import Tensor
from torch.nn.modules.module import register_module_forward_hook
from torch.testing._internal.two_tensor import TwoTensor

import unimatrix
from unimatrix import UserError
from unimatrix.mixers import kept_text, matrix_state, suffix_automaton
from unimatrix.mixers.kept_text import count_hits
from unimatrix.mixers.matrix_state import MatrixStateMixer
from unimatrix.mixers.suffix_automaton import BUCKETS, SuffixMixture, SuffixVotes

D, HEADS, DIM = 24, 3, 8
VARIANTS = {
    "plain": {},
    "convolved": {"kernel_size": 4},
    "one tap": {"kernel_size": 1, "output_norm": True},
    "mixed": {"rule_mixing": True},
    "mixed, convolved, spectral": {
        "rule_mixing": True,
        "kernel_size": 3,
        "spectral_norm": True,
        "output_norm": True,
    },
    "spectral": {"spectral_norm": True},
    "as in unimatrix": {"kernel_size": 4, "output_norm": True, "idle_diag": False},
}


def mixer(dtype: torch.dtype = torch.float64, **settings) -> MatrixStateMixer:
    torch.manual_seed(0)
    part = MatrixStateMixer(D, HEADS, DIM, **settings)
    part.init_weights(0.3)
    return part.to(dtype).eval()


def tokens(length: int, dtype: torch.dtype = torch.float64, seed: int = 0, batch: int = 2) -> Tensor:
    return torch.randn(
        batch, length, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    ).to(dtype)


@pytest.fixture
def steps(monkeypatch) -> list[int]:
    """How many tokens went through the loop."""
    return counting(monkeypatch, matrix_state, "matrix_state_step")


def counting(monkeypatch, where, name: str) -> list[int]:
    """Grows by one with each call of a loop that it took."""
    taken: list[int] = []
    loop = getattr(where, name)

    def counted(*given, **settings):
        found = loop(*given, **settings)
        if found is not None:
            taken.append(1)
        return found

    monkeypatch.setattr(where, name, counted)
    return taken


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_token_by_token_is_as_the_whole(variant, dtype, steps):
    part, u, context = mixer(dtype, **variant), tokens(20, dtype), tokens(20, dtype, seed=1)
    with torch.no_grad():
        whole, last = part(u, context=context)
        pieces, state = [], part(u[:, :0])[1]
        for t in range(20):
            before = [None if x is None else x.clone() for x in state]
            y, after = part(u[:, t : t + 1], state, context=context[:, t : t + 1])
            for x, old in zip(state, before, strict=True):
                assert x is old is None or torch.equal(x, old)  # never modified
            pieces.append(y)
            state = after
    assert len(steps) == 20
    assert_close(torch.cat(pieces, 1), whole, "output", dtype)
    for x, y in zip(state, last, strict=True):
        assert x is y is None or (assert_close(x, y, "state", dtype), x.dtype == y.dtype)[1]
    assert part.backend.ran == "compiled"


def test_extreme_gates(steps):
    part = mixer(**VARIANTS["as in unimatrix"])
    with torch.no_grad():
        state = part(tokens(9))[1]
        for bias in (-800.0, -40.0, 0.0, 40.0, 800.0):
            part.gates.bias.fill_(bias)
            for x, y in zip(
                _flat(part(tokens(1), state)), _flat(_in_torch(part, tokens(1), state)), strict=True
            ):
                assert_close(x, y, "output")
    assert len(steps) == 5


def _flat(found) -> tuple[Tensor, ...]:
    y, state = found
    return y, *state


def _in_torch(part, u, state):
    """A mask keeps the loop away, and this one changes nothing."""
    return part(u, state, mask=torch.ones(u.shape[:2], dtype=torch.bool))


def test_what_the_loop_must_not_see_goes_the_long_way(steps):
    part, u = mixer(**VARIANTS["as in unimatrix"]), tokens(1)
    with torch.no_grad():
        state = part(tokens(5))[1]
        ours = part(u, state)[0]
        assert len(steps) == 1
        seen: list[int] = []
        handle = part.convolution.register_forward_hook(lambda *_: seen.append(1))
        assert_close(part(u, state)[0], ours, "output")
        assert seen == [1]
        handle.remove()
        called: list[str] = []
        handle = register_module_forward_hook(lambda module, *_: called.append(type(module).__name__))
        part(u, state)
        handle.remove()
        assert "ShortConvolution" in called
        wider = (state.matrix[:, :, :4], state.matrix[:1], state.matrix[:, :2])
        for matrix in wider:
            with pytest.raises(UserError, match="state: expected shape"):
                part(u, state._replace(matrix=matrix))
        with pytest.raises((UserError, RuntimeError)):
            part(u, state._replace(recent=state.recent[:, :1]))
        narrow = mixer(torch.float32, **VARIANTS["as in unimatrix"])
        before = narrow(tokens(5, torch.float32))[1]
        with torch.autocast("cpu", torch.bfloat16):
            narrow(u.float(), before)
        assert not torch.func.vmap(lambda x: part(x, state)[0])(u[None]).isnan().any()
        part(u, state, with_error=True)
        slow = MatrixStateMixer(D, HEADS, DIM, backend="reference").double()
        slow(u, slow(tokens(5))[1])
        assert slow.backend.ran == "reference"
    y, _ = part(u.requires_grad_(), state)
    y.sum().backward()
    assert u.grad is not None
    assert len(steps) == 1


@pytest.mark.parametrize("heads", [(6, 4, 4), (12, 2, 2), (1, 8, 8), (3, 8, 4), (300, 32, 32)], ids=str)
@pytest.mark.parametrize("variant", [{}, {"kernel_size": 4}], ids=["plain", "convolved"])
def test_a_state_of_other_heads_is_refused(heads, variant):
    """Also one of as many numbers: the loop knows addresses alone."""
    part = mixer(**variant)
    with torch.no_grad():
        state = part(tokens(5))[1]
        with pytest.raises(UserError, match="expected shape"):
            part(tokens(1), state._replace(matrix=torch.zeros(2, *heads, dtype=torch.float64)))
        with pytest.raises(ValueError, match=r"unpack|expected \[batch, time, channels\]"):
            part(tokens(1)[:, :, None], state)


def test_what_is_no_plain_tensor_goes_the_long_way(steps):
    part, u = mixer(kernel_size=4), tokens(1)
    with torch.no_grad():
        state = part(tokens(5))[1]
        expected = part(u, state)[0]
        assert len(steps) == 1
        negated = torch._neg_view(-state.matrix)
        with pytest.raises(UserError, match="negated view"):
            part(u, state._replace(matrix=negated))
        two = TwoTensor(state.recent, state.recent.clone())
        assert_close(part(u, state._replace(recent=two))[0].a, expected, "output")
        weight = part.convolution.weight.data
        part.convolution.weight = torch.nn.Parameter(TwoTensor(weight, weight.clone()), requires_grad=False)
        assert_close(part(u, state)[0].a, expected, "output")
    assert len(steps) == 1


def test_a_gate_that_is_no_number_is_named():
    part = mixer()
    with torch.no_grad():
        state = part(tokens(5))[1]
        u = tokens(1)
        u[1] = torch.nan
        with pytest.raises(UserError, match="log_retention: expected numbers at most 0, got nan"):
            part(u, state)


# --- votes


def guessed(batch: int, length: int, each: int, buckets: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, guesses of which a third is none, and their buckets, some of them out of range."""
    rng = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 3, (batch, length), generator=rng)
    guesses = torch.randint(-1, 2, (batch, length, each), generator=rng)
    return ids, guesses, torch.randint(-1, buckets + 1, (batch, length, each), generator=rng)


@pytest.mark.parametrize("each", [1, 4])
@pytest.mark.parametrize("length", [1, 2, 37])
@pytest.mark.parametrize("masked", [False, True], ids=["plain", "masked"])
@pytest.mark.parametrize("starting", [False, True], ids=["one text", "starts"])
def test_counts_are_as_in_torch(monkeypatch, each, length, masked, starting):
    rng = torch.Generator().manual_seed(5)
    states = {"loop": None, "torch": None}
    for piece in range(4):
        given = guessed(3, length, each, 5, seed=piece)
        mask = torch.rand(3, length, generator=rng) > 0.3 if masked else None
        starts = torch.rand(3, length, generator=rng) > 0.7 if starting else None
        own = {}
        for form in states:
            with monkeypatch.context() as patch:
                if form == "torch":
                    patch.setattr(kept_text, "hits_counted", lambda *_: None)
                before = states[form]
                kept = None if before is None else [before.counts.clone(), *map(torch.clone, before.pointed)]
                own[form], states[form] = count_hits(*given, 5, before, mask, starts)
                if before is not None:
                    assert all(map(torch.equal, kept, [before.counts, *before.pointed]))
        loop, plain = states["loop"], states["torch"]
        assert torch.equal(own["loop"], own["torch"])
        assert torch.equal(loop.counts, plain.counts)
        assert torch.equal(loop.pointed.present, plain.pointed.present)
        there = loop.pointed.present[:, None]
        assert torch.equal(loop.pointed.vector * there, plain.pointed.vector * there)


def votes_on(rows: int, vocab: int, dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, SuffixVotes, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    logits = (3 * torch.randn(rows, 2, vocab, generator=rng, dtype=torch.float64)).to(dtype)
    token = torch.randint(-1, vocab, (rows, 2), generator=rng)
    bucket = torch.randint(-1, len(BUCKETS), (rows, 2), generator=rng)
    counts = torch.randint(-2, 30, (rows, 2, 2), generator=rng)  # hits above times, and below nothing
    return logits, SuffixVotes(token, bucket, counts), torch.randn(rows, 2, D, generator=rng).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("gate", [None, D])
def test_the_mixture_is_as_in_torch(monkeypatch, dtype, gate):
    mixture = SuffixMixture(gate).to(dtype)
    if mixture.gate is not None:
        torch.nn.init.normal_(mixture.gate.weight)
    logits, votes, hidden = votes_on(40, 7, dtype)
    logits[0, 0] = -torch.inf  # none has a chance
    logits[1, :, :3] = -torch.inf
    logits[2, 0, 1] = torch.nan
    logits[3, 0, 1] = torch.inf
    logits[4, 0, 1:] = -torch.inf
    kept = logits.clone()
    with torch.no_grad():
        ours = mixture(logits, votes, hidden)
        assert torch.equal(logits.nan_to_num(7.0), kept.nan_to_num(7.0))
        monkeypatch.setattr(suffix_automaton, "mixes_here", lambda *_: False)
        expected = mixture(logits, votes, hidden)
    assert ours.dtype == expected.dtype
    assert torch.equal(ours.isnan(), expected.isnan())
    finite = expected.isfinite()
    assert torch.equal(ours[~finite & ~expected.isnan()], expected[~finite & ~expected.isnan()])
    assert_close(ours[finite], expected[finite], "output", dtype)


def test_a_vote_for_no_token_of_the_vocabulary_is_named():
    logits, votes, hidden = votes_on(4, 7, torch.float32)
    for wrong in (7, -2):
        token = votes.token.clone()
        token[1, 1] = wrong
        with (
            torch.no_grad(),
            pytest.raises(UserError, match="votes: expected tokens from 0 to 6, got 1 of 8 beyond"),
        ):
            SuffixMixture()(logits, votes._replace(token=token), hidden)


def test_votes_that_are_not_as_a_loop_takes_them_are_as_in_torch_or_refused(monkeypatch):
    mixture = SuffixMixture(D)
    torch.nn.init.normal_(mixture.gate.weight)
    logits, votes, hidden = votes_on(6, 7, torch.float32)
    taken = counting(monkeypatch, suffix_automaton, "vote_mixed")
    with torch.no_grad():
        expected = mixture(logits, votes, hidden)
        assert taken == [1]
        two = votes._replace(token=TwoTensor(votes.token, votes.token.clone()))
        assert_close(mixture(logits, two, hidden).a, expected, "output", torch.float32)
        narrow = votes._replace(counts=votes.counts.int())
        assert_close(mixture(logits, narrow, hidden), expected, "output", torch.float32)
        assert_close(
            mixture(logits, votes, hidden[:1]), _with_gate_of(mixture, logits, votes, hidden[:1]), "output"
        )
        with pytest.raises(RuntimeError):
            mixture(logits[:1], votes, hidden[:1])  # more votes than rows
        wide = SuffixMixture().bfloat16()
        wide.weights.data = wide.weights.data.float()
        with_grad = wide(logits[:, :1], SuffixVotes(*(x[:, :1] for x in votes)), hidden)
    with torch.enable_grad():
        expected = wide(logits[:, :1], SuffixVotes(*(x[:, :1] for x in votes)), hidden)
    assert_close(with_grad, expected, "output", torch.float32)
    assert taken == [1]


def _with_gate_of(mixture, logits, votes, hidden):
    with torch.enable_grad():
        return mixture(logits, votes, hidden).detach()


def test_counts_that_are_not_as_a_loop_takes_them_are_as_in_torch_or_refused(monkeypatch):
    taken = counting(monkeypatch, kept_text, "hits_counted")
    ids, guesses, buckets = guessed(2, 5, 1, 5)
    expected, state = count_hits(ids, guesses, buckets, 5, None, None, None)
    assert taken == [1]
    mask = torch.ones(2, 5, dtype=torch.int64)
    assert torch.equal(count_hits(ids, guesses, buckets, 5, None, mask.bool(), None)[0], expected)
    for counts in (state.counts[:, :0], state.counts[:, :3]):
        with pytest.raises(RuntimeError):
            count_hits(ids, guesses, buckets, 5, state._replace(counts=counts), None, None)
    twos = TwoTensor(guesses, guesses.clone())
    assert torch.equal(count_hits(ids, twos, buckets, 5, None, None, None)[0].a, expected)
    assert len(taken) == 2


def test_no_rows_no_votes():
    logits, votes, hidden = votes_on(0, 7, torch.float32)
    with torch.no_grad():
        assert SuffixMixture()(logits, votes, hidden).shape == (0, 2, 7)


def test_the_preset_decodes_through_every_loop(monkeypatch):
    """All three at once: logits of one token after the other are those of the whole in torch."""
    torch.manual_seed(0)
    model = unimatrix.build("unimatrix", vocab_size=11, max_positions=None).double().eval()
    torch.nn.init.normal_(model.suffix.mixture.gate.weight)
    ids = torch.randint(0, 11, (2, 60), generator=torch.Generator().manual_seed(1))
    whole = model(ids)[0].detach()  # with gradients: neither a step nor a mixture takes its loop
    taken = {
        name: counting(monkeypatch, where, name)
        for name, where in (
            ("matrix_state_step", matrix_state),
            ("hits_counted", kept_text),
            ("vote_mixed", suffix_automaton),
        )
    }
    with torch.no_grad():
        state, pieces = None, []
        for t in range(60):
            logits, state = model(ids[:, t : t + 1], state)[:2]
            pieces.append(logits)
    assert_close(torch.cat(pieces, 1), whole, "output")
    assert {name: len(calls) for name, calls in taken.items()} == {
        "matrix_state_step": 2 * 59,  # the first token has no state yet
        "hits_counted": 60,
        "vote_mixed": 60,
    }
