"""Time and memory of the slot memory over its number of slots, where a few of them are read.

All slots are full, and every token writes: every second one a key that is held or was, the others a new one.
Before anything is timed, the slots that each token reads and their ids must be the reference's, and so must
the ids, ages and keys that are held at the end; what is read must be within rounding of it over the whole
length, every gradient on a beginning, since the reference keeps all slots for every token.

Letters: B batch, T tokens, N slots, E width of keys, k slots that are read.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unimatrix.bench.memory import METHODS, measured_peak
from unimatrix.bench.processes import in_fresh_processes
from unimatrix.bench.timing import time_in_turns
from unimatrix.errors import UserError, shown
from unimatrix.evals.provenance import provenance
from unimatrix.ops import SlotMemoryState, SlotReads, slot_memory

DEFAULT_SLOTS = (64, 4096)
LENGTH, TOP_K, WIDTH = 16_384, 8, 16
DIFFERENTIATED = 96  # tokens on which gradients are compared
CLOSE = 1e-5  # of a number's root mean square
FLOATING = ("query", "key", "value", "write_strength")


def run(
    out: Path,
    *,
    slots: Sequence[int] = DEFAULT_SLOTS,
    top_k: int = TOP_K,
    length: int = LENGTH,
    seconds: float = 10.0,
    say: Callable[[str], None] = print,
) -> Path:
    """Check, measure, print a line per number of slots, write OUT/slots.json; returns its path.

    Args:
        slots: numbers of slots; times are given over that of the first.
        seconds: time spent on each number.
    Raises:
        UserError: fewer slots than are read, or a result that differs from the reference's.
    """
    if any(count <= top_k for count in slots) or not slots:
        raise UserError(f"slots: expected numbers above top_k = {top_k}, got {shown(list(slots))}")
    out.mkdir(parents=True, exist_ok=True)
    equal = {}
    for count in slots:
        equal[count] = check(count, top_k, length)
        say(f"{count:>6,} slots: {equal[count]:,} tokens read the reference's slots")
    calls: dict[tuple[int, str], Callable[[], object]] = {}
    for count in slots:
        inputs, state = full_memory(count, length)
        calls |= {(count, what): _call(inputs, state, top_k, what) for what in ("forward", "training")}
    timings = time_in_turns(calls, seconds=seconds * len(slots))
    peaks = in_fresh_processes(
        peak, [{"count": n, "top_k": top_k, "length": length} for n in slots], weighed=True
    )
    rows = []
    for count, memory in zip(slots, peaks, strict=True):
        us = {what: 1e6 * timings[count, what].median_s / length for what in ("forward", "training")}
        over = {what: timings[count, what].median_s / timings[slots[0], what].median_s for what in us}
        rows.append({"slots": count, "equal": equal[count], "us_per_token": us, "over_first": over, **memory})
        say(
            f"{count:>6,} slots: forward {us['forward']:.2f}, with backward {us['training']:.2f} us/token, "
            f"{over['training']:.2f} of that of {slots[0]:,}; peak {memory['taken_bytes'] / 2**20:.0f} MiB"
        )
    result = {
        "benchmark": "slots",
        **provenance("cpu"),
        "methods": METHODS,
        "top_k": top_k,
        "length": length,
        "width": WIDTH,
        "rows": rows,
    }
    path = out / "slots.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return path


def full_memory(count: int, length: int) -> tuple[dict[str, Tensor], SlotMemoryState]:
    """Tokens of one row, and slots that all hold something and were written at different times."""
    rng = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(1, *shape, generator=rng)

    state = SlotMemoryState(
        normal(count, WIDTH),
        normal(count, WIDTH),
        torch.randint(0, 8192, (1, count), generator=rng),
        0.55 + 0.45 * torch.rand(1, count, generator=rng),
        torch.randperm(count, generator=rng)[None],
    )
    key, known = normal(length, WIDTH), torch.randint(0, count, (1, length), generator=rng)
    key[:, ::2] = state.keys[0, known[:, ::2]]
    inputs = {
        "query": 2 * normal(length, WIDTH),
        "key": key,
        "value": normal(length, WIDTH),
        "token_ids": torch.randint(0, 8192, (1, length), generator=rng),
        "write_strength": 0.55 + 0.45 * torch.rand(1, length, generator=rng),
    }
    return inputs, state


def _read(
    inputs: Mapping[str, Any], state: SlotMemoryState, top_k: int, backend: Any = "auto"
) -> tuple[SlotReads, SlotMemoryState]:
    return slot_memory(**inputs, state=state, num_slots=state.keys.shape[1], top_k=top_k, backend=backend)


def _gradients(inputs: Mapping[str, Any], state: SlotMemoryState, top_k: int, backend: str) -> list[Tensor]:
    leaves = {name: inputs[name].detach().clone().requires_grad_() for name in FLOATING}
    reads, last = _read({**inputs, **leaves}, state, top_k, backend)
    total = reads.context.square().sum() + reads.weights.square().sum() + last.values.square().sum()
    return list(torch.autograd.grad(total, list(leaves.values())))


def check(count: int, top_k: int, length: int) -> int:
    """How many tokens read the reference's slots: all; a UserError if one does not, or what else differs."""
    inputs, state = full_memory(count, length)
    with torch.no_grad():
        (reads, last), (expected, expected_last) = (
            _read(inputs, state, top_k, backend) for backend in ("compiled", "reference")
        )
    same = (
        ("the slots read", reads.slots, expected.slots),
        ("their ids", reads.token_ids, expected.token_ids),
        ("the last ids", last.token_ids, expected_last.token_ids),
        ("the last ages", last.ages, expected_last.ages),
        ("the last keys", last.keys, expected_last.keys),
    )
    for name, got, wanted in same:
        if got is None or wanted is None or not torch.equal(got, wanted):
            raise UserError(f"{count} slots: {name} are not the reference's; nothing is timed")
    short = {name: x[:, :DIFFERENTIATED] for name, x in inputs.items()}
    pairs = [(reads.context, expected.context), (reads.weights, expected.weights)]
    pairs += zip(
        _gradients(short, state, top_k, "compiled"), _gradients(short, state, top_k, "reference"), strict=True
    )
    for got, wanted in pairs:
        if not (got - wanted).square().mean().sqrt() <= CLOSE * wanted.square().mean().sqrt():
            raise UserError(f"{count} slots: a result or gradient is not the reference's; nothing is timed")
    return length


def _call(inputs: Mapping[str, Any], state: SlotMemoryState, top_k: int, what: str) -> Callable[[], object]:
    leaves = {name: inputs[name].detach().clone().requires_grad_() for name in FLOATING}
    into = torch.ones(1), torch.ones(1)

    def forward() -> object:
        with torch.no_grad():
            return _read(inputs, state, top_k)

    def training() -> object:
        reads, _ = _read({**inputs, **leaves}, state, top_k)
        grads = [one.expand_as(x) for one, x in zip(into, (reads.context, reads.weights), strict=True)]
        return torch.autograd.grad((reads.context, reads.weights), list(leaves.values()), grads)

    return forward if what == "forward" else training


def peak(*, count: int, top_k: int, length: int) -> dict[str, Any]:
    """Peak memory of forward and backward over its value before, in this process: best a fresh one."""
    _call(*full_memory(count, 8), top_k, "training")()
    inputs, state = full_memory(count, length)
    call = _call(inputs, state, top_k, "training")
    with measured_peak() as found:
        call()
    return found
