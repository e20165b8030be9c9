"""Votes for what followed the newest tokens where they stood before: several orders, several tokens each.

For each of its orders o a position has the k tokens that followed its newest o tokens last
(`unimatrix.ops.context_continuations`). The different ones among them are its guesses, and the bucket b of a
guess is the order and which of the k it is: a token that followed all four times is another matter than one
that followed once, four times ago. Every guess adds to its token's logit,

    logit'_c = logit_c + sum over the guesses of c: w_0o + w_1o logit r_b

where r_b is how often guesses of that bucket were right so far in this text (`unimatrix.mixers.kept_text`).
w, and what is expected of a bucket before, are learned.

Letters: B batch, T time, V vocabulary, O orders, K continuations, E guesses of a position, N buckets.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from unimatrix.errors import UserError
from unimatrix.mixers.kept_text import (
    HitState,
    KeptTextConfig,
    count_hits,
    hits_layout,
    log_odds,
    store_layout,
)
from unimatrix.mixers.part import Given, Part, Reading, Size
from unimatrix.ops import BackendChoice, TokenStoreState, context_continuations
from unimatrix.ops.context_continuations import check_orders
from unimatrix.ops.shapes import Stream, TokenIds, TokenMask, accumulation_dtype
from unimatrix.ops.token_store import NONE

MOST_CONTINUATIONS = 6  # beyond, buckets are too many to be counted: 2^(k + 1) - k - 2 for each order
WEIGHTS = (0.6, 0.2)  # w_0o, w_1o at first: between what Python's sources and WikiText-2 want (docs/log.md)
# of a token that followed h times of n, (h - MISSED) / n is expected at first: of both texts, about
MISSED = 0.35


class ContextVotesState(NamedTuple):
    """All that was read, and how its guesses have done."""

    read: TokenStoreState
    hits: HitState


class ContextGuesses(NamedTuple):
    """What each position votes for."""

    token: Tensor  # [B, T, E] int64, -1 for none
    added: Tensor  # [B, T, E], w_0o + w_1o logit r_b


class ContextVotes(Part):
    """Votes on the logits for the newest continuations of the newest tokens, at several orders.

    Args:
        orders: how many tokens each context has. continuations: how many of what followed it are asked.
        capacity: of how many of the newest tokens it knows at most; None is all.
    """

    def __init__(
        self,
        *,
        orders: tuple[int, ...] = (2, 3, 4, 6),
        continuations: int = 4,
        capacity: int | None = None,
    ) -> None:
        super().__init__()
        self.orders, self.continuations, self.capacity = orders, continuations, capacity
        # no setting of a part: the other form is the definition, too slow for any model
        self.backend = BackendChoice()
        self.weights = nn.Parameter(torch.empty(len(orders), len(WEIGHTS)))  # w
        self.expected = nn.Parameter(torch.empty(len(orders), num_patterns(continuations)))  # logit pi
        self.init_weights()

    @torch.no_grad()
    def init_weights(self, std: float = 0.0) -> None:
        self.weights.copy_(torch.tensor(WEIGHTS, device="cpu"))
        expected = [0.0] * num_patterns(self.continuations)
        for n in range(1, self.continuations + 1):
            for which in range(1, 2**n):
                expected[_pattern(which, 2**n - 1, n)] = (which.bit_count() - MISSED) / n
        self.expected.copy_(torch.tensor(expected, dtype=torch.float64, device="cpu").logit())

    def give(self, x: Stream, state: Any, at: Reading, given: Given) -> tuple[Given, Any]:
        assert at.ids is not None
        votes, state = self(at.ids, state, mask=at.mask, starts=at.starts)
        return Given(votes=votes), state

    def state_layout(self) -> Any:
        guesses = len(self.orders) * self.continuations
        return ContextVotesState(store_layout(), hits_layout(self.expected.numel(), guesses=guesses))

    def forward(
        self,
        input_ids: TokenIds,
        state: ContextVotesState | None = None,
        *,
        mask: TokenMask | None = None,
        starts: Tensor | None = None,
    ) -> tuple[ContextGuesses, ContextVotesState]:
        """What votes, of ids [B, T]."""
        found, read = context_continuations(
            input_ids,
            None if state is None else state.read,
            orders=self.orders,
            continuations=self.continuations,
            mask=mask,
            starts=starts,
            capacity=self.capacity,
            backend=self.backend,
        )
        token, bucket = guesses_of(found)
        counts, hits = count_hits(
            input_ids,
            token,
            bucket,
            self.expected.numel(),
            None if state is None else state.hits,
            mask,
            starts,
        )
        expected = self.expected.to(accumulation_dtype(self.expected.dtype)).flatten()
        evidence = log_odds(counts, expected[bucket])
        # here, within the module's own call, which is what wrappers bring its weights for
        weights = self.weights.to(evidence.dtype).repeat_interleave(self.continuations, dim=0)  # [E, 2]
        added = weights[:, 0] + weights[:, 1] * evidence
        return ContextGuesses(token, added), ContextVotesState(read, hits)

    def vote(self, logits: Tensor, hidden: Stream, votes: Any) -> Tensor:
        """The logits [..., V] with what the guesses [..., E] add."""
        token, added = votes
        scores = logits.to(accumulation_dtype(logits.dtype))
        more = torch.where(token != NONE, added.to(scores.dtype), 0.0)
        return scores.scatter_add(-1, token.clamp_min(0), more).to(logits.dtype)


def num_patterns(continuations: int) -> int:
    """Of how many kinds a guess may be: which of n tokens it is, for n up to so many."""
    return 2 ** (continuations + 1) - continuations - 2


def _pattern(which: Any, all_of_them: Any, n: Any) -> Any:
    """A number from 0 on, of numbers or tensors; which: a bit for each of the n that it is."""
    return which + all_of_them - 1 - n


def guesses_of(found: Tensor) -> tuple[Tensor, Tensor]:
    """The different tokens among the continuations [B, T, O, K], where each stands first, and their buckets.

    [B, T, O K] int64 each; -1 and 0 for none.
    """
    orders, continuations = found.shape[2:]
    there = found != NONE
    same = (found[..., :, None] == found[..., None, :]) & there[..., None, :]  # [B, T, O, K, K]
    first = there & ~same.tril(-1).any(-1)
    bits = 2 ** torch.arange(continuations, device=found.device)
    which, all_of_them = (same * bits).sum(-1), (there * bits).sum(-1, keepdim=True)
    pattern = _pattern(which, all_of_them, there.sum(-1, keepdim=True))
    begins = num_patterns(continuations) * torch.arange(orders, device=found.device)[:, None]
    token = torch.where(first, found, NONE)
    return token.flatten(2), torch.where(first, begins + pattern, 0).flatten(2)


@dataclass(frozen=True, kw_only=True, slots=True)
class ContextVotesConfig(KeptTextConfig):
    """Votes for the newest continuations of the newest tokens, for any model; beside `suffix_votes` too.

    orders: how many tokens each context has, rising. continuations: how many of what followed it vote.
    """

    kind: ClassVar[str] = "context_votes"
    ops: ClassVar[tuple[str, ...]] = ("context_continuations", "token_store")
    gives: ClassVar[frozenset[str]] = frozenset({"votes"})
    orders: tuple[int, ...] = (2, 3, 4, 6)
    continuations: int = 4

    def __post_init__(self) -> None:
        super(ContextVotesConfig, self).__post_init__()
        check_orders(self.orders)
        if not 1 <= self.continuations <= MOST_CONTINUATIONS:
            raise UserError(f"continuations: expected 1 to {MOST_CONTINUATIONS}, got {self.continuations}")

    def build(self, size: Size) -> ContextVotes:
        return ContextVotes(orders=self.orders, continuations=self.continuations, capacity=self.capacity)
