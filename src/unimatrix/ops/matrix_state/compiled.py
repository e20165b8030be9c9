"""The matrix state as a compiled CPU loop: a head's state stays in the first-level cache, token after token.

At the paper's S = 16 a state is 1 KiB, and the recurrence costs 3 S^2 multiply-adds a token and head: fewer
than any chunk. The loops are numba's (no compiler on the user's machine), one task per batch row and head;
unimatrix.ops.matrix_state.kernels holds them. Tensors are handed over without copying (any strides).

Letters: a, b, c weigh k v^T, v k^T and Diag(d): a = w (pi_outer + pi_sym / 2), b = w pi_sym / 2,
c = w pi_diag, with the write strength w = 1 - rho. Without rule mixing there is a = w alone.
"""

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unimatrix.ops.backend import loops_problem
from unimatrix.ops.operator import Operator
from unimatrix.ops.shapes import (
    HeadScalars,
    HeadVectors,
    MatrixState,
    RuleWeights,
    TokenMask,
    accumulation_dtype,
)

MAX_COMPILED_DIM = 32  # beyond it a step is 4096 numbers of straight-line code, slow to compile; chunks serve


def compiled_problem(k: Tensor, v: Tensor) -> str | None:
    """Why the compiled form cannot run on tensors like k and v; None if it can."""
    dim = max(k.shape[-1], v.shape[-1])
    problem = loops_problem(v)
    if problem is None and (dim & (dim - 1) or not 2 <= dim <= MAX_COMPILED_DIM):
        return f"it takes a state_dim that is a power of two from 2 to {MAX_COMPILED_DIM}, got {dim}"
    return problem


def matrix_state_compiled(
    q: HeadVectors,
    k: HeadVectors,
    v: HeadVectors,
    log_retention: HeadScalars,
    rule_weights: RuleWeights | None,
    diag: HeadVectors | None,
    state: MatrixState | None,
    starts: TokenMask | None,
) -> tuple[HeadVectors, MatrixState]:
    """Arguments as in `matrix_state`, already checked; the mask is already in log_retention."""
    dtype = accumulation_dtype(q.dtype)
    out_dtype = v.dtype
    batch, _, heads, dim = k.shape
    width = v.shape[-1]
    if width != dim:
        # the loops know square states alone: the narrower side gets columns of zeros, which stay zero
        q, k, v = (F.pad(x, (0, max(dim, width) - x.shape[-1])) for x in (q, k, v))
        if state is not None:
            state = F.pad(state, (0, max(0, dim - width), 0, max(0, width - dim)))
    log_rho = log_retention.to(dtype)
    write = -torch.expm1(log_rho)
    if rule_weights is None or diag is None:
        weights = write[..., None]  # [B, T, H, 1]
    else:
        pi_outer, pi_diag, pi_sym = (write[..., None] * rule_weights.to(dtype)).unbind(-1)
        weights = torch.stack([pi_outer + 0.5 * pi_sym, 0.5 * pi_sym, pi_diag], dim=-1)  # a, b, c
        diag = diag.to(dtype)
    if state is None:
        state = q.new_zeros(batch, heads, q.shape[-1], q.shape[-1], dtype=dtype)
    vectors = (q.to(dtype), k.to(dtype), v.to(dtype))
    signs = None if diag is None else log_rho  # without rule mixing the write strengths have them
    y, last = _scan(*vectors, log_rho.exp(), weights, diag, state.to(dtype), signs, starts)
    if width != dim:
        y, last = y[..., :dim], last[..., :dim, :width].clone()
    return y.to(out_dtype), last


@cache
def _loops() -> Any:
    from unimatrix.ops.matrix_state import kernels

    return kernels


def _shapes(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rho: Tensor,
    weights: Tensor,
    diag: Tensor | None,
    state: Tensor,
    log_rho: Tensor | None,
    starts: Tensor | None,
    keep: bool,
) -> tuple[Tensor, ...]:
    borders = q.new_empty(_loops().border_shape(q, keep))
    return q.new_empty(q.shape), state.new_empty(state.shape), borders


def _plain(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rho: Tensor,
    weights: Tensor,
    diag: Tensor | None,
    state: Tensor,
    log_rho: Tensor | None,
    starts: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """What the loops compute, token by token; the other forms start from other arguments."""
    write = k[..., :, None] * v[..., None, :]  # [B, T, H, S, S]
    updates = weights[..., 0, None, None] * write
    if diag is not None:
        updates = updates + weights[..., 1, None, None] * write.mT
        updates = updates + torch.diag_embed(weights[..., 2, None] * diag)
    outputs = []
    for t, (rho_t, update, q_t) in enumerate(zip(rho.unbind(1), updates.unbind(1), q.unbind(1), strict=True)):
        if starts is not None:
            state = state.masked_fill(starts[:, t, None, None, None], 0.0)
        state = rho_t[..., None, None] * state + update
        outputs.append((state * q_t[..., None, :]).sum(-1))
    return torch.stack(outputs, dim=1) if outputs else torch.zeros_like(q), state


_scan = Operator(
    "matrix_state",
    "Tensor q, Tensor k, Tensor v, Tensor rho, Tensor weights, Tensor? diag, Tensor state, Tensor? log_rho, "
    "Tensor? starts",
    outputs="y last",
    kept="borders",
    loops=_loops,
    shapes=_shapes,
    plain=_plain,
    constant="log_rho starts",
)
