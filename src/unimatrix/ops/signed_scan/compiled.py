"""The signed scan as a compiled CPU loop: a block of channels stays in the first-level cache.

One multiply-add a number, so that memory decides the speed: views (any strides but the inner one) are read
where they lie, and the backward starts from the states that the forward gave out. The loops are numba's
(unimatrix.ops.signed_scan.kernels).
"""

from typing import Any

import torch
from torch import Tensor

from unimatrix.ops.backend import watched
from unimatrix.ops.derivatives import plain_gradients_wanted
from unimatrix.ops.shapes import Stream, accumulation_dtype
from unimatrix.ops.signed_scan.chunked import scan_gradients


def signed_scan_compiled(decay: Tensor, write: Stream, state: Tensor | None) -> tuple[Stream, Tensor]:
    """Arguments as in `signed_scan`, already checked; the mask is already in decay and write."""
    dtype = accumulation_dtype(write.dtype)
    arguments = (decay.to(dtype), write.to(dtype), None if state is None else state.to(dtype))
    if watched(write):
        states, last = torch.ops.unimatrix.signed_scan_forward(*arguments)
    else:
        states, last = _Scan.apply(*arguments)  # type: ignore[misc]
    return states.to(write.dtype), last


class _Scan(torch.autograd.Function):
    """The kernels in eager mode, where dispatching the operator below would cost more than a small scan."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
        states, last = _forward(*arguments)
        decay, _, state = arguments
        ctx.save_for_backward(decay, states, state)
        ctx.set_materialize_grads(False)
        return states, last

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        return _gradients(_backward, ctx, *grad_outputs)


def _gradients(
    run: Any, ctx: Any, grad_states: Tensor | None, grad_last: Tensor | None
) -> tuple[Tensor | None, ...]:
    """By the kernel (`run`), or by plain torch where they will be differentiated again."""
    decay, states, state = ctx.saved_tensors
    if not plain_gradients_wanted(grad_states, grad_last):
        grad_decay, grad_write, grad_state = run(decay, states, state, grad_states, grad_last)
    else:
        zeros = states.new_zeros(states.shape[0], states.shape[2])
        grad_decay, grad_write, grad_state = scan_gradients(
            decay,
            states,
            zeros if state is None else state,
            torch.zeros_like(states) if grad_states is None else grad_states,
            zeros if grad_last is None else grad_last,
        )
    return grad_decay, grad_write, grad_state if ctx.needs_input_grad[2] else None


def _forward(decay: Tensor, write: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
    from unimatrix.ops.signed_scan import kernels

    return kernels.run_forward(decay, write, state)


def _backward(
    decay: Tensor,
    states: Tensor,
    state: Tensor | None,
    grad_states: Tensor | None,
    grad_last: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    from unimatrix.ops.signed_scan import kernels

    return kernels.run_backward(decay, states, state, grad_states, grad_last)


def _forward_shapes(decay: Tensor, write: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
    return write.new_empty(write.shape), write.new_empty(write.shape[0], write.shape[2])


def _backward_shapes(
    decay: Tensor,
    states: Tensor,
    state: Tensor | None,
    grad_states: Tensor | None,
    grad_last: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, _, width = states.shape
    return states.new_empty(decay.shape), states.new_empty(states.shape), states.new_empty(batch, width)


_library = torch.library.Library("unimatrix", "FRAGMENT")
_library.define("signed_scan_forward(Tensor decay, Tensor write, Tensor? state) -> (Tensor, Tensor)")
_library.define(
    "signed_scan_backward(Tensor decay, Tensor states, Tensor? state, Tensor? grad_states, "
    "Tensor? grad_last) -> (Tensor, Tensor, Tensor)"
)
_library.impl("signed_scan_forward", _forward, "CPU")
_library.impl("signed_scan_backward", _backward, "CPU")
torch.library.register_fake("unimatrix::signed_scan_forward", _forward_shapes, lib=_library)
torch.library.register_fake("unimatrix::signed_scan_backward", _backward_shapes, lib=_library)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    decay, _write, state = inputs
    ctx.save_for_backward(decay, output[0], state)


def _differentiate(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
    return _gradients(torch.ops.unimatrix.signed_scan_backward, ctx, *grad_outputs)


torch.library.register_autograd(
    "unimatrix::signed_scan_forward", _differentiate, setup_context=_remember, lib=_library
)
