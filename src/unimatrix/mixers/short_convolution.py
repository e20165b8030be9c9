"""A short causal convolution, one kernel for each channel: what lies in front of many recurrences.

Letters: B batch, T new tokens, C channels, K kernel size.
"""

import torch
from torch import Tensor, nn

from unimatrix.ops import Backend, BackendChoice, short_convolution
from unimatrix.ops.shapes import TokenMask


class ShortConvolution(nn.Module):
    """y_t = SiLU(sum over j < K of w_j * x_{t - K + 1 + j}), each channel by itself: K C weights, no bias."""

    def __init__(self, channels: int, kernel_size: int, backend: Backend = "auto") -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.backend = BackendChoice(backend)
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
        y, last = short_convolution(x, self.weight, recent, mask=mask, starts=starts, backend=self.backend)
        return y, last.to(x.dtype)  # tokens as they came
