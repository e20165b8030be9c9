"""The compiled loops of the gated scan: one batch row and one block of channels after the other position.

Imported only when a kernel runs, so that importing unimatrix.ops does not import numba. The machine code is
kept on disk (unimatrix.ops.jit): only the first run on a machine compiles.

Letters: f, w, o, q the gates, a = tanh(f), s state, g dLoss/ds. Tensors come as addresses
(unimatrix.ops.rows); address 0 stands for zeros, or for no starts. Each inner loop writes one array: with
several there are too many pairs to check for overlap, and no vector instructions.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numba
import numpy as np
from torch import Tensor

from unimatrix.ops.jit import kernel
from unimatrix.ops.rows import (
    FAST,
    ZEROS,
    address,
    channel_blocks,
    first_gradient,
    flags,
    place,
    row,
    unit_stride,
)
from unimatrix.ops.tanh import tanh
from unimatrix.ops.threads import threads_for

WORK_PER_CHANNEL = 16  # multiply-adds that a tanh costs about


def run_forward(
    gates: Tensor, state: Tensor | None, starts: Tensor | None, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """y [B, T, W], the last state [B, W], and all states [B, T, W] if they are to be kept ([B, 0, W])."""
    gates = unit_stride(gates)
    state = None if state is None else state.contiguous()
    starts = None if starts is None else starts.contiguous()
    batch, length, kinds, width = gates.shape
    y = gates.new_empty((batch, length, width))
    states = gates.new_empty((batch, length if keep else 0, width))
    last = gates.new_empty((batch, width))
    if y.numel() == 0:
        return y, last.zero_() if state is None else last.copy_(state), states
    threads = threads_for(WORK_PER_CHANNEL * y.numel())
    _forward_kernel(starts is not None)(
        threads,
        *place(gates),
        address(state),
        address(starts),
        y.data_ptr(),
        states.data_ptr() if keep else 0,
        last.data_ptr(),
        (batch, length, width, kinds == 4, channel_blocks(batch, width, width, threads)),
        ZEROS[gates.dtype],
    )
    return y, last, states


def run_backward(
    gates: Tensor,
    state: Tensor | None,
    starts: Tensor | None,
    states: Tensor,
    grad_y: Tensor | None,
    grad_last: Tensor | None,
) -> tuple[Tensor | None, ...]:
    """The gradients of the gates [B, T, 3 or 4, W] and of the first state [B, W]; None is zeros."""
    gates, states = unit_stride(gates), states.contiguous()
    batch, length, kinds, width = gates.shape
    grad_y = states.new_zeros(states.shape) if grad_y is None else unit_stride(grad_y)
    state = None if state is None else state.contiguous()
    starts = None if starts is None else starts.contiguous()
    grad_last = None if grad_last is None else grad_last.contiguous()
    grad_gates = gates.new_empty(gates.shape)
    grad_state = gates.new_empty(0 if state is None else state.shape)
    if states.numel() == 0:
        return grad_gates, None if state is None else first_gradient(grad_state, grad_last)
    threads = threads_for(2 * WORK_PER_CHANNEL * states.numel())
    _backward_kernel(starts is not None)(
        threads,
        *place(gates),
        states.data_ptr(),
        address(state),
        address(starts),
        *place(grad_y),
        address(grad_last),
        grad_gates.data_ptr(),
        grad_state.data_ptr(),
        (batch, length, width, kinds == 4, channel_blocks(batch, width, width, threads)),
        ZEROS[gates.dtype],
    )
    return grad_gates, None if state is None else grad_state


@cache
def _forward_kernel(starting: bool) -> Callable[..., Any]:
    """The forward loop, with texts that begin on the way or (without a look at them) not."""

    @kernel(fastmath=FAST)
    def forward(gates, gates_at, state, starts, y, states, last, sizes, zero):
        """a = tanh(f), s = a s + w, y = o s or o q s along time, for every row and block of channels."""
        batch, length, width, query, blocks = sizes
        kind_at = gates_at[2]
        per_block = (width + blocks - 1) // blocks
        for task in numba.prange(batch * blocks):
            b = np.int64(task) // blocks
            first = min(width, np.int64(task) % blocks * per_block)
            n = min(width, first + per_block) - first
            a = np.full(n, zero)
            s = np.full(n, zero)
            if state != 0:
                s[:] = row(state, b * width + first, n, zero)
            begins = flags(starts, b * length, length)
            for t in range(length):
                if starting and begins[t]:
                    for c in range(n):
                        s[c] = zero
                at = b * gates_at[0] + t * gates_at[1] + first
                f = row(gates, at, n, zero)
                w = row(gates, at + kind_at, n, zero)
                o = row(gates, at + 2 * kind_at, n, zero)
                out = row(y, (b * length + t) * width + first, n, zero)
                for c in range(n):
                    a[c] = tanh(f[c])
                for c in range(n):
                    s[c] = a[c] * s[c] + w[c]
                if query:
                    q = row(gates, at + 3 * kind_at, n, zero)
                    for c in range(n):
                        out[c] = o[c] * (q[c] * s[c])
                else:
                    for c in range(n):
                        out[c] = o[c] * s[c]
                if states != 0:
                    kept = row(states, (b * length + t) * width + first, n, zero)
                    for c in range(n):
                        kept[c] = s[c]
            end = row(last, b * width + first, n, zero)
            for c in range(n):
                end[c] = s[c]

    return forward


@cache
def _backward_kernel(starting: bool) -> Callable[..., Any]:
    """The loop of the gradients, with texts that begin on the way or not."""

    @kernel(fastmath=FAST)
    def backward(gates, gates_at, states, state, starts, d_y, d_y_at, d_last, d_gates, d_state, sizes, zero):
        """From the last position to the first: g = a_{t+1} g + o q dy, dw = g, df = g s_{t-1} (1 - a^2),
        do = dy q s, dq = dy o s."""
        batch, length, width, query, blocks = sizes
        kind_at = gates_at[2]
        per_block = (width + blocks - 1) // blocks
        kinds = 4 if query else 3
        for task in numba.prange(batch * blocks):
            b = np.int64(task) // blocks
            first = min(width, np.int64(task) % blocks * per_block)
            n = min(width, first + per_block) - first
            g = np.full(n, zero)  # behind the last position a is 1, as it were
            if d_last != 0:
                g[:] = row(d_last, b * width + first, n, zero)
            start = np.full(n, zero)
            if state != 0:
                start[:] = row(state, b * width + first, n, zero)
            a = np.full(n, zero)
            one = zero + np.float32(1)  # a plain 1 would take all of it to float64
            read = np.full(n, zero)
            nothing = np.full(n, zero)
            begins = flags(starts, b * length, length)
            for t in range(length - 1, -1, -1):
                begun = starting and begins[t] != 0
                at = b * gates_at[0] + t * gates_at[1] + first
                f = row(gates, at, n, zero)
                o = row(gates, at + 2 * kind_at, n, zero)
                dy = row(d_y, b * d_y_at[0] + t * d_y_at[1] + first, n, zero)
                s_at = (b * length + t) * width + first
                s = row(states, s_at, n, zero)
                before = row(states, s_at - width, n, zero) if t > 0 else start
                if begun:
                    before = nothing
                d_at = (b * length + t) * kinds * width + first
                df = row(d_gates, d_at, n, zero)
                dw = row(d_gates, d_at + width, n, zero)
                do = row(d_gates, d_at + 2 * width, n, zero)
                if query:
                    q = row(gates, at + 3 * kind_at, n, zero)
                    dq = row(d_gates, d_at + 3 * width, n, zero)
                    for c in range(n):
                        read[c] = dy[c] * s[c]
                    for c in range(n):
                        do[c] = read[c] * q[c]
                    for c in range(n):
                        dq[c] = read[c] * o[c]
                    for c in range(n):
                        g[c] += dy[c] * (o[c] * q[c])
                else:
                    for c in range(n):
                        do[c] = dy[c] * s[c]
                    for c in range(n):
                        g[c] += dy[c] * o[c]
                for c in range(n):
                    a[c] = tanh(f[c])
                for c in range(n):
                    dw[c] = g[c]
                for c in range(n):
                    df[c] = g[c] * before[c] * ((one - a[c]) * (one + a[c]))
                for c in range(n):
                    g[c] *= a[c]
                if begun:
                    for c in range(n):
                        g[c] = zero
            if d_state != 0:
                dx = row(d_state, b * width + first, n, zero)
                for c in range(n):
                    dx[c] = g[c]

    return backward
