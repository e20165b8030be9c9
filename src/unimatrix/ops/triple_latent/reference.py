"""The triple latent, token by token: the equation itself, which every other form must agree with.

Source: the paper, section 3.5; the letters are those of unimatrix.ops.triple_latent.

    s_t = lambda_t s_{t-1} + (1 - lambda_t) a_t
    P_t = mu_t P_{t-1} + (1 - mu_t) w_t b_t^T           w_t = s_{t-1}, or softmax(E s_{t-1})
    y_t = (P_t^T r_t) * q_r                             r_t = q_l, or softmax(E q_l)
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
) -> tuple[HeadVectors, TripleLatentState]:
    """One step of both recurrences per token; arguments as in `triple_latent`, already checked."""
    dtype = accumulation_dtype(a.dtype)
    s, pairs = state.sum.to(dtype), state.pairs.to(dtype)
    outputs = []
    for t in range(a.shape[1]):
        keep_s, write_s = _gate(log_retention[:, t].to(dtype)[..., None])  # [B, H, 1]
        keep_p, write_p = _gate(log_pair_retention[:, t].to(dtype)[..., None, None])
        written = address(s, addresses)  # [B, H, R]
        outer = written[..., :, None] * b[:, t].to(dtype)[..., None, :]
        pairs_t = keep_p * pairs + write_p * outer
        probe = address(q_l[:, t].to(dtype), addresses)
        y_t = torch.einsum("bhrs,bhr->bhs", pairs_t, probe) * q_r[:, t].to(dtype)
        s_t = keep_s * s + write_s * a[:, t].to(dtype)
        if mask is not None:
            real = mask[:, t, None, None]  # [B, 1, 1]
            s_t = torch.where(real, s_t, s)
            pairs_t = torch.where(real[..., None], pairs_t, pairs)
            y_t = torch.where(real, y_t, torch.zeros_like(y_t))
        s, pairs = s_t, pairs_t
        outputs.append(y_t)
    y = torch.stack(outputs, dim=1) if outputs else b.to(dtype)
    return y.to(b.dtype), TripleLatentState(s, pairs)


def _gate(log_keep: Tensor) -> tuple[Tensor, Tensor]:
    """The retention and 1 - retention, exact near a retention of 1."""
    return log_keep.exp(), -torch.expm1(log_keep)
