"""A short causal convolution, one kernel for each channel: what lies in front of many recurrences.

Letters: B batch, T new tokens, C channels, K kernel size.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimatrix.mixers.convolution import in_document, packed, unpacked
from unimatrix.ops.shapes import TokenMask


class ShortConvolution(nn.Module):
    """y_t = SiLU(sum over j < K of w_j * x_{t-j}), each channel by itself: K C weights, no bias.

    A masked position is no token: the kernel reaches over it. Its own output means nothing.
    """

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.weight = nn.Parameter(torch.empty(kernel_size, channels))  # the oldest token's first
        self.init_weights(0.0)

    @torch.no_grad()
    def init_weights(self, std: float) -> None:
        """Draw the kernels uniformly from +- 1 / sqrt(K), as torch starts a convolution of K inputs."""
        bound = self.kernel_size**-0.5
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(
        self,
        x: Tensor,
        recent: Tensor | None,
        *,
        mask: TokenMask | None = None,
        starts: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """[B, T, C] to [B, T, C], and the last K - 1 real tokens' inputs [B, K - 1, C] (None: zeros)."""
        batch, length, channels = x.shape
        past = self.kernel_size - 1
        if recent is None:
            recent = x.new_zeros(batch, past, channels)
        tokens, order = packed(torch.cat([recent.to(x.dtype), x], dim=1), mask, past)
        weight, left = self.weight.to(x.dtype), tokens[:, length:]
        same = None
        if starts is not None and length:
            same, kept_on = in_document(starts, order, past)
            left = left * kept_on[..., None]
        y = torch.zeros_like(x)
        for j in range(self.kernel_size):
            here = tokens[:, j : j + length]
            y = torch.addcmul(y, here if same is None else here * same[..., j, None], weight[j])
        y = F.silu(y)
        return (y if order is None else unpacked(y, order, past)), left.clone()
