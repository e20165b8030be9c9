"""The surprise store: who is kept, by hand and by count, by every policy in every form; wrong arguments."""

import math
from itertools import pairwise

import pytest
import torch
from every_op import beginnings, holes
from tolerances import assert_close
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from unimatrix import UserError
from unimatrix.ops import StoreReads, SurpriseStoreState, surprise_store
from unimatrix.ops.surprise_store import EMPTY, Policy, empty_state
from unimatrix.ops.surprise_store.state import POLICIES, STEPS, TIE

CHUNK, BUDGET, WINDOW = 16, 6, 20
FLOATING = ("query", "key", "value")
every_policy = pytest.mark.parametrize("policy", POLICIES)
every_form = pytest.mark.parametrize("backend", ["reference", "chunked", "compiled"])


def make(
    length: int, *, batch: int = 2, dtype: torch.dtype = torch.float64, seed: int = 0
) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float64).to(dtype)

    inputs = {"query": 2 * normal(batch, length, 5), "key": normal(batch, length, 5)}
    inputs |= {"value": normal(batch, length, 4), "surprise": normal(batch, length).abs()}
    return inputs | {"token_ids": torch.randint(0, 9, (batch, length), generator=rng)}


def store(inputs: dict, **options) -> tuple[StoreReads, SurpriseStoreState]:
    settings: dict = {"budget": BUDGET, "rate": 0.25, "window": WINDOW, "chunk_len": CHUNK}
    return surprise_store(**(settings | options | inputs))


def given(length: int, batch: int = 2) -> dict[str, Tensor]:
    allowed = torch.rand(batch, length, generator=torch.Generator().manual_seed(2)) > 0.2
    return {"mask": holes(batch, length), "starts": beginnings(batch, length), "allowed": allowed}


def run(inputs: dict, backend: str, **options) -> dict[str, Tensor]:
    """Reads, last state, and the gradients, of the first state too, for fixed random output gradients."""
    leaves = {n: x.detach().clone().requires_grad_(n in FLOATING) for n, x in inputs.items()}
    state = options.pop("state", None)
    if state is not None:
        state = SurpriseStoreState(*(x.detach().clone().requires_grad_(x.is_floating_point()) for x in state))
    reads, last = store(leaves, backend=backend, state=state, **options)
    outputs = {**reads._asdict(), **{f"last {n}": x for n, x in last._asdict().items()}}
    rng = torch.Generator().manual_seed(99)
    floating = [x for x in outputs.values() if x.is_floating_point()]
    into = [torch.randn(x.shape, generator=rng, dtype=torch.float64).to(x) for x in floating]
    at = [leaves[n] for n in FLOATING] + ([] if state is None else [state.keys, state.values])
    pairs = [(x, g) for x, g in zip(floating, into, strict=True) if x.requires_grad]
    used, into = zip(*pairs, strict=True)
    grads = torch.autograd.grad(used, at, into, allow_unused=True, materialize_grads=True)
    return {n: x.detach() for n, x in outputs.items()} | {f"grad {n}": g for n, g in enumerate(grads)}


def assert_same(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        if value.is_floating_point():
            assert_close(got[name], value, "gradient" if "grad" in name else "output", got[name].dtype)
        else:
            assert torch.equal(got[name], value), name


# --- who is kept


def kept(surprises: list[float], policy: Policy, backend: str, **options) -> list[int]:
    """Which positions of one text are held at its end; ids are positions."""
    length = len(surprises)
    inputs = make(length, batch=1) | {"token_ids": torch.arange(length)[None]}
    inputs["surprise"] = torch.tensor([surprises], dtype=torch.float64)
    held = store(inputs, policy=policy, backend=backend, **options)[1].token_ids[0]
    return sorted(held[held != EMPTY].tolist())


@every_form
def test_while_there_is_room_everything_is_stored(backend):
    for policy in POLICIES:
        assert kept([0.0, 9.0, 0.0], policy, backend, budget=3) == [0, 1, 2]


@every_form
def test_each_policy_by_hand(backend):
    surprises = [5.0, 1.0, 4.0, 2.0, 3.0, 0.5, 6.0]
    about = {"backend": backend, "budget": 3}
    assert kept(surprises, "always", **about) == [4, 5, 6]
    # at rate 1 each is admitted, and the least surprising goes, be it the newest
    assert kept(surprises, "surprise", rate=1.0, **about) == [0, 2, 6]
    assert kept(surprises, "surprise-oldest", rate=1.0, **about) == [4, 5, 6]
    # 2.0 and 3.0 are each the third of what was read until then, 6.0 the first of seven
    assert kept(surprises, "surprise-oldest", rate=0.4, **about) == [1, 2, 6]
    assert kept(surprises, "surprise", rate=0.4, **about) == [0, 2, 6]
    # 2.0 and 3.0 are each the second of the newest three, 0.5 is the last
    assert kept(surprises, "surprise-oldest", rate=0.5, window=2, **about) == [3, 4, 6]


@every_form
def test_calibrated_to_the_budget_a_store_holds_the_most_surprising_of_all(backend):
    surprises = torch.randperm(50, generator=torch.Generator().manual_seed(4)).double().tolist()
    held = kept(surprises, "surprise", backend, rate=None, window=50)
    assert held == sorted(sorted(range(50), key=lambda n: -surprises[n])[:BUDGET])
    # at a fixed rate some of them came while it was closed to their like
    assert kept(surprises, "surprise", backend, rate=0.05, window=50) != held


@pytest.mark.parametrize("policy", ["surprise-oldest", "random"])
def test_calibrated_to_the_budget_admission_halves_where_the_text_doubles(policy):
    rows, length, window = 400, 4000, 200
    inputs = make(length, batch=rows, dtype=torch.float32)
    inputs["token_ids"] = torch.randint(0, 10**9, (rows, length), generator=torch.Generator().manual_seed(1))
    ids = store(inputs, policy=policy, rate=None, window=window, budget=4)[0].token_ids
    stored = (ids == inputs["token_ids"][..., None]).any(-1).double().mean(0)  # [T]
    for begin, end in ((50, 100), (100, 200), (1000, 2000), (2000, 4000)):
        ranks = [math.ceil(4 * (min(n, window) + 1) / (n + 1)) for n in range(begin, end)]
        expected = sum(r / (min(n, window) + 1) for r, n in zip(ranks, range(begin, end), strict=True))
        assert stored[begin:end].sum().item() == pytest.approx(expected, rel=0.1), (begin, end)


@every_form
def test_of_equal_surprises_the_older_one_goes_and_rounding_decides_nothing(backend):
    assert kept([1.0, 2.0, 1.0, 2.0, 1.0], "surprise", backend, budget=3, rate=1.0) == [1, 3, 4]
    nearly = [1.0 + 1e-9, 2.0, 1.0, 2.0 - 1e-9, 1.0 - 1e-9]
    assert kept(nearly, "surprise", backend, budget=3, rate=1.0) == [1, 3, 4]
    # calibrated, one that is not above the largest before it stays out
    assert kept([1.0, 2.0, 1.0, 2.0, 1.0], "surprise", backend, budget=3, rate=None) == [1, 2, 3]
    assert kept([2000.0, 3000.0], "surprise", backend, budget=1, rate=None) == [0]  # 1024 is the most
    # as many as one likes of the same: the first of them are as good as any
    assert kept([1.0] * 50, "surprise-oldest", backend, rate=0.25) == list(range(BUDGET))
    assert kept([1.0, 1.0 + 2 / STEPS, 1.0], "surprise", backend, budget=1, rate=1.0) == [1]


def test_the_share_that_is_admitted_is_the_rate_on_any_scale():
    inputs = make(6000, batch=1) | {"token_ids": torch.arange(6000)[None]}
    for scale in (0.1, 1.0, 30.0):
        wide = inputs | {"surprise": scale * (1 + inputs["surprise"])}
        for policy in ("surprise-oldest", "random"):
            ids = store(wide, policy=policy, budget=4, rate=0.1, window=200)[0].token_ids[0]
            stored = (ids == torch.arange(6000)[:, None]).any(-1)  # each is read where it comes in
            assert stored[500:].double().mean().item() == pytest.approx(0.1, abs=0.015)
    for window in (1, 9):  # chance does not look at surprises
        ids = store(inputs, policy="random", budget=4, rate=0.1, window=window)[0].token_ids[0]
        stored = (ids == torch.arange(6000)[:, None]).any(-1)
        assert stored[500:].double().mean().item() == pytest.approx(0.1, abs=0.015)


def test_a_reservoir_holds_every_token_equally_often():
    rows, length, budget = 400, 60, 12
    rng = torch.Generator().manual_seed(3)
    inputs = make(length, batch=rows)
    inputs["token_ids"] = torch.randint(0, 10**6, (rows, length), generator=rng)
    ids = store(inputs, policy="reservoir", budget=budget)[1].token_ids
    held = (inputs["token_ids"][:, :, None] == ids[:, None]).any(-1).double().mean(0)  # [T]
    # the standard error of one position is 0.02
    assert (held - budget / length).abs().max() < 0.08
    assert (held.view(4, -1).mean(1) - budget / length).abs().max() < 0.03


@every_form
def test_what_is_random_depends_on_seed_and_text_alone(backend):
    inputs = make(80, batch=3)
    inputs["token_ids"][1] = inputs["token_ids"][0]
    for policy in ("random", "reservoir"):
        mine = store(inputs, policy=policy, seed=5, backend=backend)[1].priorities
        assert torch.equal(mine[0], mine[1])
        assert not torch.equal(mine[0], mine[2])
        assert torch.equal(mine, store(inputs, policy=policy, seed=5, backend=backend)[1].priorities)
        assert not torch.equal(mine, store(inputs, policy=policy, seed=6, backend=backend)[1].priorities)


@every_form
@every_policy
@pytest.mark.parametrize("top_k", [None, 2])
def test_a_read_is_the_softmax_over_what_is_held(backend, policy, top_k):
    inputs = make(40)
    reads, last = store(inputs, policy=policy, top_k=top_k, backend=backend)
    score = (last.keys * inputs["query"][:, -1:]).sum(-1) / 5**0.5  # [B, N]
    best = score.topk(top_k or BUDGET).indices
    weights = score.gather(1, best).softmax(-1)
    context = (weights[..., None] * last.values.gather(1, best[..., None].expand(-1, -1, 4))).sum(1)
    assert_close(reads.context[:, -1], context, "output")
    assert_close(reads.weights[:, -1].sort().values, weights.sort().values, "output")
    assert reads.weights.shape == (2, 40, top_k or BUDGET)
    assert torch.equal(reads.token_ids[:, -1].sort().values, last.token_ids.gather(1, best).sort().values)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("distinct", [1, 3])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_who_is_read_among_equal_keys_is_not_for_rounding_to_decide(dtype, distinct, scale):
    """A token's key is the same wherever it stands but for rounding: one row's product rounds otherwise."""
    length, batch = 40, 4
    inputs = make(length, batch=batch)
    rng = torch.Generator().manual_seed(5)
    which = torch.randint(0, distinct, (batch, length), generator=rng)
    inputs["key"] = scale * make(distinct, batch=1, seed=6)["key"][0][which]
    inputs["token_ids"] = torch.arange(length).expand(batch, length)
    off = 1 + 1e-6 * torch.randn(inputs["key"].shape, generator=rng, dtype=torch.float64)
    rounded = inputs | {"key": inputs["key"] * off}
    for top_k, policy in ((1, "always"), (2, "reservoir"), (4, "surprise")):
        options = {"policy": policy, "top_k": top_k, "rate": 0.5}
        expected = store(inputs, backend="reference", **options)[0].token_ids
        for backend in ("reference", "chunked", "compiled"):
            for each in (inputs, rounded):
                cast = {n: x.to(dtype) if x.is_floating_point() else x for n, x in each.items()}
                for chunk_len in (5, CHUNK):
                    reads, _ = store(cast, backend=backend, chunk_len=chunk_len, **options)
                    assert torch.equal(reads.token_ids, expected), (backend, top_k)


@every_form
def test_next_to_the_best_the_lowest_entry_is_read_and_further_off_the_best(backend):
    inputs = make(4, batch=1)
    inputs["query"] = torch.ones_like(inputs["query"])
    inputs["token_ids"] = torch.arange(4)[None]
    for step, expected in ((TIE / 8, [0, 1, 2, 3]), (4 * TIE, [3, 2, 1, 0])):
        sizes = 1 + step * torch.arange(4, dtype=torch.float64)
        inputs["key"] = sizes[None, :, None].expand(1, 4, 5)
        reads, _ = store(inputs, policy="always", top_k=4, backend=backend)
        assert reads.token_ids[0, -1].tolist() == expected


# --- what every op promises


@every_policy
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("top_k", [None, 2])
@pytest.mark.parametrize("rate", [None, 0.25])
@pytest.mark.parametrize("plain", [True, False], ids=["plain", "masked, starts"])
def test_equals_the_reference(policy, dtype, top_k, plain, rate):
    for length in (1, CHUNK - 1, CHUNK, CHUNK + 1, 67):
        inputs = make(length, dtype=dtype)
        options = {"policy": policy, "top_k": top_k, "rate": rate} | ({} if plain else given(length))
        if length > 1:
            options["state"] = store(make(9, dtype=dtype, seed=1), policy=policy)[1]
        expected = run(inputs, "reference", **options)
        for backend in ("chunked", "compiled"):
            assert_same(run(inputs, backend, **options), expected)


@every_form
@every_policy
def test_pieces_are_as_the_whole(backend, policy):
    inputs, options = make(61), given(61)
    whole, last = store(inputs, policy=policy, backend=backend, **options)
    for edges in ([0, 1, 2, 2, 33, 61], range(62)):
        pieces, state = [], store(make(0), policy=policy)[1]
        for begin, end in pairwise(edges):
            some, more = ({n: x[:, begin:end] for n, x in all_.items()} for all_ in (inputs, options))
            reads, state = store(some, policy=policy, backend=backend, state=state, **more)
            pieces.append(reads)
        for got, expected in zip(zip(*pieces, strict=True), whole, strict=True):
            assert torch.allclose(torch.cat(got, 1).double(), expected.double(), atol=1e-12)
        assert all(torch.equal(x, y) for x, y in zip(state, last, strict=True))


@every_form
@every_policy
def test_padding_is_no_token_and_documents_are_apart(backend, policy):
    inputs, options = make(50), given(50)
    for name in ("surprise", *FLOATING):
        inputs[name][~options["mask"]] = torch.nan if name == "surprise" else 7.0
    reads, _ = store(inputs, policy=policy, backend=backend, **options)
    assert (reads.context[~options["mask"]] == 0).all()
    assert (reads.token_ids[~options["mask"]] == EMPTY).all()
    for row in range(2):
        begins = [0, *(options["starts"][row, 1:].nonzero()[:, 0] + 1).tolist(), 50]
        for begin, end in pairwise(begins):
            real = options["mask"][row, begin:end]
            alone = {n: x[row : row + 1, begin:end][:, real] for n, x in inputs.items()}
            allowed = options["allowed"][row : row + 1, begin:end][:, real]
            expected, _ = store(alone, policy=policy, backend="reference", allowed=allowed)
            assert torch.allclose(reads.context[row, begin:end][real], expected.context[0], atol=1e-12)
            assert torch.equal(reads.token_ids[row, begin:end][real], expected.token_ids[0])


def test_no_tensor_grows_faster_than_the_text():
    largest = 0

    class Largest(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            sizes = [x.numel() for x in tree_leaves(out) if isinstance(x, Tensor)]
            largest = max(largest, *sizes, 0)
            return out

    length = 40 * CHUNK
    with Largest():
        store(make(length), backend="chunked")
    assert largest <= 2 * length * (BUDGET + CHUNK)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budget": 0}, "budget: expected 1 to 16777216, got 0"),
        ({"budget": True}, "budget: expected a whole number"),
        ({"policy": "best"}, "policy: expected one of surprise, surprise-oldest, always"),
        ({"policy": None}, "policy: expected one of"),
        ({"rate": 0.0}, "rate: expected above 0 and at most 1, got 0"),
        ({"rate": float("nan")}, "rate: expected above 0"),
        ({"rate": "x"}, "rate: expected a number or None"),
        ({"window": 0}, "window: expected 1 to 16777216, got 0"),
        ({"top_k": 7}, "top_k: expected 1 to budget = 6, got 7"),
        ({"seed": -1}, "seed: expected at least 0"),
        ({"budget": 2**63 - 1}, "budget: expected 1 to 16777216, got 9223372036854775807"),
        ({"window": 2**24 + 1}, "window: expected 1 to 16777216, got 16777217"),
        ({"seed": 0.5}, "seed: expected a whole number"),
        ({"key": torch.zeros(2, 4, 5)}, r"key: expected shape \[2, 5, 5\], got \[2, 4, 5\]"),
        ({"value": torch.zeros(2, 5)}, r"value: expected \[batch, time, width\], got \[2, 5\]"),
        ({"surprise": torch.zeros(2, 5).bool()}, "surprise: expected a floating dtype"),
        ({"surprise": torch.full((2, 5), -0.1)}, "surprise: expected numbers from 0 to inf, got -0.1"),
        ({"surprise": torch.full((2, 5), torch.nan)}, "surprise: expected numbers from 0 to inf, got nan"),
        ({"token_ids": torch.zeros(2, 5)}, "token_ids: expected dtype int64, got torch.float32"),
        ({"token_ids": torch.full((2, 5), -3)}, "token_ids: expected ids from 0 on, got -3"),
        ({"allowed": torch.zeros(2, 5)}, "allowed: expected dtype bool"),
        ({"mask": torch.zeros(2, 4).bool()}, r"mask: expected shape \[2, 5\]"),
        ({"state": (1, 2)}, "state: expected a SurpriseStoreState, got tuple"),
        ({"state": empty_state(2, 7, 5, 4, window=20)}, r"state.keys: expected shape \[2, 6, 5\]"),
        ({"state": empty_state(2, 6, 5, 4, window=9)}, r"state.recent: expected shape \[2, 20\]"),
    ],
)
def test_bad_input_is_one_line(change, message):
    with pytest.raises(UserError, match=message) as caught:
        store(make(5) | change)
    assert "\n" not in str(caught.value)


@every_form
@pytest.mark.parametrize("wrong", [torch.nan, torch.inf], ids=str)
@pytest.mark.parametrize("part", ["keys", "values"])
def test_what_lies_in_an_empty_entry_reaches_nothing(backend, part, wrong):
    """Of a state from outside: nothing times it is no number."""
    first = store(make(3), budget=BUDGET)[1]
    spoilt = SurpriseStoreState(*(x.clone() for x in first))
    getattr(spoilt, part)[:, -1] = wrong
    inputs = make(2 * CHUNK + 3, seed=1)
    assert_same(run(inputs, backend, state=spoilt), run(inputs, "reference", state=first))
