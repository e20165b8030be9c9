"""The signed scan, position by position: the equation itself, which every other form must agree with.

s_t = a_t * s_{t-1} + w_t        elementwise; a False mask leaves s_t = s_{t-1}, a start s_{t-1} = 0
"""

import torch
from torch import Tensor

from unimatrix.ops.shapes import Stream, TokenMask, accumulation_dtype


def signed_scan_reference(
    decay: Tensor,
    write: Stream,
    state: Tensor | None,
    *,
    mask: TokenMask | None,
    starts: TokenMask | None = None,
) -> tuple[Stream, Tensor]:
    """One step of the recurrence per position; arguments as in `signed_scan`, already checked."""
    batch, _, width = write.shape
    dtype = accumulation_dtype(write.dtype)
    s = write.new_zeros(batch, width, dtype=dtype) if state is None else state.to(dtype)
    share = width // decay.shape[-1]  # neighbouring channels that share a decay
    states = []
    # unbind, since the gradient of a slice is as long as the whole: over 16384 positions that is minutes
    for t, (a_t, w_t) in enumerate(zip(decay.unbind(1), write.unbind(1), strict=True)):
        if starts is not None:
            s = s.masked_fill(starts[:, t, None], 0.0)
        a_t = a_t.to(dtype).repeat_interleave(share, dim=-1)  # [B, D]
        s_t = a_t * s + w_t.to(dtype)
        s = s_t if mask is None else torch.where(mask[:, t, None], s_t, s)
        states.append(s)
    stacked = torch.stack(states, dim=1) if states else write.new_zeros(write.shape, dtype=dtype)
    return stacked.to(write.dtype), s
