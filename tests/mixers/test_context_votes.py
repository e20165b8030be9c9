"""Votes of contexts: which tokens, by how much, in pieces, documents and padding, and in a model."""

import itertools
import math

import pytest
import torch
from tolerances import assert_close

import unimatrix
from unimatrix import UserError
from unimatrix.hf import load_state, save_state
from unimatrix.mixers import ContextVotes, ContextVotesConfig, SuffixVotesConfig
from unimatrix.mixers.context_votes import MISSED, ContextGuesses, guesses_of, num_patterns
from unimatrix.mixers.kept_text import STRENGTH
from unimatrix.models.state import select_batch, state_bytes
from unimatrix.ops import context_continuations

V, ORDERS, K = 7, (1, 2, 4), 3


def ids(rows: int = 3, length: int = 40, below: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, below, (rows, length), generator=torch.Generator().manual_seed(seed))


def made(**settings) -> ContextVotes:
    return ContextVotes(**({"orders": ORDERS, "continuations": K} | settings)).double()


def voting(**settings) -> unimatrix.models.LanguageModel:
    torch.manual_seed(0)
    changes = {"parts.contexts": ContextVotesConfig(**settings), "max_positions": None}
    return unimatrix.build("unimatrix-core", **changes, d_model=16, num_heads=2).eval()


def some_mask_and_starts(rows: int = 3, length: int = 40):
    torch.manual_seed(5)
    mask = torch.rand(rows, length) > 0.25
    mask[0, :9] = False  # left padding
    starts = torch.rand(rows, length) < 0.08
    starts[1, 0] = True
    return mask, starts


def added_by_hand(
    part: ContextVotes, tokens: list[int], real: list[bool], begins: list[bool]
) -> list[dict[int, float]]:
    """What is added to which token's logit at every position: the formula, token by token."""
    found: list[dict[int, float]] = []
    held: list[int] = []
    counts: dict[tuple[int, ...], list[int]] = {}
    foretold: list[tuple[int, tuple[int, ...]]] = []  # the newest token's guesses, and their buckets
    for token, is_real, begin in zip(tokens, real, begins, strict=True):
        if begin:
            held, counts, foretold = [], {}, []
        found.append({})
        if not is_real:
            continue
        for guess, bucket in foretold:
            counts.setdefault(bucket, [0, 0])
            counts[bucket][0] += 1
            counts[bucket][1] += guess == token
        held.append(token)
        foretold = []
        for at, order in enumerate(part.orders):
            last, context = len(held) - 1, held[-order:]
            followed = [held[j] for j in range(last, order - 1, -1) if held[j - order : j] == context]
            newest = followed[: part.continuations]
            for guess in dict.fromkeys(newest):
                which = tuple(int(x == guess) for x in newest)
                bucket = (at, *which)
                foretold.append((guess, bucket))
                times, hits = counts.get(bucket, (0, 0))
                expected = (sum(which) - MISSED) / len(which)
                rate = (hits + STRENGTH * expected) / (times + STRENGTH)
                bias, by_evidence = part.weights[at].tolist()
                more = bias + by_evidence * math.log(rate / (1 - rate))
                found[-1][guess] = found[-1].get(guess, 0.0) + more
    return found


@pytest.mark.parametrize("padded", [False, True])
@torch.no_grad()
def test_votes_are_what_counting_by_hand_gives(padded):
    tokens = ids()
    mask, starts = some_mask_and_starts() if padded else (None, None)
    part = made()
    part.init_weights()  # once more, in its wider dtype
    part.weights.copy_(torch.randn(3, 2))
    votes, _ = part(tokens, mask=mask, starts=starts)
    logits = torch.randn(3, 40, V, dtype=torch.float64)
    voted = part.vote(logits, logits, votes)
    yes, no = torch.ones_like(tokens, dtype=torch.bool), torch.zeros_like(tokens, dtype=torch.bool)
    real, begins = yes if mask is None else mask, no if starts is None else starts
    expected = logits.clone()
    for b, row in enumerate(tokens.tolist()):
        for t, added in enumerate(added_by_hand(part, row, real[b].tolist(), begins[b].tolist())):
            for token, more in added.items():
                expected[b, t, token] += more
    assert float((expected - logits).abs().sum()) > 10
    assert_close(voted, expected, "output")


def test_every_way_to_follow_has_a_bucket_of_its_own():
    for k in (1, 2, 4, 6):
        seen = set()
        for n in range(1, k + 1):
            for which in itertools.product((5, 8), repeat=n):
                found = torch.tensor([*which, *[-1] * (k - n)])[None, None, None]
                token, bucket = guesses_of(found.expand(1, 1, 2, k))
                for at in range(token.shape[-1]):
                    if int(token[0, 0, at]) != -1:
                        alike = tuple(x == int(token[0, 0, at]) for x in which)
                        seen.add((at // k, alike, int(bucket[0, 0, at])))
        assert len(seen) == 2 * num_patterns(k)
        assert {bucket for _, _, bucket in seen} == set(range(2 * num_patterns(k)))


class Whole(torch.nn.Module):
    def __init__(self, part: ContextVotes) -> None:
        super().__init__()
        self.part = part

    def forward(self, tokens: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        return self.part.vote(logits, logits, self.part(tokens)[0])


def test_gradients_are_those_of_the_formula():
    torch.manual_seed(0)
    whole = Whole(made())
    tokens = ids(2, 12)

    def voted(logits, weights, expected):
        named = {"part.weights": weights, "part.expected": expected}
        return torch.func.functional_call(whole, named, (tokens, logits))

    given = [x.detach().clone().requires_grad_() for x in (whole.part.weights, whole.part.expected)]
    logits = torch.randn(2, 12, V, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(voted, (logits, *given), fast_mode=True)


@pytest.mark.parametrize("capacity", [None, 8])
@pytest.mark.parametrize("padded", [False, True])
def test_pieces_and_steps_give_the_whole(padded, capacity):
    tokens = ids()
    mask, starts = some_mask_and_starts() if padded else (None, None)
    part = made(capacity=capacity)
    whole, last = part(tokens, mask=mask, starts=starts)
    for cuts in ([0, 1, 17, 17, 40], list(range(41))):
        state, found = None, []
        for start, stop in itertools.pairwise(cuts):
            here = [None if x is None else x[:, start:stop] for x in (mask, starts)]
            votes, state = part(tokens[:, start:stop], state, mask=here[0], starts=here[1])
            found.append(votes)
        together = ContextGuesses(*(torch.cat(parts, 1) for parts in zip(*found, strict=True)))
        assert torch.equal(together.token, whole.token)
        there = whole.token != -1
        assert_close(together.added[there], whole.added[there], "output")
        assert torch.equal(state.hits.counts, last.hits.counts)


@torch.no_grad()
def test_documents_and_padding_are_read_as_if_each_text_were_alone():
    model = voting(orders=(1, 2), continuations=2)
    tokens, starts = ids(1, 60, below=2), torch.zeros(1, 60, dtype=torch.bool)
    starts[0, [0, 13, 40]] = True
    packed, _ = model(tokens, starts=starts)
    alone = [model(tokens[:, a:b])[0] for a, b in ((0, 13), (13, 40), (40, 60))]
    assert_close(packed, torch.cat(alone, 1), "logits")
    padded = torch.cat([torch.zeros(1, 7, dtype=torch.int64), tokens], 1)
    mask = torch.arange(67)[None] >= 7
    assert_close(model(padded, mask=mask)[0][:, 7:], model(tokens)[0], "logits")


@torch.no_grad()
def test_beams_go_on_from_one_state_each_its_own_way():
    model = voting()
    tokens = ids(2, 50)
    _, state = model(tokens)
    index = torch.tensor([1, 1, 0, 1])
    beams = select_batch(state, index)
    for seed in (1, 2):  # twice from the same beams, and then from the state before
        more = ids(4, 20, seed=seed)
        got = [model(more[:, :9], beams)]
        got.append(model(more[:, 9:], got[0][1]))
        expected, _ = model(torch.cat([tokens[index], more], 1))
        assert_close(torch.cat([x[0] for x in got], 1), expected[:, 50:], "logits")
    expected, _ = model(torch.cat([tokens, tokens], 1))
    assert_close(model(tokens, state)[0], expected[:, 50:], "logits")


@torch.no_grad()
def test_a_state_comes_back_from_a_file(tmp_path):
    model = voting()
    tokens = ids(2, 50)
    logits, state = model(tokens)
    expected, _ = model(tokens, state)
    save_state(state, tmp_path / "state", model, logits=logits[:, -1])
    again, _ = load_state(tmp_path / "state", model)
    assert again.parts["contexts"].read.store.shape == (2, 50)
    assert torch.equal(model(tokens, again)[0], expected)


@torch.no_grad()
def test_what_its_guesses_have_done_may_be_any_numbers():
    """They are nobody's index: whatever a file says of them, there are logits."""
    model = voting()
    _, state = model(ids(2, 50))
    before = state.parts["contexts"]
    for wrong in (-1, 14, 258, 2**62):
        pointed = before.hits.pointed._replace(vector=torch.full_like(before.hits.pointed.vector, wrong))
        counts = torch.full_like(before.hits.counts, wrong)
        hits = before.hits._replace(pointed=pointed, counts=counts)
        strange = state._replace(parts={"contexts": before._replace(hits=hits)})
        assert model(ids(2, 5), strange)[0].isfinite().all()


def test_any_model_takes_them_beside_the_longest_matchs():
    changes = {"parts.match": SuffixVotesConfig(), "parts.contexts": ContextVotesConfig()}
    model = unimatrix.build("transformer", **changes).eval()
    tokens = ids(1, 60, below=250)
    tokens = torch.cat([tokens, tokens], 1)  # the second half is a copy of the first
    logits, _ = model(tokens)
    right = logits[0, 80:119].argmax(-1) == tokens[0, 81:120]
    assert right.float().mean() > 0.9
    logits[:, :-1].flatten(0, 1).logsumexp(-1).sum().backward()
    for name in ("weights", "expected"):
        assert getattr(model.contexts, name).grad.abs().sum() > 0


@torch.no_grad()
def test_a_capacity_bounds_the_state():
    model = voting(capacity=256)
    sizes, state = [], None
    for _ in range(8):
        _, state = model(ids(1, 256, below=200), state)
        sizes.append(state_bytes(state.parts["contexts"].read))
    assert max(sizes) <= 256 * 72 + 1024


def test_a_model_compiles_with_them():
    model = voting()
    tokens = ids(2, 30)
    torch.compiler.reset()
    compiled = torch.compile(model, backend="aot_eager")
    with torch.no_grad():
        assert_close(compiled(tokens)[0], model(tokens)[0], "logits")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"capacity": 0}, "^capacity: expected 2 to 2147483647 tokens, got 0"),
        ({"orders": ()}, "^orders: expected 1 to 7 rising lengths from 1 to 127, got "),
        ({"orders": (3, 2)}, "^orders: expected 1 to 7 rising"),
        ({"orders": "23"}, "^orders: expected"),
        ({"continuations": 0}, "^continuations: expected 1 to 6, got 0"),
        ({"continuations": 7}, "^continuations: expected 1 to 6, got 7"),
    ],
)
def test_settings_that_cannot_work_are_named(settings, message):
    with pytest.raises(UserError, match=message):
        ContextVotesConfig(**settings)


def test_the_op_is_the_one_that_is_said():
    assert ContextVotesConfig.ops == (context_continuations.__name__, "token_store")
    assert (
        ContextVotesConfig(orders=(1, 5))
        == unimatrix.models.ModelConfig.from_dict(voting(orders=(1, 5)).config.to_dict()).parts["contexts"]
    )
