"""The norms in front of a layer's halves and of the head."""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from unimatrix.mixers.part import Role, Size
from unimatrix.mixers.registry import PartConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerNormConfig(PartConfig):
    """PyTorch's LayerNorm over the channels, with weight and bias."""

    kind: ClassVar[str] = "layer_norm"
    role: ClassVar[Role] = "norm"

    def build(self, size: Size) -> nn.Module:
        return nn.LayerNorm(size.d_model)


@dataclass(frozen=True, kw_only=True, slots=True)
class RMSNormConfig(PartConfig):
    """PyTorch's RMSNorm over the channels: a weight, no bias, no mean taken off."""

    kind: ClassVar[str] = "rms_norm"
    role: ClassVar[Role] = "norm"

    def build(self, size: Size) -> nn.Module:
        return nn.RMSNorm(size.d_model, eps=1e-6)
