"""The signed scan in chunks: a step of all chunks at once, then the same scan over the chunks' ends.

Letters: C chunk length, N chunks; R = D / G channels that share a decay. From the state s_0 of its start, a
chunk's states are

    s_t = l_t + (a_1 ... a_t) s_0        l: the chunk's own scan, from zeros

so that C steps, each over all N chunks, give every l, and the starts are the scan of the ends
s_n = (a_1 ... a_C)_n s_{n-1} + (l_C)_n: this function again, on a series C times as short. Products only
multiply states: nothing is divided by them and no logarithm is taken, so that they may be negative, vanish
or be zero. The backward pass is the same scan from the last position to the first.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from unimatrix.ops.internals import transforming
from unimatrix.ops.shapes import Stream, accumulation_dtype

CHUNK_LEN = 16  # not measured on an accelerator; every level costs this many steps


def signed_scan_chunked(decay: Tensor, write: Stream, state: Tensor | None) -> tuple[Stream, Tensor]:
    """Arguments as in `signed_scan`, already checked; the mask is already in decay and write."""
    dtype = accumulation_dtype(write.dtype)
    batch, length, width = write.shape
    state = write.new_zeros(batch, width, dtype=dtype) if state is None else state.to(dtype)
    if length == 0:
        return write, state
    arguments = (decay.to(dtype), write.to(dtype), state)
    if transforming():
        states = _scan_channels(*arguments)
        last = states[:, -1].clone()
    else:
        states, last = _Scan.apply(*arguments)  # type: ignore[misc]
    return states.to(write.dtype), last


class _Scan(torch.autograd.Function):
    """Keeps the states alone for the backward pass, where autograd would keep every step of every level."""

    @staticmethod
    def forward(ctx: Any, decay: Tensor, write: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        states = _scan_channels(decay, write, state)
        ctx.save_for_backward(decay, states, state)
        return states, states[:, -1].clone()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, Tensor, Tensor]:
        return scan_gradients(*ctx.saved_tensors, *grad_outputs)


def scan_gradients(
    decay: Tensor, states: Tensor, state: Tensor, grad_states: Tensor, grad_last: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of decay, write and state from the states that came out; plain torch, with its own."""
    if states.shape[1] == 0:
        return torch.zeros_like(decay), torch.zeros_like(states), grad_last
    # g_t = dstates_t + a_{t+1} g_{t+1}, and g_T = dstates_T + dlast
    after = torch.cat([decay[:, 1:], torch.ones_like(decay[:, :1])], dim=1)
    g = _scan_channels(after.flip(1), grad_states.flip(1), grad_last).flip(1)
    before = torch.cat([state[:, None], states[:, :-1]], dim=1)
    grad_decay = _by_group(g * before, decay).sum(-1)
    return grad_decay, g, (decay[:, 0, :, None] * _by_group(g[:, 0], decay)).reshape_as(state)


def _scan_channels(decay: Tensor, write: Tensor, state: Tensor) -> Tensor:
    """`scan` for [B, T, G], [B, T, D], [B, D]; returns [B, T, D]."""
    return scan(decay[..., None], _by_group(write, decay), _by_group(state, decay)).reshape(write.shape)


def _by_group(x: Tensor, decay: Tensor) -> Tensor:
    """[..., D] to [..., G, R]."""
    groups = decay.shape[-1]
    return x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)


def scan(a: Tensor, w: Tensor, state: Tensor) -> Tensor:
    """s_t = a_t s_{t-1} + w_t from s_0 = state; a [B, T, G, 1], w [B, T, G, R], state [B, G, R]; as w."""
    length = w.shape[1]
    if length <= CHUNK_LEN:
        return _steps(a, w, state, dim=1)
    # 1. every chunk's own scan; the padding comes after all that is used
    filled = (0, 0, 0, 0, 0, -length % CHUNK_LEN)
    a, w = (pad(x, filled) for x in (a, w))
    whole = w.shape
    a, w = (x.unflatten(1, (-1, CHUNK_LEN)) for x in (a, w))  # [B, N, C, G, .]
    own = _steps(a, w, torch.zeros_like(w[:, :, 0]), dim=2)  # [B, N, C, G, R]
    # 2. the states at the chunks' ends, by the same scan
    products = a.cumprod(2)  # [B, N, C, G, 1]
    ends = scan(products[:, :, -1], own[:, :, -1], state)  # [B, N, G, R]
    # 3. what a chunk's start adds to its states
    starts = torch.cat([state[:, None], ends[:, :-1]], dim=1)
    return torch.addcmul(own, products, starts[:, :, None]).reshape(whole)[:, :length]


def _steps(a: Tensor, w: Tensor, state: Tensor, dim: int) -> Tensor:
    """The recurrence along `dim`, step by step."""
    states = []
    for a_t, w_t in zip(a.unbind(dim), w.unbind(dim), strict=True):
        state = torch.addcmul(w_t, a_t, state)
        states.append(state)
    return torch.stack(states, dim=dim)
