"""The surprise store as a part: what it binds and keeps, what the oracle is told, a model that has one."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from tolerances import assert_close
from torch import Tensor
from trained_size import random_ids, trained_size

import unimatrix
from unimatrix import UserError
from unimatrix.mixers import SurpriseStore, SurpriseStoreConfig
from unimatrix.mixers.surprise_store import asked_again
from unimatrix.models.state import state_bytes

POLICIES = ("surprise", "surprise-oldest", "always", "random", "reservoir")
every_policy = pytest.mark.parametrize("policy", POLICIES)


def part(**settings) -> Any:
    torch.manual_seed(0)
    given: dict[str, Any] = {"budget": 4, "width": 5} | settings
    store = SurpriseStore(12, **given).double()
    for parameter in store.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    return store


def tokens(ids: Tensor) -> Tensor:
    return torch.randn(30, 12, generator=torch.Generator().manual_seed(3), dtype=torch.float64)[ids]


def model_of(policy: Any, **settings) -> Any:
    config = SurpriseStoreConfig(budget=6, window=16, policy=policy, **settings)
    return trained_size("unimatrix-core", max_positions=None, **{"layers.0.store": config})


def test_a_token_is_bound_to_the_one_before_it_and_read_by_its_key():
    store, ids = part(policy="always"), torch.tensor([[3, 7, 9, 2, 3]])
    query, key, value = store.qkv(store.norm(tokens(ids))).chunk(3, dim=-1)
    kept, state = store(tokens(ids), ids, torch.ones(1, 5, 2, dtype=torch.float64))
    assert state.store.token_ids.tolist() == [[7, 9, 2, 3]], "nothing stands before the first token"
    weights = (query[0, -1] @ key[0, :-1].T / 5**0.5).softmax(-1)
    assert_close(kept.reads.weights[0, -1], weights, "output")
    assert_close(kept.context[0, -1], store.out(weights @ value[0, 1:]), "output")
    assert torch.equal(kept.context[0, 0], torch.zeros(12)), "nothing was held"
    # votes: weights by id, times the gate
    hidden, logits = torch.randn(1, 5, 12, dtype=torch.float64), torch.zeros(1, 5, 30, dtype=torch.float64)
    voted = store.vote(logits, hidden, (kept.reads.weights, kept.reads.token_ids))
    expected = torch.zeros(30, dtype=torch.float64).index_add(0, ids[0, 1:], weights)
    assert_close(voted[0, -1], expected * torch.sigmoid(store.pointer_gate(hidden[0, -1])), "output")


def test_what_the_state_foretold_worst_is_kept_whatever_follows():
    ids, error = random_ids(1, 200, below=30), torch.full((1, 200, 4), 0.2, dtype=torch.float64)
    error += 0.1 * torch.rand(1, 200, 1, generator=torch.Generator().manual_seed(1))
    error[0, 50], error[0, 60, 2] = 0.9, 5.0  # the mean over the heads counts
    held = {
        p: part(policy=p, rate=0.125)(tokens(ids), ids, error)[1].store.priorities[0] % 2**40
        for p in POLICIES[:3]
    }
    assert {50, 60} <= set(held["surprise"].tolist())
    assert not {50, 60} & set(held["surprise-oldest"].tolist())
    assert held["always"].sort().values.tolist() == [196, 197, 198, 199]


def test_decisions_give_the_error_no_gradient_and_every_weight_has_one():
    ids = random_ids(2, 20, below=30)
    error = torch.rand(2, 20, 4, dtype=torch.float64, requires_grad=True)
    store, hidden = part(), torch.randn(2, 20, 12, dtype=torch.float64)
    kept, _ = store(tokens(ids), ids, error)
    voted = store.vote(hidden.new_zeros(2, 20, 30), hidden, (kept.reads.weights, kept.reads.token_ids))
    (kept.context.square().sum() + voted.square().sum()).backward()
    assert error.grad is None
    assert all(p.grad is not None and (p.grad != 0).any() for p in store.parameters())


@every_policy
def test_token_by_token_and_in_pieces_as_the_whole(policy):
    model, ids = model_of(policy), random_ids(3, 40, below=20)
    mask = torch.rand(3, 40, generator=torch.Generator().manual_seed(2)) > 0.2
    mask[:, -1] = True
    state: Any
    for given in (None, mask):
        whole, last = model(ids, mask=given)
        for edges in (range(41), [0, 1, 17, 18, 40]):
            state, pieces = None, []
            for begin, end in pairwise(edges):
                here = None if given is None else given[:, begin:end]
                logits, state = model(ids[:, begin:end], state, mask=here)
                pieces.append(logits)
            counted = torch.ones_like(mask) if given is None else mask
            assert_close(torch.cat(pieces, 1)[counted], whole[counted], "logits")
            for step, other in zip(state.steps, last.steps, strict=True):
                assert torch.equal(step["store"].store.token_ids, other["store"].store.token_ids)


@pytest.mark.parametrize("policy", ["surprise", "always", "reservoir"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("top_k", [1, 2])
def test_of_few_distinct_tokens_the_pieces_are_as_the_whole(policy, dtype, top_k):
    """All entries of one token have one key, of which top_k are read: always the same ones."""
    model, ids = model_of(policy, top_k=top_k).to(dtype), random_ids(3, 40, below=3)
    quantity = "logits" if dtype == torch.float32 else "output"
    with torch.no_grad():
        whole, _ = model(ids)
        assert_close(model(ids[:1])[0], whole[:1], quantity, dtype)
        for edges in (range(41), [0, 1, 17, 18, 40]):
            state, pieces = None, []
            for begin, end in pairwise(edges):
                logits, state = model(ids[:, begin:end], state)
                pieces.append(logits)
            assert_close(torch.cat(pieces, 1), whole, quantity, dtype)


def test_the_state_has_one_size_however_long_the_text():
    model = model_of("surprise")
    sizes = {state_bytes(model(random_ids(1, length))[1]) for length in (0, 1, 10, 3000)}
    assert len(sizes) == 1
    assert model.config.recurrent


@every_policy
def test_the_same_weights_decide_alike_in_every_policy(policy):
    """What policies differ in is who is kept, and nothing else: equal weights, equal counts."""
    model, first = model_of(policy), model_of("always")
    model.load_state_dict(first.state_dict())
    ids = random_ids(2, 6, below=20)  # there is room for all
    assert torch.equal(model(ids)[0], first(ids)[0])


def test_a_store_stands_behind_a_part_that_gives_the_error():
    with pytest.raises(
        UserError, match=r"layers\.0\.store: expected a part before it in its layer that gives"
    ):
        unimatrix.build("transformer", **{"layers.*.store": "surprise_store"})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"budget": 0}, "budget: expected a whole number of at least 1, got 0"),
        ({"window": 0}, "window: expected a whole number of at least 1, got 0"),
        ({"policy": "best"}, "policy: expected one of surprise, surprise-oldest"),
        ({"rate": 0.0}, "rate: expected above 0 and at most 1, got 0.0"),
        ({"top_k": 65}, "top_k: expected 1 to budget = 64, got 65"),
        ({"seed": -1}, "seed: expected at least 0"),
        ({"asked": (1, 2)}, "asked: expected None, as the oracle alone is told"),
        ({"asked": (5, 2), "policy": "oracle"}, r"asked: expected a range of ids, got \(5, 2\)"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(UserError, match=message):
        SurpriseStoreConfig(**settings)


# --- the oracle


def told(ids: Tensor, mask: Tensor, starts: Tensor, asked: tuple[int, int] | None) -> Tensor:
    """By looking through everything behind each token."""
    wanted = torch.zeros_like(mask)
    for row in range(len(ids)):
        real = [t for t in range(ids.shape[1]) if mask[row, t]]
        document = starts[row].cumsum(0)
        for place, t in enumerate(real[1:], 1):
            before = real[place - 1]
            if document[before] != document[t]:
                continue
            later = [u for u in real[place:] if document[u] == document[t]]
            key, own = ids[row, before], ids[row, t]
            if asked is None:
                followed = [(ids[row, u], ids[row, w]) for u, w in pairwise(later)]
                wanted[row, t] = (key, own) in followed
            else:
                wanted[row, t] = bool(asked[0] <= key < asked[1]) and any(ids[row, u] == key for u in later)
    return wanted


@pytest.mark.parametrize("asked", [None, (2, 4)])
def test_the_oracle_is_told_what_comes_again(asked):
    ids = random_ids(6, 25, below=7)
    rng = torch.Generator().manual_seed(4)
    mask, starts = torch.rand(6, 25, generator=rng) > 0.2, torch.rand(6, 25, generator=rng) < 0.1
    starts &= mask
    every, never = torch.ones_like(mask), torch.zeros_like(mask)
    assert torch.equal(asked_again(ids, mask, starts, asked), told(ids, mask, starts, asked))
    assert torch.equal(asked_again(ids, None, None, asked), told(ids, every, never, asked))


def test_the_oracle_stores_what_is_asked_for_and_is_read_whole():
    from unimatrix.data.tasks import RecallConfig
    from unimatrix.data.tasks.recall import make

    task = RecallConfig(length=40)
    model = model_of("oracle", asked=(task.first_key, task.first_value))
    batch = make(task, seed=0, step=0, batch_size=8)
    for step in model(batch.input_ids)[1].steps:
        answers = step["store"].store.token_ids[:, 0]
        assert torch.equal(answers, batch.labels[:, -1])
        assert (step["store"].store.token_ids[:, 1:] == -1).all()
    assert not model.config.read_in_pieces
    # a long text is not cut where nobody looks
    ids = random_ids(1, 5000, below=200)
    assert torch.equal(model(ids)[1].steps[0]["store"].store.token_ids, _held(model, ids))


def _held(model, ids: Tensor) -> Tensor:
    with torch.enable_grad():  # with gradients every text is read whole
        return model(ids)[1].steps[0]["store"].store.token_ids
