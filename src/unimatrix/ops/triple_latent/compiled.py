"""The triple latent as one compiled CPU loop: a head's sum and pairs stay in the first-level cache.

A composition of signed_scan and matrix_state costs the same arithmetic and a dozen calls more, which is what
counts at a few hundred tokens (docs/performance.md). The loops are numba's (kernels.py, with slots
slot_kernels.py); this module gives autograd its backward pass and torch.compile an opaque operator.

Letters: keep = exp(log retention), write = 1 - keep, both [B, T, H, 2], the sum's gate first; z = P_t^T q_l.
"""

from typing import Any

import torch
from torch import Tensor

from unimatrix.ops.backend import watched
from unimatrix.ops.derivatives import plain_gradients, plain_gradients_wanted
from unimatrix.ops.shapes import HeadScalars, HeadVectors, accumulation_dtype
from unimatrix.ops.triple_latent.reference import triple_latent_steps
from unimatrix.ops.triple_latent.state import TripleLatentState


def triple_latent_compiled(
    a: HeadVectors,
    b: HeadVectors,
    q_l: HeadVectors,
    q_r: HeadVectors,
    log_retention: HeadScalars,
    log_pair_retention: HeadScalars,
    addresses: Tensor | None,
    state: TripleLatentState,
) -> tuple[HeadVectors, TripleLatentState]:
    """Arguments as in `triple_latent`, already checked; the mask is already in the retentions."""
    dtype = accumulation_dtype(a.dtype)
    vectors = (x.to(dtype) for x in (a, b, q_l, q_r))
    log_keep = torch.stack([log_retention.to(dtype), log_pair_retention.to(dtype)], dim=-1)
    # a copy, as numpy pins the memory it is shown, and FSDP2 frees that of a gathered weight
    addresses = None if addresses is None else addresses.to(dtype, copy=True)
    arguments = (*vectors, log_keep, state.sum.to(dtype), state.pairs.to(dtype), addresses)
    if watched(a):
        *rest, log_keep, start, pairs, addresses = arguments
        keep, write = log_keep.exp(), -torch.expm1(log_keep)
        for_backward = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in arguments)
        y, last_sum, last_pairs, *_ = torch.ops.unimatrix.triple_latent_forward(
            *rest, keep, write, start, pairs, addresses, for_backward
        )
    else:
        y, last_sum, last_pairs = _Scan.apply(*arguments)  # type: ignore[misc]
    return y.to(b.dtype), TripleLatentState(last_sum, last_pairs)


class _Scan(torch.autograd.Function):
    """The kernels in eager mode, where dispatching the operator below would cost as much as a short text."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
        a, b, q_l, q_r, log_keep, start, pairs, addresses = arguments
        keep, write = log_keep.exp(), torch.expm1(log_keep).neg_()
        needed = any(ctx.needs_input_grad)
        y, last_sum, last_pairs, *kept = _forward(
            a, b, q_l, q_r, keep, write, start, pairs, addresses, needed
        )
        if needed:
            ctx.save_for_backward(*arguments, keep, write, *kept)
        return y, last_sum, last_pairs

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # asked for once: torch.utils.checkpoint recomputes at the first look
        arguments, (keep, write, *kept) = saved[:8], saved[8:]
        if plain_gradients_wanted(*grad_outputs):
            return plain_gradients(_plain, arguments, ctx.needs_input_grad, grad_outputs)
        a, b, q_l, q_r, _, _, _, addresses = arguments
        *grads, grad_keep, grad_write, grad_sum, grad_pairs, grad_addresses = _backward(
            a, b, q_l, q_r, keep, write, addresses, *kept, *grad_outputs
        )
        # d keep / d log = keep, d write / d log = -keep
        grad_log = keep * grad_keep.sub_(grad_write)
        return (*grads, grad_log, grad_sum, grad_pairs, grad_addresses if ctx.needs_input_grad[7] else None)


def _plain(
    a: Tensor,
    b: Tensor,
    q_l: Tensor,
    q_r: Tensor,
    log_keep: Tensor,
    start: Tensor,
    pairs: Tensor,
    addresses: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    gates = log_keep.exp(), -torch.expm1(log_keep)
    return _plain_from_gates(a, b, q_l, q_r, *gates, start, pairs, addresses)


def _plain_from_gates(
    a: Tensor,
    b: Tensor,
    q_l: Tensor,
    q_r: Tensor,
    keep: Tensor,
    write: Tensor,
    start: Tensor,
    pairs: Tensor,
    addresses: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    state = TripleLatentState(start, pairs)
    y, last = triple_latent_steps(a, b, q_l, q_r, keep, write, addresses=addresses, state=state)
    return y, last.sum, last.pairs


def _forward(
    a: Tensor,
    b: Tensor,
    q_l: Tensor,
    q_r: Tensor,
    keep: Tensor,
    write: Tensor,
    start: Tensor,
    pairs: Tensor,
    addresses: Tensor | None,
    for_backward: bool,
) -> tuple[Tensor, ...]:
    from unimatrix.ops.triple_latent import kernels, slot_kernels

    both = (a, b, q_l, q_r, keep, write, start, pairs)
    if addresses is None:
        return (*kernels.run_forward(*both, for_backward), a.new_empty(0))
    return slot_kernels.run_forward(*both, addresses, for_backward)


def _backward(
    a: Tensor,
    b: Tensor,
    q_l: Tensor,
    q_r: Tensor,
    keep: Tensor,
    write: Tensor,
    addresses: Tensor | None,
    z: Tensor,
    before: Tensor,
    borders: Tensor,
    weights: Tensor,
    grad_y: Tensor,
    grad_sum: Tensor,
    grad_pairs: Tensor,
) -> tuple[Tensor, ...]:
    from unimatrix.ops.triple_latent import kernels, slot_kernels

    tensors = (a, b, q_l, q_r, keep, write)
    grads = (grad_y, grad_sum, grad_pairs)
    if addresses is None:
        return (*kernels.run_backward(*tensors, z, before, borders, *grads), a.new_empty(0))
    return slot_kernels.run_backward(*tensors, addresses, z, before, borders, weights, *grads)


def _forward_shapes(
    a: Tensor,
    b: Tensor,
    q_l: Tensor,
    q_r: Tensor,
    keep: Tensor,
    write: Tensor,
    start: Tensor,
    pairs: Tensor,
    addresses: Tensor | None,
    for_backward: bool,
) -> tuple[Tensor, ...]:
    from unimatrix.ops.triple_latent.kernels import border_count

    batch, length, heads, dim = a.shape
    slots = 0 if addresses is None else len(addresses)
    blocks = border_count(length) if for_backward else 0
    borders = a.new_empty(batch, heads, blocks, (slots or dim) * dim)
    before = a.new_empty(a.shape if for_backward else (0,))
    weights = a.new_empty((batch, length, heads, 2 * slots) if for_backward and slots else (0,))
    y, z = a.new_empty(a.shape), a.new_empty(a.shape)
    return y, start.new_empty(start.shape), pairs.new_empty(pairs.shape), z, before, borders, weights


def _backward_shapes(
    a: Tensor,
    b: Tensor,
    q_l: Tensor,
    q_r: Tensor,
    keep: Tensor,
    write: Tensor,
    addresses: Tensor | None,
    z: Tensor,
    before: Tensor,
    borders: Tensor,
    weights: Tensor,
    grad_y: Tensor,
    grad_sum: Tensor,
    grad_pairs: Tensor,
) -> tuple[Tensor, ...]:
    shapes = [a.shape] * 4 + [keep.shape] * 2 + [grad_sum.shape, grad_pairs.shape]
    shapes.append(torch.Size([0]) if addresses is None else addresses.shape)
    return tuple(a.new_empty(shape) for shape in shapes)


_library = torch.library.Library("unimatrix", "FRAGMENT")
_library.define(
    "triple_latent_forward(Tensor a, Tensor b, Tensor q_l, Tensor q_r, Tensor keep, Tensor write, "
    "Tensor start, Tensor pairs, Tensor? addresses, bool for_backward) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)
_library.define(
    "triple_latent_backward(Tensor a, Tensor b, Tensor q_l, Tensor q_r, Tensor keep, Tensor write, "
    "Tensor? addresses, Tensor z, Tensor before, Tensor borders, Tensor weights, Tensor grad_y, "
    "Tensor grad_sum, Tensor grad_pairs) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)
_library.impl("triple_latent_forward", _forward, "CPU")
_library.impl("triple_latent_backward", _backward, "CPU")
torch.library.register_fake("unimatrix::triple_latent_forward", _forward_shapes, lib=_library)
torch.library.register_fake("unimatrix::triple_latent_backward", _backward_shapes, lib=_library)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, _for_backward = inputs
    ctx.save_for_backward(*tensors, *output[3:])


def _differentiate(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors
    arguments, kept = saved[:9], saved[9:]
    if plain_gradients_wanted(*grad_outputs):
        needed = ctx.needs_input_grad[:9]
        return (*plain_gradients(_plain_from_gates, arguments, needed, grad_outputs[:3]), None)
    *tensors, _start, _pairs, addresses = arguments
    run = torch.ops.unimatrix.triple_latent_backward
    *grads, grad_addresses = run(*tensors, addresses, *kept, *grad_outputs[:3])
    return (*grads, grad_addresses if ctx.needs_input_grad[8] else None, None)


torch.library.register_autograd(
    "unimatrix::triple_latent_forward", _differentiate, setup_context=_remember, lib=_library
)
