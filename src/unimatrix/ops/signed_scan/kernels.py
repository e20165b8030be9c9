"""The compiled loops of the signed scan: one batch row and one block of channels after the other position.

Imported only when a kernel runs, so that importing unimatrix.ops does not import numba. cache=True keeps the
machine code on disk: only the first run on a machine compiles.

Letters: a decay, w write, s state, g dLoss/ds; G groups of D / G channels that share a decay. Tensors come as
addresses (making numpy arrays of them would cost a small scan as much as the loop does), with the strides of
batch and time where they may be views; the inner stride is 1. Address 0 stands for zeros.
"""

from typing import Any

import numba
import numpy as np
import torch
from numba.core import types
from numba.extending import intrinsic
from numba.np.numpy_support import carray
from torch import Tensor

from unimatrix.ops.threads import match_threads

# a product and a sum may become one rounding, and the sum over a group may be reordered
FAST = {"reassoc", "contract", "nsz"}
MIN_BLOCK = 64  # channels: a block reads whole cache lines
TASKS_PER_THREAD = 4
ZEROS = {torch.float32: np.float32(0), torch.float64: np.float64(0)}  # tells a kernel its type


def run_forward(decay: Tensor, write: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
    """All states [B, T, D] and the last one [B, D]; all tensors of one dtype, float32 or float64."""
    decay, write = _unit(decay), _unit(write)
    state = None if state is None else state.contiguous()
    batch, length, width = write.shape
    states = torch.empty(write.shape, dtype=write.dtype)
    last = torch.empty((batch, width), dtype=write.dtype)
    if states.numel() == 0:
        return states, last.zero_() if state is None else last.copy_(state)
    match_threads(states.numel())
    forward(
        *_place(decay),
        *_place(write),
        _address(state),
        states.data_ptr(),
        last.data_ptr(),
        (batch, length, width, decay.shape[2], _blocks(batch, width, decay.shape[2])),
        ZEROS[write.dtype],
    )
    return states, last


def run_backward(
    decay: Tensor,
    states: Tensor,
    state: Tensor | None,
    grad_states: Tensor | None,
    grad_last: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of decay [B, T, G], write [B, T, D] and the first state [B, D]; None is zeros."""
    decay, states = _unit(decay), states.contiguous()
    grad_states = states.new_zeros(states.shape) if grad_states is None else _unit(grad_states)
    state = None if state is None else state.contiguous()
    grad_last = None if grad_last is None else grad_last.contiguous()
    batch, length, width = states.shape
    grad_decay = torch.empty(decay.shape, dtype=states.dtype)
    grad_write = torch.empty(states.shape, dtype=states.dtype)
    grad_state = torch.empty((batch, width), dtype=states.dtype)
    if states.numel() == 0:
        grad_decay.zero_()
        return (
            grad_decay,
            grad_write,
            grad_state.zero_() if grad_last is None else grad_state.copy_(grad_last),
        )
    match_threads(2 * states.numel())
    backward(
        *_place(decay),
        states.data_ptr(),
        _address(state),
        *_place(grad_states),
        _address(grad_last),
        grad_decay.data_ptr(),
        grad_write.data_ptr(),
        grad_state.data_ptr(),
        (batch, length, width, decay.shape[2], _blocks(batch, width, decay.shape[2])),
        ZEROS[states.dtype],
    )
    return grad_decay, grad_write, grad_state


def _unit(x: Tensor) -> Tensor:
    """x itself if its last stride is 1 (other strides are free), else a copy."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _place(x: Tensor) -> tuple[int, tuple[int, ...]]:
    """Address and the strides of batch and time."""
    return x.data_ptr(), x.stride()[:2]


def _address(x: Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()


def _blocks(batch: int, width: int, groups: int) -> int:
    """Into how many blocks the channels are cut: one, unless the batch alone leaves threads idle."""
    threads = numba.get_num_threads()
    if threads == 1 or batch >= TASKS_PER_THREAD * threads:
        return 1
    wanted = -(-TASKS_PER_THREAD * threads // batch)
    return max(1, min(wanted, groups, width // MIN_BLOCK))


@intrinsic
def _pointer(typing: Any, address: Any, at: Any, zero: Any) -> Any:
    """The number at place `at` behind `address`, as a pointer; numbers are of zero's type."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = context.get_value_type(types.CPointer(zero))
        return builder.gep(builder.inttoptr(args[0], pointer), [args[1]])

    return types.CPointer(zero)(types.int64, types.int64, zero), emit


@numba.njit
def _row(address, at, count, zero):
    """`count` numbers from place `at` behind `address` on, as an array.

    Fill it number by number: numba takes `row[:] = x` for work on an array that nobody sees, and drops it.
    """
    return carray(_pointer(address, at, zero), (count,))  # pyright: ignore[reportCallIssue]  # an intrinsic


@numba.njit(parallel=True, cache=True, fastmath=FAST)
def forward(decay, decay_at, write, write_at, state, states, last, sizes, zero):
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
            s[:] = _row(state, b * width + channel, n, zero)
        for t in range(length):
            a = _row(decay, b * decay_at[0] + t * decay_at[1] + first, count, zero)
            w = _row(write, b * write_at[0] + t * write_at[1] + channel, n, zero)
            out = _row(states, (b * length + t) * width + channel, n, zero)
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
        end = _row(last, b * width + channel, n, zero)
        for c in range(n):
            end[c] = s[c]


@numba.njit(parallel=True, cache=True, fastmath=FAST)
def backward(
    decay, decay_at, states, state, d_states, d_states_at, d_last, d_decay, d_write, d_state, sizes, zero
):
    """The scan from the last position to the first: g = a_{t+1} g + ds_t, dw_t = g, da_t = sum g s_{t-1}.

    As in `forward`, product and sum are one rounding: with decays next to 1 over ten thousand positions two
    roundings are an error twenty times as large.
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
            g[:] = _row(d_last, b * width + channel, n, zero)
        start = np.full(n, zero)
        if state != 0:
            start[:] = _row(state, b * width + channel, n, zero)
        after = np.ones_like(g[:count])  # decays of the position behind; behind the last there is none
        for t in range(length - 1, -1, -1):
            ds = _row(d_states, b * d_states_at[0] + t * d_states_at[1] + channel, n, zero)
            da = _row(d_decay, (b * length + t) * groups + first, count, zero)
            at = (b * length + t) * width + channel
            dw = _row(d_write, at, n, zero)
            before = _row(states, at - width, n, zero) if t > 0 else start
            if share == 1:
                # one array written a loop: with three, there are too many pairs to check for overlap, and no
                # vector instructions
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
            after = _row(decay, b * decay_at[0] + t * decay_at[1] + first, count, zero)
        dx = _row(d_state, b * width + channel, n, zero)
        for c in range(n):
            dx[c] = after[c // share] * g[c]
