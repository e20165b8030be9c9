"""The exact routing path (ROSA): a token is pointed to what followed where its longest suffix occurred last.

What is pointed at is routed into the stream, by the weights of the paper's stub (`unimatrix.mixers.routing`);
or votes on the logits; or both. A vote is a logistic mixture, as in the PAQ compressors: the pointed-at token
c, to which the model itself gives p, is in the end given

    logit p' = w_0 + w_1 logit r_b + w_2 logit p,     r_b = (hits_b + K pi_b) / (times_b + K)

r_b is how often a match of this length (in bucket b) was right so far in this text, counted as it is read,
and pi_b what is expected of it before. w and pi are learned. The other tokens share the rest as before.

Letters: B batch, T time, D model width, V vocabulary, N buckets.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimatrix.data.settings import check_types
from unimatrix.errors import UserError
from unimatrix.mixers.documents import document_ids, last_start
from unimatrix.mixers.layout import kept
from unimatrix.mixers.part import Given, Part, Reading, Role, Size
from unimatrix.mixers.previous import Previous, shift
from unimatrix.mixers.registry import PartConfig
from unimatrix.ops import BackendChoice, SuffixAutomatonState, SuffixMatch, suffix_automaton
from unimatrix.ops.shapes import Stream, TokenIds, TokenMask, accumulation_dtype
from unimatrix.ops.suffix_automaton import MOST_TOKENS, NONE, REGISTERS

# the shortest match of each bucket, and how often one is right in a text of some length: of Python's sources
# and of WikiText-2, between the two (docs/log.md)
BUCKETS = (1, 2, 3, 4, 5, 6, 7, 9, 13, 17, 25, 33, 49, 65)
EXPECTED = (0.15, 0.3, 0.45, 0.55, 0.6, 0.65, 0.7, 0.75, 0.75, 0.8, 0.85, 0.9, 0.95, 0.97)
STRENGTH = 2.0  # K: the expectation counts as so many matches
WEIGHTS = (1.0, 0.9, 0.5)  # w at first


class SuffixVoteState(NamedTuple):
    """How the matches of this text have done."""

    counts: Tensor  # [B, N, 2] int64, times and hits
    pointed: Previous  # [B, 2] int64, of the newest token: what it was pointed at, and the bucket


class SuffixRoutingState(NamedTuple):
    """All that was read, and how its matches have done where they vote."""

    read: SuffixAutomatonState
    vote: SuffixVoteState | None


class SuffixVotes(NamedTuple):
    """What each position votes for."""

    token: Tensor  # [B, T] int64, -1 for none
    evidence: Tensor  # [B, T], logit r_b


class SuffixMixture(nn.Module):
    """How much a vote counts, beside the model and by what such votes were worth so far."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.empty(len(WEIGHTS)))  # w
        self.expected = nn.Parameter(torch.empty(len(BUCKETS)))  # logit pi
        self.init_weights()

    @torch.no_grad()
    def init_weights(self, std: float = 0.0) -> None:
        self.weights.copy_(torch.tensor(WEIGHTS, device="cpu"))
        self.expected.copy_(torch.tensor(EXPECTED, device="cpu").logit())

    def evidence(self, counts: Tensor, bucket: Tensor) -> Tensor:
        """logit r_b [B, T] of counts [B, T, 2], the times and hits of each position's own bucket [B, T]."""
        expected = self.expected.to(accumulation_dtype(self.expected.dtype))[bucket]
        times, hits = counts.clamp_min(0).to(expected.dtype).unbind(-1)
        hits = hits.minimum(times)  # whatever a file says
        right = hits + STRENGTH * torch.sigmoid(expected)
        wrong = times - hits + STRENGTH * torch.sigmoid(-expected)
        return right.log() - wrong.log()

    def forward(self, logits: Tensor, votes: SuffixVotes) -> Tensor:
        """The logits [..., V] in which the token that is voted for has its new share."""
        scores = logits.to(accumulation_dtype(logits.dtype))
        chosen = votes.token.clamp_min(0)[..., None]
        own = scores.gather(-1, chosen)
        others = scores.scatter(-1, chosen, -torch.inf).logsumexp(-1, keepdim=True)
        bias, by_evidence, by_model = self.weights.to(scores.dtype)
        wanted = bias + by_evidence * votes.evidence[..., None] + by_model * (own - others)
        voted = torch.where(votes.token[..., None] != NONE, others + wanted, own)
        return scores.scatter(-1, chosen, voted).to(logits.dtype)


class SuffixRouting(Part):
    """An exact suffix automaton over the token ids, routed into the stream, or voting, or both.

    Args:
        route: whether the pointed-at token's embedding (a table of its own, V x D), then Linear(D, D) with
            bias, joins the readouts, exactly zero where nothing is pointed at.
        vote: whether it votes on the logits.
        capacity: of how many of the newest tokens the automaton knows at most; None is all.
    """

    def __init__(
        self,
        vocab_size: int,
        d_model: int,
        *,
        route: bool = True,
        vote: bool = False,
        capacity: int | None = None,
    ) -> None:
        super().__init__()
        self.capacity = capacity
        # no setting of a part: the other form is the definition, too slow for any model
        self.backend = BackendChoice()
        self.table = nn.Embedding(vocab_size, d_model) if route else None
        self.project = nn.Linear(d_model, d_model) if route else None
        self.mixture = SuffixMixture() if vote else None

    def give(self, x: Stream, state: Any, at: Reading, given: Given) -> tuple[Given, Any]:
        assert at.ids is not None
        context, votes, state = self(at.ids, state, mask=at.mask, starts=at.starts)
        return Given(context=context, votes=votes), state

    def state_layout(self) -> Any:
        whole = torch.int64
        read = SuffixAutomatonState(
            kept((), whole, host=True),
            kept((REGISTERS,), whole, host=True),
            kept((None,), torch.int32, host=True),
        )
        if self.mixture is None:
            return SuffixRoutingState(read, None)
        pointed: Any = Previous(kept((2,), whole), kept((), torch.bool))
        return SuffixRoutingState(read, SuffixVoteState(kept((len(BUCKETS), 2), whole), pointed))

    def forward(
        self,
        input_ids: TokenIds,
        state: SuffixRoutingState | None = None,
        *,
        mask: TokenMask | None = None,
        starts: Tensor | None = None,
    ) -> tuple[Stream | None, SuffixVotes | None, SuffixRoutingState]:
        """What joins the stream [B, T, D] and what votes, of ids [B, T]; None without such a way."""
        match, read = suffix_automaton(
            input_ids,
            None if state is None else state.read,
            mask=mask,
            starts=starts,
            capacity=self.capacity,
            backend=self.backend,
        )
        context = votes = counted = None
        if self.table is not None and self.project is not None:
            context = self.project(self.table(match.token.clamp_min(0)))
            context = context * (match.token != NONE)[..., None].to(context.dtype)
        if self.mixture is not None:
            before = None if state is None else state.vote
            bucket = torch.bucketize(match.length, _of(BUCKETS, input_ids), right=True) - 1
            counts, counted = count_hits(input_ids, match, bucket, before, mask, starts)
            votes = SuffixVotes(match.token, self.mixture.evidence(counts, bucket.clamp_min(0)))
        return context, votes, SuffixRoutingState(read, counted)

    def vote(self, logits: Tensor, hidden: Stream, votes: Any) -> Tensor:
        assert self.mixture is not None
        return self.mixture(logits, SuffixVotes(*votes))


def count_hits(
    ids: TokenIds,
    match: SuffixMatch,
    bucket: Tensor,
    state: SuffixVoteState | None,
    mask: TokenMask | None,
    starts: Tensor | None,
) -> tuple[Tensor, SuffixVoteState]:
    """How matches of each position's bucket have done in its document, with what the position itself tells.

    Args:
        bucket: [B, T] int64, -1 where there is no match.
    Returns:
        [B, T, 2] int64, times and hits; the next state.
    """
    batch, length = ids.shape
    pointed = torch.stack([match.token, bucket], dim=-1)  # [B, T, 2]
    if state is None:
        counts = ids.new_zeros(batch, len(BUCKETS), 2)
        state = SuffixVoteState(
            counts, Previous(ids.new_zeros(batch, 2), ids.new_zeros(batch, dtype=torch.bool))
        )
    before, present, carry = shift(pointed, state.pointed, mask, starts)
    foretold, of = before.unbind(-1)
    counted = present & (foretold != NONE)
    if mask is not None:
        counted = counted & mask
    hit = counted & (foretold == ids)
    # within the buckets whatever a state says
    each = (
        F.one_hot(of.clamp(0, len(BUCKETS) - 1), len(BUCKETS))[..., None]
        * torch.stack([counted, hit], -1)[:, :, None]
    )
    total = F.pad(each.cumsum(1), (0, 0, 0, 0, 1, 0))  # [B, T + 1, N, 2], before each position and at the end
    carried = state.counts[:, None]
    if starts is not None:
        first = last_start(starts).clamp_min(0)
        total = total - F.pad(_at(total, first), (0, 0, 0, 0, 1, 0))
        carried = carried * F.pad(document_ids(starts) == 0, (1, 0), value=True)[..., None, None]
    total = total + carried
    own = bucket.clamp_min(0)[..., None, None].expand(batch, length, 1, 2)
    return total[:, 1:].gather(2, own)[:, :, 0], SuffixVoteState(total[:, -1].clone(), carry)


def _at(total: Tensor, index: Tensor) -> Tensor:
    """total [B, T + 1, N, 2] at places [B, T]."""
    return total.gather(1, index[..., None, None].expand(*index.shape, *total.shape[2:]))


def _of(numbers: tuple[int, ...], like: Tensor) -> Tensor:
    return torch.tensor(numbers, dtype=torch.int64, device=like.device)


@dataclass(frozen=True, kw_only=True, slots=True)
class SuffixConfig(PartConfig):
    """What the parts that follow the longest suffix have in common.

    capacity: of how many of the newest tokens it knows at most, which bounds its state; None: of all.
    """

    ops: ClassVar[tuple[str, ...]] = ("suffix_automaton",)
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


@dataclass(frozen=True, kw_only=True, slots=True)
class SuffixVotesConfig(SuffixConfig):
    """Votes for what followed where the longest suffix occurred before, for any model."""

    kind: ClassVar[str] = "suffix_votes"
    gives: ClassVar[frozenset[str]] = frozenset({"votes"})

    def build(self, size: Size) -> SuffixRouting:
        return SuffixRouting(size.vocab_size, size.d_model, route=False, vote=True, capacity=self.capacity)


@dataclass(frozen=True, kw_only=True, slots=True)
class SuffixRoutingConfig(SuffixConfig):
    """What followed where the longest suffix occurred before: exact, over the whole text.

    It joins the readouts; vote: and votes on the logits.
    """

    kind: ClassVar[str] = "suffix_automaton"
    gives: ClassVar[frozenset[str]] = frozenset({"context", "votes"})
    vote: bool = False

    def build(self, size: Size) -> SuffixRouting:
        return SuffixRouting(size.vocab_size, size.d_model, vote=self.vote, capacity=self.capacity)
