"""The compiled loops of the gated product: one row after the other.

Imported only when a kernel runs, so that importing unimatrix.ops does not import numba. The machine code is
kept on disk (unimatrix.ops.jit): only the first run on a machine compiles.

Letters: N rows, W width, g and u the halves of a row, s = sigmoid(g). Tensors come as addresses
(unimatrix.ops.rows). Each inner loop writes one array, so that it vectorises.
"""

import numba
import numpy as np
from torch import Tensor

from unimatrix.ops.jit import kernel
from unimatrix.ops.rows import FAST, TASKS_PER_THREAD, ZEROS, row
from unimatrix.ops.sigmoid import sigmoid
from unimatrix.ops.threads import threads_for

WORK_PER_NUMBER = 16  # multiply-adds that a sigmoid costs about


def run_forward(gate_and_up: Tensor, keep: bool) -> tuple[Tensor]:
    """y [..., W] of [..., 2 W]."""
    gate_and_up = gate_and_up.contiguous()
    width = gate_and_up.shape[-1] // 2
    y = gate_and_up.new_empty((*gate_and_up.shape[:-1], width))
    if y.numel():
        threads = threads_for(WORK_PER_NUMBER * y.numel())
        rows = y.numel() // width
        sizes = (rows, width, min(rows, TASKS_PER_THREAD * threads))
        _forward(threads, gate_and_up.data_ptr(), y.data_ptr(), sizes, ZEROS[y.dtype])
    return (y,)


def run_backward(gate_and_up: Tensor, grad_y: Tensor | None) -> tuple[Tensor]:
    """The gradient of the joined halves, [..., 2 W]; None is zeros."""
    if grad_y is None:
        return (gate_and_up.new_zeros(gate_and_up.shape),)
    gate_and_up, grad_y = gate_and_up.contiguous(), grad_y.contiguous()
    found = gate_and_up.new_empty(gate_and_up.shape)
    if found.numel():
        threads = threads_for(2 * WORK_PER_NUMBER * grad_y.numel())
        width = grad_y.shape[-1]
        rows = grad_y.numel() // width
        sizes = (rows, width, min(rows, TASKS_PER_THREAD * threads))
        addresses = gate_and_up.data_ptr(), grad_y.data_ptr(), found.data_ptr()
        _backward(threads, *addresses, sizes, ZEROS[grad_y.dtype])
    return (found,)


@kernel(fastmath=FAST)
def _forward(joined, y, sizes, zero):
    """y = g s u, for every row."""
    rows, width, tasks = sizes
    per_task = (rows + tasks - 1) // tasks
    for task in numba.prange(tasks):
        first = np.int64(task) * per_task
        for n in range(first, min(rows, first + per_task)):
            g = row(joined, 2 * n * width, width, zero)
            u = row(joined, 2 * n * width + width, width, zero)
            out = row(y, n * width, width, zero)
            for c in range(width):
                out[c] = g[c] * sigmoid(g[c]) * u[c]


@kernel(fastmath=FAST)
def _backward(joined, d_y, d_joined, sizes, zero):
    """dg = dy u (s + g s (1 - s)), du = dy g s, for every row."""
    rows, width, tasks = sizes
    per_task = (rows + tasks - 1) // tasks
    for task in numba.prange(tasks):
        first = np.int64(task) * per_task
        s = np.full(width, zero)
        gated = np.full(width, zero)  # g s, which is small where g is very negative: dy g may be infinite
        one = zero + np.float32(1)  # a plain 1 would take all of it to float64
        for n in range(first, min(rows, first + per_task)):
            g = row(joined, 2 * n * width, width, zero)
            u = row(joined, 2 * n * width + width, width, zero)
            dy = row(d_y, n * width, width, zero)
            dg = row(d_joined, 2 * n * width, width, zero)
            du = row(d_joined, 2 * n * width + width, width, zero)
            for c in range(width):
                s[c] = sigmoid(g[c])
            for c in range(width):
                gated[c] = g[c] * s[c]
            for c in range(width):
                du[c] = dy[c] * gated[c]
            for c in range(width):
                dg[c] = dy[c] * u[c] * (s[c] + gated[c] * (one - s[c]))
