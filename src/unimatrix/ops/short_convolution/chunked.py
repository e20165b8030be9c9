"""The short convolution in plain torch, all tokens at once: one product for each place of the kernel."""

import torch
import torch.nn.functional as F
from torch import Tensor

from unimatrix.ops.shapes import Stream


def short_convolution_chunked(tokens: Stream, weight: Tensor, inside: Tensor | None) -> Stream:
    """y [B, T, C] of tokens [B, K - 1 + T, C]; `inside` [B, T, K] says which of a window's tokens count."""
    size = weight.shape[0]
    length = tokens.shape[1] - size + 1
    a = torch.zeros_like(tokens[:, :length])
    for j in range(size):
        here = tokens[:, j : j + length]
        a = torch.addcmul(a, here if inside is None else here.where(inside[..., j, None], 0.0), weight[j])
    return F.silu(a)
