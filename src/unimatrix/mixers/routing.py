"""The residual routing path (ROSA): which earlier token a position is pointed to, and what it contributes.

The paper's code routes the previous token, a stub it says so itself of; that is what stands here. A suffix
automaton answers the same question (`route`) better, with the same weights.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from unimatrix.mixers.layout import kept
from unimatrix.mixers.part import Given, Part, Reading, Role, Size
from unimatrix.mixers.previous import follows, newest_real
from unimatrix.mixers.registry import PartConfig
from unimatrix.ops.shapes import Stream, TokenIds, TokenMask

NO_TOKEN = -1  # "no match": contributes zero


class RoutingState(NamedTuple):
    """What the next position may be pointed to."""

    last_token: Tensor  # [B] int64, NO_TOKEN before the first


class PreviousTokenRouting(Part):
    """Embedding of the routed token (a table of its own, V x D), then Linear(D, D) with bias."""

    def __init__(self, vocab_size: int, d_model: int) -> None:
        super().__init__()
        self.table = nn.Embedding(vocab_size, d_model)
        self.project = nn.Linear(d_model, d_model)

    def give(self, x: Stream, state: Any, at: Reading, given: Given) -> tuple[Given, Any]:
        context, state = self(at.ids, state, mask=at.mask, starts=at.starts)
        return Given(context=context), state

    def state_layout(self) -> Any:
        return RoutingState(kept((), torch.int64, ids=True))

    def forward(
        self,
        input_ids: TokenIds,
        state: RoutingState | None = None,
        *,
        mask: TokenMask | None = None,
        starts: Tensor | None = None,
    ) -> tuple[Stream, RoutingState]:
        """The context [B, T, D] for input_ids [B, T]; exactly zero where no token is routed."""
        routed, state = route_previous_token(input_ids, state, mask, starts)
        found = routed != NO_TOKEN
        context = self.project(self.table(routed.clamp_min(0)))
        return context * found[..., None].to(context.dtype), state


@dataclass(frozen=True, kw_only=True, slots=True)
class PreviousTokenRoutingConfig(PartConfig):
    """The paper's ROSA stub: the routed token is the previous one."""

    kind: ClassVar[str] = "previous_token"
    role: ClassVar[Role] = "model"
    documents: ClassVar[bool] = True
    reads: ClassVar[frozenset[str]] = frozenset({"ids"})
    gives: ClassVar[frozenset[str]] = frozenset({"context"})

    def build(self, size: Size) -> PreviousTokenRouting:
        return PreviousTokenRouting(size.vocab_size, size.d_model)


def route_previous_token(
    input_ids: TokenIds, state: RoutingState | None, mask: TokenMask | None, starts: Tensor | None = None
) -> tuple[TokenIds, RoutingState]:
    """The last real token before each position, NO_TOKEN where there is none; [B, T] and the next state."""
    last = input_ids.new_full((input_ids.shape[0],), NO_TOKEN) if state is None else state.last_token
    with_last = torch.cat([last[:, None], input_ids], dim=1)  # [B, T + 1]
    seen = with_last if mask is None else with_last.gather(1, newest_real(mask))  # [B, T + 1]
    if starts is not None:
        seen = seen.masked_fill(~follows(mask, starts), NO_TOKEN)
    return seen[:, :-1], RoutingState(seen[:, -1].clone())
