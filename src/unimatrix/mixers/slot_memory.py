"""UniMatrix-SparsePointer's memory: exact bindings in a few slots, read as a context and as a pointer.

Letters: B batch, T time, N slots, E width of keys, values and queries, D model width, V vocabulary.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from unimatrix.mixers.layout import kept
from unimatrix.mixers.previous import Previous, none_before, previous_layout, shift
from unimatrix.ops import Backend, SlotMemoryState, SlotReads, slot_memory
from unimatrix.ops.shapes import Stream, TokenIds, TokenMask


class SlotMemoryMixerState(NamedTuple):
    """The slots, and the key that the next token will be bound to."""

    slots: SlotMemoryState
    previous: Previous


class Recalled(NamedTuple):
    """What the memory gives to each position."""

    context: Stream  # [B, T, D], to be added to the stream
    reads: SlotReads
    strength: Tensor  # [B, T], the write strengths: what does not exceed 1/2 was not written


class SlotMemory(nn.Module):
    """Binds each token to the one before it: (key of token t - 1) -> (value and id of token t).

    Keys, values, queries and the write gate are read off the LayerNorm of the token embeddings, so that a
    token's key is the same wherever it stands. The write gate is sigmoid(Linear(token t)), 1 without one.

    Args:
        width: E. num_slots, top_k, match_threshold: as in `unimatrix.ops.slot_memory`.
        pointer: whether the weights vote for token ids too (`votes`), and a pointer gate weighs the votes.
        write_gate: whether a gate decides what is written; without it every token is.
    """

    def __init__(
        self,
        d_model: int,
        *,
        num_slots: int,
        top_k: int | None,
        width: int,
        match_threshold: float,
        pointer: bool,
        write_gate: bool,
        backend: Backend = "auto",
    ) -> None:
        super().__init__()
        self.num_slots = num_slots
        self.top_k = top_k
        self.match_threshold = match_threshold
        self.backend: Backend = backend
        self.norm = nn.LayerNorm(d_model)
        self.qkv = nn.Linear(d_model, 3 * width, bias=False)
        self.out = nn.Linear(width, d_model, bias=False)
        self.write_gate = nn.Linear(d_model, 1) if write_gate else None
        self.pointer_gate = nn.Linear(d_model, 1) if pointer else None

    def state_layout(self) -> Any:
        slots, width = self.num_slots, self.out.in_features
        vectors, whole = kept((slots, width), "sums"), kept((slots,), torch.int64)
        held = SlotMemoryState(vectors, vectors, whole, kept((slots,), "sums"), whole)
        return SlotMemoryMixerState(held, previous_layout(width))

    def forward(
        self,
        x: Stream,
        input_ids: TokenIds,
        state: SlotMemoryMixerState | None = None,
        *,
        mask: TokenMask | None = None,
    ) -> tuple[Recalled, SlotMemoryMixerState]:
        """Token embeddings [B, T, D] and their ids [B, T] to what the memory gives, and the next state."""
        u = self.norm(x)
        query, key, value = self.qkv(u).chunk(3, dim=-1)
        carry = none_before(key) if state is None else state.previous
        key, present, carry = shift(key, carry, mask)
        strength = present.to(u.dtype)
        if self.write_gate is not None:
            strength = strength * torch.sigmoid(self.write_gate(u).squeeze(-1))
        reads, slots = slot_memory(
            query,
            key,
            value,
            input_ids,
            strength,
            num_slots=self.num_slots,
            top_k=self.top_k,
            match_threshold=self.match_threshold,
            state=None if state is None else state.slots,
            mask=mask,
            backend=self.backend,
        )
        recalled = Recalled(self.out(reads.context), reads, strength)
        return recalled, SlotMemoryMixerState(slots, carry)

    def votes(self, h: Stream, reads: SlotReads, vocab_size: int) -> Tensor:
        """What the pointer adds to the logits, [..., V]: eq. (14) times the pointer gate of h [..., D].

        The gate is a sigmoid, so a vote adds at most 1 to a logit.
        """
        assert self.pointer_gate is not None
        pointer = reads.weights.new_zeros(*h.shape[:-1], vocab_size)
        # an empty slot's weight is 0: it may vote for token 0
        pointer = pointer.scatter_add(-1, reads.token_ids.clamp_min(0), reads.weights)
        return torch.sigmoid(self.pointer_gate(h)) * pointer.to(h.dtype)
