"""The matrix state, token by token: the equation itself, which every other form must agree with.

Source: the paper, eq. (2) to (6); the letters are those of unimatrix.ops.shapes.

    U_t = pi_outer k_t v_t^T + pi_diag Diag(d_t) + pi_sym (k_t v_t^T + v_t k_t^T) / 2
    S_t = rho_t S_{t-1} + (1 - rho_t) U_t,      rho_t = exp(log_retention_t); where a text starts S_{t-1} = 0
    y_t = S_t q_t
"""

import torch
from torch import Tensor

from unimatrix.ops.shapes import (
    HeadScalars,
    HeadVectors,
    MatrixState,
    RuleWeights,
    TokenMask,
    accumulation_dtype,
)


def matrix_state_reference(
    q: HeadVectors,
    k: HeadVectors,
    v: HeadVectors,
    log_retention: HeadScalars,
    *,
    rule_weights: RuleWeights | None,
    diag: HeadVectors | None,
    state: MatrixState | None,
    mask: TokenMask | None,
    starts: TokenMask | None = None,
) -> tuple[HeadVectors, MatrixState]:
    """One step of the recurrence per token; arguments as in `matrix_state`, already checked."""
    batch, length, heads, dim = k.shape
    dtype = accumulation_dtype(q.dtype)
    s = q.new_zeros(batch, heads, dim, v.shape[-1], dtype=dtype) if state is None else state.to(dtype)
    if mask is not None:
        # what stands at a masked position, a NaN too, has no part in any gradient
        log_retention = log_retention.masked_fill(~mask[..., None], 0.0)
    outputs = []
    for t in range(length):
        if starts is not None:
            s = s.masked_fill(starts[:, t, None, None, None], 0.0)
        rho = log_retention[:, t].to(dtype).exp()[..., None, None]  # [B, H, 1, 1]
        write = -torch.expm1(log_retention[:, t].to(dtype))[..., None, None]  # 1 - rho, exact near rho = 1
        u = _update(k[:, t].to(dtype), v[:, t].to(dtype), t, rule_weights, diag)
        s_t = rho * s + write * u
        y_t = torch.einsum("bhij,bhj->bhi", s_t, q[:, t].to(dtype))
        if mask is not None:
            real = mask[:, t, None, None]  # [B, 1, 1]
            s_t = torch.where(real[..., None], s_t, s)
            y_t = torch.where(real, y_t, torch.zeros_like(y_t))
        s = s_t
        outputs.append(y_t)
    y = torch.stack(outputs, dim=1) if outputs else k.new_zeros(k.shape, dtype=dtype)
    return y.to(v.dtype), s


def _update(
    k_t: Tensor, v_t: Tensor, t: int, rule_weights: RuleWeights | None, diag: HeadVectors | None
) -> Tensor:
    """U_t of eq. (3) to (5) mixed as in eq. (6); [B, H, S] in, [B, H, S, S] out."""
    outer = k_t[..., :, None] * v_t[..., None, :]
    if rule_weights is None or diag is None:  # both or neither: matrix_state has checked
        return outer
    pi_outer, pi_diag, pi_sym = rule_weights[:, t].to(k_t.dtype)[..., None, None].unbind(dim=2)
    sym = 0.5 * (outer + outer.transpose(-1, -2))
    return pi_outer * outer + pi_diag * torch.diag_embed(diag[:, t].to(k_t.dtype)) + pi_sym * sym
