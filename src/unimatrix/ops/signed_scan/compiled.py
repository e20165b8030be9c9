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


def signed_scan_compiled(
    decay: Tensor, write: Stream, state: Tensor | None, starts: Tensor | None
) -> tuple[Stream, Tensor]:
    """Arguments as in `signed_scan`, already checked; the mask is already in decay and write."""
    dtype = accumulation_dtype(write.dtype)
    state = None if state is None else state.to(dtype)
    states, last = _scan(decay.to(dtype), write.to(dtype), state, starts)
    return states.to(write.dtype), last


@cache
def _loops() -> Any:
    from unimatrix.ops.signed_scan import kernels

    return kernels


def _shapes(decay: Tensor, write: Tensor, *_: object) -> tuple[Tensor, ...]:
    return write.new_empty(write.shape), write.new_empty(write.shape[0], write.shape[2])


def _gradients(
    decay: Tensor,
    states: Tensor,
    state: Tensor | None,
    starts: Tensor | None,
    grad_states: Tensor | None,
    grad_last: Tensor | None,
) -> tuple[Tensor, ...]:
    """In plain torch, from the states that came out: what was written is not kept."""
    zeros = states.new_zeros(states.shape[0], states.shape[2])
    begun = None if starts is None else starts[..., None]
    grad_decay, *others = scan_gradients(
        decay if begun is None else decay.masked_fill(begun, 0.0),
        states,
        zeros if state is None else state,
        torch.zeros_like(states) if grad_states is None else grad_states,
        zeros if grad_last is None else grad_last,
    )
    return (grad_decay if begun is None else grad_decay.masked_fill(begun, 0.0), *others)


_scan = Operator(
    "signed_scan",
    "Tensor decay, Tensor write, Tensor? state, Tensor? starts",
    outputs="states last",
    loops=_loops,
    shapes=_shapes,
    gradients=_gradients,
    constant="starts",
    backward_takes="decay states state starts",
    shaped_like={"write": "states"},
)
