"""The compiled loops of the short convolution: one token after the other, in runs of tokens side by side.

Imported only when a kernel runs, so that importing unimatrix.ops does not import numba. The machine code is
kept on disk (unimatrix.ops.jit): only the first run on a machine compiles.

Letters: B batch, T time, C channels, K kernel size; a the sum before SiLU, s = sigmoid(a). Tensors come as
addresses (unimatrix.ops.rows); address 0 stands for windows that nothing cuts. Each inner loop writes one
array, so that it vectorises.
"""

import numba
import numpy as np
from torch import Tensor

from unimatrix.ops.jit import kernel
from unimatrix.ops.rows import FAST, ZEROS, address, flags, place, row, unit_stride
from unimatrix.ops.sigmoid import sigmoid
from unimatrix.ops.threads import threads_for

WORK_PER_NUMBER = 24  # multiply-adds that a window and its sigmoid cost about
# tokens: each run of a backward reads K - 1 more. One length, so that sums do not depend on the threads
RUN = 128


def run_forward(
    x: Tensor, recent: Tensor, weight: Tensor, inside: Tensor | None, keep: bool
) -> tuple[Tensor]:
    """y [B, T, C]."""
    x, recent, weight = unit_stride(x), unit_stride(recent), weight.contiguous()
    inside = None if inside is None else inside.contiguous()
    y = x.new_empty(x.shape)
    if y.numel():
        threads = threads_for(WORK_PER_NUMBER * y.numel())
        sizes = (*x.shape, weight.shape[0])
        arguments = *place(x), *place(recent), weight.data_ptr(), address(inside)
        _forward(threads, *arguments, y.data_ptr(), sizes, ZEROS[y.dtype])
    return (y,)


def run_backward(
    x: Tensor, recent: Tensor, weight: Tensor, inside: Tensor | None, grad_y: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x [B, T, C], of the tokens before it [B, K - 1, C] and of the weights [K, C]."""
    if grad_y is None or grad_y.numel() == 0:
        return x.new_zeros(x.shape), recent.new_zeros(recent.shape), weight.new_zeros(weight.shape)
    x, recent, weight, grad_y = unit_stride(x), unit_stride(recent), weight.contiguous(), unit_stride(grad_y)
    inside = None if inside is None else inside.contiguous()
    batch, length, channels = x.shape
    size = weight.shape[0]
    threads = threads_for(2 * WORK_PER_NUMBER * x.numel())
    d_x, d_recent = x.new_empty(x.shape), recent.new_empty(recent.shape)
    d_weight = weight.new_empty(batch * -(-length // RUN), size, channels)
    sizes = (batch, length, channels, size)
    arguments = *place(x), *place(recent), weight.data_ptr(), address(inside), *place(grad_y)
    found = d_x.data_ptr(), d_recent.data_ptr(), d_weight.data_ptr()
    _backward(threads, *arguments, *found, sizes, ZEROS[x.dtype])
    return d_x, d_recent, d_weight.sum(0)


@kernel(fastmath=FAST)
def _forward(x, x_at, recent, recent_at, weight, inside, y, sizes, zero):
    """a_t = sum of w_j x_{t - K + 1 + j}, y = a s, for every row and run of tokens."""
    batch, length, channels, _ = sizes
    runs = (length + RUN - 1) // RUN
    for task in numba.prange(batch * runs):
        b, first = np.int64(task) // runs, np.int64(task) % runs * RUN
        a = np.full(channels, zero)
        nothing = np.full(channels, zero)
        for t in range(first, min(length, first + RUN)):
            _sum(a, b, t, x, x_at, recent, recent_at, weight, inside, nothing, sizes, zero)
            out = row(y, (b * length + t) * channels, channels, zero)
            for c in range(channels):
                out[c] = a[c] * sigmoid(a[c])


@kernel(fastmath=FAST)
def _backward(x, x_at, recent, recent_at, weight, inside, d_y, d_y_at, d_x, d_recent, d_weight, sizes, zero):
    """da = dy (s + a s (1 - s)); dw_j = sum of da_t x_{t-K+1+j}, dx_t = sum of w_j da_{t+K-1-j}."""
    batch, length, channels, size = sizes
    runs, past = (length + RUN - 1) // RUN, size - 1
    for task in numba.prange(batch * runs):
        b, run = np.int64(task) // runs, np.int64(task) % runs
        first, end = run * RUN, min(length, run * RUN + RUN)
        a = np.full(channels, zero)
        nothing = np.full(channels, zero)
        s = np.full(channels, zero)
        one = zero + np.float32(1)  # a plain 1 would take all of it to float64
        da = np.full(channels, zero)
        dw = row(d_weight, np.int64(task) * size * channels, size * channels, zero)
        for i in range(size * channels):
            dw[i] = zero
        # the tokens before the first are the first run's
        own = -past if run == 0 else first
        for t in range(own, end):
            dx = _place_of(t, b, d_x, d_recent, length, past, channels, zero)
            for c in range(channels):
                dx[c] = zero
        # behind a run, what its last tokens gave to the next ones' windows
        for t in range(first, min(length, end + past)):
            _sum(a, b, t, x, x_at, recent, recent_at, weight, inside, nothing, sizes, zero)
            dy = row(d_y, b * d_y_at[0] + t * d_y_at[1], channels, zero)
            for c in range(channels):
                s[c] = sigmoid(a[c])
            for c in range(channels):
                da[c] = dy[c] * (s[c] + a[c] * s[c] * (one - s[c]))
            for j in range(size):
                at = t - past + j
                counts = inside == 0 or flags(inside, (b * length + t) * size, size)[j] != 0
                w = row(weight, j * channels, channels, zero)
                if counts and own <= at < end:
                    dx = _place_of(at, b, d_x, d_recent, length, past, channels, zero)
                    for c in range(channels):
                        dx[c] += w[c] * da[c]
                if t < end:
                    here = nothing
                    if counts:
                        here = _token(at, b, x, x_at, recent, recent_at, past, channels, zero)
                    dw_j = row(d_weight, (np.int64(task) * size + j) * channels, channels, zero)
                    for c in range(channels):
                        dw_j[c] += da[c] * here[c]


@numba.njit(fastmath=FAST)
def _sum(a, b, t, x, x_at, recent, recent_at, weight, inside, nothing, sizes, zero):
    """a = the weighted sum of the window that ends with token t; what is cut off counts as zeros."""
    _, length, channels, size = sizes
    past = size - 1
    for c in range(channels):
        a[c] = zero
    for j in range(size):
        here = nothing
        if inside == 0 or flags(inside, (b * length + t) * size, size)[j] != 0:
            here = _token(t - past + j, b, x, x_at, recent, recent_at, past, channels, zero)
        w = row(weight, j * channels, channels, zero)
        for c in range(channels):
            a[c] += w[c] * here[c]


@numba.njit
def _token(t, b, x, x_at, recent, recent_at, past, channels, zero):
    """Token t of the row, from before it where t is negative."""
    if t < 0:
        return row(recent, b * recent_at[0] + (t + past) * recent_at[1], channels, zero)
    return row(x, b * x_at[0] + t * x_at[1], channels, zero)


@numba.njit
def _place_of(t, b, d_x, d_recent, length, past, channels, zero):
    """Where the gradient of token t goes."""
    if t < 0:
        return row(d_recent, (b * past + t + past) * channels, channels, zero)
    return row(d_x, (b * length + t) * channels, channels, zero)
