"""A few of many slots: found by bounds of whole groups, they are those that a look at every slot finds."""

import pytest
import torch
from slot_memory_runs import assert_same, run
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from unimatrix.ops import slot_memory
from unimatrix.ops.slot_memory import SlotMemoryState

FAST = ("chunked", "compiled")
LENGTH, WIDTH = 90, 7  # three chunks of the loop, and no whole vectors


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(
        *shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=torch.float64
    )


def full(slots: int, *, dtype=torch.float64, known: int = 400, held: int | None = None) -> dict:
    """Two rows of tokens whose keys are held, or were, or are new; `held` of the slots hold something."""
    batch, table = 2, normal(known, WIDTH)
    rng = torch.Generator().manual_seed(slots)
    kinds = torch.randint(0, known, (batch, LENGTH), generator=rng)
    ages = torch.stack([torch.randperm(slots, generator=rng) // 3 for _ in range(batch)])  # some are equal
    if held is not None:
        ages[:, held:] = -1
    filled = ages >= 0
    state = SlotMemoryState(
        (table.repeat(-(-slots // known), 1)[:slots] * filled[..., None]).to(dtype),
        (normal(batch, slots, 3) * filled[..., None]).to(dtype),
        kinds[:, :1].expand(batch, slots).masked_fill(~filled, -1).contiguous(),
        (0.55 + 0.45 * torch.rand(batch, slots, generator=rng, dtype=torch.float64) * filled).to(dtype)
        * filled,
        ages,
    )
    return {
        "query": 2 * normal(batch, LENGTH, WIDTH, seed=1).to(dtype),
        "key": table[kinds].to(dtype),
        "value": normal(batch, LENGTH, 3).to(dtype),
        "token_ids": kinds,
        "write_strength": (0.45 + 0.5 * torch.rand(batch, LENGTH, generator=rng, dtype=torch.float64)).to(
            dtype
        ),
        "state": state,
    }


def rounded(inputs: dict) -> dict:
    """Whole numbers: many cosines and scores are equal, many keys zero."""
    state = inputs["state"]
    state = state._replace(keys=state.keys.round(), strengths=torch.ones_like(state.strengths))
    return inputs | {
        "query": inputs["query"].round(),
        "key": inputs["key"].round(),
        "write_strength": torch.ones_like(inputs["write_strength"]),
        "state": state,
    }


def next_to_each_other(inputs: dict) -> dict:
    """All keys next to one: bounds tell few from each other."""
    one, state = inputs["key"][:1, :1], inputs["state"]
    near = state.keys * 1e-4 + one
    return inputs | {"key": inputs["key"] * 1e-4 + one, "state": state._replace(keys=near)}


def huge_and_tiny(inputs: dict) -> dict:
    """Norms that float32 does not hold, from the second chunk on; and zero."""
    key, query = inputs["key"].clone(), inputs["query"].clone()
    key[0, 40], key[0, 60], key[1, 50] = key[0, 40] * 1e60, key[0, 60] * 1e-140, 0.0
    query[0, 45], query[0, 70], query[1, 3], query[1, 80] = (
        query[0, 45] * 1e55,
        query[0, 70] * 1e-60,
        0.0,
        1e-9,
    )
    return inputs | {"key": key, "query": query}


MASK = torch.rand(2, LENGTH, generator=torch.Generator().manual_seed(1)) > 0.2
STARTS = torch.zeros(2, LENGTH, dtype=torch.bool)
STARTS[0, 37], STARTS[1, 0], STARTS[1, 50:52] = True, True, True


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize(
    ("make", "options"),
    [
        (full, {}),
        (full, {"match_threshold": -1.0}),
        (full, {"match_threshold": 0.5, "top_k": 1}),
        (full, {"top_k": 100}),
        (full, {"mask": MASK, "starts": STARTS}),
        (rounded, {}),
        (rounded, {"match_threshold": 0.2, "mask": MASK}),
        (next_to_each_other, {"match_threshold": 1 - 1e-10}),
        (huge_and_tiny, {}),
    ],
)
def test_the_same_slots_as_the_reference(backend, make, options):
    inputs = full(520) if make is full else make(full(520))
    options = {"num_slots": 520, "top_k": 8} | options
    assert_same(run(inputs, backend, **options), run(inputs, "reference", **options))


@pytest.mark.parametrize("backend", FAST)
def test_in_float32_and_while_slots_fill_up(backend):
    inputs = full(1000, dtype=torch.float32, held=290)
    options = {"num_slots": 1000, "top_k": 8}
    assert_same(run(inputs, backend, **options), run(inputs, "reference", **options))


@pytest.mark.parametrize("backend", FAST)
def test_nothing_is_made_for_every_slot_and_position(backend):
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            found = func(*args, **(kwargs or {}))
            for x in found if isinstance(found, (tuple, list)) else (found,):
                if isinstance(x, Tensor):
                    largest = max(largest, x.numel())
            return found

    inputs = full(520, dtype=torch.float32)
    state = inputs.pop("state")
    leaves = {name: x.requires_grad_() if x.is_floating_point() else x for name, x in inputs.items()}
    with Watch():
        reads, _ = slot_memory(**leaves, state=state, num_slots=520, top_k=8, chunk_len=8, backend=backend)
        reads.context.sum().backward()
    assert reads.slots is not None
    assert reads.weights.shape == reads.token_ids.shape == reads.slots.shape == (2, LENGTH, 8)
    assert largest < 2 * LENGTH * 520 // 4
