"""The gated scan as one compiled CPU loop: decays, scan and readout while a row of gates is in the cache.

Apart, they would be a tanh that torch computes slowly on a view, a scan and two products, each of which reads
and writes all of the text once more. The gates are read where they lie, and the backward writes all of their
gradients into one tensor. The loops are numba's (unimatrix.ops.gated_scan.kernels).
"""

from typing import Any

import torch
from torch import Tensor

from unimatrix.ops.backend import watched
from unimatrix.ops.derivatives import plain_gradients, plain_gradients_wanted
from unimatrix.ops.gated_scan.reference import gated_scan_reference
from unimatrix.ops.shapes import Stream, accumulation_dtype


def gated_scan_compiled(gates: Tensor, state: Tensor | None) -> tuple[Stream, Tensor]:
    """Arguments as in `gated_scan`, already checked; the mask is already in the gates."""
    dtype = accumulation_dtype(gates.dtype)
    arguments = (gates.to(dtype), None if state is None else state.to(dtype))
    # without gradients nobody asks for the states in between
    keep = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in arguments)
    if watched(gates):
        y, last, _ = torch.ops.unimatrix.gated_scan_forward(*arguments, keep)
    elif keep:
        y, last = _Scan.apply(*arguments)  # type: ignore[misc]
    else:
        y, last, _ = _forward(*arguments, False)
    return y.to(gates.dtype), last


class _Scan(torch.autograd.Function):
    """The kernels in eager mode, where dispatching the operator below would cost more than a small scan."""

    @staticmethod
    def forward(ctx: Any, gates: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        y, last, states = _forward(gates, state, True)
        ctx.save_for_backward(gates, states, state)
        ctx.set_materialize_grads(False)
        return y, last

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        return _gradients(_backward, ctx, *grad_outputs)


def _gradients(run: Any, ctx: Any, *grad_outputs: Tensor | None) -> tuple[Tensor | None, ...]:
    """By the kernel (`run`), or by the equation where they will be differentiated again."""
    gates, states, state = ctx.saved_tensors
    if plain_gradients_wanted(*grad_outputs):
        return plain_gradients(_plain, (gates, state), ctx.needs_input_grad[:2], grad_outputs)
    grad_gates, grad_state = run(gates, states, state, *grad_outputs)
    return grad_gates, grad_state if ctx.needs_input_grad[1] else None


def _plain(gates: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
    return gated_scan_reference(gates, state, mask=None)


def _forward(gates: Tensor, state: Tensor | None, keep: bool) -> tuple[Tensor, Tensor, Tensor]:
    from unimatrix.ops.gated_scan import kernels

    return kernels.run_forward(gates, state, keep)


def _backward(
    gates: Tensor, states: Tensor, state: Tensor | None, grad_y: Tensor | None, grad_last: Tensor | None
) -> tuple[Tensor, Tensor]:
    from unimatrix.ops.gated_scan import kernels

    return kernels.run_backward(gates, states, state, grad_y, grad_last)


def _forward_shapes(gates: Tensor, state: Tensor | None, keep: bool) -> tuple[Tensor, Tensor, Tensor]:
    batch, length, _, width = gates.shape
    y = gates.new_empty(batch, length, width)
    return y, gates.new_empty(batch, width), y.new_empty(batch, length if keep else 0, width)


def _backward_shapes(
    gates: Tensor, states: Tensor, state: Tensor | None, grad_y: Tensor | None, grad_last: Tensor | None
) -> tuple[Tensor, Tensor]:
    batch, _, _, width = gates.shape
    return gates.new_empty(gates.shape), gates.new_empty(batch, width)


_library = torch.library.Library("unimatrix", "FRAGMENT")
_library.define("gated_scan_forward(Tensor gates, Tensor? state, bool keep) -> (Tensor, Tensor, Tensor)")
_library.define(
    "gated_scan_backward(Tensor gates, Tensor states, Tensor? state, Tensor? grad_y, Tensor? grad_last) "
    "-> (Tensor, Tensor)"
)
_library.impl("gated_scan_forward", _forward, "CPU")
_library.impl("gated_scan_backward", _backward, "CPU")
torch.library.register_fake("unimatrix::gated_scan_forward", _forward_shapes, lib=_library)
torch.library.register_fake("unimatrix::gated_scan_backward", _backward_shapes, lib=_library)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    gates, state, _keep = inputs
    ctx.save_for_backward(gates, output[2], state)


def _differentiate(
    ctx: Any, grad_y: Tensor, grad_last: Tensor, _grad_states: Tensor
) -> tuple[Tensor | None, ...]:
    return (*_gradients(torch.ops.unimatrix.gated_scan_backward, ctx, grad_y, grad_last), None)


torch.library.register_autograd(
    "unimatrix::gated_scan_forward", _differentiate, setup_context=_remember, lib=_library
)
