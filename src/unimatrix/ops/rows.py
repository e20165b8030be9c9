"""Rows of tensors inside compiled loops, by address: what the ops' kernels have in common.

Imported only when a kernel runs, so that importing unimatrix.ops does not import numba. Making numpy arrays
of tensors would cost a small scan as much as its loop does; addresses and strides cost next to nothing. The
inner stride is 1.
"""

from typing import Any

import numba
import numpy as np
import torch
from numba.core import types
from numba.extending import intrinsic
from numba.np.numpy_support import carray
from torch import Tensor

# a product and a sum may become one rounding, and a sum may be reordered
FAST = {"reassoc", "contract", "nsz"}
MIN_BLOCK = 64  # channels: a block reads whole cache lines
TASKS_PER_THREAD = 4
FLAG = np.uint8(0)  # the type of a bool in memory
ZEROS = {torch.float32: np.float32(0), torch.float64: np.float64(0)}  # tells a kernel its type


def unit_stride(x: Tensor) -> Tensor:
    """x itself if its last stride is 1 (other strides are free), else a copy."""
    return x if x.stride(-1) == 1 else x.contiguous()


def place(x: Tensor) -> tuple[int, tuple[int, ...]]:
    """Address and all strides but the inner one."""
    return x.data_ptr(), x.stride()[:-1]


def address(x: Tensor | None) -> int:
    """Where a contiguous tensor begins; 0 for none."""
    return 0 if x is None else x.data_ptr()


def first_gradient(grad_state: Tensor, grad_last: Tensor | None) -> Tensor:
    """That of the first state where there is no position at all."""
    return grad_state.zero_() if grad_last is None else grad_state.copy_(grad_last)


def channel_blocks(batch: int, width: int, groups: int, threads: int) -> int:
    """Into how many blocks the channels are cut: one, unless the batch alone leaves threads idle."""
    if threads == 1 or batch >= TASKS_PER_THREAD * threads:
        return 1
    wanted = -(-TASKS_PER_THREAD * threads // batch)
    return max(1, min(wanted, groups, width // MIN_BLOCK))


@intrinsic
def _pointer(typing: Any, start: Any, at: Any, zero: Any) -> Any:
    """The number at place `at` behind the address `start`, as a pointer; numbers are of zero's type."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = context.get_value_type(types.CPointer(zero))
        return builder.gep(builder.inttoptr(args[0], pointer), [args[1]])

    return types.CPointer(zero)(types.int64, types.int64, zero), emit


@numba.njit
def row(start, at, count, zero):
    """`count` numbers from place `at` behind the address `start` on, as an array.

    Fill it number by number: numba takes `row[:] = x` for work on an array that nobody sees, and drops it.
    """
    return carray(_pointer(start, at, zero), (count,))  # pyright: ignore[reportCallIssue]  # an intrinsic


@numba.njit
def flags(start, at, count):
    """`count` bools from place `at` behind the address `start` on, as an array of 0 and 1."""
    return row(start, at, count, FLAG)


@numba.njit
def bare(x):
    """The contiguous x as an array that counts no references, while x lives on (`until_here`).

    A part of an ordinary array counts itself in and out, by atomic operations: as much as a short row costs.
    """
    return carray(_pointer(x.ctypes.data, 0, x.dtype.type(0)), x.shape)  # pyright: ignore[reportCallIssue]


@numba.njit(fastmath=FAST)
def all_finite(x):
    """Whether no number of x is NaN or infinite: a loop may then leave out what it weighs with 0."""
    flat, nothing = x.reshape(x.size), x.dtype.type(0)
    total = nothing
    for i in range(flat.size):
        total += flat[i] * nothing  # NaN of both
    return total == nothing


@numba.njit
def larger(x, y):
    """The larger of two numbers, NaN if one of them is: `max` may return the other one."""
    return x if x > y or x != x else y


@numba.njit
def until_here(owner):
    """The owner lives until here: numba frees an array behind its last use, and sees none through `bare`."""
