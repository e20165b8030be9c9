"""A small recurrent memory in the place of the feed-forward layer: section 5.6 of the paper.

Letters: B batch, T time, D model width, W width of the memory.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimatrix.mixers.initial import draw_children
from unimatrix.mixers.layout import kept
from unimatrix.ops import Backend, gated_scan
from unimatrix.ops.shapes import Stream, TokenMask


class RecurrentFFNState(NamedTuple):
    """What the memory holds: one size however long the text."""

    s: Tensor  # [B, W], float32 or wider


class RecurrentFFN(nn.Module):
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
        self.backend: Backend = backend
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
        self, x: Stream, state: RecurrentFFNState | None = None, *, mask: TokenMask | None = None
    ) -> tuple[Stream, RecurrentFFNState]:
        """[B, T, D] to [B, T, D]; a masked (False) position leaves the state as it is."""
        projected = self.project(x)
        inner = self.num_gates * self.width
        gates = projected[..., :inner].unflatten(-1, (self.num_gates, self.width))  # [B, T, 3 or 4, W]
        before = None if state is None else state.s
        read, last = gated_scan(gates, before, mask=mask, backend=self.backend)
        y = self.out(read)
        if self.local_width is not None:
            gate, up = projected[..., inner:].chunk(2, dim=-1)
            local = self.down(F.silu(gate) * up)
            # lerp takes three of one dtype, and autocast rounds the products, not the mix
            y = torch.lerp(local, y, torch.sigmoid(self.mix).to(local.dtype))
        return y, RecurrentFFNState(last)
