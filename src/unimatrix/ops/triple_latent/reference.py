"""The triple latent, token by token: the equation itself, which every other form must agree with.

Source: the paper, section 3.5; the letters are those of unimatrix.ops.triple_latent.

    s_t = lambda_t s_{t-1} + (1 - lambda_t) a_t
    P_t = mu_t P_{t-1} + (1 - mu_t) w_t b_t^T           w_t = s_{t-1}, or softmax(E s_{t-1})
    y_t = (P_t^T r_t) * q_r                             r_t = q_l, or softmax(E q_l)

Where a text starts, s_{t-1} and P_{t-1} are 0.
"""

import torch
from torch import Tensor

from unimatrix.ops.shapes import HeadScalars, HeadVectors, TokenMask, accumulation_dtype
from unimatrix.ops.triple_latent.state import TripleLatentState, address


def triple_latent_reference(
    a: HeadVectors,
    b: HeadVectors,
    q_l: HeadVectors,
    q_r: HeadVectors,
    log_retention: HeadScalars,
    log_pair_retention: HeadScalars,
    *,
    addresses: Tensor | None,
    state: TripleLatentState,
    mask: TokenMask | None,
    starts: TokenMask | None,
) -> tuple[HeadVectors, TripleLatentState]:
    """One step of both recurrences per token; arguments as in `triple_latent`, already checked."""
    dtype = accumulation_dtype(a.dtype)
    log_keep = torch.stack([log_retention.to(dtype), log_pair_retention.to(dtype)], dim=-1)
    gates = log_keep.exp(), -torch.expm1(log_keep)  # 1 - retention, exact near a retention of 1
    out_dtype = b.dtype
    a, b, q_l, q_r = a.to(dtype), b.to(dtype), q_l.to(dtype), q_r.to(dtype)
    y, state = triple_latent_steps(
        a, b, q_l, q_r, *gates, addresses=addresses, state=state, mask=mask, starts=starts
    )
    return y.to(out_dtype), state


def triple_latent_steps(
    a: HeadVectors,
    b: HeadVectors,
    q_l: HeadVectors,
    q_r: HeadVectors,
    keep: Tensor,
    write: Tensor,
    *,
    addresses: Tensor | None,
    state: TripleLatentState,
    mask: TokenMask | None = None,
    starts: TokenMask | None = None,
) -> tuple[HeadVectors, TripleLatentState]:
    """The steps from the gates [B, T, H, 2], the sum's first; all in the accumulation dtype."""
    s, pairs = state.sum.to(a.dtype), state.pairs.to(a.dtype)
    outputs = []
    # unbind, since the gradient of a slice is as long as the whole
    tokens = zip(*(x.unbind(1) for x in (a, b, q_l, q_r, keep, write)), strict=True)
    for t, (a_t, b_t, q_l_t, q_r_t, keep_t, write_t) in enumerate(tokens):
        if starts is not None:
            begun = starts[:, t, None, None]  # [B, 1, 1]
            s, pairs = s.masked_fill(begun, 0.0), pairs.masked_fill(begun[..., None], 0.0)
        written = address(s, addresses)  # [B, H, R]
        outer = written[..., :, None] * b_t[..., None, :]
        pairs_t = keep_t[..., 1, None, None] * pairs + write_t[..., 1, None, None] * outer
        y_t = torch.einsum("bhrs,bhr->bhs", pairs_t, address(q_l_t, addresses)) * q_r_t
        s_t = keep_t[..., :1] * s + write_t[..., :1] * a_t
        if mask is not None:
            real = mask[:, t, None, None]  # [B, 1, 1]
            s_t = torch.where(real, s_t, s)
            pairs_t = torch.where(real[..., None], pairs_t, pairs)
            y_t = torch.where(real, y_t, torch.zeros_like(y_t))
        s, pairs = s_t, pairs_t
        outputs.append(y_t)
    return torch.stack(outputs, dim=1) if outputs else torch.zeros_like(b), TripleLatentState(s, pairs)
