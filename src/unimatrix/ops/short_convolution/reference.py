"""The short convolution, token by token: the equation itself, which every other form must agree with.

y_t = SiLU(sum over j < K of w_j * x_{t - K + 1 + j})        elementwise, the oldest token's weight first

A False mask leaves the window as it was; a start puts zeros in the place of all tokens before it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from unimatrix.ops.shapes import Stream, TokenMask


def short_convolution_reference(
    x: Stream,
    weight: Tensor,
    state: Tensor,
    *,
    mask: TokenMask | None = None,
    starts: TokenMask | None = None,
) -> tuple[Stream, Tensor]:
    """One window after the other; arguments as in `short_convolution`, already checked, in one dtype."""
    before, outputs = state, []
    for t, x_t in enumerate(x.unbind(1)):
        if starts is not None:
            before = before.masked_fill(starts[:, t, None, None], 0.0)
        window = torch.cat([before, x_t[:, None]], dim=1)  # [B, K, C]
        y_t = F.silu((window * weight).sum(1))
        if mask is None:
            before = window[:, 1:]
        else:
            real = mask[:, t, None]
            y_t, before = torch.where(real, y_t, 0.0), torch.where(real[..., None], window[:, 1:], before)
        outputs.append(y_t)
    return (torch.stack(outputs, dim=1) if outputs else x.clone()), before
