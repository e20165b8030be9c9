"""M2RNN, token by token: the equation itself, which every other form must agree with.

Source: M2RNN's recurrence; the letters are those of unimatrix.ops.m2rnn.

    c_t = tanh(h_{t-1} W + k_t v_t^T)
    h_t = f_t h_{t-1} + (1 - f_t) c_t,      f_t = exp(log_retention_t); where a text starts h_{t-1} = 0
    y_t = h_t^T q_t
"""

import torch
from torch import Tensor

from unimatrix.ops.shapes import HeadScalars, HeadVectors, TokenMask, accumulation_dtype


def m2rnn_reference(
    q: HeadVectors,
    k: HeadVectors,
    v: HeadVectors,
    log_retention: HeadScalars,
    transition: Tensor,
    *,
    state: Tensor,
    mask: TokenMask | None,
    starts: TokenMask | None,
) -> tuple[HeadVectors, Tensor]:
    """One step of the recurrence per token; arguments as in `m2rnn`, already checked."""
    dtype = accumulation_dtype(q.dtype)
    log_keep = log_retention.to(dtype)
    keep, write = log_keep.exp(), -torch.expm1(log_keep)  # 1 - f, exact near a retention of 1
    out_dtype = v.dtype
    q, k, v, transition, state = (x.to(dtype) for x in (q, k, v, transition, state))
    y, last = m2rnn_steps(q, k, v, keep, write, transition, state, mask=mask, starts=starts)
    return y.to(out_dtype), last


def m2rnn_steps(
    q: HeadVectors,
    k: HeadVectors,
    v: HeadVectors,
    keep: HeadScalars,
    write: HeadScalars,
    transition: Tensor,
    state: Tensor,
    *,
    mask: TokenMask | None = None,
    starts: TokenMask | None = None,
) -> tuple[HeadVectors, Tensor]:
    """The steps from the gates [B, T, H] of what is kept and written; all in the accumulation dtype."""
    outputs = []
    # unbind, since the gradient of a slice is as long as the whole
    tokens = zip(*(x.unbind(1) for x in (q, k, v, keep, write)), strict=True)
    for t, (q_t, k_t, v_t, keep_t, write_t) in enumerate(tokens):
        if starts is not None:
            state = state.masked_fill(starts[:, t, None, None, None], 0.0)
        candidate = torch.tanh(state @ transition + k_t[..., :, None] * v_t[..., None, :])  # [B, H, K, V]
        after = keep_t[..., None, None] * state + write_t[..., None, None] * candidate
        y_t = (q_t[..., :, None] * after).sum(-2)
        if mask is not None:
            real = mask[:, t, None, None]  # [B, 1, 1]
            after = torch.where(real[..., None], after, state)
            y_t = torch.where(real, y_t, torch.zeros_like(y_t))
        state = after
        outputs.append(y_t)
    return torch.stack(outputs, dim=1) if outputs else torch.zeros_like(v), state
