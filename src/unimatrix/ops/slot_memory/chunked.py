"""The slot memory for any device: the decisions in a compiled loop on the CPU, the reads of a chunk at once.

A write makes a *version* of its slot, which lives until the slot is written again. Given the decisions, a
query of a chunk reads at most N versions that were alive at the chunk's start and C that it wrote itself, so
time and memory are linear in T: (N + C) entries a query, of which k stay where k slots are read. On an
accelerator the keys and strengths travel to
the CPU for the decisions, and slot numbers back: one synchronisation a call.

Letters: B batch, T time, N slots, k slots that are read, E width of keys and queries, W width of values,
C chunk length.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from unimatrix.ops.backend import NUMBA_INSTALLED
from unimatrix.ops.internals import transforming
from unimatrix.ops.operator import LIBRARY
from unimatrix.ops.slot_memory.reference import joined, rows, softmax_over, top_slots
from unimatrix.ops.slot_memory.state import (
    EMPTY,
    Rules,
    SlotMemoryState,
    SlotReads,
    Writes,
    emptied,
)
from unimatrix.ops.threads import threads_for


def decisions_problem() -> str | None:
    """Why slots cannot be decided by numba's loop; None if they can. It reads numbers, and no gradients."""
    if not NUMBA_INSTALLED:
        return "numba is not installed (pip install numba)"
    if not torch.compiler.is_compiling() and transforming():
        return "torch.func and forward-mode derivatives go through plain torch alone"
    return None


def slot_memory_chunked(
    writes: Writes, state: SlotMemoryState, rules: Rules, chunk_len: int
) -> tuple[SlotReads, SlotMemoryState]:
    """Arguments as in `slot_memory`, already checked."""
    slot_of = decide(writes, state, rules)  # [B, T], -1 = no write
    pieces = []
    for start in range(0, slot_of.shape[1], chunk_len):
        here = slice(start, start + chunk_len)
        chunk = Writes(*(None if x is None else x[:, here] for x in writes))  # type: ignore[arg-type]
        reads, state = _read_chunk(chunk, slot_of[:, here], state, rules)
        pieces.append(reads)
    if not pieces:
        empty = Writes(*(None if x is None else x[:, :0] for x in writes))  # type: ignore[arg-type]
        return _read_chunk(empty, slot_of, state, rules)
    return joined(pieces, torch.cat), state


@torch.no_grad()
def decide(writes: Writes, state: SlotMemoryState, rules: Rules) -> Tensor:
    """The slot that each position writes, [B, T] int64 on the inputs' device; -1 for none."""
    return torch.ops.unimatrix.slot_memory_decide(
        writes.key,
        writes.strength,
        writes.real,
        writes.starts,
        state.keys,
        state.ages,
        rules.match_threshold,
        rules.write_threshold,
    )


def _decide(
    key: Tensor,
    strength: Tensor,
    real: Tensor | None,
    starts: Tensor | None,
    keys: Tensor,
    ages: Tensor,
    match_threshold: float,
    write_threshold: float,
) -> Tensor:
    from unimatrix.ops.slot_memory import kernels

    def array(x: Tensor):
        return x.detach().to("cpu", copy=True).contiguous().numpy()

    slot_of = torch.empty(key.shape[:2], dtype=torch.int64, device="cpu")
    kernels.decide(
        threads_for(key.numel() * keys.shape[1]),
        array(key),
        array(strength),
        *(array(kernels.none_of(key) if x is None else x) for x in (real, starts)),
        match_threshold,
        write_threshold,
        array(keys),
        array(ages),
        slot_of.numpy(),
    )
    return slot_of.to(key.device)


def _decided(key: Tensor, *_: object) -> Tensor:
    return key.new_empty(key.shape[:2], dtype=torch.int64)


# an operator, so that torch.compile keeps the reads around it in one graph
LIBRARY.define(
    "slot_memory_decide(Tensor key, Tensor strength, Tensor? real, Tensor? starts, Tensor keys, Tensor ages, "
    "float match_threshold, float write_threshold) -> Tensor"
)
LIBRARY.impl("slot_memory_decide", _decide, "CompositeExplicitAutograd")
torch.library.register_fake("unimatrix::slot_memory_decide", _decided, lib=LIBRARY)


def _read_chunk(
    chunk: Writes, slot_of: Tensor, state: SlotMemoryState, rules: Rules
) -> tuple[SlotReads, SlotMemoryState]:
    """One chunk from the slots before it: its reads and the slots after it."""
    batch, length, _ = chunk.query.shape
    slots = rules.num_slots
    # version[b, t, s]: which candidate slot s holds at t: 0..N-1 the slots before, N + u the write at u
    steps = torch.arange(1, length + 1, device=slot_of.device)
    wrote = slot_of[..., None] == torch.arange(slots, device=slot_of.device)  # [B, C, N]
    newest = (wrote * steps[:, None]).cummax(dim=1).values if length else wrote.long()  # 0: not in this chunk
    lost = torch.zeros_like(wrote)  # what a slot held before a text began
    if chunk.starts is not None and length:
        begun = (chunk.starts * steps).cummax(dim=1).values[..., None]  # [B, C, 1], 0: not in this chunk
        newest = newest * (newest >= begun)
        lost = (newest == 0) & (begun > 0)
    version = torch.where(newest > 0, newest + (slots - 1), torch.arange(slots, device=slot_of.device))
    ids = torch.cat([state.token_ids, chunk.token_ids], dim=1)  # [B, N + C]
    held = ids[:, None].expand(batch, length, -1).gather(2, version)
    taken = (newest > 0) | ((state.ages != EMPTY)[:, None] & ~lost)
    held = held.masked_fill(lost, EMPTY)

    strengths = torch.cat([state.strengths, chunk.strength], dim=1)
    written = torch.cat([state.ages != EMPTY, slot_of >= 0], dim=1)
    # a strength that was not written may be 0: its logarithm must not reach any gradient
    safe = strengths.where(written, torch.ones_like(strengths))
    keys = torch.cat([state.keys, chunk.key], dim=1)
    values = torch.cat([state.values, chunk.value], dim=1)
    candidates = Candidates(keys, values, ids, strengths, safe)
    read = _read_all if rules.top_k == slots else _read_best
    # nothing times NaN or infinity is NaN: whatever stands where nothing is held, no product may meet it
    keys, values = (x.masked_fill(~written[..., None], 0.0) for x in (keys, values))
    reads = read(chunk, candidates._replace(keys=keys, values=values), version, taken, held, rules.top_k)
    after = _state_after(chunk, slot_of, newest, state, candidates)
    if chunk.starts is not None and length:
        after = emptied(after, lost[:, -1])
    return reads, after


class Candidates(NamedTuple):
    """What a chunk may read: the slots before it, then what it writes itself."""

    keys: Tensor  # [B, N + C, E]
    values: Tensor  # [B, N + C, W]
    ids: Tensor  # [B, N + C]
    strengths: Tensor  # [B, N + C]
    safe: Tensor  # [B, N + C] the strengths, 1 where nothing was written


def _read_all(
    chunk: Writes, candidates: Candidates, version: Tensor, taken: Tensor, held: Tensor, _: int
) -> SlotReads:
    """Every slot at once: products of all queries and candidates."""
    all_scores = chunk.query @ candidates.keys.mT / chunk.query.shape[-1] ** 0.5
    all_scores = all_scores + candidates.safe.log()[:, None]  # [B, C, N + C]
    kept = taken
    if chunk.real is not None:
        kept = kept & chunk.real[..., None]
        held = held.masked_fill(~chunk.real[..., None], EMPTY)
    weights = softmax_over(all_scores.gather(2, version), kept)  # [B, C, N]
    by_version = torch.zeros_like(all_scores).scatter(2, version, weights)
    return SlotReads(by_version @ candidates.values, weights, held, None)


def _read_best(
    chunk: Writes, candidates: Candidates, version: Tensor, taken: Tensor, held: Tensor, top_k: int
) -> SlotReads:
    """Only what is read is kept for the backward: k candidates a query."""
    slots = _best(chunk.query, candidates, version, taken, top_k)  # [B, C, k]
    if chunk.real is not None:
        slots = torch.where(chunk.real[..., None], slots, torch.arange(top_k, device=slots.device))
        taken = taken & chunk.real[..., None]
        held = held.masked_fill(~chunk.real[..., None], EMPTY)
    chosen = version.gather(2, slots)
    flat = chosen.flatten(1)
    keys = rows(candidates.keys, flat).unflatten(1, chosen.shape[1:])  # [B, C, k, E]
    values = rows(candidates.values, flat).unflatten(1, chosen.shape[1:])
    score = (keys * chunk.query[:, :, None]).sum(-1) / chunk.query.shape[-1] ** 0.5
    score = score + candidates.safe.gather(1, flat).view_as(score).log()
    weights = softmax_over(score, taken.gather(2, slots))
    return SlotReads((weights[..., None] * values).sum(2), weights, held.gather(2, slots), slots)


@torch.no_grad()
def _best(query: Tensor, candidates: Candidates, version: Tensor, taken: Tensor, top_k: int) -> Tensor:
    """The slots [B, C, k] that each query reads; sums are made alike for all, so that equal ones stay so."""
    # Apple's GPUs have no float64: there scores that are next to each other may change places
    dtype = query.dtype if query.device.type == "mps" else torch.float64
    q, keys = query.to(dtype), candidates.keys.to(dtype)
    score = q.new_zeros(*q.shape[:2], keys.shape[1])  # [B, C, N + C]
    for e in range(q.shape[-1]):
        score = score + q[..., e, None] * keys[:, None, :, e]
    score = score / q.shape[-1] ** 0.5 + candidates.safe.to(dtype).log()[:, None]
    return top_slots(score.gather(2, version), taken, top_k)


def _state_after(
    chunk: Writes,
    slot_of: Tensor,
    newest: Tensor,
    state: SlotMemoryState,
    candidates: Candidates,
) -> SlotMemoryState:
    length, slots = newest.shape[1], newest.shape[2]
    if length == 0:
        return state
    last = newest[:, -1]  # [B, N]
    version = torch.where(last > 0, last + (slots - 1), torch.arange(slots, device=last.device))
    taken = (last > 0) | (state.ages != EMPTY)
    real = torch.ones_like(slot_of) if chunk.real is None else chunk.real.long()
    clock = real.cumsum(1)  # real positions up to and with each
    written_at = torch.cat([torch.zeros_like(clock[:, :1]), clock], dim=1).gather(1, last)
    ages = clock[:, -1:] - written_at + torch.where(last > 0, 0, state.ages)
    return SlotMemoryState(
        keys=rows(candidates.keys, version),
        values=rows(candidates.values, version),
        token_ids=rows(candidates.ids, version),
        strengths=rows(candidates.strengths, version),
        ages=ages.masked_fill(~taken, EMPTY),
    )
