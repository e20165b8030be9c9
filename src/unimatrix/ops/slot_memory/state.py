"""What the slot memory keeps, what it is given and what a reading returns: the tuples all forms exchange.

Letters: B batch, T time, N slots, E width of keys and queries, W width of values.
"""

from typing import NamedTuple

import torch
from torch import Tensor

EMPTY = -1  # token id and age of a slot that holds nothing


class SlotMemoryState(NamedTuple):
    """The slots: the same size however long the text."""

    keys: Tensor  # [B, N, E] float
    values: Tensor  # [B, N, W] float
    token_ids: Tensor  # [B, N] int64, EMPTY where nothing is held
    strengths: Tensor  # [B, N] float, lambda in (0, 1]; 0 where nothing is held
    ages: Tensor  # [B, N] int64, real positions since the slot was last written; EMPTY where nothing is held


class SlotReads(NamedTuple):
    """What each position read."""

    context: Tensor  # [B, T, W] sum of weights times the slots' values
    weights: (
        Tensor  # [B, T, k] softmax over the k best slots, exactly 0 for empty ones; all 0 if none is held
    )
    token_ids: Tensor  # [B, T, k] int64, the ids that those slots held at that position, EMPTY for none
    slots: Tensor | None  # [B, T, k] int64, which slots those are, in ascending order; None where k is N: all


class Writes(NamedTuple):
    """What each position would write, and asks: the arguments of `slot_memory`, checked."""

    query: Tensor  # [B, T, E]
    key: Tensor  # [B, T, E]
    value: Tensor  # [B, T, W]
    token_ids: Tensor  # [B, T] int64
    strength: Tensor  # [B, T]; at or below write_threshold: nothing is written
    real: Tensor | None  # [B, T] bool, None = all
    starts: Tensor | None  # [B, T] bool, None = none: the slots are emptied first


def emptied(state: SlotMemoryState, begun: Tensor) -> SlotMemoryState:
    """The slots without what those hold that `begun` [B, 1] or [B, N] names."""
    return SlotMemoryState(
        keys=state.keys.masked_fill(begun[..., None], 0.0),
        values=state.values.masked_fill(begun[..., None], 0.0),
        token_ids=state.token_ids.masked_fill(begun, EMPTY),
        strengths=state.strengths.masked_fill(begun, 0.0),
        ages=state.ages.masked_fill(begun, EMPTY),
    )


class Rules(NamedTuple):
    """The numbers that decide where a write goes and which slots a reading keeps."""

    num_slots: int
    top_k: int
    match_threshold: float
    write_threshold: float


def empty_state(
    batch_size: int,
    num_slots: int,
    key_width: int,
    value_width: int,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> SlotMemoryState:
    """Slots that hold nothing."""
    return SlotMemoryState(
        keys=torch.zeros(batch_size, num_slots, key_width, dtype=dtype, device=device),
        values=torch.zeros(batch_size, num_slots, value_width, dtype=dtype, device=device),
        token_ids=torch.full((batch_size, num_slots), EMPTY, dtype=torch.int64, device=device),
        strengths=torch.zeros(batch_size, num_slots, dtype=dtype, device=device),
        ages=torch.full((batch_size, num_slots), EMPTY, dtype=torch.int64, device=device),
    )


def rooms(query: Tensor, value: Tensor, keys: Tensor, top_k: int) -> tuple[Tensor, ...]:
    """Room for context, weights, ids and slots that are read ([B, T, 0] where all are), the slots that were
    written, the bindings that were replaced."""
    batch, length, _ = query.shape
    return (
        value.new_empty(batch, length, value.shape[-1]),
        query.new_empty(batch, length, top_k),
        query.new_empty((batch, length, top_k), dtype=torch.int64),
        query.new_empty((batch, length, top_k if top_k < keys.shape[1] else 0), dtype=torch.int64),
        query.new_empty((batch, length), dtype=torch.int64),
        query.new_empty((batch, length), dtype=torch.int64),
    )
