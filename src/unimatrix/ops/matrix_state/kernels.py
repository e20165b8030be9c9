"""The compiled loops of the matrix state: forward and backward for one batch row and head at a time.

Imported only when a kernel runs, so that importing unimatrix.ops does not import numba.

Letters: as in unimatrix.ops.matrix_state.compiled. A state is kept transposed, st[j * S + i] = S_ij, so that
y_i = sum_j q_j st[j, i] runs along memory; g holds dLoss/dS in the same layout. Tensors come as flat arrays
with the strides of batch, time and head (the inner stride is 1).
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from unimatrix.ops.matrix_state.compiled import BLOCK

# sums may be reordered and products fused; infinities and NaN keep their meaning
FASTMATH = {"contract", "reassoc", "nsz", "arcp"}


def run_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rho: Tensor,
    weights: Tensor,
    diag: Tensor | None,
    state: Tensor,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """See compiled._forward."""
    batch, length, heads, dim = q.shape
    y = torch.empty(q.shape, dtype=q.dtype)
    last = torch.empty(state.shape, dtype=q.dtype)
    blocks = -(-length // BLOCK) if keep else 0
    borders = torch.empty((batch, heads, blocks, dim * dim) if keep else (0,), dtype=q.dtype)
    kernel = _forward_kernel(dim, _unroll(dim), diag is not None)
    _match_threads()
    kernel(
        *_flat(q),
        *_flat(k),
        *_flat(v),
        *_flat(q if diag is None else diag),
        rho.contiguous().view(-1).numpy(),
        weights.contiguous().view(-1).numpy(),
        state.contiguous().view(-1).numpy(),
        y.view(-1).numpy(),
        last.view(-1).numpy(),
        borders.view(-1).numpy(),
        (batch, length, heads, blocks),
    )
    return y, last, borders


def run_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rho: Tensor,
    weights: Tensor,
    diag: Tensor | None,
    borders: Tensor,
    grad_y: Tensor,
    grad_last: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See compiled._backward."""
    batch, length, heads, dim = q.shape
    grad_q, grad_k, grad_v = (torch.empty(q.shape, dtype=q.dtype) for _ in range(3))
    grad_rho = torch.empty(rho.shape, dtype=q.dtype)
    grad_weights = torch.empty(weights.shape, dtype=q.dtype)
    grad_diag = torch.empty(q.shape if diag is not None else (0,), dtype=q.dtype)
    grad_state = torch.empty(grad_last.shape, dtype=q.dtype)
    kernel = _backward_kernel(dim, diag is not None)
    _match_threads()
    kernel(
        *_flat(q),
        *_flat(k),
        *_flat(v),
        *_flat(q if diag is None else diag),
        rho.contiguous().view(-1).numpy(),
        weights.contiguous().view(-1).numpy(),
        borders.view(-1).numpy(),
        *_flat(grad_y),
        grad_last.contiguous().view(-1).numpy(),
        grad_q.view(-1).numpy(),
        grad_k.view(-1).numpy(),
        grad_v.view(-1).numpy(),
        grad_rho.view(-1).numpy(),
        grad_weights.view(-1).numpy(),
        grad_diag.view(-1).numpy(),
        grad_state.view(-1).numpy(),
        (batch, length, heads, borders.shape[2]),
    )
    return grad_q, grad_k, grad_v, grad_rho, grad_weights, grad_diag, grad_state


def _flat(x: Tensor) -> tuple[np.ndarray, tuple[int, int, int]]:
    """The memory that x [B, T, H, S] covers as one flat array, and its strides; copies only if it must."""
    if x.stride(3) != 1 and x.shape[3] > 1:
        x = x.contiguous()
    x = x.detach()
    sizes, strides = x.shape, x.stride()
    span = 1 + sum((n - 1) * s for n, s in zip(sizes, strides, strict=True)) if x.numel() else 0
    return x.as_strided((span,), (1,)).numpy(), strides[:3]


def _match_threads() -> None:
    """Use as many threads as torch does."""
    numba.set_num_threads(min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS))


def _unroll(dim: int) -> int:
    """Columns of the state taken per pass over y."""
    return next(n for n in (8, 4, 2, 1) if dim % n == 0)


@lru_cache(maxsize=None)
def _forward_kernel(dim: int, unroll: int, mixed: bool) -> Callable[..., Any]:
    """A forward loop for one state dimension (a constant lets the compiler unroll), with rule mixing or not."""

    @numba.njit(parallel=True, fastmath=FASTMATH, error_model="numpy", cache=True)
    def forward(
        q, q_at, k, k_at, v, v_at, d, d_at, rho, weights, state, y, last, borders, sizes
    ):  # pragma: no cover
        batch, length, heads, blocks = sizes
        square = dim * dim
        for bh in numba.prange(batch * heads):
            b = bh // heads
            h = bh % heads
            st = np.empty(square, y.dtype)
            y_t = np.empty(dim, y.dtype)
            k_w = np.empty(dim, y.dtype)
            v_w = np.empty(dim, y.dtype)
            for j in range(dim):
                for i in range(dim):
                    st[j * dim + i] = state[bh * square + i * dim + j]
            for t in range(length):
                if blocks > 0 and t % BLOCK == 0:
                    at = (bh * blocks + t // BLOCK) * square
                    for n in range(square):
                        borders[at + n] = st[n]
                row = (b * length + t) * heads + h
                qo = b * q_at[0] + t * q_at[1] + h * q_at[2]
                ko = b * k_at[0] + t * k_at[1] + h * k_at[2]
                vo = b * v_at[0] + t * v_at[1] + h * v_at[2]
                r = rho[row]
                for i in range(dim):
                    y_t[i] = 0
                if mixed:
                    w_a = weights[row * 3]
                    w_b = weights[row * 3 + 1]
                    w_c = weights[row * 3 + 2]
                    do = b * d_at[0] + t * d_at[1] + h * d_at[2]
                    for i in range(dim):
                        k_w[i] = w_a * k[ko + i]
                        v_w[i] = w_b * v[vo + i]
                    for j in range(dim):
                        q_j = q[qo + j]
                        v_j = v[vo + j]
                        k_j = k[ko + j]
                        for i in range(dim):
                            s = r * st[j * dim + i] + v_j * k_w[i] + k_j * v_w[i]
                            st[j * dim + i] = s
                            y_t[i] += q_j * s
                    for j in range(dim):
                        add = w_c * d[do + j]
                        st[j * dim + j] += add
                        y_t[j] += q[qo + j] * add
                else:
                    w_a = weights[row]
                    for i in range(dim):
                        k_w[i] = w_a * k[ko + i]
                    if unroll == 8:
                        for j in range(0, dim, 8):
                            at = j * dim
                            v0 = v[vo + j]
                            v1 = v[vo + j + 1]
                            v2 = v[vo + j + 2]
                            v3 = v[vo + j + 3]
                            v4 = v[vo + j + 4]
                            v5 = v[vo + j + 5]
                            v6 = v[vo + j + 6]
                            v7 = v[vo + j + 7]
                            q0 = q[qo + j]
                            q1 = q[qo + j + 1]
                            q2 = q[qo + j + 2]
                            q3 = q[qo + j + 3]
                            q4 = q[qo + j + 4]
                            q5 = q[qo + j + 5]
                            q6 = q[qo + j + 6]
                            q7 = q[qo + j + 7]
                            for i in range(dim):
                                k_i = k_w[i]
                                s0 = r * st[at + i] + v0 * k_i
                                s1 = r * st[at + dim + i] + v1 * k_i
                                s2 = r * st[at + 2 * dim + i] + v2 * k_i
                                s3 = r * st[at + 3 * dim + i] + v3 * k_i
                                s4 = r * st[at + 4 * dim + i] + v4 * k_i
                                s5 = r * st[at + 5 * dim + i] + v5 * k_i
                                s6 = r * st[at + 6 * dim + i] + v6 * k_i
                                s7 = r * st[at + 7 * dim + i] + v7 * k_i
                                st[at + i] = s0
                                st[at + dim + i] = s1
                                st[at + 2 * dim + i] = s2
                                st[at + 3 * dim + i] = s3
                                st[at + 4 * dim + i] = s4
                                st[at + 5 * dim + i] = s5
                                st[at + 6 * dim + i] = s6
                                st[at + 7 * dim + i] = s7
                                y_t[i] += (q0 * s0 + q1 * s1 + q2 * s2 + q3 * s3) + (
                                    q4 * s4 + q5 * s5 + q6 * s6 + q7 * s7
                                )
                    else:
                        for j in range(dim):
                            q_j = q[qo + j]
                            v_j = v[vo + j]
                            for i in range(dim):
                                s = r * st[j * dim + i] + v_j * k_w[i]
                                st[j * dim + i] = s
                                y_t[i] += q_j * s
                for i in range(dim):
                    y[row * dim + i] = y_t[i]
            for j in range(dim):
                for i in range(dim):
                    last[bh * square + i * dim + j] = st[j * dim + i]

    return forward


@lru_cache(maxsize=None)
def _backward_kernel(dim: int, mixed: bool) -> Callable[..., Any]:
    """The reverse loop: states of a block are recomputed from its border, then walked backwards.

    With g = dLoss/dS_t (this token's reading included):
        dq = S_t^T dy    dk = a g v + b g^T v    dv = a g^T k + b g k    dd = c diag(g)
        drho = <g, S_{t-1}>    da = k.(g v)    db = v.(g k)    dc = d.diag(g)
    """

    @numba.njit(parallel=True, fastmath=FASTMATH, error_model="numpy", cache=True)
    def backward(
        q, q_at, k, k_at, v, v_at, d, d_at, rho, weights, borders, dy, dy_at, d_last,
        dq, dk, dv, d_rho, d_weights, d_diag, d_state, sizes,
    ):  # fmt: skip  # pragma: no cover
        batch, length, heads, blocks = sizes
        square = dim * dim
        for bh in numba.prange(batch * heads):
            b = bh // heads
            h = bh % heads
            states = np.empty((BLOCK + 1) * square, q.dtype)
            g = np.empty(square, q.dtype)
            k_t = np.empty(dim, q.dtype)
            v_t = np.empty(dim, q.dtype)
            dy_t = np.empty(dim, q.dtype)
            g_v = np.empty(dim, q.dtype)
            g_k = np.empty(dim, q.dtype)
            zero = q.dtype.type(0)
            decay = q.dtype.type(1)
            for j in range(dim):
                for i in range(dim):
                    g[j * dim + i] = d_last[bh * square + i * dim + j]
            for block in range(blocks - 1, -1, -1):
                first = block * BLOCK
                count = min(BLOCK, length - first)
                at = (bh * blocks + block) * square
                for n in range(square):
                    states[n] = borders[at + n]
                for u in range(count):
                    t = first + u
                    row = (b * length + t) * heads + h
                    ko = b * k_at[0] + t * k_at[1] + h * k_at[2]
                    vo = b * v_at[0] + t * v_at[1] + h * v_at[2]
                    r = rho[row]
                    src = u * square
                    dst = src + square
                    if mixed:
                        do = b * d_at[0] + t * d_at[1] + h * d_at[2]
                        for i in range(dim):
                            k_t[i] = weights[row * 3] * k[ko + i]
                            v_t[i] = weights[row * 3 + 1] * v[vo + i]
                        for j in range(dim):
                            v_j = v[vo + j]
                            k_j = k[ko + j]
                            for i in range(dim):
                                states[dst + j * dim + i] = (
                                    r * states[src + j * dim + i] + v_j * k_t[i] + k_j * v_t[i]
                                )
                            states[dst + j * dim + j] += weights[row * 3 + 2] * d[do + j]
                    else:
                        for i in range(dim):
                            k_t[i] = weights[row] * k[ko + i]
                        for j in range(dim):
                            v_j = v[vo + j]
                            for i in range(dim):
                                states[dst + j * dim + i] = r * states[src + j * dim + i] + v_j * k_t[i]
                for u in range(count - 1, -1, -1):
                    t = first + u
                    row = (b * length + t) * heads + h
                    qo = b * q_at[0] + t * q_at[1] + h * q_at[2]
                    ko = b * k_at[0] + t * k_at[1] + h * k_at[2]
                    vo = b * v_at[0] + t * v_at[1] + h * v_at[2]
                    yo = b * dy_at[0] + t * dy_at[1] + h * dy_at[2]
                    before = u * square
                    after = before + square
                    for i in range(dim):
                        k_t[i] = k[ko + i]
                        v_t[i] = v[vo + i]
                        dy_t[i] = dy[yo + i]
                        g_v[i] = zero
                        g_k[i] = zero
                    out = row * dim
                    drho = zero
                    if mixed:
                        w_a = weights[row * 3]
                        w_b = weights[row * 3 + 1]
                        w_c = weights[row * 3 + 2]
                        do = b * d_at[0] + t * d_at[1] + h * d_at[2]
                        dc = zero
                        for j in range(dim):
                            q_j = q[qo + j]
                            v_j = v_t[j]
                            k_j = k_t[j]
                            dq_j = zero
                            gk_j = zero
                            gv_j = zero
                            for i in range(dim):
                                x = decay * g[j * dim + i] + q_j * dy_t[i]
                                g[j * dim + i] = x
                                dq_j += states[after + j * dim + i] * dy_t[i]
                                gk_j += x * k_t[i]
                                gv_j += x * v_t[i]
                                drho += x * states[before + j * dim + i]
                                g_v[i] += x * v_j
                                g_k[i] += x * k_j
                            dq[out + j] = dq_j
                            dv[out + j] = w_a * gk_j
                            dk[out + j] = w_b * gv_j
                            diagonal = g[j * dim + j]
                            d_diag[out + j] = w_c * diagonal
                            dc += diagonal * d[do + j]
                        da = zero
                        db = zero
                        for i in range(dim):
                            dk[out + i] += w_a * g_v[i]
                            dv[out + i] += w_b * g_k[i]
                            da += k_t[i] * g_v[i]
                            db += v_t[i] * g_k[i]
                        d_weights[row * 3] = da
                        d_weights[row * 3 + 1] = db
                        d_weights[row * 3 + 2] = dc
                    else:
                        w_a = weights[row]
                        for j in range(dim):
                            q_j = q[qo + j]
                            v_j = v_t[j]
                            dq_j = zero
                            gk_j = zero
                            for i in range(dim):
                                x = decay * g[j * dim + i] + q_j * dy_t[i]
                                g[j * dim + i] = x
                                dq_j += states[after + j * dim + i] * dy_t[i]
                                gk_j += x * k_t[i]
                                drho += x * states[before + j * dim + i]
                                g_v[i] += x * v_j
                            dq[out + j] = dq_j
                            dv[out + j] = w_a * gk_j
                        da = zero
                        for i in range(dim):
                            dk[out + i] = w_a * g_v[i]
                            da += k_t[i] * g_v[i]
                        d_weights[row] = da
                    d_rho[row] = drho
                    decay = rho[row]
            for j in range(dim):
                for i in range(dim):
                    d_state[bh * square + i * dim + j] = decay * g[j * dim + i]

    return backward
