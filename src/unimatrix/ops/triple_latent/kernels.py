"""The compiled loops of the triple latent: sum, pair memory and readout in one pass over the tokens.

Imported only when a kernel runs, so that importing unimatrix.ops does not import numba. The machine code is
kept on disk (unimatrix.ops.jit): only the first run on a machine compiles.

Letters: as in unimatrix.ops.triple_latent.compiled; R rows of P, which are the S numbers of the sum, or M
slots with addresses E. The dense pair memory is a matrix state that binds b to the sum before it, and lies as
P does: row j belongs to number j of the sum. With slots, alpha = softmax(E s_{t-1}) writes to them and beta =
softmax(E q_l) reads; weights holds both, [B, T, H, 2 M], alpha first, and the gradients of E are summed per
batch row and head first. Tensors that may be views come as an address and the strides of batch, time and head
(the inner stride is 1), the others as flat arrays; gates and their gradients are [B, T, H, 2], the sum's
first.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from unimatrix.ops.jit import kernel
from unimatrix.ops.matrix_state.kernels import BLOCK
from unimatrix.ops.matrix_state.steps import reverse, write_and_read
from unimatrix.ops.rows import address, flags, place, unit_stride
from unimatrix.ops.shapes import check_retention
from unimatrix.ops.threads import threads_for
from unimatrix.ops.triple_latent.steps import (
    gate_and_retain,
    match,
    reverse_gate,
    reverse_match,
    reverse_retain,
    reverse_slots,
    write_slots_and_read,
)

NONE = {torch.float32: np.empty(0, np.float32), torch.float64: np.empty(0, np.float64)}


def run_forward(
    a: Tensor,
    b: Tensor,
    q_l: Tensor,
    q_r: Tensor,
    log_keep: Tensor,
    start: Tensor,
    pairs: Tensor,
    addresses: Tensor | None,
    starts: Tensor | None,
    for_backward: bool,
) -> tuple[Tensor, ...]:
    """y, the last sum and pairs; and what `kept_shapes` says."""
    keep, write = log_keep.exp(), torch.expm1(log_keep).neg_()
    a, b, q_l, q_r = (unit_stride(x) for x in (a, b, q_l, q_r))
    keep, write, start, pairs = (x.contiguous() for x in (keep, write, start, pairs))
    starts = None if starts is None else starts.contiguous()
    batch, length, heads, dim = a.shape
    slots = 0 if addresses is None else len(addresses)
    y = a.new_empty(a.shape)
    last_sum, last_pairs = start.new_empty(start.shape), pairs.new_empty(pairs.shape)
    z, before, borders, weights = (a.new_empty(shape) for shape in kept_shapes(a, addresses, for_backward))
    wrong = _forward_kernel(dim, slots, starts is not None)(
        threads_for(a.numel() * (3 * slots or dim)),  # the numbers of all pair memories over all tokens
        *place(a),
        *place(b),
        *place(q_l),
        *place(q_r),
        keep.view(-1).numpy(),
        write.view(-1).numpy(),
        start.view(-1).numpy(),
        pairs.view(-1).numpy(),
        NONE[a.dtype] if addresses is None else addresses.contiguous().view(-1).numpy(),
        address(starts),
        y.data_ptr(),
        z.data_ptr(),
        last_sum.view(-1).numpy(),
        last_pairs.view(-1).numpy(),
        before.view(-1).numpy(),
        borders.view(-1).numpy(),
        weights.view(-1).numpy() if slots else NONE[a.dtype],
        (batch, length, heads, borders.shape[2]),
    )
    if wrong:
        check_retention("log_retention", log_keep[..., 0])
        check_retention("log_pair_retention", log_keep[..., 1])
    return y, last_sum, last_pairs, keep, write, z, before, borders, weights


def run_backward(
    a: Tensor,
    b: Tensor,
    q_l: Tensor,
    q_r: Tensor,
    log_keep: Tensor,
    start: Tensor,
    pairs: Tensor,
    addresses: Tensor | None,
    starts: Tensor | None,
    keep: Tensor,
    write: Tensor,
    z: Tensor,
    before: Tensor,
    borders: Tensor,
    weights: Tensor,
    grad_y: Tensor | None,
    grad_sum: Tensor | None,
    grad_pairs: Tensor | None,
) -> tuple[Tensor | None, ...]:
    """The gradients of a, b, q_l, q_r, log_keep, of the first sum and pairs, and of the addresses."""
    a, b, q_l, q_r = (unit_stride(x) for x in (a, b, q_l, q_r))
    grad_y = a.new_zeros(a.shape) if grad_y is None else unit_stride(grad_y)
    grad_sum = a.new_zeros(start.shape) if grad_sum is None else grad_sum.contiguous()
    grad_pairs = a.new_zeros(pairs.shape) if grad_pairs is None else grad_pairs.contiguous()
    starts = None if starts is None else starts.contiguous()
    z, before = z.contiguous(), before.contiguous()  # a hook of saved tensors may give back other strides
    batch, length, heads, dim = a.shape
    slots = 0 if addresses is None else len(addresses)
    grads = [a.new_empty(a.shape) for _ in range(4)]
    grad_keep, grad_write = keep.new_empty(keep.shape), keep.new_empty(keep.shape)
    grad_start, grad_first = a.new_empty(start.shape), a.new_empty(pairs.shape)
    grad_addresses = a.new_zeros((batch * heads, slots, dim)) if slots else None
    _backward_kernel(dim, slots, starts is not None)(
        threads_for(a.numel() * (6 * slots or dim)),
        *place(a),
        *place(b),
        *place(q_l),
        *place(q_r),
        keep.view(-1).numpy(),
        write.view(-1).numpy(),
        NONE[a.dtype] if addresses is None else addresses.contiguous().view(-1).numpy(),
        address(starts),
        z.data_ptr(),
        before.data_ptr(),
        borders.view(-1).numpy(),
        weights.view(-1).numpy() if slots else NONE[a.dtype],
        *place(grad_y),
        grad_sum.view(-1).numpy(),
        grad_pairs.view(-1).numpy(),
        *(grad.data_ptr() for grad in grads),
        grad_keep.data_ptr(),
        grad_write.data_ptr(),
        grad_start.view(-1).numpy(),
        grad_first.view(-1).numpy(),
        address(grad_addresses),
        (batch, length, heads, borders.shape[2]),
    )
    # d keep / d log = keep, d write / d log = -keep
    grad_log = keep * grad_keep.sub_(grad_write)
    return (
        *grads,
        grad_log,
        grad_start,
        grad_first,
        None if grad_addresses is None else grad_addresses.sum(0),
    )


def kept_shapes(a: Tensor, addresses: Tensor | None, for_backward: bool) -> list[tuple[int, ...]]:
    """Of z, the sums before each token, the pairs at the border of every block, the weights of the slots."""
    batch, length, heads, dim = a.shape
    slots = 0 if addresses is None else len(addresses)
    blocks = -(-length // BLOCK) if for_backward else 0
    borders = (batch, heads, blocks, (slots or dim) * dim)
    kept = length if for_backward else 0
    return [tuple(a.shape), (batch, kept, heads, dim), borders, (batch, kept, heads, 2 * slots)]


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


@numba.njit
def _place(dim, slots, j, i):
    """Where P_ji lies among the numbers that the backward walks over."""
    return j * dim + i if slots else i * dim + j


@cache
def _forward_kernel(dim: int, slots: int, starting: bool) -> Callable[..., Any]:
    """The forward loop for one state dimension and number of slots, constants of the compiled code.

    `starting`: whether texts begin on the way; without, nobody looks.
    """
    size = (slots or dim) * dim

    @kernel
    def forward(
        a, a_at, b, b_at, ql, ql_at, qr, qr_at, keep, write, start, pairs, addresses, starts,
        y, z, last_sum, last_pairs, before, borders, weights, sizes,
    ):  # fmt: skip
        batch, length, heads, blocks = sizes
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
            begins = flags(starts, n * length, length)
            for t in range(length):
                if starting and begins[t]:
                    for i in range(dim):
                        s[i] = 0
                    for i in range(size):
                        p[i] = 0
                row = (n * length + t) * heads + h
                wrong += 0 if write[2 * row] >= 0 and write[2 * row + 1] >= 0 else 1
                ao = n * a_at[0] + t * a_at[1] + h * a_at[2]
                bo = n * b_at[0] + t * b_at[1] + h * b_at[2]
                lo = n * ql_at[0] + t * ql_at[1] + h * ql_at[2]
                ro = n * qr_at[0] + t * qr_at[1] + h * qr_at[2]
                if blocks > 0:
                    for i in range(dim):
                        before[row * dim + i] = s[i]
                    if t % BLOCK == 0:
                        at = (np.int64(bh) * blocks + t // BLOCK) * size
                        for i in range(size):
                            borders[at + i] = p[i]
                if slots:
                    match(dim, slots, addresses, 0, s, 0, w, 0)
                    match(dim, slots, addresses, 0, ql, lo, w, slots)
                    _softmax(w, 0, slots)
                    _softmax(w, slots, slots)
                    if blocks > 0:
                        for m in range(2 * slots):
                            weights[row * 2 * slots + m] = w[m]
                    write_slots_and_read(
                        dim, slots, p, 0, 0, b, bo, w, 0, w, slots, z, row * dim,
                        keep[2 * row + 1], write[2 * row + 1],
                    )  # fmt: skip
                else:
                    write_and_read(
                        dim, p, 0, 0, b, bo, s, 0, ql, lo, z, row * dim, keep[2 * row + 1], write[2 * row + 1]
                    )
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
def _backward_kernel(dim: int, slots: int, starting: bool) -> Callable[..., Any]:
    """The reverse loop: the pairs of a block are recomputed from its border, then walked backwards.

    Without slots they lie transposed there, so that writing s b^T (b and s change places) and reading with dz
    gives dq_l = P dz on the way.
    """
    rows = slots or dim
    size = rows * dim

    @kernel
    def backward(
        a, a_at, b, b_at, ql, ql_at, qr, qr_at, keep, write, addresses, starts, z, before, borders, weights,
        dy, dy_at, d_sum, d_pairs, da, db, dql, dqr, d_keep, d_write, d_start, d_first, d_addresses, sizes,
    ):  # fmt: skip
        batch, length, heads, blocks = sizes
        for bh in numba.prange(batch * heads):
            n = np.int64(bh) // heads
            h = np.int64(bh) % heads
            states = np.empty((BLOCK + 2) * size, keep.dtype)
            nothing = (BLOCK + 1) * size  # where the last of them lie: what a text begins with
            for i in range(size):
                states[nothing + i] = 0
            begins = flags(starts, n * length, length)
            dz = np.empty(BLOCK * dim, keep.dtype)
            ds = np.empty(dim, keep.dtype)
            unused = np.empty(dim, keep.dtype)
            dw = np.empty(2 * slots, keep.dtype)
            g = np.empty(size, keep.dtype)
            gs = np.empty(dim, keep.dtype)
            for i in range(dim):
                gs[i] = d_sum[np.int64(bh) * dim + i]
                for j in range(rows):
                    g[_place(dim, slots, j, i)] = d_pairs[np.int64(bh) * size + j * dim + i]
            decay = keep.dtype.type(1)
            for block in range(blocks - 1, -1, -1):
                first = block * BLOCK
                count = min(BLOCK, length - first)
                at = (np.int64(bh) * blocks + block) * size
                for j in range(rows):
                    for i in range(dim):
                        states[_place(dim, slots, j, i)] = borders[at + j * dim + i]
                for u in range(count):
                    t = first + u
                    row = (n * length + t) * heads + h
                    out = row * dim
                    old = nothing if starting and begins[t] else u * size
                    wo = row * 2 * slots
                    bo = n * b_at[0] + t * b_at[1] + h * b_at[2]
                    ro = n * qr_at[0] + t * qr_at[1] + h * qr_at[2]
                    yo = n * dy_at[0] + t * dy_at[1] + h * dy_at[2]
                    reverse_gate(dim, dz, u * dim, dy, yo, qr, ro, z, out, dqr, out)
                    if slots:
                        write_slots_and_read(
                            dim, slots, states, old, (u + 1) * size, b, bo, weights, wo,
                            weights, wo + slots, unused, 0, keep[2 * row + 1], write[2 * row + 1],
                        )  # fmt: skip
                    else:
                        write_and_read(
                            dim, states, old, (u + 1) * size, before, out, b, bo, dz, u * dim, dql, out,
                            keep[2 * row + 1], write[2 * row + 1],
                        )  # fmt: skip
                for u in range(count - 1, -1, -1):
                    t = first + u
                    row = (n * length + t) * heads + h
                    out = row * dim
                    old = nothing if starting and begins[t] else u * size
                    wo = row * 2 * slots
                    ao = n * a_at[0] + t * a_at[1] + h * a_at[2]
                    bo = n * b_at[0] + t * b_at[1] + h * b_at[2]
                    lo = n * ql_at[0] + t * ql_at[1] + h * ql_at[2]
                    if slots:
                        reverse_slots(
                            dim, slots, g, 0, states, old, (u + 1) * size, b, bo, dz, u * dim,
                            weights, wo, weights, wo + slots, dw, 0, dw, slots,
                            db, out, d_keep, 2 * row + 1, d_write, 2 * row + 1, decay, write[2 * row + 1],
                        )  # fmt: skip
                        _reverse_softmax(weights, wo, dw, 0, slots)
                        _reverse_softmax(weights, wo + slots, dw, slots, slots)
                        eo = np.int64(bh) * size
                        reverse_match(dim, slots, addresses, 0, before, out, dw, 0, d_addresses, eo, ds, 0)
                        reverse_match(dim, slots, addresses, 0, ql, lo, dw, slots, d_addresses, eo, dql, out)
                    else:
                        reverse(
                            dim, g, 0, states, old, b, bo, before, out, ql, lo, dz, u * dim,
                            db, out, ds, 0, d_keep, 2 * row + 1, d_write, 2 * row + 1,
                            decay, write[2 * row + 1],
                        )  # fmt: skip
                    decay = keep[2 * row + 1]
                    reverse_retain(
                        dim, gs, 0, before, out, a, ao, ds, 0, da, out,
                        d_keep, 2 * row, d_write, 2 * row, keep[2 * row], write[2 * row],
                    )  # fmt: skip
                    if starting and begins[t]:
                        decay = keep.dtype.type(1)
                        for i in range(size):
                            g[i] = 0
                        for i in range(dim):
                            gs[i] = 0
            for i in range(dim):
                d_start[np.int64(bh) * dim + i] = gs[i]
                for j in range(rows):
                    d_first[np.int64(bh) * size + j * dim + i] = decay * g[_place(dim, slots, j, i)]

    return backward
