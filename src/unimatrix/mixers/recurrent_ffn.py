"""A small recurrent memory in the place of the feed-forward layer: section 5.6 of the paper.

Letters: B batch, T time, D model width, W width of the memory.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimatrix.data.settings import check_counts, check_types
from unimatrix.errors import UserError
from unimatrix.mixers.initial import draw_children
from unimatrix.mixers.layout import kept
from unimatrix.mixers.part import Part, Role, Size
from unimatrix.mixers.registry import PartConfig
from unimatrix.ops import Backend, BackendChoice, gated_scan
from unimatrix.ops.shapes import Stream, TokenMask


class RecurrentFFNState(NamedTuple):
    """What the memory holds: one size however long the text."""

    s: Tensor  # [B, W], float32 or wider


class RecurrentFFN(Part):
    """y_t = W_y (o_t * s_t) with s_t = tanh(f_t) * s_{t-1} + w_t; f, w, o are projections of x_t.

    The forget gate is signed. No projection has a bias; those of x lie in one matrix, so that one product
    makes them all.

    query: reads q_t * s_t instead of s_t, q a projection too. local_width: blends y_t with a branch without
    memory, W_d (silu(g_t) * u_t), where g and u are projections to that width: sigmoid(mix) of the first and
    the rest of the second, mix a vector [D] that starts at 0; None for no branch.
    """

    def __init__(
        self,
        d_model: int,
        width: int,
        *,
        query: bool = False,
        local_width: int | None = None,
        backend: Backend = "auto",
    ) -> None:
        super().__init__()
        self.width = width
        self.num_gates = 4 if query else 3
        self.local_width = local_width
        self.backend = BackendChoice(backend)
        # f, w, o (, q) (, g, u)
        self.project = nn.Linear(d_model, self.num_gates * width + 2 * (local_width or 0), bias=False)
        self.out = nn.Linear(width, d_model, bias=False)
        if local_width is not None:
            self.down = nn.Linear(local_width, d_model, bias=False)
            self.mix = nn.Parameter(torch.zeros(d_model))

    @torch.no_grad()
    def init_weights(self, std: float) -> None:
        """Draw the projections from N(0, std); the blend starts as the mean of its two branches."""
        draw_children(self, std)
        if self.local_width is not None:
            nn.init.zeros_(self.mix)

    def state_layout(self) -> Any:
        return RecurrentFFNState(kept((self.width,), "sums"))

    def forward(
        self,
        x: Stream,
        state: RecurrentFFNState | None = None,
        *,
        mask: TokenMask | None = None,
        starts: Tensor | None = None,
    ) -> tuple[Stream, RecurrentFFNState]:
        """[B, T, D] to [B, T, D]; a masked (False) position leaves the state as it is."""
        projected = self.project(x)
        inner = self.num_gates * self.width
        gates = projected[..., :inner].unflatten(-1, (self.num_gates, self.width))  # [B, T, 3 or 4, W]
        before = None if state is None else state.s
        read, last = gated_scan(gates, before, mask=mask, starts=starts, backend=self.backend)
        y = self.out(read)
        if self.local_width is not None:
            gate, up = projected[..., inner:].chunk(2, dim=-1)
            local = self.down(F.silu(gate) * up)
            # lerp takes three of one dtype, and autocast rounds the products, not the mix
            y = torch.lerp(local, y, torch.sigmoid(self.mix).to(local.dtype))
        return y, RecurrentFFNState(last)


@dataclass(frozen=True, kw_only=True, slots=True)
class RecurrentFFNConfig(PartConfig):
    """A small recurrent memory in the feed-forward layer's place.

    width: channels of its state; None is 2 D, or D beside a local branch: about as many weights as the MLP of
    four times the width that it replaces. query: whether a projection of the token chooses what is read.
    local: whether there is a gated branch without memory beside it; local_width: of that, None is D.
    """

    kind: ClassVar[str] = "recurrent_ffn"
    ops: ClassVar[tuple[str, ...]] = ("gated_scan", "signed_scan")
    role: ClassVar[Role] = "feed"
    documents: ClassVar[bool] = True
    width: int | None = None
    query: bool = False
    local: bool = False
    local_width: int | None = None
    backend: Backend = "auto"

    def __post_init__(self) -> None:
        check_types(self)
        check_counts(self, "width", "local_width")
        if self.local_width is not None and not self.local:
            raise UserError(f"local_width: expected local with it, got {self.local_width} without")

    def resolved(self, size: Size) -> "RecurrentFFNConfig":
        width = self.width or (1 if self.local else 2) * size.d_model
        return replace(
            self, width=width, local_width=(self.local_width or size.d_model) if self.local else None
        )

    def build(self, size: Size) -> RecurrentFFN:
        it = self.resolved(size)
        assert it.width is not None
        return RecurrentFFN(
            size.d_model, it.width, query=it.query, local_width=it.local_width, backend=it.backend
        )

    def multiply_adds(self, size: Size, length: int) -> int:
        it = self.resolved(size)
        assert it.width is not None
        # decay and write, what is read, the output
        local = 0 if it.local_width is None else it.local_width + size.d_model
        return length * ((3 if it.query else 2) * it.width + local)
