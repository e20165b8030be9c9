"""The gated scan from parts that run on any device: the decays, the signed scan in chunks, the readout."""

import torch
from torch import Tensor

from unimatrix.ops.shapes import Stream, TokenMask, accumulation_dtype
from unimatrix.ops.signed_scan.chunked import signed_scan_chunked


def gated_scan_chunked(
    gates: Tensor, state: Tensor | None, *, mask: TokenMask | None, starts: TokenMask | None
) -> tuple[Stream, Tensor]:
    """Arguments as in `gated_scan`, already checked."""
    forget, write, output, *query = gates.to(accumulation_dtype(gates.dtype)).unbind(2)  # [B, T, W]
    decay = torch.tanh(forget)
    if mask is not None:
        decay = decay.masked_fill(~mask[..., None], 1.0)
    if starts is not None:
        decay = decay.masked_fill(starts[..., None], 0.0)
    s, last = signed_scan_chunked(decay, write, state)
    y = output * s if not query else output * (query[0] * s)
    return y.to(gates.dtype), last
