"""The compiled loops of the triple latent with slots: those of kernels.py, with M rows of P instead of S.

Letters: as there; alpha = softmax(E s_{t-1}) writes to slots with addresses E, beta = softmax(E q_l) reads.
weights holds both, [B, T, H, 2 M], alpha first. Gradients of E are summed per batch row and head first.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numba
import numpy as np
from torch import Tensor

from unimatrix.ops.jit import kernel
from unimatrix.ops.threads import threads_for
from unimatrix.ops.triple_latent.kernels import BLOCK, border_count, check_retentions, place, unit
from unimatrix.ops.triple_latent.steps import (
    gate_and_retain,
    match,
    reverse_gate,
    reverse_match,
    reverse_retain,
    reverse_slots,
    write_slots_and_read,
)


def run_forward(
    a: Tensor,
    b: Tensor,
    q_l: Tensor,
    q_r: Tensor,
    keep: Tensor,
    write: Tensor,
    start: Tensor,
    pairs: Tensor,
    addresses: Tensor,
    for_backward: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """y, the last sum and slots; for the backward z, the sums before, the slots at borders, the weights."""
    a, b, q_l, q_r = (unit(x) for x in (a, b, q_l, q_r))
    keep, write, start, pairs, addresses = (x.contiguous() for x in (keep, write, start, pairs, addresses))
    batch, length, heads, dim = a.shape
    slots = len(addresses)
    y, z = a.new_empty(a.shape), a.new_empty(a.shape)
    last_sum, last_pairs = start.new_empty(start.shape), pairs.new_empty(pairs.shape)
    blocks = border_count(length) if for_backward else 0
    before = a.new_empty(a.shape if for_backward else (0,))
    borders = a.new_empty((batch, heads, blocks, slots * dim))
    weights = a.new_empty((batch, length, heads, 2 * slots) if for_backward else (0,))
    wrong = _forward_kernel(dim, slots)(
        threads_for(a.numel() * 3 * slots),
        *place(a),
        *place(b),
        *place(q_l),
        *place(q_r),
        keep.view(-1).numpy(),
        write.view(-1).numpy(),
        start.view(-1).numpy(),
        pairs.view(-1).numpy(),
        addresses.view(-1).numpy(),
        y.data_ptr(),
        z.data_ptr(),
        last_sum.view(-1).numpy(),
        last_pairs.view(-1).numpy(),
        before.view(-1).numpy(),
        borders.view(-1).numpy(),
        weights.view(-1).numpy(),
        (batch, length, heads, blocks),
    )
    if wrong:
        check_retentions(keep)
    return y, last_sum, last_pairs, z, before, borders, weights


def run_backward(
    a: Tensor,
    b: Tensor,
    q_l: Tensor,
    q_r: Tensor,
    keep: Tensor,
    write: Tensor,
    addresses: Tensor,
    z: Tensor,
    before: Tensor,
    borders: Tensor,
    weights: Tensor,
    grad_y: Tensor,
    grad_sum: Tensor,
    grad_pairs: Tensor,
) -> tuple[Tensor, ...]:
    """The gradients of a, b, q_l, q_r, keep, write, of the first sum and slots, and of the addresses."""
    a, b, q_l, q_r, grad_y = (unit(x) for x in (a, b, q_l, q_r, grad_y))
    keep, write, addresses = keep.contiguous(), write.contiguous(), addresses.contiguous()
    grad_sum, grad_pairs = grad_sum.contiguous(), grad_pairs.contiguous()
    batch, length, heads, dim = a.shape
    slots = len(addresses)
    grads = [a.new_empty(a.shape) for _ in range(4)]
    grad_keep, grad_write = keep.new_empty(keep.shape), keep.new_empty(keep.shape)
    grad_start, grad_first = a.new_empty(grad_sum.shape), a.new_empty(grad_pairs.shape)
    grad_addresses = a.new_zeros((batch * heads, slots, dim))
    _backward_kernel(dim, slots)(
        threads_for(a.numel() * 6 * slots),
        *place(a),
        *place(b),
        *place(q_l),
        *place(q_r),
        keep.view(-1).numpy(),
        write.view(-1).numpy(),
        addresses.view(-1).numpy(),
        z.data_ptr(),
        before.data_ptr(),
        borders.view(-1).numpy(),
        weights.view(-1).numpy(),
        *place(grad_y),
        grad_sum.view(-1).numpy(),
        grad_pairs.view(-1).numpy(),
        *(grad.data_ptr() for grad in grads),
        grad_keep.data_ptr(),
        grad_write.data_ptr(),
        grad_start.view(-1).numpy(),
        grad_first.view(-1).numpy(),
        grad_addresses.data_ptr(),
        (batch, length, heads, borders.shape[2]),
    )
    return (*grads, grad_keep, grad_write, grad_start, grad_first, grad_addresses.sum(0))


@numba.njit
def _softmax(x, first, count):
    """In place, over `count` numbers of x from `first` on."""
    top = x[first]
    for m in range(1, count):
        top = max(top, x[first + m])
    total = x[first] * 0
    for m in range(count):
        x[first + m] = math.exp(x[first + m] - top)
        total += x[first + m]
    for m in range(count):
        x[first + m] /= total


@numba.njit
def _reverse_softmax(weights, at, grad, first, count):
    """The gradient at the weights becomes that at the scores, in place; weights from `at` on."""
    inner = grad[first] * 0
    for m in range(count):
        inner += weights[at + m] * grad[first + m]
    for m in range(count):
        grad[first + m] = weights[at + m] * (grad[first + m] - inner)


@cache
def _forward_kernel(dim: int, slots: int) -> Callable[..., Any]:
    """The forward loop for one state dimension and number of slots, constants of the compiled code."""

    @kernel
    def forward(
        a, a_at, b, b_at, ql, ql_at, qr, qr_at, keep, write, start, pairs, addresses,
        y, z, last_sum, last_pairs, before, borders, weights, sizes,
    ):  # fmt: skip
        batch, length, heads, blocks = sizes
        size = slots * dim
        wrong = 0  # retentions above 1, or NaN
        for bh in numba.prange(batch * heads):
            n = np.int64(bh) // heads
            h = np.int64(bh) % heads
            s = np.empty(dim, keep.dtype)
            p = np.empty(size, keep.dtype)
            w = np.empty(2 * slots, keep.dtype)
            for i in range(dim):
                s[i] = start[np.int64(bh) * dim + i]
            for i in range(size):
                p[i] = pairs[np.int64(bh) * size + i]
            for t in range(length):
                row = (n * length + t) * heads + h
                wrong += 0 if keep[2 * row] <= 1 and keep[2 * row + 1] <= 1 else 1
                ao = n * a_at[0] + t * a_at[1] + h * a_at[2]
                bo = n * b_at[0] + t * b_at[1] + h * b_at[2]
                lo = n * ql_at[0] + t * ql_at[1] + h * ql_at[2]
                ro = n * qr_at[0] + t * qr_at[1] + h * qr_at[2]
                match(dim, slots, addresses, 0, s, 0, w, 0)
                match(dim, slots, addresses, 0, ql, lo, w, slots)
                _softmax(w, 0, slots)
                _softmax(w, slots, slots)
                if blocks > 0:
                    for i in range(dim):
                        before[row * dim + i] = s[i]
                    for m in range(2 * slots):
                        weights[row * 2 * slots + m] = w[m]
                    if t % BLOCK == 0:
                        at = (np.int64(bh) * blocks + t // BLOCK) * size
                        for i in range(size):
                            borders[at + i] = p[i]
                write_slots_and_read(
                    dim, slots, p, 0, 0, b, bo, w, 0, w, slots, z, row * dim,
                    keep[2 * row + 1], write[2 * row + 1],
                )  # fmt: skip
                gate_and_retain(
                    dim, s, 0, z, row * dim, qr, ro, y, row * dim, a, ao, keep[2 * row], write[2 * row]
                )
            for i in range(dim):
                last_sum[np.int64(bh) * dim + i] = s[i]
            for i in range(size):
                last_pairs[np.int64(bh) * size + i] = p[i]
        return wrong

    return forward


@cache
def _backward_kernel(dim: int, slots: int) -> Callable[..., Any]:
    """The reverse loop: the slots of a block are recomputed from its border, then walked backwards."""

    @kernel
    def backward(
        a, a_at, b, b_at, ql, ql_at, qr, qr_at, keep, write, addresses, z, before, borders, weights,
        dy, dy_at, d_sum, d_pairs, da, db, dql, dqr, d_keep, d_write, d_start, d_first, d_addresses, sizes,
    ):  # fmt: skip
        batch, length, heads, blocks = sizes
        size = slots * dim
        for bh in numba.prange(batch * heads):
            n = np.int64(bh) // heads
            h = np.int64(bh) % heads
            states = np.empty((BLOCK + 1) * size, keep.dtype)
            dz = np.empty(dim, keep.dtype)
            ds = np.empty(dim, keep.dtype)
            unused = np.empty(dim, keep.dtype)
            dw = np.empty(2 * slots, keep.dtype)
            g = np.empty(size, keep.dtype)
            gs = np.empty(dim, keep.dtype)
            for j in range(dim):
                gs[j] = d_sum[np.int64(bh) * dim + j]
            for i in range(size):
                g[i] = d_pairs[np.int64(bh) * size + i]
            decay = keep.dtype.type(1)
            for block in range(blocks - 1, -1, -1):
                first = block * BLOCK
                count = min(BLOCK, length - first)
                at = (np.int64(bh) * blocks + block) * size
                for i in range(size):
                    states[i] = borders[at + i]
                for u in range(count):
                    row = (n * length + first + u) * heads + h
                    bo = n * b_at[0] + (first + u) * b_at[1] + h * b_at[2]
                    wo = row * 2 * slots
                    write_slots_and_read(
                        dim, slots, states, u * size, (u + 1) * size, b, bo, weights, wo, weights, wo + slots,
                        unused, 0, keep[2 * row + 1], write[2 * row + 1],
                    )  # fmt: skip
                for u in range(count - 1, -1, -1):
                    t = first + u
                    row = (n * length + t) * heads + h
                    out = row * dim
                    wo = row * 2 * slots
                    ao = n * a_at[0] + t * a_at[1] + h * a_at[2]
                    bo = n * b_at[0] + t * b_at[1] + h * b_at[2]
                    lo = n * ql_at[0] + t * ql_at[1] + h * ql_at[2]
                    ro = n * qr_at[0] + t * qr_at[1] + h * qr_at[2]
                    yo = n * dy_at[0] + t * dy_at[1] + h * dy_at[2]
                    reverse_gate(dim, dz, 0, dy, yo, qr, ro, z, out, dqr, out)
                    reverse_slots(
                        dim, slots, g, 0, states, u * size, (u + 1) * size, b, bo, dz, 0,
                        weights, wo, weights, wo + slots, dw, 0, dw, slots,
                        db, out, d_keep, 2 * row + 1, d_write, 2 * row + 1, decay, write[2 * row + 1],
                    )  # fmt: skip
                    decay = keep[2 * row + 1]
                    _reverse_softmax(weights, wo, dw, 0, slots)
                    _reverse_softmax(weights, wo + slots, dw, slots, slots)
                    eo = np.int64(bh) * size
                    reverse_match(dim, slots, addresses, 0, before, out, dw, 0, d_addresses, eo, ds, 0)
                    reverse_match(dim, slots, addresses, 0, ql, lo, dw, slots, d_addresses, eo, dql, out)
                    reverse_retain(
                        dim, gs, 0, before, out, a, ao, ds, 0, da, out,
                        d_keep, 2 * row, d_write, 2 * row, keep[2 * row], write[2 * row],
                    )  # fmt: skip
            for j in range(dim):
                d_start[np.int64(bh) * dim + j] = gs[j]
            for i in range(size):
                d_first[np.int64(bh) * size + i] = decay * g[i]

    return backward
