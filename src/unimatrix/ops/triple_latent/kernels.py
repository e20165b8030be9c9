"""The compiled loops of the dense triple latent: sum, pair memory and readout in one pass over the tokens.

Imported only when a kernel runs, so that importing unimatrix.ops does not import numba. The machine code is
kept on disk (unimatrix.ops.jit): only the first run on a machine compiles.

Letters: as in unimatrix.ops.triple_latent.compiled. The pair memory is a matrix state that binds b to the sum
before it, and lies as P does: row j belongs to number j of the sum. Tensors that may be views come as an
address and the strides of batch, time and head (the inner stride is 1), the others as flat arrays; gates and
their gradients are [B, T, H, 2], the sum's first.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numba
import numpy as np
from torch import Tensor

from unimatrix.ops.jit import kernel
from unimatrix.ops.matrix_state.kernels import BLOCK, check_retention
from unimatrix.ops.matrix_state.steps import reverse, write_and_read
from unimatrix.ops.threads import threads_for
from unimatrix.ops.triple_latent.steps import gate_and_retain, reverse_gate, reverse_retain


def run_forward(
    a: Tensor,
    b: Tensor,
    q_l: Tensor,
    q_r: Tensor,
    keep: Tensor,
    write: Tensor,
    start: Tensor,
    pairs: Tensor,
    for_backward: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """y, the last sum and pairs; and for the backward z, the sums before each token, the pairs at borders."""
    a, b, q_l, q_r = (unit(x) for x in (a, b, q_l, q_r))
    keep, write, start, pairs = (x.contiguous() for x in (keep, write, start, pairs))
    batch, length, heads, dim = a.shape
    y, z = a.new_empty(a.shape), a.new_empty(a.shape)
    last_sum, last_pairs = start.new_empty(start.shape), pairs.new_empty(pairs.shape)
    blocks = border_count(length) if for_backward else 0
    before = a.new_empty(a.shape if for_backward else (0,))
    borders = a.new_empty((batch, heads, blocks, dim * dim))
    wrong = _forward_kernel(dim)(
        threads_for(a.numel() * dim),  # the numbers of all pair memories over all tokens
        *place(a),
        *place(b),
        *place(q_l),
        *place(q_r),
        keep.view(-1).numpy(),
        write.view(-1).numpy(),
        start.view(-1).numpy(),
        pairs.view(-1).numpy(),
        y.data_ptr(),
        z.data_ptr(),
        last_sum.view(-1).numpy(),
        last_pairs.view(-1).numpy(),
        before.view(-1).numpy(),
        borders.view(-1).numpy(),
        (batch, length, heads, blocks),
    )
    if wrong:
        check_retentions(keep)
    return y, last_sum, last_pairs, z, before, borders


def run_backward(
    a: Tensor,
    b: Tensor,
    q_l: Tensor,
    q_r: Tensor,
    keep: Tensor,
    write: Tensor,
    z: Tensor,
    before: Tensor,
    borders: Tensor,
    grad_y: Tensor,
    grad_sum: Tensor,
    grad_pairs: Tensor,
) -> tuple[Tensor, ...]:
    """The gradients of a, b, q_l, q_r, keep, write, and of the first sum and pairs."""
    a, b, q_l, q_r, grad_y = (unit(x) for x in (a, b, q_l, q_r, grad_y))
    keep, write = keep.contiguous(), write.contiguous()
    grad_sum, grad_pairs = grad_sum.contiguous(), grad_pairs.contiguous()
    batch, length, heads, dim = a.shape
    grads = [a.new_empty(a.shape) for _ in range(4)]
    grad_keep, grad_write = keep.new_empty(keep.shape), keep.new_empty(keep.shape)
    grad_start, grad_first = a.new_empty(grad_sum.shape), a.new_empty(grad_pairs.shape)
    _backward_kernel(dim)(
        threads_for(a.numel() * dim),
        *place(a),
        *place(b),
        *place(q_l),
        *place(q_r),
        keep.view(-1).numpy(),
        write.view(-1).numpy(),
        z.data_ptr(),
        before.data_ptr(),
        borders.view(-1).numpy(),
        *place(grad_y),
        grad_sum.view(-1).numpy(),
        grad_pairs.view(-1).numpy(),
        *(grad.data_ptr() for grad in grads),
        grad_keep.data_ptr(),
        grad_write.data_ptr(),
        grad_start.view(-1).numpy(),
        grad_first.view(-1).numpy(),
        (batch, length, heads, borders.shape[2]),
    )
    return (*grads, grad_keep, grad_write, grad_start, grad_first)


def check_retentions(keep: Tensor) -> None:
    """Raise a UserError that names the first retention [B, T, H, 2] that is above 1 or NaN."""
    check_retention("log_retention", keep[..., 0])
    check_retention("log_pair_retention", keep[..., 1])


def border_count(length: int) -> int:
    """How many pair memories are kept: one per block of BLOCK tokens."""
    return -(-length // BLOCK)


def unit(x: Tensor) -> Tensor:
    """x itself if its last stride is 1 (other strides are free), else a copy."""
    return x if x.stride(-1) == 1 else x.contiguous()


def place(x: Tensor) -> tuple[int, tuple[int, ...]]:
    """Address and the strides of batch, time and head."""
    return x.data_ptr(), x.stride()[:3]


@cache
def _forward_kernel(dim: int) -> Callable[..., Any]:
    """The forward loop for one state dimension, a constant of the compiled code."""

    @kernel
    def forward(
        a, a_at, b, b_at, ql, ql_at, qr, qr_at, keep, write, start, pairs,
        y, z, last_sum, last_pairs, before, borders, sizes,
    ):  # fmt: skip
        batch, length, heads, blocks = sizes
        square = dim * dim
        wrong = 0  # retentions above 1, or NaN
        for bh in numba.prange(batch * heads):
            n = np.int64(bh) // heads
            h = np.int64(bh) % heads
            s = np.empty(dim, keep.dtype)
            p = np.empty(square, keep.dtype)
            for i in range(dim):
                s[i] = start[np.int64(bh) * dim + i]
            for i in range(square):
                p[i] = pairs[np.int64(bh) * square + i]
            for t in range(length):
                row = (n * length + t) * heads + h
                wrong += 0 if keep[2 * row] <= 1 and keep[2 * row + 1] <= 1 else 1
                if blocks > 0:
                    for i in range(dim):
                        before[row * dim + i] = s[i]
                    if t % BLOCK == 0:
                        at = (np.int64(bh) * blocks + t // BLOCK) * square
                        for i in range(square):
                            borders[at + i] = p[i]
                ao = n * a_at[0] + t * a_at[1] + h * a_at[2]
                bo = n * b_at[0] + t * b_at[1] + h * b_at[2]
                lo = n * ql_at[0] + t * ql_at[1] + h * ql_at[2]
                ro = n * qr_at[0] + t * qr_at[1] + h * qr_at[2]
                write_and_read(
                    dim, p, 0, 0, b, bo, s, 0, ql, lo, z, row * dim, keep[2 * row + 1], write[2 * row + 1]
                )
                gate_and_retain(
                    dim, s, 0, z, row * dim, qr, ro, y, row * dim, a, ao, keep[2 * row], write[2 * row]
                )
            for i in range(dim):
                last_sum[np.int64(bh) * dim + i] = s[i]
            for i in range(square):
                last_pairs[np.int64(bh) * square + i] = p[i]
        return wrong

    return forward


@cache
def _backward_kernel(dim: int) -> Callable[..., Any]:
    """The reverse loop: the pairs of a block are recomputed from its border, then walked backwards.

    They lie transposed there, so that writing s b^T (b and s change places) and reading with dz gives
    dq_l = P dz on the way.
    """

    @kernel
    def backward(
        a, a_at, b, b_at, ql, ql_at, qr, qr_at, keep, write, z, before, borders, dy, dy_at, d_sum, d_pairs,
        da, db, dql, dqr, d_keep, d_write, d_start, d_first, sizes,
    ):  # fmt: skip
        batch, length, heads, blocks = sizes
        square = dim * dim
        for bh in numba.prange(batch * heads):
            n = np.int64(bh) // heads
            h = np.int64(bh) % heads
            states = np.empty((BLOCK + 1) * square, keep.dtype)
            dz = np.empty(BLOCK * dim, keep.dtype)
            ds = np.empty(dim, keep.dtype)
            g = np.empty(square, keep.dtype)
            gs = np.empty(dim, keep.dtype)
            for j in range(dim):
                gs[j] = d_sum[np.int64(bh) * dim + j]
                for i in range(dim):
                    g[i * dim + j] = d_pairs[np.int64(bh) * square + j * dim + i]
            decay = keep.dtype.type(1)
            for block in range(blocks - 1, -1, -1):
                first = block * BLOCK
                count = min(BLOCK, length - first)
                at = (np.int64(bh) * blocks + block) * square
                for i in range(dim):
                    for j in range(dim):
                        states[i * dim + j] = borders[at + j * dim + i]
                for u in range(count):
                    t = first + u
                    row = (n * length + t) * heads + h
                    out = row * dim
                    bo = n * b_at[0] + t * b_at[1] + h * b_at[2]
                    ro = n * qr_at[0] + t * qr_at[1] + h * qr_at[2]
                    yo = n * dy_at[0] + t * dy_at[1] + h * dy_at[2]
                    reverse_gate(dim, dz, u * dim, dy, yo, qr, ro, z, out, dqr, out)
                    write_and_read(
                        dim, states, u * square, (u + 1) * square, before, out, b, bo, dz, u * dim, dql, out,
                        keep[2 * row + 1], write[2 * row + 1],
                    )  # fmt: skip
                for u in range(count - 1, -1, -1):
                    t = first + u
                    row = (n * length + t) * heads + h
                    out = row * dim
                    ao = n * a_at[0] + t * a_at[1] + h * a_at[2]
                    bo = n * b_at[0] + t * b_at[1] + h * b_at[2]
                    lo = n * ql_at[0] + t * ql_at[1] + h * ql_at[2]
                    reverse(
                        dim, g, 0, states, u * square, b, bo, before, out, ql, lo, dz, u * dim,
                        db, out, ds, 0, d_keep, 2 * row + 1, d_write, 2 * row + 1,
                        decay, write[2 * row + 1],
                    )  # fmt: skip
                    decay = keep[2 * row + 1]
                    reverse_retain(
                        dim, gs, 0, before, out, a, ao, ds, 0, da, out,
                        d_keep, 2 * row, d_write, 2 * row, keep[2 * row], write[2 * row],
                    )  # fmt: skip
            for j in range(dim):
                d_start[np.int64(bh) * dim + j] = gs[j]
                for i in range(dim):
                    d_first[np.int64(bh) * square + j * dim + i] = decay * g[i * dim + j]

    return backward
