"""Streams of keys through the slot memory, ids and ages included; writes: test_slot_bindings.py, many slots:
test_many_slots.py."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from slot_memory_runs import CHUNK, assert_same, run
from tolerances import assert_close
from torch import Tensor

from unimatrix import UserError
from unimatrix.ops import slot_memory
from unimatrix.ops.slot_memory import EMPTY, SlotMemoryState, empty_state

FORMS = ("reference", "chunked", "compiled")
FAST = ("chunked", "compiled")
DTYPES = (torch.float64, torch.float32)
WIDTH, VALUE_WIDTH = 6, 4

# streams by name: the kind of token (which fixes the key) at each of T positions
STREAMS = {
    "random": lambda length, rng: torch.randint(0, 12, (length,), generator=rng),
    "all equal": lambda length, rng: torch.zeros(length, dtype=torch.int64),
    "all different": lambda length, rng: torch.arange(length),
    "in turn": lambda length, rng: torch.arange(length) % 11,
    "runs": lambda length, rng: torch.arange(length) // 5 % 9,
}


def make_inputs(
    length: int,
    *,
    stream: str = "random",
    batch: int = 2,
    dtype: torch.dtype = torch.float64,
    num_slots: int = 8,
    gate: str = "random",
    state: bool = False,
    seed: int = 0,
) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float64).to(dtype)

    ids = torch.stack([STREAMS[stream](length, rng) for _ in range(batch)])
    table = normal(max(length, 12), WIDTH)
    strengths = {
        "random": torch.rand(batch, length, generator=rng, dtype=torch.float64).to(dtype),
        "on": torch.ones(batch, length, dtype=dtype),
        "off": torch.full((batch, length), 0.5, dtype=dtype),
    }
    inputs = {
        "query": 2 * normal(batch, length, WIDTH),
        # the same token's keys differ a little, as contextual keys do, and match all the same
        "key": table[ids] + 0.05 * normal(batch, length, WIDTH),
        "value": normal(batch, length, VALUE_WIDTH),
        "token_ids": ids,
        "write_strength": strengths[gate],
    }
    if state:
        before = make_inputs(3 * num_slots, batch=batch, dtype=dtype, num_slots=num_slots, seed=seed + 1)
        inputs["state"] = slot_memory(**before, num_slots=num_slots, backend="reference")[1]
    return inputs


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("gate", ["random", "on", "off"])
@pytest.mark.parametrize("length", [1, CHUNK - 1, CHUNK + 1, 67])
def test_equals_reference(backend, dtype, stream, gate, length):
    inputs = make_inputs(length, stream=stream, gate=gate, dtype=dtype, state=length == 67)
    assert_same(run(inputs, backend, num_slots=8), run(inputs, "reference", num_slots=8))


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize(("num_slots", "top_k"), [(1, None), (1, 1), (5, 2), (32, 3), (40, None)])
def test_every_number_of_slots_and_top_k(backend, num_slots, top_k):
    inputs = make_inputs(53, num_slots=num_slots, state=True)
    options = {"num_slots": num_slots, "top_k": top_k}
    assert_same(run(inputs, backend, **options), run(inputs, "reference", **options))


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("state", [False, True])
def test_masked_positions_do_nothing(backend, state):
    inputs = make_inputs(50, batch=3, state=state)
    mask = torch.rand(3, 50, generator=torch.Generator().manual_seed(5)) > 0.4
    mask[1] = False
    masked = run(inputs, backend, num_slots=8, mask=mask)
    assert_same(masked, run(inputs, "reference", num_slots=8, mask=mask))
    # row 0 equals the text without the masked positions
    kept = mask[0].nonzero()[:, 0]
    short = {n: x[:1, kept] for n, x in inputs.items() if n != "state"}
    if state:
        short["state"] = SlotMemoryState(*(x[:1] for x in inputs["state"]))
    alone = run(short, backend, num_slots=8)
    # chunks of the shorter text lie elsewhere: sums are the same but for rounding
    for name in ("context", "weights"):
        assert_close(masked[name][:1, kept], alone[name], "output")
    assert torch.equal(masked["read ids"][:1, kept], alone["read ids"])
    for name in ("keys", "values", "strengths", "last ids", "last ages"):
        assert torch.equal(masked[name][:1], alone[name]), name
    assert (masked["weights"][~mask] == 0).all()
    assert (masked["read ids"][~mask] == EMPTY).all()


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    length=st.integers(0, 70),
    num_slots=st.integers(1, 12),
    stream=st.sampled_from(sorted(STREAMS)),
    data=st.data(),
)
def test_any_stream(seed, length, num_slots, stream, data):
    top_k = data.draw(st.one_of(st.none(), st.integers(1, num_slots)))
    inputs = make_inputs(length, stream=stream, num_slots=num_slots, seed=seed, state=True)
    options = {"num_slots": num_slots, "top_k": top_k}
    expected = run(inputs, "reference", **options)
    for backend in FAST:
        assert_same(run(inputs, backend, **options), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_slots": 0}, "num_slots: expected at least 1, got 0"),
        ({"top_k": 9}, "top_k: expected 1 to num_slots = 8, got 9"),
        ({"top_k": 0}, "top_k: expected 1 to num_slots = 8, got 0"),
        ({"match_threshold": 1.0}, r"match_threshold: expected a cosine in \[-1, 1\), got 1.0"),
        ({"write_threshold": -0.1}, "write_threshold: expected at least 0 and below 1, got -0.1"),
        ({"key": torch.zeros(2, 4, 3)}, r"key: expected shape \[2, 5, 6\], got \[2, 4, 3\]"),
        ({"value": torch.zeros(2, 5)}, r"value: expected \[batch, time, width\], got \[2, 5\]"),
        ({"query": torch.zeros(2, 5)}, r"query: expected \[batch, time, width\], got \[2, 5\]"),
        ({"token_ids": torch.zeros(2, 5)}, "token_ids: expected dtype int64, got torch.float32"),
        ({"token_ids": torch.full((2, 5), -3)}, "token_ids: expected ids from 0 on, got -3"),
        ({"state": empty_state(2, 7, 6, 4)}, r"state.keys: expected shape \[2, 8, 6\], got \[2, 7, 6\]"),
    ],
)
def test_bad_input_is_one_line(change, message):
    with pytest.raises(UserError, match=message):
        slot_memory(**({**make_inputs(5), "num_slots": 8} | change))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.7])
def test_a_write_of_just_the_threshold_is_none_in_every_form(threshold, dtype):
    """In float32 0.1 is above 0.1 in float64."""
    inputs = make_inputs(5, dtype=dtype)
    for strength, expected in ((threshold, 0), (threshold + 1e-6, 5)):
        inputs["write_strength"] = torch.full((2, 5), strength, dtype=dtype)
        for backend in FORMS:
            state = slot_memory(**inputs, num_slots=8, write_threshold=threshold, backend=backend)[1]
            written = (state.ages != EMPTY).any(dim=1)
            assert bool(written.any()) == bool(expected), (backend, strength)


@pytest.mark.parametrize("backend", FORMS)
@pytest.mark.parametrize("top_k", [None, 2])
@pytest.mark.parametrize("held", [1, 3])
def test_a_score_of_minus_infinity_weighs_nothing_beside_an_empty_slot(backend, top_k, held):
    """Where all slots are held by such scores there is no softmax of them."""
    state = empty_state(1, 3, 2, 2, dtype=torch.float64)
    state.keys[:, :held], state.strengths[:, :held] = -torch.inf, 1.0
    state.ages[:, :held], state.values[:, :held] = torch.arange(held), 1.0
    numbers = {name: torch.ones(1, 1, 2, dtype=torch.float64) for name in ("query", "key", "value")}
    reads, _ = slot_memory(
        **numbers,
        token_ids=torch.zeros(1, 1, dtype=torch.int64),
        write_strength=torch.zeros(1, 1, dtype=torch.float64),
        num_slots=3,
        top_k=top_k,
        state=state,
        backend=backend,
    )
    assert bool(reads.weights.isnan().all()) == (held == 3)
    assert held == 3 or (reads.weights == 0).all()


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, -torch.inf], ids=str)
@pytest.mark.parametrize("part", ["keys", "values", "strengths"])
def test_one_wrong_number_among_many_slots_shows(backend, wrong, part):
    """Of many slots the loops look at few: those of the largest bounds."""
    texts = {"stream": "all different", "gate": "on", "num_slots": 300}
    inputs, before = make_inputs(40, seed=1, **texts), make_inputs(299, **texts)
    inputs["state"] = state = slot_memory(**before, num_slots=300)[1]
    assert (state.ages != EMPTY).sum(1).min() > 256
    getattr(state, part)[1, 7].fill_(wrong)
    expected, got = (
        slot_memory(**inputs, num_slots=300, top_k=4, backend=b)[0] for b in ("reference", backend)
    )
    assert torch.equal(got.slots, expected.slots)
    assert torch.equal(got.weights.isnan(), expected.weights.isnan())
    assert torch.equal(got.context.isfinite(), expected.context.isfinite())
    assert part == "values" or wrong == -torch.inf or got.weights.isnan().any()


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, -torch.inf], ids=str)
@pytest.mark.parametrize("part", ["keys", "values", "strengths"])
@pytest.mark.parametrize("top_k", [None, 2, 5])
@pytest.mark.parametrize("held", [0, 2])
def test_what_lies_in_an_empty_slot_reaches_nothing(backend, wrong, part, top_k, held):
    inputs = make_inputs(3, stream="all different", gate="off", num_slots=5)
    state = empty_state(2, 5, WIDTH, VALUE_WIDTH, dtype=torch.float64)
    rng = torch.Generator().manual_seed(3)
    state.keys[:, :held] = torch.randn(2, held, WIDTH, generator=rng, dtype=torch.float64)
    state.values[:, :held], state.strengths[:, :held] = 1.0, 1.0
    state.ages[:, :held], state.token_ids[:, :held] = torch.arange(held), 7
    getattr(state, part)[:, 4] = wrong
    inputs |= {"state": state, "write_strength": torch.zeros(2, 3, dtype=torch.float64)}
    found = {}
    for form in ("reference", backend):
        given = {
            name: x.clone().requires_grad_() if name in ("query", "key", "value") else x
            for name, x in inputs.items()
        }
        reads, _ = slot_memory(**given, num_slots=5, top_k=top_k, backend=form)
        (reads.context.sum() + (reads.weights**2).sum()).backward()
        found[form] = {"weights": reads.weights, "context": reads.context, "gradient": given["query"].grad}
    for quantity, theirs in found["reference"].items():
        assert theirs.isfinite().all()
        assert_close(found[backend][quantity], theirs, "gradient" if quantity == "gradient" else "output")
