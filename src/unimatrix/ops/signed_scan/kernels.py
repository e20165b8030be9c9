"""The compiled loops of the signed scan: one batch row and one block of channels after the other position.

Imported only when a kernel runs, so that importing unimatrix.ops does not import numba. The machine code is
kept on disk (unimatrix.ops.jit): only the first run on a machine compiles.

Letters: a decay, w write, s state, g dLoss/ds; G groups of D / G channels that share a decay. Tensors come as
addresses (unimatrix.ops.rows), with the strides of batch and time where they may be views; address 0 stands
for zeros, or for no starts.
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
from unimatrix.ops.threads import threads_for


def run_forward(
    decay: Tensor, write: Tensor, state: Tensor | None, starts: Tensor | None, keep: bool
) -> tuple[Tensor, Tensor]:
    """All states [B, T, D] and the last one [B, D]; all tensors of one dtype, float32 or float64."""
    decay, write = unit_stride(decay), unit_stride(write)
    state = None if state is None else state.contiguous()
    starts = None if starts is None else starts.contiguous()
    batch, length, width = write.shape
    states = write.new_empty(write.shape)
    last = write.new_empty((batch, width))
    if states.numel() == 0:
        return states, last.zero_() if state is None else last.copy_(state)
    threads = threads_for(states.numel())
    _forward_kernel(starts is not None)(
        threads,
        *place(decay),
        *place(write),
        address(state),
        address(starts),
        states.data_ptr(),
        last.data_ptr(),
        (batch, length, width, decay.shape[2], channel_blocks(batch, width, decay.shape[2], threads)),
        ZEROS[write.dtype],
    )
    return states, last


def run_backward(
    decay: Tensor,
    states: Tensor,
    state: Tensor | None,
    starts: Tensor | None,
    grad_states: Tensor | None,
    grad_last: Tensor | None,
) -> tuple[Tensor | None, ...]:
    """The gradients of decay [B, T, G], write [B, T, D] and the first state [B, D]; None is zeros."""
    decay, states = unit_stride(decay), states.contiguous()
    grad_states = states.new_zeros(states.shape) if grad_states is None else unit_stride(grad_states)
    state = None if state is None else state.contiguous()
    starts = None if starts is None else starts.contiguous()
    grad_last = None if grad_last is None else grad_last.contiguous()
    batch, length, width = states.shape
    grad_decay = states.new_empty(decay.shape)
    grad_write = states.new_empty(states.shape)
    grad_state = states.new_empty(0 if state is None else state.shape)
    if states.numel() == 0:
        first = None if state is None else first_gradient(grad_state, grad_last)
        return grad_decay.zero_(), grad_write, first
    threads = threads_for(2 * states.numel())
    _backward_kernel(starts is not None)(
        threads,
        *place(decay),
        states.data_ptr(),
        address(state),
        address(starts),
        *place(grad_states),
        address(grad_last),
        grad_decay.data_ptr(),
        grad_write.data_ptr(),
        grad_state.data_ptr(),
        (batch, length, width, decay.shape[2], channel_blocks(batch, width, decay.shape[2], threads)),
        ZEROS[states.dtype],
    )
    return grad_decay, grad_write, None if state is None else grad_state


@cache
def _forward_kernel(starting: bool) -> Callable[..., Any]:
    """The forward loop, with texts that begin on the way or (without a look at them) not."""

    @kernel(fastmath=FAST)
    def forward(decay, decay_at, write, write_at, state, starts, states, last, sizes, zero):
        """s = a s + w along time, for every batch row and block of whole groups."""
        batch, length, width, groups, blocks = sizes
        share = width // groups
        per_block = (groups + blocks - 1) // blocks
        for task in numba.prange(batch * blocks):
            b = np.int64(task) // blocks
            first = min(groups, np.int64(task) % blocks * per_block)
            count = min(groups, first + per_block) - first
            channel, n = first * share, count * share
            s = np.full(n, zero)
            if state != 0:
                s[:] = row(state, b * width + channel, n, zero)
            begins = flags(starts, b * length, length)
            for t in range(length):
                if starting and begins[t]:
                    for c in range(n):
                        s[c] = zero
                a = row(decay, b * decay_at[0] + t * decay_at[1] + first, count, zero)
                w = row(write, b * write_at[0] + t * write_at[1] + channel, n, zero)
                out = row(states, (b * length + t) * width + channel, n, zero)
                if share == 1:
                    for c in range(n):
                        s[c] = a[c] * s[c] + w[c]
                        out[c] = s[c]
                else:
                    for r in range(count):
                        a_r = a[r]
                        s_r = s[r * share : (r + 1) * share]
                        w_r = w[r * share : (r + 1) * share]
                        out_r = out[r * share : (r + 1) * share]
                        for c in range(share):
                            s_r[c] = a_r * s_r[c] + w_r[c]
                            out_r[c] = s_r[c]
            end = row(last, b * width + channel, n, zero)
            for c in range(n):
                end[c] = s[c]

    return forward


@cache
def _backward_kernel(starting: bool) -> Callable[..., Any]:
    """The loop of the gradients, with texts that begin on the way or not."""

    @kernel(fastmath=FAST)
    def backward(
        decay, decay_at, states, state, starts,
        d_states, d_states_at, d_last, d_decay, d_write, d_state, sizes, zero,
    ):  # fmt: skip
        """The scan from the last position to the first: g = a_{t+1} g + ds_t, dw_t = g, da_t = sum g s_{t-1}.

        As in `forward`, product and sum are one rounding: with decays next to 1 over ten thousand positions
        two roundings are an error twenty times as large.
        """
        batch, length, width, groups, blocks = sizes
        share = width // groups
        per_block = (groups + blocks - 1) // blocks
        for task in numba.prange(batch * blocks):
            b = np.int64(task) // blocks
            first = min(groups, np.int64(task) % blocks * per_block)
            count = min(groups, first + per_block) - first
            channel, n = first * share, count * share
            g = np.full(n, zero)
            if d_last != 0:
                g[:] = row(d_last, b * width + channel, n, zero)
            start = np.full(n, zero)
            if state != 0:
                start[:] = row(state, b * width + channel, n, zero)
            begins = flags(starts, b * length, length)
            nothing, one = np.full(n, zero), np.ones_like(g[:count])
            after = one  # decays of the position behind; behind the last there is none
            for t in range(length - 1, -1, -1):
                begun = starting and begins[t] != 0
                ds = row(d_states, b * d_states_at[0] + t * d_states_at[1] + channel, n, zero)
                da = row(d_decay, (b * length + t) * groups + first, count, zero)
                at = (b * length + t) * width + channel
                dw = row(d_write, at, n, zero)
                before = row(states, at - width, n, zero) if t > 0 else start
                if begun:
                    before = nothing
                if share == 1:
                    # one array written a loop: with three, there are too many pairs to check for overlap,
                    # and no vector instructions
                    for c in range(n):
                        g[c] = after[c] * g[c] + ds[c]
                    for c in range(n):
                        dw[c] = g[c]
                    for c in range(n):
                        da[c] = g[c] * before[c]
                else:
                    for r in range(count):
                        a_r = after[r]
                        g_r = g[r * share : (r + 1) * share]
                        ds_r = ds[r * share : (r + 1) * share]
                        dw_r = dw[r * share : (r + 1) * share]
                        before_r = before[r * share : (r + 1) * share]
                        total = zero
                        for c in range(share):
                            g_r[c] = a_r * g_r[c] + ds_r[c]
                            dw_r[c] = g_r[c]
                            total += g_r[c] * before_r[c]
                        da[r] = total
                after = row(decay, b * decay_at[0] + t * decay_at[1] + first, count, zero)
                if begun:
                    after = one
                    for c in range(n):
                        g[c] = zero
            if d_state != 0:
                dx = row(d_state, b * width + channel, n, zero)
                for c in range(n):
                    dx[c] = after[c // share] * g[c]

    return backward
