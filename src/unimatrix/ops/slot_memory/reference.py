"""The slot memory, token by token: the definition that every other form is held to.

Letters: B batch, T time, N slots, E width of keys and queries, W width of values.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from unimatrix.ops.slot_memory.state import EMPTY, Rules, SlotMemoryState, SlotReads, Writes, emptied


def slot_memory_reference(
    writes: Writes, state: SlotMemoryState, rules: Rules
) -> tuple[SlotReads, SlotMemoryState]:
    """Write, then read, for one position after the other; autograd goes through all but the decisions."""
    length = writes.query.shape[1]
    reads = []
    for t in range(length):
        real = None if writes.real is None else writes.real[:, t]
        if writes.starts is not None:
            state = emptied(state, writes.starts[:, t, None])
        state = _write(writes, t, real, state, rules)
        reads.append(_read(writes.query[:, t], real, state, rules))
    if not reads:
        batch, _, value_width = state.values.shape
        weights = state.values.new_zeros(batch, 0, rules.top_k)
        ids = state.token_ids.new_zeros(weights.shape)
        slots = ids if rules.top_k < rules.num_slots else None
        return SlotReads(writes.value.new_zeros(batch, 0, value_width), weights, ids, slots), state
    return joined(reads, torch.stack), state


def joined(reads: list[SlotReads], join: Callable[..., Tensor]) -> SlotReads:
    """Reads behind one another, by torch.stack of positions or torch.cat of chunks."""
    columns: Any = zip(*reads, strict=True)
    context, weights, token_ids, slots = columns
    numbers = (join(column, dim=1) for column in (context, weights, token_ids))
    return SlotReads(*numbers, slots=None if slots[0] is None else join(slots, dim=1))


def _write(
    writes: Writes, t: int, real: Tensor | None, state: SlotMemoryState, rules: Rules
) -> SlotMemoryState:
    key, strength = writes.key[:, t], writes.strength[:, t]
    written = strength > rules.write_threshold  # [B]
    older = state.ages + (state.ages != EMPTY)
    if real is not None:
        written = written & real
        older = torch.where(real[:, None], older, state.ages)
    slot = choose_slot(key, state, rules.match_threshold)
    here = (slot[:, None] == torch.arange(rules.num_slots, device=slot.device)) & written[:, None]  # [B, N]
    return SlotMemoryState(
        keys=torch.where(here[..., None], key[:, None], state.keys),
        values=torch.where(here[..., None], writes.value[:, t, None], state.values),
        token_ids=torch.where(here, writes.token_ids[:, t, None], state.token_ids),
        strengths=torch.where(here, strength[:, None], state.strengths),
        ages=older.masked_fill(here, 0),
    )


@torch.no_grad()
def choose_slot(key: Tensor, state: SlotMemoryState, match_threshold: float) -> Tensor:
    """The slot [B] that a write of key [B, E] goes to: the best match, else the first empty, else the oldest.

    Cosines are taken in float64, so that all forms decide alike; of equal ones the lowest slot is taken.
    """
    wanted, held = key.double(), state.keys.double()
    norms = wanted.norm(dim=-1)[:, None] * held.norm(dim=-1)  # [B, N]
    cosine = (held * wanted[:, None]).sum(-1) / norms.where(norms > 0, torch.ones_like(norms))
    taken = state.ages != EMPTY
    match = taken & (norms > 0) & (cosine > match_threshold)
    # argmax takes the first of equal ones
    best = cosine.where(match, torch.full_like(cosine, -2.0)).argmax(-1)
    empty, oldest = (~taken).int().argmax(-1), state.ages.argmax(-1)
    return torch.where(match.any(-1), best, torch.where(taken.all(-1), oldest, empty))


def _read(query: Tensor, real: Tensor | None, state: SlotMemoryState, rules: Rules) -> SlotReads:
    """What query [B, E] reads, as in SlotReads without T: eq. (12) and (13)."""
    taken = state.ages != EMPTY
    strengths = state.strengths.where(taken, torch.ones_like(state.strengths))
    slots = None
    if rules.top_k < rules.num_slots:
        products = (state.keys.detach().double() * query.detach().double()[:, None]).sum(-1)
        score = products / query.shape[-1] ** 0.5 + strengths.detach().double().log()
        slots = top_slots(score, taken, rules.top_k)
        if real is not None:
            slots = torch.where(real[:, None], slots, torch.arange(rules.top_k, device=slots.device))
        state = SlotMemoryState(*(rows(x, slots) for x in state))
        taken, strengths = taken.gather(1, slots), strengths.gather(1, slots)
    # whatever stands in an empty slot, it holds nothing: nothing times NaN or infinity is NaN
    keys, values = (x.masked_fill(~taken[..., None], 0.0) for x in (state.keys, state.values))
    score = (keys * query[:, None]).sum(-1) / query.shape[-1] ** 0.5 + strengths.log()
    kept, token_ids = taken, state.token_ids
    if real is not None:
        kept = kept & real[:, None]
        token_ids = token_ids.masked_fill(~real[:, None], EMPTY)
    weights = softmax_over(score, kept)
    return SlotReads((weights[..., None] * values).sum(-2), weights, token_ids, slots)


def top_slots(score: Tensor, taken: Tensor, top_k: int) -> Tensor:
    """The top_k taken slots (last dimension) of the largest scores, in ascending order.

    Of equal scores the lowest slots; where fewer are taken, the lowest ones that are not make up the number.
    """
    ranked = score.masked_fill(~taken, -torch.inf)
    return ranked.sort(dim=-1, descending=True, stable=True).indices[..., :top_k].sort(-1).values


def rows(x: Tensor, index: Tensor) -> Tensor:
    """x[b, index[b, m]]: [B, N, ...] and [B, M] to [B, M, ...]."""
    return x.gather(1, index[(..., *[None] * (x.dim() - 2))].expand(*index.shape, *x.shape[2:]))


def softmax_over(score: Tensor, kept: Tensor) -> Tensor:
    """Softmax over the kept entries of the last dimension, exactly 0 elsewhere and where none is kept."""
    floor = torch.finfo(score.dtype).min
    weights = score.masked_fill(~kept, floor).softmax(-1)
    return weights.masked_fill(~kept, 0.0)
