"""UniMatrix-SparsePointer's memory: exact bindings in a few slots, read as a context and as a pointer.

Letters: B batch, T time, N slots, k slots that are read, E width of keys, values and queries, D model width,
V vocabulary.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from unimatrix.data.settings import check_counts, check_types
from unimatrix.errors import UserError
from unimatrix.mixers.layout import kept
from unimatrix.mixers.part import Given, Part, Reading, Role, Size
from unimatrix.mixers.pointer import pointer_votes
from unimatrix.mixers.previous import Previous, none_before, previous_layout, shift
from unimatrix.mixers.registry import PartConfig
from unimatrix.ops import Backend, BackendChoice, SlotMemoryState, SlotReads, slot_memory
from unimatrix.ops.shapes import Stream, TokenIds, TokenMask


class SlotMemoryMixerState(NamedTuple):
    """The slots, and the key that the next token will be bound to."""

    slots: SlotMemoryState
    previous: Previous


_LARGEST_LOGIT = 1e6  # its sigmoid has long been 0 or 1


class Recalled(NamedTuple):
    """What the memory gives to each position."""

    context: Stream  # [B, T, D], to be added to the stream
    reads: SlotReads
    strength: Tensor  # [B, T], the write strengths: what does not exceed 1/2 was not written


class SlotMemory(Part):
    """Binds each token to the one before it: (key of token t - 1) -> (value and id of token t).

    Keys, values, queries and the write gate are read off the LayerNorm of the token embeddings, so that a
    token's key is the same wherever it stands. The write gate is sigmoid(Linear(token t)), 1 without one.

    Args:
        width: E. num_slots, top_k, match_threshold: as in `unimatrix.ops.slot_memory`.
        pointer: whether the weights vote for token ids too (`vote`), and a pointer gate weighs the votes.
        write_gate: whether a gate decides what is written; without it every token is.
        write_gate_bias: where that gate's bias starts.
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
        write_gate_bias: float = 0.0,
        backend: Backend = "auto",
    ) -> None:
        super().__init__()
        self.num_slots = num_slots
        self.top_k = top_k
        self.match_threshold = match_threshold
        self.write_gate_bias = write_gate_bias
        self.backend = BackendChoice(backend)
        self.norm = nn.LayerNorm(d_model)
        self.qkv = nn.Linear(d_model, 3 * width, bias=False)
        self.out = nn.Linear(width, d_model, bias=False)
        self.write_gate = nn.Linear(d_model, 1) if write_gate else None
        self.pointer_gate = nn.Linear(d_model, 1) if pointer else None

    def draw_last(self) -> None:
        if self.write_gate is not None:
            nn.init.constant_(self.write_gate.bias, self.write_gate_bias)

    def give(self, x: Stream, state: Any, at: Reading, given: Given) -> tuple[Given, Any]:
        recalled, state = self(at.tokens, at.ids, state, mask=at.mask, starts=at.starts)
        # the votes need no more of what was read than the weights and the ids
        votes = None if self.pointer_gate is None else (recalled.reads.weights, recalled.reads.token_ids)
        return Given(add=recalled.context, votes=votes, seen=recalled), state

    def vote(self, logits: Tensor, hidden: Stream, votes: Any) -> Tensor:
        assert self.pointer_gate is not None
        weights, token_ids = votes
        return logits + pointer_votes(self.pointer_gate, hidden, weights, token_ids, logits.shape[-1])

    def state_layout(self) -> Any:
        slots, width = self.num_slots, self.out.in_features
        vectors, ids, ages = (
            kept((slots, width), "sums"),
            kept((slots,), torch.int64, ids=True),
            kept((slots,), torch.int64),
        )
        held = SlotMemoryState(vectors, vectors, ids, kept((slots,), "sums"), ages)
        return SlotMemoryMixerState(held, previous_layout(width))

    def forward(
        self,
        x: Stream,
        input_ids: TokenIds,
        state: SlotMemoryMixerState | None = None,
        *,
        mask: TokenMask | None = None,
        starts: Tensor | None = None,
    ) -> tuple[Recalled, SlotMemoryMixerState]:
        """Token embeddings [B, T, D] and their ids [B, T] to what the memory gives, and the next state."""
        u = self.norm(x)
        query, key, value = self.qkv(u).chunk(3, dim=-1)
        carry = none_before(key) if state is None else state.previous
        key, present, carry = shift(key, carry, mask, starts)
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
            starts=starts,
            backend=self.backend,
        )
        recalled = Recalled(self.out(reads.context), reads, strength)
        return recalled, SlotMemoryMixerState(slots, carry)


@dataclass(frozen=True, kw_only=True, slots=True)
class SlotMemoryConfig(PartConfig):
    """A few slots of exact bindings, read into the stream and, as a pointer, into the logits.

    write_gate_bias: logit at which the write gate starts: 4 writes everything at first, 0 about half of it.
    """

    kind: ClassVar[str] = "slots"
    ops: ClassVar[tuple[str, ...]] = ("slot_memory",)
    role: ClassVar[Role] = "model"
    documents: ClassVar[bool] = True
    reads: ClassVar[frozenset[str]] = frozenset({"ids"})
    gives: ClassVar[frozenset[str]] = frozenset({"add", "votes", "seen"})
    num_slots: int = 32
    top_k: int | None = None
    width: int = 16
    match_threshold: float = 0.99
    pointer: bool = True
    write_gate: bool = True
    write_gate_bias: float = 4.0
    backend: Backend = "auto"

    def __post_init__(self) -> None:
        check_types(self)
        check_counts(self, "num_slots", "width")
        if self.top_k is not None and not 1 <= self.top_k <= self.num_slots:
            raise UserError(f"top_k: expected 1 to num_slots = {self.num_slots}, got {self.top_k}")
        if not -1.0 <= self.match_threshold < 1.0:
            raise UserError(f"match_threshold: expected a cosine in [-1, 1), got {self.match_threshold}")
        if not abs(self.write_gate_bias) <= _LARGEST_LOGIT:
            raise UserError(
                f"write_gate_bias: expected a logit of at most {_LARGEST_LOGIT:g}, got {self.write_gate_bias}"
            )

    def build(self, size: Size) -> SlotMemory:
        return SlotMemory(
            size.d_model,
            num_slots=self.num_slots,
            top_k=self.top_k,
            width=self.width,
            match_threshold=self.match_threshold,
            pointer=self.pointer,
            write_gate=self.write_gate,
            write_gate_bias=self.write_gate_bias,
            backend=self.backend,
        )

    def multiply_adds(self, size: Size, length: int) -> int:
        # a cosine and a score for every slot, a weighted value for those that are read
        return length * (2 * self.num_slots + (self.top_k or self.num_slots)) * self.width
