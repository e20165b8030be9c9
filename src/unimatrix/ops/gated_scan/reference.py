"""The gated scan, position by position: the equation itself, which every other form must agree with.

s_t = tanh(f_t) * s_{t-1} + w_t
y_t = o_t * s_t, or o_t * q_t * s_t        elementwise; a False mask leaves s_t = s_{t-1}, a start s_{t-1} = 0
"""

import torch
from torch import Tensor

from unimatrix.ops.shapes import Stream, TokenMask, accumulation_dtype


def gated_scan_reference(
    gates: Tensor, state: Tensor | None, *, mask: TokenMask | None, starts: TokenMask | None = None
) -> tuple[Stream, Tensor]:
    """One step of the recurrence per position; arguments as in `gated_scan`, already checked."""
    batch, _, _, width = gates.shape
    dtype = accumulation_dtype(gates.dtype)
    s = gates.new_zeros(batch, width, dtype=dtype) if state is None else state.to(dtype)
    outputs = []
    for t, gates_t in enumerate(gates.to(dtype).unbind(1)):
        if starts is not None:
            s = s.masked_fill(starts[:, t, None], 0.0)
        forget, write, output, *query = gates_t.unbind(1)  # [B, W]
        s_t = torch.tanh(forget) * s + write
        s = s_t if mask is None else torch.where(mask[:, t, None], s_t, s)
        outputs.append(output * s if not query else output * (query[0] * s))
    y = torch.stack(outputs, dim=1) if outputs else gates.new_zeros(batch, 0, width, dtype=dtype)
    return y.to(gates.dtype), s
