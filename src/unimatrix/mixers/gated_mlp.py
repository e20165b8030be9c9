"""The position-wise feed-forward layer whose inner channels are gated."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import nn

from unimatrix.data.settings import check_counts, check_positive, check_range, check_types
from unimatrix.errors import UserError
from unimatrix.mixers.initial import draw_weights
from unimatrix.mixers.part import Given, Part, Reading, Role, Size
from unimatrix.mixers.registry import PartConfig
from unimatrix.ops import BackendChoice, gated_product
from unimatrix.ops.shapes import Stream


class GatedMLP(Part):
    """W_down (silu(W_gate x) * W_up x), no biases: 3 D W weights (SwiGLU, arXiv:2002.05202).

    `gain`: W_gate and W_up start from N(0, gain / sqrt(D)), so that of a normalised x both products are of
    size `gain`; None: from where all weights start. From small weights a product of two small projections
    lets next to nothing through, nor be learned.
    """

    def __init__(self, d_model: int, width: int, *, gain: float | None = None) -> None:
        super().__init__()
        self.gain = gain
        self.backend = BackendChoice()
        self.gate_and_up = nn.Linear(d_model, 2 * width, bias=False)
        self.down = nn.Linear(width, d_model, bias=False)

    @torch.no_grad()
    def init_weights(self, std: float) -> None:
        """Draw both matrices, those of the products by `gain` where it is given."""
        own = None if self.gain is None else self.gain / self.gate_and_up.in_features**0.5
        draw_weights(self.gate_and_up, std if own is None else own)
        draw_weights(self.down, std)

    def forward(self, x: Stream) -> Stream:
        """[B, T, D] to [B, T, D]."""
        return self.down(gated_product(self.gate_and_up(x), backend=self.backend))

    def give(self, x: Stream, state: Any, at: Reading, given: Given) -> tuple[Given, Any]:
        return Given(add=self(x)), None


@dataclass(frozen=True, kw_only=True, slots=True)
class GatedMLPConfig(PartConfig):
    """A feed-forward layer whose inner channels are gated.

    width: of the inner channels. expansion: the same as a multiple of D, to a multiple of 8. Without either
    it is 8 / 3: about as many weights as an MLP of 4 D.
    gain: how large what is multiplied is at the start, W_gate x and W_up x of a normalised x, each drawn from
    N(0, gain / sqrt(D)); None: from N(0, init_std), as all other weights.
    """

    kind: ClassVar[str] = "gated_mlp"
    ops: ClassVar[tuple[str, ...]] = ("gated_product",)
    role: ClassVar[Role] = "feed"
    width: int | None = None
    expansion: float | None = None
    gain: float | None = None

    def __post_init__(self) -> None:
        check_types(self)
        check_counts(self, "width")
        check_positive(self, "expansion", "gain")
        check_range(self, "expansion", low=0.0, below=1024.0)
        if self.width is not None and self.expansion is not None:
            raise UserError(
                f"width: expected None beside an expansion, got {self.width} beside {self.expansion:g}; "
                "expansion=None makes room for it"
            )

    def resolved(self, size: Size) -> "GatedMLPConfig":
        expansion = 8.0 / 3.0 if self.expansion is None else self.expansion
        width = self.width or 8 * max(1, round(expansion * size.d_model / 8))
        return replace(self, width=width, expansion=None)

    def build(self, size: Size) -> GatedMLP:
        width = self.resolved(size).width
        assert width is not None
        return GatedMLP(size.d_model, width, gain=self.gain)
