"""The signed scan as a compiled CPU loop: a block of channels stays in the first-level cache.

One multiply-add a number, so that memory decides the speed: views (any strides but the inner one) are read
where they lie, and the backward starts from the states that the forward gave out. The loops are numba's
(unimatrix.ops.signed_scan.kernels).
"""

import importlib.util
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from unimatrix.ops.shapes import Stream, accumulation_dtype

NUMBA_INSTALLED = importlib.util.find_spec("numba") is not None


def compiled_problem(write: Tensor) -> str | None:
    """Why the compiled form cannot run on tensors like write; None if it can."""
    if write.device.type != "cpu":
        return f"it runs on the CPU, the tensors are on {write.device}"
    return None if NUMBA_INSTALLED else "numba is not installed (pip install numba)"


def signed_scan_compiled(decay: Tensor, write: Stream, state: Tensor | None) -> tuple[Stream, Tensor]:
    """Arguments as in `signed_scan`, already checked; the mask is already in decay and write."""
    dtype = accumulation_dtype(write.dtype)
    arguments = (decay.to(dtype), write.to(dtype), None if state is None else state.to(dtype))
    if torch.compiler.is_compiling():
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
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # the decorator hides ctx's name
        ctx: Any, *grad_outputs: Any
    ) -> tuple[Tensor | None, ...]:
        grad_decay, grad_write, grad_state = _backward(*ctx.saved_tensors, *grad_outputs)
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


def _differentiate(ctx: Any, grad_states: Tensor, grad_last: Tensor) -> tuple[Tensor | None, ...]:
    run = torch.ops.unimatrix.signed_scan_backward
    grad_decay, grad_write, grad_state = run(*ctx.saved_tensors, grad_states, grad_last)
    return grad_decay, grad_write, grad_state if ctx.needs_input_grad[2] else None


torch.library.register_autograd(
    "unimatrix::signed_scan_forward", _differentiate, setup_context=_remember, lib=_library
)
