"""The position-wise feed-forward layer."""

import torch.nn.functional as F
from torch import nn

from unimatrix.ops.shapes import Stream


class MLP(nn.Module):
    """Linear(D, expansion * D), exact GELU, Linear(expansion * D, D), both with bias: 8 D^2 + 5 D for 4."""

    def __init__(self, d_model: int, expansion: int = 4) -> None:
        super().__init__()
        self.up = nn.Linear(d_model, expansion * d_model)
        self.down = nn.Linear(expansion * d_model, d_model)

    def forward(self, x: Stream) -> Stream:
        """[B, T, D] to [B, T, D]."""
        return self.down(F.gelu(self.up(x)))
