"""What the parts that keep the text they read have in common: settings, state, how their guesses did.

A guess is a token that may come next, made for a reason that falls into one of N buckets. How often the
guesses of a bucket were right in this text is counted as it is read, and is what the next ones are worth:

    logit r_b,     r_b = (hits_b + K pi_b) / (times_b + K)

pi_b is what is expected of the bucket before anything was counted.

Letters: B batch, T time, E guesses of a position, N buckets.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from unimatrix.data.settings import check_types
from unimatrix.errors import UserError
from unimatrix.mixers.documents import last_start
from unimatrix.mixers.layout import kept
from unimatrix.mixers.part import Role
from unimatrix.mixers.previous import Previous, shift
from unimatrix.mixers.registry import PartConfig
from unimatrix.ops.shapes import TokenIds, TokenMask
from unimatrix.ops.token_store import MOST_TOKENS, NONE, REGISTERS, TokenStoreState
from unimatrix.ops.token_store.votes import hits_counted
from unimatrix.ops.windows import document_ids

STRENGTH = 2.0  # K: the expectation counts as so many guesses


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptTextConfig(PartConfig):
    """What the parts that keep the text have in common.

    capacity: how many of the newest tokens it knows at most, which bounds its state; None: all.
    """

    ops: ClassVar[tuple[str, ...]] = ("suffix_automaton", "token_store")
    role: ClassVar[Role] = "model"
    documents: ClassVar[bool] = True
    grows: ClassVar[bool] = True
    appends: ClassVar[bool] = True
    reads: ClassVar[frozenset[str]] = frozenset({"ids"})
    capacity: int | None = None

    def __post_init__(self) -> None:
        check_types(self)
        if self.capacity is not None and not 2 <= self.capacity <= MOST_TOKENS:
            raise UserError(f"capacity: expected 2 to {MOST_TOKENS} tokens, got {self.capacity}")


class HitState(NamedTuple):
    """How the guesses of this text have done."""

    counts: Tensor  # [B, N, 2] int64, times and hits
    pointed: Previous  # [B, 2 E] int64, of the newest token: its guesses, and their buckets


def store_layout() -> Any:
    """Of what an op keeps of the text, see `unimatrix.mixers.layout`."""
    whole = torch.int64
    return TokenStoreState(
        kept((), whole, host=True),
        kept((REGISTERS,), whole, host=True),
        kept((None,), torch.int32, host=True),
    )


def hits_layout(buckets: int, *, guesses: int) -> Any:
    """Of what is counted, with so many guesses for each position."""
    pointed: Any = Previous(kept((2 * guesses,), torch.int64), kept((), torch.bool))
    return HitState(kept((buckets, 2), torch.int64), pointed)


def log_odds(counts: Tensor, expected: Tensor) -> Tensor:
    """logit r_b [...] of counts [..., 2] and logit pi_b [...]."""
    times, hits = counts.clamp_min(0).to(expected.dtype).unbind(-1)
    hits = hits.minimum(times)  # whatever a file says
    right = hits + STRENGTH * torch.sigmoid(expected)
    wrong = times - hits + STRENGTH * torch.sigmoid(-expected)
    return right.log() - wrong.log()


def count_hits(
    ids: TokenIds,
    guesses: Tensor,
    buckets: Tensor,
    num_buckets: int,
    state: HitState | None,
    mask: TokenMask | None,
    starts: Tensor | None,
) -> tuple[Tensor, HitState]:
    """How the guesses of each position's buckets have done in its document, with what its token tells.

    Args:
        guesses: [B, T, E] int64 of what comes next, -1 for none. buckets: [B, T, E] int64, anything for none.
    Returns:
        [B, T, E, 2] int64, times and hits; the next state.
    """
    batch, length, each = guesses.shape
    if state is None:
        before = Previous(ids.new_zeros(batch, 2 * each), ids.new_zeros(batch, dtype=torch.bool))
        state = HitState(ids.new_zeros(batch, num_buckets, 2), before)
    counted = hits_counted(ids, guesses, buckets, state.counts, *state.pointed, mask, starts, num_buckets)
    if counted is not None:
        own, counts, *newest = counted
        return own, HitState(counts, Previous(*newest))
    pointed = torch.cat([guesses, buckets], dim=-1)  # [B, T, 2 E]
    newest, present, carry = shift(pointed, state.pointed, mask, starts)
    foretold, of = newest.split(each, dim=-1)
    counted = present[..., None] & (foretold != NONE)
    if mask is not None:
        counted = counted & mask[..., None]
    hit = counted & (foretold == ids[..., None])
    # within the buckets whatever a state says
    place = of.clamp(0, num_buckets - 1)[..., None].expand(batch, length, each, 2)
    both = torch.stack([counted, hit], -1).to(torch.int64)
    told = ids.new_zeros(batch, length, num_buckets, 2).scatter_add(2, place, both)
    total = F.pad(told.cumsum(1), (0, 0, 0, 0, 1, 0))  # [B, T + 1, N, 2], before each position and at the end
    carried = state.counts[:, None]
    if starts is not None:
        first = last_start(starts).clamp_min(0)
        total = total - F.pad(_at(total, first), (0, 0, 0, 0, 1, 0))
        carried = carried * F.pad(document_ids(starts) == 0, (1, 0), value=True)[..., None, None]
    total = total + carried
    own = buckets.clamp(0, num_buckets - 1)[..., None].expand(batch, length, each, 2)
    return total[:, 1:].gather(2, own), HitState(total[:, -1].clone(), carry)


def _at(total: Tensor, index: Tensor) -> Tensor:
    """total [B, T + 1, N, 2] at places [B, T]."""
    return total.gather(1, index[..., None, None].expand(*index.shape, *total.shape[2:]))
