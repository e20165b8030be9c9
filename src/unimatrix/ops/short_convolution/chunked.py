"""The short convolution in plain torch, all tokens at once: one product for each place of the kernel."""

import torch
import torch.nn.functional as F
from torch import Tensor

from unimatrix.ops.shapes import Stream


def short_convolution_chunked(x: Stream, recent: Tensor, weight: Tensor, inside: Tensor | None) -> Stream:
    """y [B, T, C]; `recent` [B, K - 1, C] are the tokens before x, `inside` [B, T, K] which of them count."""
    length = x.shape[1]
    tokens, a = torch.cat([recent, x], dim=1), torch.zeros_like(x)
    for j in range(weight.shape[0]):
        here = tokens[:, j : j + length]
        a = torch.addcmul(a, here if inside is None else here.where(inside[..., j, None], 0.0), weight[j])
    return F.silu(a)
