"""The position-wise feed-forward layers."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import nn

from unimatrix.data.settings import check_counts, check_types
from unimatrix.mixers.part import Given, Part, Reading, Role, Size
from unimatrix.mixers.registry import PartConfig
from unimatrix.ops.shapes import Stream


class MLP(Part):
    """Linear(D, expansion * D), exact GELU, Linear(expansion * D, D), both with bias: 8 D^2 + 5 D for 4."""

    def __init__(self, d_model: int, expansion: int = 4) -> None:
        super().__init__()
        self.up = nn.Linear(d_model, expansion * d_model)
        self.down = nn.Linear(expansion * d_model, d_model)

    def forward(self, x: Stream) -> Stream:
        """[B, T, D] to [B, T, D]."""
        return self.down(F.gelu(self.up(x)))

    def give(self, x: Stream, state: Any, at: Reading, given: Given) -> tuple[Given, Any]:
        return Given(add=self(x)), None


@dataclass(frozen=True, kw_only=True, slots=True)
class MLPConfig(PartConfig):
    """The position-wise feed-forward layer."""

    kind: ClassVar[str] = "mlp"
    role: ClassVar[Role] = "feed"
    expansion: int = 4

    def __post_init__(self) -> None:
        check_types(self)
        check_counts(self, "expansion")

    def build(self, size: Size) -> MLP:
        return MLP(size.d_model, self.expansion)


class GatedMLP(Part):
    """W_down (silu(W_gate x) * W_up x), no biases: 3 D W weights (SwiGLU, arXiv:2002.05202)."""

    def __init__(self, d_model: int, width: int) -> None:
        super().__init__()
        self.gate_and_up = nn.Linear(d_model, 2 * width, bias=False)
        self.down = nn.Linear(width, d_model, bias=False)

    def forward(self, x: Stream) -> Stream:
        """[B, T, D] to [B, T, D]."""
        gate, up = self.gate_and_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)

    def give(self, x: Stream, state: Any, at: Reading, given: Given) -> tuple[Given, Any]:
        return Given(add=self(x)), None


@dataclass(frozen=True, kw_only=True, slots=True)
class GatedMLPConfig(PartConfig):
    """A feed-forward layer whose inner channels are gated.

    width: of the inner channels; None is 8 D / 3 to a multiple of 8: about as many weights as an MLP of 4 D.
    """

    kind: ClassVar[str] = "gated_mlp"
    role: ClassVar[Role] = "feed"
    width: int | None = None

    def __post_init__(self) -> None:
        check_types(self)
        check_counts(self, "width")

    def resolved(self, size: Size) -> "GatedMLPConfig":
        return replace(self, width=self.width or 8 * max(1, round(size.d_model / 3)))

    def build(self, size: Size) -> GatedMLP:
        width = self.resolved(size).width
        assert width is not None
        return GatedMLP(size.d_model, width)
