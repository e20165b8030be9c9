"""The exact routing path: what is routed, what votes and by how much, in pieces, documents and padding."""

import itertools
import math

import pytest
import torch
from tolerances import assert_close

import unimatrix
from unimatrix import UserError
from unimatrix.mixers import PreviousTokenRouting, SuffixRouting, SuffixRoutingConfig, SuffixVotesConfig
from unimatrix.mixers.kept_text import STRENGTH
from unimatrix.mixers.suffix_automaton import BUCKETS, EXPECTED, SuffixMixture, SuffixVotes
from unimatrix.models import PEER_PRESETS, PRESETS
from unimatrix.models.state import select_batch, state_bytes
from unimatrix.ops import suffix_automaton

V, D = 7, 8


def ids(rows: int = 3, length: int = 40, below: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, below, (rows, length), generator=torch.Generator().manual_seed(seed))


def made(**settings) -> SuffixRouting:
    torch.manual_seed(1)
    return SuffixRouting(V, D, **settings).double()


def some_mask_and_starts(rows: int = 3, length: int = 40):
    torch.manual_seed(5)
    mask = torch.rand(rows, length) > 0.25
    mask[0, :9] = False  # left padding
    starts = torch.rand(rows, length) < 0.08
    starts[1, 0] = True
    return mask, starts


def evidence_by_hand(tokens: list[int], real: list[bool], begins: list[bool]) -> list[float | None]:
    """logit r_b of every position, counted token by token; None where nothing votes."""
    found: list[float | None] = []
    held: list[int] = []
    counts = [[0, 0] for _ in BUCKETS]
    foretold = None  # what the newest token was pointed at, and the bucket of its match
    for token, is_real, begin in zip(tokens, real, begins, strict=True):
        if begin:
            held, counts, foretold = [], [[0, 0] for _ in BUCKETS], None
        if not is_real:
            found.append(None)
            continue
        if foretold is not None:
            counts[foretold[1]][0] += 1
            counts[foretold[1]][1] += foretold[0] == token
        held.append(token)
        match, _ = suffix_automaton(torch.tensor([held]), backend="reference")
        length, pointed = int(match.length[0, -1]), int(match.token[0, -1])
        if not length:
            foretold = None
            found.append(None)
            continue
        bucket = max(n for n, least in enumerate(BUCKETS) if least <= length)
        foretold = (pointed, bucket)
        times, hits = counts[bucket]
        rate = (hits + STRENGTH * EXPECTED[bucket]) / (times + STRENGTH)
        found.append(math.log(rate / (1 - rate)))
    return found


@pytest.mark.parametrize("padded", [False, True])
def test_evidence_is_what_counting_by_hand_gives(padded):
    tokens = ids()
    mask, starts = some_mask_and_starts() if padded else (None, None)
    part = made(route=False, vote=True)
    with torch.no_grad():
        _, votes, _ = part(tokens, mask=mask, starts=starts)
        assert votes is not None
        assert part.mixture is not None
        evidence = part.mixture.evidence(votes)
    yes, no = torch.ones_like(tokens, dtype=torch.bool), torch.zeros_like(tokens, dtype=torch.bool)
    real, begins = yes if mask is None else mask, no if starts is None else starts
    for b, row in enumerate(tokens.tolist()):
        by_hand = evidence_by_hand(row, real[b].tolist(), begins[b].tolist())
        for t, expected in enumerate(by_hand):
            assert (int(votes.token[b, t]) == -1) == (expected is None)
            if expected is not None:
                assert abs(float(evidence[b, t]) - expected) < 1e-6


@pytest.mark.parametrize("gate", [None, 3])
def test_a_vote_gives_the_token_the_share_that_the_mixture_says(gate):
    torch.manual_seed(0)
    logits = torch.randn(2, 5, V, dtype=torch.float64, requires_grad=True)
    token = torch.tensor([[3, -1, 0, 6, 2], [-1, 1, 1, 5, -1]])
    votes = SuffixVotes(token, torch.randint(0, 14, (2, 5)), torch.randint(0, 9, (2, 5, 2)))
    mixture = SuffixMixture(gate).double()
    evidence = mixture.evidence(votes).detach()
    hidden = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
    if mixture.gate is not None:
        assert not mixture.gate.weight.any()  # at first it is as without
        torch.nn.init.normal_(mixture.gate.weight)
    voted = mixture(logits, votes, hidden)
    before, after = logits.softmax(-1), voted.softmax(-1)
    bias, by_evidence, by_model = mixture.weights.tolist()
    for b in range(2):
        for t in range(5):
            c = int(token[b, t])
            if c == -1:
                assert torch.equal(voted[b, t], logits[b, t])
                continue
            p = before[b, t, c]
            gated = 0.0 if mixture.gate is None else (mixture.gate.weight[0] @ hidden[b, t]).item()
            wanted = torch.sigmoid(bias + gated + by_evidence * evidence[b, t] + by_model * torch.logit(p))
            assert_close(after[b, t, c], wanted, "output")
            rest = torch.arange(V) != c  # share what is left as before
            assert_close(after[b, t, rest] / (1 - wanted), before[b, t, rest] / (1 - p), "output")

    def mixed(logits, weights, expected, hidden):
        given = {"weights": weights, "expected": expected}
        return torch.func.functional_call(mixture, given, (logits, votes, hidden))

    weights = mixture.weights.detach().clone().requires_grad_()
    everything = (logits, weights, mixture.expected.detach().clone().requires_grad_(), hidden)
    torch.autograd.gradcheck(mixed, everything)
    torch.autograd.gradgradcheck(mixed, everything)


def test_a_certain_model_and_a_certain_match_give_numbers():
    mixture = SuffixMixture()
    logits = torch.full((1, 2, V), -200.0)
    logits[..., 3] = 200.0
    for token in (3, 4):
        counts = torch.tensor([[[10**12, 10**12], [10**12, 0]]])  # always right, and never
        votes = SuffixVotes(torch.full((1, 2), token), torch.zeros(1, 2, dtype=torch.int64), counts)
        voted = mixture(logits, votes, torch.zeros(1, 2, 0))
        assert torch.isfinite(voted).all()
        voted.logsumexp(-1).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in [mixture.weights])


@pytest.mark.parametrize("capacity", [None, 8])
@pytest.mark.parametrize("padded", [False, True])
def test_pieces_and_steps_give_the_whole(padded, capacity):
    tokens = ids()
    mask, starts = some_mask_and_starts() if padded else (None, None)
    part = made(vote=True, capacity=capacity)
    whole = part(tokens, mask=mask, starts=starts)
    for cuts in ([0, 1, 17, 17, 40], list(range(41))):
        state, contexts, tokens_voted, evidence = None, [], [], []
        for start, stop in itertools.pairwise(cuts):
            here = [None if x is None else x[:, start:stop] for x in (mask, starts)]
            context, votes, state = part(tokens[:, start:stop], state, mask=here[0], starts=here[1])
            assert votes is not None
            contexts.append(context)
            tokens_voted.append(votes.token)
            evidence.append(votes.counts)
        assert_close(torch.cat(contexts, 1), whole[0], "output")
        assert torch.equal(torch.cat(tokens_voted, 1), whole[1].token)
        assert torch.equal(torch.cat(evidence, 1), whole[1].counts)
        assert torch.equal(state.vote.counts, whole[2].vote.counts)


def test_documents_are_read_as_if_each_were_alone():
    torch.manual_seed(0)
    config = unimatrix.models.preset_config(
        "unimatrix-rosa-exact", max_positions=None, vote=True, d_model=16, num_heads=2
    )
    model = unimatrix.build(config).eval()
    tokens, starts = ids(1, 60, below=2), torch.zeros(1, 60, dtype=torch.bool)
    starts[0, [0, 13, 40]] = True
    packed, _ = model(tokens, starts=starts)
    alone = [model(tokens[:, a:b])[0] for a, b in ((0, 13), (13, 40), (40, 60))]
    assert_close(packed, torch.cat(alone, 1), "logits")
    padded = torch.cat([torch.zeros(1, 7, dtype=torch.int64), tokens], 1)
    mask = torch.arange(67)[None] >= 7
    assert_close(model(padded, mask=mask)[0][:, 7:], model(tokens)[0], "logits")


def test_beams_go_on_from_one_state_each_its_own_way():
    torch.manual_seed(0)
    model = unimatrix.build("unimatrix-rosa-exact", max_positions=None, vote=True).eval()
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


def test_the_weights_are_those_of_the_stub_and_start_alike():
    built = []
    for name in ("unimatrix-rosa", "unimatrix-rosa-exact"):
        torch.manual_seed(3)
        built.append(unimatrix.build(name))
    stub, exact = (model.state_dict() for model in built)
    assert stub.keys() == exact.keys()
    assert all(torch.equal(stub[name], exact[name]) for name in stub)
    assert isinstance(built[0].routing, PreviousTokenRouting)
    assert isinstance(built[1].routing, SuffixRouting)
    # on a text in which what followed the longest match is the token before, they are the same function
    same = torch.zeros(1, 20, dtype=torch.int64)
    assert_close(built[1](same)[0], built[0](same)[0], "logits")


def test_any_model_takes_the_votes_alone():
    model = unimatrix.build("transformer", **{"parts.automaton": SuffixVotesConfig()}).eval()
    assert [name for name, _ in model.automaton.named_parameters()] == ["mixture.weights", "mixture.expected"]
    tokens = ids(1, 60, below=250)
    tokens = torch.cat([tokens, tokens], 1)  # the second half is a copy of the first
    logits, _ = model(tokens)
    right = logits[0, 80:119].argmax(-1) == tokens[0, 81:120]
    assert right.float().mean() > 0.9
    logits[:, :-1].flatten(0, 1).logsumexp(-1).sum().backward()
    assert model.automaton.mixture.weights.grad.abs().sum() > 0
    assert model.automaton.mixture.expected.grad.abs().sum() > 0


def test_a_capacity_bounds_the_state():
    model = unimatrix.build("unimatrix-rosa-exact", max_positions=None, capacity=256).eval()
    with torch.no_grad():
        sizes = []
        state = None
        for _ in range(8):
            _, state = model(ids(1, 256, below=200), state)
            sizes.append(state_bytes(state.parts))
    assert max(sizes) <= 256 * 112 + 1024


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"capacity": 0}, "^capacity: expected 2 to 2147483647 tokens, got 0"),
        ({"capacity": "x"}, "^capacity: expected"),
    ],
)
def test_settings_that_cannot_work_are_named(settings, message):
    with pytest.raises(UserError, match=message):
        SuffixRoutingConfig(**settings)


def test_one_token_has_all_whatever_votes():
    """Of every preset that has no tokens of its own task: there are no others to share the rest."""
    for name in PRESETS | PEER_PRESETS:
        logits, _ = unimatrix.build(name, vocab_size=1)(torch.zeros(2, 9, dtype=torch.int64))
        assert logits.isfinite().all(), name
