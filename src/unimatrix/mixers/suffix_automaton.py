"""The exact routing path (ROSA): a token is pointed to what followed where its longest suffix occurred last.

What is pointed at is routed into the stream, by the weights of the paper's stub (`unimatrix.mixers.routing`);
or votes on the logits; or both. A vote is a logistic mixture, as in the PAQ compressors: the pointed-at token
c, to which the model itself gives p, is in the end given

    logit p' = w_0 + w_1 logit r_b + w_2 logit p,     r_b = (hits_b + K pi_b) / (times_b + K)

r_b is how often a match of this length (in bucket b) was right so far in this text, counted as it is read,
and pi_b what is expected of it before. w and pi are learned; with a gate w_0 is w_0 + a . h, h the stream
behind the last norm and a zeros at first. The other tokens share the rest as before.

Letters: B batch, T time, D model width, V vocabulary, N buckets.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from unimatrix.mixers.kept_text import (
    STRENGTH,
    HitState,
    KeptTextConfig,
    count_hits,
    hits_layout,
    log_odds,
    store_layout,
)
from unimatrix.mixers.part import Given, Part, Reading, Size
from unimatrix.ops import BackendChoice, TokenStoreState, suffix_automaton
from unimatrix.ops.shapes import Stream, TokenIds, TokenMask, accumulation_dtype
from unimatrix.ops.token_store import NONE
from unimatrix.ops.token_store.votes import mixes_here, vote_mixed

# the shortest match of each bucket, and how often one is right in a text of some length: of Python's sources
# and of WikiText-2, between the two (docs/log.md)
BUCKETS = (1, 2, 3, 4, 5, 6, 7, 9, 13, 17, 25, 33, 49, 65)
EXPECTED = (0.15, 0.3, 0.45, 0.55, 0.6, 0.65, 0.7, 0.75, 0.75, 0.8, 0.85, 0.9, 0.95, 0.97)
WEIGHTS = (1.0, 0.9, 0.5)  # w at first


class SuffixRoutingState(NamedTuple):
    """All that was read, and how its matches have done where they vote."""

    read: TokenStoreState
    vote: HitState | None


class SuffixVotes(NamedTuple):
    """What each position votes for."""

    token: Tensor  # [B, T] int64, -1 for none
    bucket: Tensor  # [B, T] int64, of its match's length; anything for none
    counts: Tensor  # [B, T, 2] int64, times and hits of that bucket so far


class SuffixMixture(nn.Module):
    """How much a vote counts, beside the model and by what such votes were worth so far.

    gate: the stream's width, where a vote counts the more or less for what the stream holds; None: no gate.
    """

    def __init__(self, gate: int | None = None) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.empty(len(WEIGHTS)))  # w
        self.expected = nn.Parameter(torch.empty(len(BUCKETS)))  # logit pi
        self.gate = None if gate is None else nn.Linear(gate, 1, bias=False)  # a
        self.init_weights()

    @torch.no_grad()
    def init_weights(self, std: float = 0.0) -> None:
        if self.gate is not None:
            self.gate.weight.zero_()
        self.weights.copy_(torch.tensor(WEIGHTS, device="cpu"))
        self.expected.copy_(torch.tensor(EXPECTED, device="cpu").logit())

    def evidence(self, votes: SuffixVotes) -> Tensor:
        """logit r_b [...] of each position."""
        expected = self.expected.to(accumulation_dtype(self.expected.dtype))
        return log_odds(votes.counts, expected[votes.bucket.clamp_min(0)])

    def forward(self, logits: Tensor, votes: SuffixVotes, hidden: Stream) -> Tensor:
        """The logits [..., V] in which the token that is voted for has its new share; hidden [..., D].

        All weights are read here, within the module's own call: wrappers bring them for it alone.
        """
        if logits.shape[-1] == 1:
            return logits  # the one token has all, and there are no others to share
        gate = None if self.gate is None else self.gate(hidden)
        if mixes_here(logits):
            mixed = vote_mixed(logits, *votes, self.expected, self.weights, gate, STRENGTH)
            if mixed is not None:
                return mixed
        scores = logits.to(accumulation_dtype(logits.dtype))
        chosen = votes.token.clamp_min(0)[..., None]
        own = scores.gather(-1, chosen)
        others = scores.scatter(-1, chosen, -torch.inf).logsumexp(-1, keepdim=True)
        bias, by_evidence, by_model = self.weights.to(scores.dtype)
        evidence = self.evidence(votes)[..., None].to(scores.dtype)
        # a head of classes gives other tokens no chance, and no vote can: -inf would be NaN in the gradients
        possible = own.isfinite()
        wanted = bias + by_evidence * evidence + by_model * torch.where(possible, own - others, 0.0)
        if gate is not None:
            wanted = wanted + gate.to(scores.dtype)
        voted = torch.where((votes.token[..., None] != NONE) & possible, others + wanted, own)
        return scores.scatter(-1, chosen, voted).to(logits.dtype)


class SuffixRouting(Part):
    """An exact suffix automaton over the token ids, routed into the stream, or voting, or both.

    Args:
        route: whether the pointed-at token's embedding (a table of its own, V x D), then Linear(D, D) with
            bias, joins the readouts, exactly zero where nothing is pointed at.
        vote: whether it votes on the logits. gate: whether a gate of the stream weighs the votes.
        capacity: of how many of the newest tokens the automaton knows at most; None is all.
    """

    def __init__(
        self,
        vocab_size: int,
        d_model: int,
        *,
        route: bool = True,
        vote: bool = False,
        gate: bool = False,
        capacity: int | None = None,
    ) -> None:
        super().__init__()
        self.capacity = capacity
        # no setting of a part: the other form is the definition, too slow for any model
        self.backend = BackendChoice()
        self.table = nn.Embedding(vocab_size, d_model) if route else None
        self.project = nn.Linear(d_model, d_model) if route else None
        self.mixture = SuffixMixture(d_model if gate else None) if vote else None

    def give(self, x: Stream, state: Any, at: Reading, given: Given) -> tuple[Given, Any]:
        assert at.ids is not None
        context, votes, state = self(at.ids, state, mask=at.mask, starts=at.starts)
        return Given(context=context, votes=votes), state

    def state_layout(self) -> Any:
        return SuffixRoutingState(
            store_layout(), None if self.mixture is None else hits_layout(len(BUCKETS), guesses=1)
        )

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
            bucket = (
                torch.bucketize(match.length, torch.tensor(BUCKETS, device=input_ids.device), right=True) - 1
            )
            one = (match.token[..., None], bucket[..., None])
            counts, counted = count_hits(input_ids, *one, len(BUCKETS), before, mask, starts)
            votes = SuffixVotes(match.token, bucket, counts[:, :, 0])
        return context, votes, SuffixRoutingState(read, counted)

    def vote(self, logits: Tensor, hidden: Stream, votes: Any) -> Tensor:
        assert self.mixture is not None
        return self.mixture(logits, SuffixVotes(*votes), hidden)


@dataclass(frozen=True, kw_only=True, slots=True)
class SuffixVotesConfig(KeptTextConfig):
    """Votes for what followed where the longest suffix occurred before, for any model.

    gate: whether what the stream holds decides, too, how much a vote counts: it may learn where to look up.
    """

    kind: ClassVar[str] = "suffix_votes"
    gives: ClassVar[frozenset[str]] = frozenset({"votes"})
    gate: bool = False

    def build(self, size: Size) -> SuffixRouting:
        kept = {"gate": self.gate, "capacity": self.capacity}
        return SuffixRouting(size.vocab_size, size.d_model, route=False, vote=True, **kept)


@dataclass(frozen=True, kw_only=True, slots=True)
class SuffixRoutingConfig(KeptTextConfig):
    """What followed where the longest suffix occurred before: exact, over the whole text.

    It joins the readouts; vote: and votes on the logits.
    """

    kind: ClassVar[str] = "suffix_automaton"
    gives: ClassVar[frozenset[str]] = frozenset({"context", "votes"})
    vote: bool = False

    def build(self, size: Size) -> SuffixRouting:
        return SuffixRouting(size.vocab_size, size.d_model, vote=self.vote, capacity=self.capacity)
