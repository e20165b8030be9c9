"""The signed scan as a compiled CPU loop: a block of channels stays in the first-level cache.

One multiply-add a number, so that memory decides the speed: views (any strides but the inner one) are read
where they lie, and the backward starts from the states that the forward gave out. The loops are numba's
(unimatrix.ops.signed_scan.kernels).
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from unimatrix.ops.operator import Operator
from unimatrix.ops.shapes import Stream, accumulation_dtype
from unimatrix.ops.signed_scan.chunked import scan_gradients


def signed_scan_compiled(decay: Tensor, write: Stream, state: Tensor | None) -> tuple[Stream, Tensor]:
    """Arguments as in `signed_scan`, already checked; the mask is already in decay and write."""
    dtype = accumulation_dtype(write.dtype)
    states, last = _scan(decay.to(dtype), write.to(dtype), None if state is None else state.to(dtype))
    return states.to(write.dtype), last


@cache
def _loops() -> Any:
    from unimatrix.ops.signed_scan import kernels

    return kernels


def _shapes(decay: Tensor, write: Tensor, state: Tensor | None, keep: bool) -> tuple[Tensor, ...]:
    return write.new_empty(write.shape), write.new_empty(write.shape[0], write.shape[2])


def _gradients(
    decay: Tensor,
    states: Tensor,
    state: Tensor | None,
    grad_states: Tensor | None,
    grad_last: Tensor | None,
) -> tuple[Tensor, ...]:
    """In plain torch, from the states that came out: what was written is not kept."""
    zeros = states.new_zeros(states.shape[0], states.shape[2])
    return scan_gradients(
        decay,
        states,
        zeros if state is None else state,
        torch.zeros_like(states) if grad_states is None else grad_states,
        zeros if grad_last is None else grad_last,
    )


_scan = Operator(
    "signed_scan",
    "Tensor decay, Tensor write, Tensor? state",
    outputs="states last",
    loops=_loops,
    shapes=_shapes,
    gradients=_gradients,
    backward_takes="decay states state",
    shaped_like={"write": "states"},
)
