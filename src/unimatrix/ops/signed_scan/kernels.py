"""The compiled loops of the signed scan: one batch row and one block of channels after the other position.

Imported only when a kernel runs, so that importing unimatrix.ops does not import numba. cache=True keeps the
machine code on disk: only the first run on a machine compiles.

Letters: a decay, w write, s state, g dLoss/ds; G groups of D / G channels that share a decay. Tensors that
may be views come as flat arrays and the strides of batch and time (inner stride 1), the others as flat
arrays alone; an empty array stands for a first state, or a gradient, of zeros. Rows are cut out as slices:
numba then knows that an index is not negative, and the inner loops become vector instructions.
"""

from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from unimatrix.ops.threads import match_threads

# a product and a sum may become one rounding, and the sum over a group may be reordered
FAST = {"reassoc", "contract", "nsz"}
MIN_BLOCK = 64  # channels: a block reads whole cache lines
TASKS_PER_THREAD = 4


def run_forward(decay: Tensor, write: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
    """All states [B, T, D] and the last one [B, D]; all tensors of one dtype, float32 or float64."""
    decay, write = _unit(decay), _unit(write)
    batch, length, width = write.shape
    states = torch.empty(write.shape, dtype=write.dtype)
    last = torch.empty((batch, width), dtype=write.dtype)
    if states.numel() == 0:
        return states, last.zero_() if state is None else last.copy_(state)
    match_threads(states.numel())
    forward(
        *_place(decay),
        *_place(write),
        _flat(state, write),
        states.view(-1).numpy(),
        last.view(-1).numpy(),
        (batch, length, width, decay.shape[2], _blocks(batch, width, decay.shape[2])),
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
    decay = _unit(decay)
    grad_states = states.new_zeros(states.shape) if grad_states is None else _unit(grad_states)
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
        states.view(-1).numpy(),
        _flat(state, states),
        *_place(grad_states),
        _flat(grad_last, states),
        grad_decay.view(-1).numpy(),
        grad_write.view(-1).numpy(),
        grad_state.view(-1).numpy(),
        (batch, length, width, decay.shape[2], _blocks(batch, width, decay.shape[2])),
    )
    return grad_decay, grad_write, grad_state


def _unit(x: Tensor) -> Tensor:
    """x itself if its last stride is 1 (other strides are free), else a copy."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _place(x: Tensor) -> tuple[Any, tuple[int, ...]]:
    """The memory of x, from its first number on, as a flat array, and the strides of batch and time."""
    if x.is_contiguous():
        return x.view(-1).numpy(), x.stride()[:2]
    span = sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True)) + 1
    return x.as_strided((span,), (1,)).numpy(), x.stride()[:2]


def _flat(x: Tensor | None, like: Tensor) -> Any:
    return (like.new_empty(0) if x is None else x.contiguous().view(-1)).numpy()


def _blocks(batch: int, width: int, groups: int) -> int:
    """Into how many blocks the channels are cut: one, unless the batch alone leaves threads idle."""
    threads = numba.get_num_threads()
    if threads == 1 or batch >= TASKS_PER_THREAD * threads:
        return 1
    wanted = -(-TASKS_PER_THREAD * threads // batch)
    return max(1, min(wanted, groups, width // MIN_BLOCK))


@numba.njit(parallel=True, cache=True, fastmath=FAST)
def forward(decay, decay_at, write, write_at, state, states, last, sizes):
    """s = a s + w along time, for every batch row and block of whole groups."""
    batch, length, width, groups, blocks = sizes
    share = width // groups
    per_block = (groups + blocks - 1) // blocks
    for task in numba.prange(batch * blocks):
        b = np.int64(task) // blocks
        first = min(groups, np.int64(task) % blocks * per_block)
        count = min(groups, first + per_block) - first
        channel, n = first * share, count * share
        s = np.zeros(n, write.dtype)
        if state.size > 0:
            s[:] = state[b * width + channel : b * width + channel + n]
        for t in range(length):
            at = b * decay_at[0] + t * decay_at[1] + first
            a = decay[at : at + count]
            at = b * write_at[0] + t * write_at[1] + channel
            w = write[at : at + n]
            at = (b * length + t) * width + channel
            out = states[at : at + n]
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
        last[b * width + channel : b * width + channel + n] = s


@numba.njit(parallel=True, cache=True, fastmath=FAST)
def backward(decay, decay_at, states, state, d_states, d_states_at, d_last, d_decay, d_write, d_state, sizes):
    """The scan from the last position to the first: g = a_{t+1} g + ds_t, dw_t = g, da_t = sum g s_{t-1}.

    As in `forward`, the product and the sum are one rounding: with decays next to 1 over ten thousand positions
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
        g = np.zeros(n, states.dtype)
        if d_last.size > 0:
            g[:] = d_last[b * width + channel : b * width + channel + n]
        start = np.zeros(n, states.dtype)
        if state.size > 0:
            start[:] = state[b * width + channel : b * width + channel + n]
        a = np.ones(count, states.dtype)
        for t in range(length - 1, -1, -1):
            at = b * d_states_at[0] + t * d_states_at[1] + channel
            ds = d_states[at : at + n]
            at = (b * length + t) * groups + first
            da = d_decay[at : at + count]
            at = (b * length + t) * width + channel
            dw = d_write[at : at + n]
            before = states[at - width : at - width + n] if t > 0 else start
            if share == 1:
                for c in range(n):
                    g[c] = a[c] * g[c] + ds[c]
                    dw[c] = g[c]
                    da[c] = g[c] * before[c]
            else:
                for r in range(count):
                    a_r = a[r]
                    g_r = g[r * share : (r + 1) * share]
                    ds_r = ds[r * share : (r + 1) * share]
                    dw_r = dw[r * share : (r + 1) * share]
                    before_r = before[r * share : (r + 1) * share]
                    total = states.dtype.type(0)
                    for c in range(share):
                        g_r[c] = a_r * g_r[c] + ds_r[c]
                        dw_r[c] = g_r[c]
                        total += g_r[c] * before_r[c]
                    da[r] = total
            at = b * decay_at[0] + t * decay_at[1] + first
            a = decay[at : at + count]
        for c in range(n):
            d_state[b * width + channel + c] = a[c // share] * g[c]
