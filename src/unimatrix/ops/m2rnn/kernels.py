"""The compiled loops of M2RNN: forward and backward for one batch row and head at a time.

Imported only when a kernel runs, so that importing unimatrix.ops does not import numba. The machine code is
kept on disk (unimatrix.ops.jit): only the first run on a machine compiles.

Letters: as in unimatrix.ops.m2rnn.compiled; c the candidate tanh(h W + k v^T), a its argument, g dLoss/dh. A
state is kept transposed, column j of h after column j - 1, so that every inner loop runs along K numbers in
memory. Tensors come as addresses (unimatrix.ops.rows); q, k and v with their strides of batch, time and head
(the inner stride is 1). Each inner loop writes one array, and four columns of a product go into one sum: an
array that is read and written costs as much as three that are read.
"""

from functools import cache
from typing import Any

import numba
import numpy as np
from torch import Tensor

from unimatrix.ops.jit import kernel
from unimatrix.ops.rows import FAST, ZEROS, address, flags, place, row, unit_stride
from unimatrix.ops.shapes import check_retention
from unimatrix.ops.tanh import close_tanh
from unimatrix.ops.threads import threads_for

BLOCK = 16  # tokens between two kept states: the backward recomputes the states of one block at a time


def run_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keep: Tensor,
    write: Tensor,
    state: Tensor,
    transition: Tensor,
    starts: Tensor | None,
    for_backward: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """y, the final state, and (for_backward) the states at every block border: there the backward starts."""
    q, k, v = (unit_stride(x) for x in (q, k, v))
    keep, write, state, transition = (x.contiguous() for x in (keep, write, state, transition))
    starts = None if starts is None else starts.contiguous()
    batch, length, heads, dim = q.shape
    y, last = v.new_empty(v.shape), state.new_empty(state.shape)
    borders = q.new_empty(border_shape(v, dim, for_backward))
    wrong = _forward_kernel()(
        _threads(v, dim),
        *place(q),
        *place(k),
        *place(v),
        keep.data_ptr(),
        write.data_ptr(),
        state.data_ptr(),
        transition.data_ptr(),
        address(starts),
        y.data_ptr(),
        last.data_ptr(),
        borders.data_ptr(),
        (batch, length, heads, dim, v.shape[-1], borders.shape[2]),
        ZEROS[q.dtype],
    )
    if wrong:
        check_retention("log_retention", write.neg().log1p())
    return y, last, borders


def run_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keep: Tensor,
    write: Tensor,
    state: Tensor,
    transition: Tensor,
    starts: Tensor | None,
    borders: Tensor,
    grad_y: Tensor | None,
    grad_last: Tensor | None,
) -> tuple[Tensor, ...]:
    """The gradients of q, k, v, keep, write, of the first state and of the transition."""
    q, k, v = (unit_stride(x) for x in (q, k, v))
    keep, write, transition, borders = (x.contiguous() for x in (keep, write, transition, borders))
    starts = None if starts is None else starts.contiguous()
    grad_y = v.new_zeros(v.shape) if grad_y is None else unit_stride(grad_y)
    grad_last = state.new_zeros(state.shape) if grad_last is None else grad_last.contiguous()
    batch, length, heads, dim = q.shape
    grads = [x.new_empty(x.shape) for x in (q, k, v, keep, write, state)]
    # of each row of the batch apart: two threads write no number together
    grad_transition = transition.new_empty(batch, *transition.shape)
    _backward_kernel()(
        _threads(v, dim),
        *place(q),
        *place(k),
        *place(v),
        keep.data_ptr(),
        write.data_ptr(),
        transition.data_ptr(),
        address(starts),
        borders.data_ptr(),
        *place(grad_y),
        grad_last.data_ptr(),
        *(x.data_ptr() for x in grads),
        grad_transition.data_ptr(),
        (batch, length, heads, dim, v.shape[-1], borders.shape[2]),
        ZEROS[q.dtype],
    )
    return (*grads, grad_transition.sum(0))


def border_shape(v: Tensor, dim: int, keep: bool) -> tuple[int, int, int, int]:
    """Shape of the kept states: one of K * V numbers per block of BLOCK tokens."""
    batch, length, heads, width = v.shape
    return batch, heads, -(-length // BLOCK) if keep else 0, dim * width


def _threads(v: Tensor, dim: int) -> int:
    return threads_for(v.numel() * dim * v.shape[-1])


@numba.njit
def _column(x, at, dim, zero):
    """Numbers at .. at + dim of a caller's array, told to be no other place: indices need no look for a sign.

    The array lives as long as the call that it is an argument of.
    """
    return row(x.ctypes.data, at, dim, zero)


@numba.njit(fastmath=FAST)
def _candidate(h, h_at, c, c_at, at, k, v, w, dim, width, zero):
    """c = tanh(h W + k v^T) at place `at` of each column; columns lie h_at and c_at apart."""
    whole = width - width % 4
    for j in range(width):
        c_j = _column(c, j * c_at + at, dim, zero)
        v_j = v[j]
        for i in range(dim):
            c_j[i] = k[i] * v_j
        for m in range(0, whole, 4):
            w0, w1 = w[m * width + j], w[(m + 1) * width + j]
            w2, w3 = w[(m + 2) * width + j], w[(m + 3) * width + j]
            h0, h1 = _column(h, m * h_at + at, dim, zero), _column(h, (m + 1) * h_at + at, dim, zero)
            h2, h3 = _column(h, (m + 2) * h_at + at, dim, zero), _column(h, (m + 3) * h_at + at, dim, zero)
            for i in range(dim):
                c_j[i] += (w0 * h0[i] + w1 * h1[i]) + (w2 * h2[i] + w3 * h3[i])
        for m in range(whole, width):
            w0, h0 = w[m * width + j], _column(h, m * h_at + at, dim, zero)
            for i in range(dim):
                c_j[i] += w0 * h0[i]
        for i in range(dim):
            c_j[i] = close_tanh(c_j[i])


@numba.njit(fastmath=FAST)
def _write(h, h_at, at, c, c_at, f, s, dim, width, zero):
    """h = f h + s c, from place `at` of each column to the place behind it."""
    for j in range(width):
        before, after = _column(h, j * h_at + at, dim, zero), _column(h, j * h_at + at + dim, dim, zero)
        c_j = _column(c, j * c_at + at, dim, zero)
        for i in range(dim):
            after[i] = f * before[i] + s * c_j[i]


@numba.njit(fastmath=FAST)
def _read(h, q, y, dim, width, zero):
    """y = h^T q."""
    for j in range(width):
        h_j, total = _column(h, j * dim, dim, zero), zero
        for i in range(dim):
            total += q[i] * h_j[i]
        y[j] = total


@numba.njit(fastmath=FAST)
def _read_back(h, h_at, at, dy, dq, dim, width, zero):
    """dq = h dy, of the h at place `at` of each column."""
    for i in range(dim):
        dq[i] = zero
    for j in range(width):
        h_j, dy_j = _column(h, j * h_at + at, dim, zero), dy[j]
        for i in range(dim):
            dq[i] += dy_j * h_j[i]


@numba.njit(fastmath=FAST)
def _reverse(g, h, h_at, c, c_at, at, q, k, v, dy, dk, dv, s, dim, width, zero):
    """g += q dy^T; c becomes a = s g (1 - c^2); dk = a v, dv = a^T k; returns what f and s get."""
    kept, written, one = zero, zero, zero + np.float32(1)  # a plain 1 would take all of it to float64
    for i in range(dim):
        dk[i] = zero
    for j in range(width):
        g_j, h_j = _column(g, j * dim, dim, zero), _column(h, j * h_at + at, dim, zero)
        c_j = _column(c, j * c_at + at, dim, zero)
        dy_j, v_j, total = dy[j], v[j], zero
        for i in range(dim):
            g_j[i] += dy_j * q[i]
        for i in range(dim):
            kept += g_j[i] * h_j[i]
        for i in range(dim):
            written += g_j[i] * c_j[i]
        for i in range(dim):
            c_j[i] = s * g_j[i] * ((one - c_j[i]) * (one + c_j[i]))
        for i in range(dim):
            dk[i] += v_j * c_j[i]
        for i in range(dim):
            total += k[i] * c_j[i]
        dv[j] = total
    return kept, written


@numba.njit(fastmath=FAST)
def _back_through(g, f, a, a_at, at, w, dim, width, zero):
    """g = f g + a W^T, with the gradient a of the tanh's argument at place `at` of each column."""
    whole = width - width % 4
    for m in range(width):
        g_m = _column(g, m * dim, dim, zero)
        for i in range(dim):
            g_m[i] *= f
        for j in range(0, whole, 4):
            n = m * width + j
            w0, w1, w2, w3 = w[n], w[n + 1], w[n + 2], w[n + 3]
            a0, a1 = _column(a, j * a_at + at, dim, zero), _column(a, (j + 1) * a_at + at, dim, zero)
            a2, a3 = _column(a, (j + 2) * a_at + at, dim, zero), _column(a, (j + 3) * a_at + at, dim, zero)
            for i in range(dim):
                g_m[i] += (w0 * a0[i] + w1 * a1[i]) + (w2 * a2[i] + w3 * a3[i])
        for j in range(whole, width):
            w0, a0 = w[m * width + j], _column(a, j * a_at + at, dim, zero)
            for i in range(dim):
                g_m[i] += w0 * a0[i]


@numba.njit(fastmath=FAST)
def _add_products(dw, h, h_at, a, a_at, count, width, zero):
    """dW += h^T a, over the first `count` numbers of each column: all tokens of a block at once."""
    whole = width - width % 4
    for j in range(width):
        a_j = _column(a, j * a_at, count, zero)
        for m in range(0, whole, 4):
            h0, h1 = _column(h, m * h_at, count, zero), _column(h, (m + 1) * h_at, count, zero)
            h2, h3 = _column(h, (m + 2) * h_at, count, zero), _column(h, (m + 3) * h_at, count, zero)
            s0, s1, s2, s3 = zero, zero, zero, zero
            for i in range(count):
                s0 += h0[i] * a_j[i]
                s1 += h1[i] * a_j[i]
                s2 += h2[i] * a_j[i]
                s3 += h3[i] * a_j[i]
            dw[m * width + j] += s0
            dw[(m + 1) * width + j] += s1
            dw[(m + 2) * width + j] += s2
            dw[(m + 3) * width + j] += s3
        for m in range(whole, width):
            h0, s0 = _column(h, m * h_at, count, zero), zero
            for i in range(count):
                s0 += h0[i] * a_j[i]
            dw[m * width + j] += s0


@cache
def _forward_kernel() -> Any:
    @kernel(fastmath=FAST)
    def forward(
        q, q_at, k, k_at, v, v_at, keep, write, state, transition, starts, y, last, borders, sizes, zero
    ):  # fmt: skip
        batch, length, heads, dim, width, blocks = sizes
        square = dim * width
        wrong = 0  # retentions above 1, or NaN
        for bh in numba.prange(batch * heads):
            b = np.int64(bh) // heads
            x = np.int64(bh) % heads
            first = row(state, np.int64(bh) * square, square, zero)
            w = row(transition, x * width * width, width * width, zero)
            h = np.full(square, zero)
            c = np.full(square, zero)
            for j in range(width):
                for i in range(dim):
                    h[j * dim + i] = first[i * width + j]
            begins = flags(starts, b * length, length)
            for t in range(length):
                if starts != 0 and begins[t]:
                    for n in range(square):
                        h[n] = zero
                if blocks > 0 and t % BLOCK == 0:
                    border = row(borders, (np.int64(bh) * blocks + t // BLOCK) * square, square, zero)
                    for n in range(square):
                        border[n] = h[n]
                gate = (b * length + t) * heads + x
                f, s = row(keep, gate, 1, zero)[0], row(write, gate, 1, zero)[0]
                wrong += 0 if s >= 0 else 1
                q_t = row(q, b * q_at[0] + t * q_at[1] + x * q_at[2], dim, zero)
                k_t = row(k, b * k_at[0] + t * k_at[1] + x * k_at[2], dim, zero)
                v_t = row(v, b * v_at[0] + t * v_at[1] + x * v_at[2], width, zero)
                y_t = row(y, gate * width, width, zero)
                _candidate(h, dim, c, dim, 0, k_t, v_t, w, dim, width, zero)
                for n in range(square):
                    h[n] = f * h[n] + s * c[n]
                _read(h, q_t, y_t, dim, width, zero)
            end = row(last, np.int64(bh) * square, square, zero)
            for j in range(width):
                for i in range(dim):
                    end[i * width + j] = h[j * dim + i]
        return wrong

    return forward


@cache
def _backward_kernel() -> Any:
    @kernel(fastmath=FAST)
    def backward(
        q, q_at, k, k_at, v, v_at, keep, write, transition, starts, borders, dy, dy_at, d_last,
        dq, dk, dv, d_keep, d_write, d_state, d_transition, sizes, zero,
    ):  # fmt: skip
        """The states and candidates of a block are recomputed from its border, then walked backwards:
        g += q dy^T, da = s g (1 - c^2), dW += h^T da, g = f g + da W^T."""
        batch, length, heads, dim, width, blocks = sizes
        square, h_at, c_at = dim * width, (BLOCK + 1) * dim, BLOCK * dim
        for bh in numba.prange(batch * heads):
            b = np.int64(bh) // heads
            x = np.int64(bh) % heads
            w = row(transition, x * width * width, width * width, zero)
            dw = row(d_transition, np.int64(bh) * width * width, width * width, zero)
            end = row(d_last, np.int64(bh) * square, square, zero)
            first = row(d_state, np.int64(bh) * square, square, zero)
            h = np.full(width * h_at, zero)  # before each token of a block, and behind the last
            c = np.full(width * c_at, zero)  # of each token, then the gradients of their arguments
            g = np.full(square, zero)
            for n in range(width * width):
                dw[n] = zero
            for j in range(width):
                for i in range(dim):
                    g[j * dim + i] = end[i * width + j]
            begins = flags(starts, b * length, length)
            for block in range(blocks - 1, -1, -1):
                count = min(BLOCK, length - block * BLOCK)
                border = row(borders, (np.int64(bh) * blocks + block) * square, square, zero)
                for j in range(width):
                    for i in range(dim):
                        h[j * h_at + i] = border[j * dim + i]
                for u in range(count):
                    t = block * BLOCK + u
                    gate = (b * length + t) * heads + x
                    f, s = row(keep, gate, 1, zero)[0], row(write, gate, 1, zero)[0]
                    k_t = row(k, b * k_at[0] + t * k_at[1] + x * k_at[2], dim, zero)
                    v_t = row(v, b * v_at[0] + t * v_at[1] + x * v_at[2], width, zero)
                    dy_t = row(dy, b * dy_at[0] + t * dy_at[1] + x * dy_at[2], width, zero)
                    dq_t = row(dq, gate * dim, dim, zero)
                    at = u * dim
                    if starts != 0 and begins[t]:
                        for j in range(width):
                            for i in range(dim):
                                h[j * h_at + at + i] = zero
                    _candidate(h, h_at, c, c_at, at, k_t, v_t, w, dim, width, zero)
                    _write(h, h_at, at, c, c_at, f, s, dim, width, zero)
                    _read_back(h, h_at, at + dim, dy_t, dq_t, dim, width, zero)
                for u in range(count - 1, -1, -1):
                    t = block * BLOCK + u
                    gate = (b * length + t) * heads + x
                    f, s = row(keep, gate, 1, zero)[0], row(write, gate, 1, zero)[0]
                    q_t = row(q, b * q_at[0] + t * q_at[1] + x * q_at[2], dim, zero)
                    k_t = row(k, b * k_at[0] + t * k_at[1] + x * k_at[2], dim, zero)
                    v_t = row(v, b * v_at[0] + t * v_at[1] + x * v_at[2], width, zero)
                    dy_t = row(dy, b * dy_at[0] + t * dy_at[1] + x * dy_at[2], width, zero)
                    dk_t = row(dk, gate * dim, dim, zero)
                    dv_t = row(dv, gate * width, width, zero)
                    at = u * dim
                    kept, written = _reverse(
                        g, h, h_at, c, c_at, at, q_t, k_t, v_t, dy_t, dk_t, dv_t, s, dim, width, zero
                    )
                    row(d_keep, gate, 1, zero)[0] = kept
                    row(d_write, gate, 1, zero)[0] = written
                    _back_through(g, f, c, c_at, at, w, dim, width, zero)
                    if starts != 0 and begins[t]:
                        for n in range(square):
                            g[n] = zero
                _add_products(dw, h, h_at, c, c_at, count * dim, width, zero)
            for j in range(width):
                for i in range(dim):
                    first[i * width + j] = g[j * dim + i]

    return backward
