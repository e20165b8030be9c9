"""The compiled loops of the matrix state: forward and backward for one batch row and head at a time.

Imported only when a kernel runs, so that importing unimatrix.ops does not import numba. The machine code is
kept on disk (unimatrix.ops.jit): only the first run on a machine compiles.

Letters: as in unimatrix.ops.matrix_state.compiled. A state is kept transposed, st[j * S + i] = S_ij, so that
y_i = sum_j q_j st[j, i] runs along memory; g holds dLoss/dS untransposed. Tensors that may be
views come as an address and the strides of batch, time and head (the inner stride is 1), the others as flat
arrays.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numba
import numpy as np
from torch import Tensor

from unimatrix.ops.jit import kernel
from unimatrix.ops.matrix_state.steps import reverse, reverse_mixed, write_and_read, write_mixed_and_read
from unimatrix.ops.rows import FAST, ZEROS, address, flags, larger, place, unit_stride
from unimatrix.ops.rows import row as numbers
from unimatrix.ops.shapes import check_retention
from unimatrix.ops.threads import threads_for

BLOCK = 16  # tokens between two kept states: the backward recomputes the states of one block at a time


def run_forward(
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
) -> tuple[Tensor, Tensor, Tensor]:
    """y, the final state, and (if keep) the states at every block border, which the backward starts from.

    log_rho, whose signs tell what is no retention: with rule mixing; without, the write strengths have them.
    """
    q, k, v, rho, weights = (
        unit_stride(q),
        unit_stride(k),
        unit_stride(v),
        rho.contiguous(),
        weights.contiguous(),
    )
    diag = None if diag is None else unit_stride(diag)
    log_rho = None if log_rho is None else log_rho.contiguous()
    state, starts = state.contiguous(), None if starts is None else starts.contiguous()
    batch, length, heads, dim = q.shape
    y = q.new_empty(q.shape)
    last = q.new_empty(state.shape)
    borders = q.new_empty(border_shape(q, keep))
    wrong = _forward_kernel(dim, diag is not None, starts is not None)(
        threads_for(q.numel() * dim),  # the numbers of all states over all tokens
        *place(q),
        *place(k),
        *place(v),
        *place(q if diag is None else diag),
        rho.view(-1).numpy(),
        weights.view(-1).numpy(),
        state.view(-1).numpy(),
        address(log_rho),
        address(starts),
        y.data_ptr(),
        last.view(-1).numpy(),
        borders.view(-1).numpy(),
        (batch, length, heads, borders.shape[2]),
    )
    if wrong:
        check_retention("log_retention", weights[..., 0].neg().log1p() if log_rho is None else log_rho)
    return y, last, borders


def run_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rho: Tensor,
    weights: Tensor,
    diag: Tensor | None,
    state: Tensor,
    log_rho: Tensor | None,
    starts: Tensor | None,
    borders: Tensor,
    grad_y: Tensor | None,
    grad_last: Tensor | None,
) -> tuple[Tensor | None, ...]:
    """The gradients of q, k, v, rho, weights, diag (empty without rule mixing) and of the first state."""
    q, k, v, rho, weights = (
        unit_stride(q),
        unit_stride(k),
        unit_stride(v),
        rho.contiguous(),
        weights.contiguous(),
    )
    diag = None if diag is None else unit_stride(diag)
    grad_y = q.new_zeros(q.shape) if grad_y is None else unit_stride(grad_y)
    grad_last = q.new_zeros(state.shape) if grad_last is None else grad_last.contiguous()
    starts = None if starts is None else starts.contiguous()
    batch, length, heads, dim = q.shape
    grad_q, grad_k, grad_v = (q.new_empty(q.shape) for _ in range(3))
    grad_rho = q.new_empty(rho.shape)
    grad_weights = q.new_empty(weights.shape)
    grad_diag = q.new_empty(0 if diag is None else q.shape)
    grad_state = q.new_empty(state.shape)
    _backward_kernel(dim, diag is not None, starts is not None)(
        threads_for(q.numel() * dim),
        *place(q),
        *place(k),
        *place(v),
        *place(q if diag is None else diag),
        rho.view(-1).numpy(),
        weights.view(-1).numpy(),
        address(starts),
        borders.view(-1).numpy(),
        *place(grad_y),
        grad_last.view(-1).numpy(),
        grad_q.data_ptr(),
        grad_k.data_ptr(),
        grad_v.data_ptr(),
        grad_rho.data_ptr(),
        grad_weights.data_ptr(),
        grad_diag.data_ptr(),
        grad_state.view(-1).numpy(),
        (batch, length, heads, borders.shape[2]),
    )
    return grad_q, grad_k, grad_v, grad_rho, grad_weights, None if diag is None else grad_diag, grad_state


def run_step(
    qkv: Tensor,
    gates: Tensor,
    rules: Tensor | None,
    diag: Tensor | None,
    state: Tensor,
    recent: Tensor | None,
    kernel: Tensor | None,
    y: Tensor,
    last: Tensor,
    left: Tensor | None,
    norm_eps: float | None,
) -> int:
    """Fill y, last and left, see `unimatrix.ops.matrix_state.step`; returns how many retentions are NaN."""
    batch, heads, dim, _ = state.shape
    return _step(
        threads_for(state.numel()),
        qkv.data_ptr(),
        gates.data_ptr(),
        gates.shape[-1],
        address(rules),
        address(diag),
        state.data_ptr(),
        address(recent),
        address(kernel),
        y.data_ptr(),
        last.data_ptr(),
        address(left),
        (batch, heads, dim, 0 if kernel is None else kernel.shape[0]),
        -1.0 if norm_eps is None else norm_eps,
        ZEROS[qkv.dtype],
    )


def border_shape(q: Tensor, keep: bool) -> tuple[int, int, int, int]:
    """Shape of the kept states: one of S * S numbers per block of BLOCK tokens."""
    batch, length, heads, dim = q.shape
    return batch, heads, -(-length // BLOCK) if keep else 0, dim * dim


@kernel(fastmath=FAST)
def _step(qkv, gates, gates_width, rules, diag, state, recent, weight, y, last, left, sizes, norm_eps, zero):
    """Everything by address, a state as it lies. taps = 0: no convolution. norm_eps < 0: no norm."""
    batch, heads, dim, taps = sizes
    past, inner, square = max(taps - 1, 0), heads * dim, dim * dim
    wrong = 0
    for bh in numba.prange(batch * heads):
        b, h = np.int64(bh) // heads, np.int64(bh) % heads
        x = numbers(qkv, b * 3 * inner, 3 * inner, zero)
        before = numbers(recent, b * past * 3 * inner, past * 3 * inner, zero)
        kept = numbers(left, b * past * 3 * inner, past * 3 * inner, zero)
        taken = numbers(weight, 0, taps * 3 * inner, zero)
        vectors = np.empty((3, dim), x.dtype)  # q, k, v of this head
        for which in range(3):
            for i in range(dim):
                c = which * inner + h * dim + i
                vectors[which, i] = x[c]
                if taps > 0:
                    total = taken[past * 3 * inner + c] * x[c]
                    for j in range(past):
                        total += taken[j * 3 * inner + c] * before[j * 3 * inner + c]
                        kept[j * 3 * inner + c] = before[(j + 1) * 3 * inner + c] if j + 1 < past else x[c]
                    vectors[which, i] = total / (1 + math.exp(-total))
        logit = np.float64(numbers(gates, b * gates_width + h, 1, zero)[0])
        small = math.exp(-abs(logit))  # of the smaller of rho and 1 - rho over the larger one
        rho, write = 1 / (1 + small), small / (1 + small)
        if logit < 0:
            rho, write = write, rho
        wrong += 0 if rho <= 1 else 1
        outer, crossed, along = write, 0.0, 0.0  # of k v^T, v k^T and Diag(d)
        if rules != 0:
            logits = numbers(rules, np.int64(bh) * 3, 3, zero)
            most = larger(larger(logits[0], logits[1]), logits[2])
            of_outer, of_diag = math.exp(logits[0] - most), math.exp(logits[1] - most)
            of_sym = math.exp(logits[2] - most)
            share = write / (of_outer + of_diag + of_sym)
            outer, crossed, along = share * (of_outer + 0.5 * of_sym), share * 0.5 * of_sym, share * of_diag
        rho, outer = x.dtype.type(rho), x.dtype.type(outer)
        crossed, along = x.dtype.type(crossed), x.dtype.type(along)
        d = numbers(diag, np.int64(bh) * dim, dim, zero)
        old = numbers(state, np.int64(bh) * square, square, zero)
        new = numbers(last, np.int64(bh) * square, square, zero)
        read = numbers(y, np.int64(bh) * dim, dim, zero)
        squares = 0.0
        for i in range(dim):
            k, v = outer * vectors[1, i], crossed * vectors[2, i]
            for j in range(dim):
                new[i * dim + j] = rho * old[i * dim + j] + k * vectors[2, j]
            if rules != 0:
                for j in range(dim):
                    new[i * dim + j] += v * vectors[1, j]
                new[i * dim + i] += along * d[i]
            total = zero
            for j in range(dim):
                total += new[i * dim + j] * vectors[0, j]
            read[i] = total
            squares += np.float64(total) * total
        if norm_eps >= 0:
            scale = x.dtype.type(1 / math.sqrt(squares / dim + norm_eps))
            for i in range(dim):
                read[i] *= scale
    return wrong


@cache
def _forward_kernel(dim: int, mixed: bool, starting: bool) -> Callable[..., Any]:
    """The forward loop for one state dimension (a constant of the compiled code), with rule mixing or not.

    `starting`: whether texts begin on the way; without, nobody looks.
    """

    @kernel
    def forward(
        q, q_at, k, k_at, v, v_at, d, d_at, rho, weights, state, log, starts, y, last, borders, sizes
    ):  # fmt: skip
        batch, length, heads, blocks = sizes
        square = dim * dim
        wrong = 0  # retentions above 1, or NaN
        for bh in numba.prange(batch * heads):
            b = np.int64(bh) // heads
            h = np.int64(bh) % heads
            start = np.int64(bh) * square
            st = np.empty(square, rho.dtype)
            for j in range(dim):
                for i in range(dim):
                    st[j * dim + i] = state[start + i * dim + j]
            begins = flags(starts, b * length, length)
            for t in range(length):
                if starting and begins[t]:
                    for n in range(square):
                        st[n] = 0
                if blocks > 0 and t % BLOCK == 0:
                    at = (np.int64(bh) * blocks + t // BLOCK) * square
                    for n in range(square):
                        borders[at + n] = st[n]
                row = (b * length + t) * heads + h
                if mixed:
                    wrong += 0 if numbers(log, row, 1, rho.dtype.type(0))[0] <= 0 else 1
                else:
                    wrong += 0 if weights[row] >= 0 else 1
                qo = b * q_at[0] + t * q_at[1] + h * q_at[2]
                ko = b * k_at[0] + t * k_at[1] + h * k_at[2]
                vo = b * v_at[0] + t * v_at[1] + h * v_at[2]
                if mixed:
                    do = b * d_at[0] + t * d_at[1] + h * d_at[2]
                    a, b_, c = weights[row * 3], weights[row * 3 + 1], weights[row * 3 + 2]
                    write_mixed_and_read(
                        dim, st, 0, 0, k, ko, v, vo, q, qo, y, row * dim, d, do, rho[row], a, b_, c
                    )
                else:
                    write_and_read(dim, st, 0, 0, k, ko, v, vo, q, qo, y, row * dim, rho[row], weights[row])
            for j in range(dim):
                for i in range(dim):
                    last[start + i * dim + j] = st[j * dim + i]
        return wrong

    return forward


@cache
def _backward_kernel(dim: int, mixed: bool, starting: bool) -> Callable[..., Any]:
    """The reverse loop: the states of a block are recomputed from its border, then walked backwards.

    The recomputed states lie untransposed, so that writing v k^T there (k and v change places) and reading
    with dy gives dq = S^T dy on the way.
    """

    @kernel
    def backward(
        q, q_at, k, k_at, v, v_at, d, d_at, rho, weights, starts, borders, dy, dy_at, d_last,
        dq, dk, dv, d_rho, d_weights, d_diag, d_state, sizes,
    ):  # fmt: skip
        batch, length, heads, blocks = sizes
        square = dim * dim
        for bh in numba.prange(batch * heads):
            b = np.int64(bh) // heads
            h = np.int64(bh) % heads
            start = np.int64(bh) * square
            states = np.empty((BLOCK + 2) * square, rho.dtype)
            nothing = (BLOCK + 1) * square  # where the last of them lies: what a text begins with
            for n in range(square):
                states[nothing + n] = 0
            begins = flags(starts, b * length, length)
            g = np.empty(square, rho.dtype)
            for n in range(square):
                g[n] = d_last[start + n]
            decay = rho.dtype.type(1)
            for block in range(blocks - 1, -1, -1):
                first = block * BLOCK
                count = min(BLOCK, length - first)
                at = (np.int64(bh) * blocks + block) * square
                for i in range(dim):
                    for j in range(dim):
                        states[i * dim + j] = borders[at + j * dim + i]
                for u in range(count):
                    t = first + u
                    row = (b * length + t) * heads + h
                    ko = b * k_at[0] + t * k_at[1] + h * k_at[2]
                    vo = b * v_at[0] + t * v_at[1] + h * v_at[2]
                    yo = b * dy_at[0] + t * dy_at[1] + h * dy_at[2]
                    old = nothing if starting and begins[t] else u * square
                    here = (u + 1) * square
                    if mixed:
                        do = b * d_at[0] + t * d_at[1] + h * d_at[2]
                        a, b_, c = weights[row * 3], weights[row * 3 + 1], weights[row * 3 + 2]
                        write_mixed_and_read(
                            dim, states, old, here, v, vo, k, ko, dy, yo, dq, row * dim, d, do,
                            rho[row], a, b_, c,
                        )  # fmt: skip
                    else:
                        write_and_read(
                            dim, states, old, here, v, vo, k, ko, dy, yo, dq, row * dim,
                            rho[row], weights[row],
                        )  # fmt: skip
                for u in range(count - 1, -1, -1):
                    t = first + u
                    row = (b * length + t) * heads + h
                    out = row * dim
                    old = nothing if starting and begins[t] else u * square
                    qo = b * q_at[0] + t * q_at[1] + h * q_at[2]
                    ko = b * k_at[0] + t * k_at[1] + h * k_at[2]
                    vo = b * v_at[0] + t * v_at[1] + h * v_at[2]
                    yo = b * dy_at[0] + t * dy_at[1] + h * dy_at[2]
                    if mixed:
                        do = b * d_at[0] + t * d_at[1] + h * d_at[2]
                        a, b_, c = weights[row * 3], weights[row * 3 + 1], weights[row * 3 + 2]
                        reverse_mixed(
                            dim, g, 0, states, old, k, ko, v, vo, q, qo, dy, yo, d, do,
                            dk, out, dv, out, d_diag, out, d_rho, row, d_weights, row * 3, decay, a, b_, c,
                        )  # fmt: skip
                    else:
                        reverse(
                            dim, g, 0, states, old, k, ko, v, vo, q, qo, dy, yo,
                            dk, out, dv, out, d_rho, row, d_weights, row, decay, weights[row],
                        )  # fmt: skip
                    decay = rho[row]
                    if starting and begins[t]:
                        decay = rho.dtype.type(1)
                        for n in range(square):
                            g[n] = 0
            for n in range(square):
                d_state[start + n] = decay * g[n]

    return backward
