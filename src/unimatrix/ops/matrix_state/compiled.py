"""The matrix state as a compiled CPU loop: a head's state stays in the first-level cache, token after token.

At the paper's S = 16 a state is 1 KiB, and the recurrence costs 3 S^2 multiply-adds a token and head: fewer
than any chunk. The loops are numba's (no compiler on the user's machine), one task per batch row and head;
unimatrix.ops.matrix_state.kernels holds them. This module hands tensors over without copying (any strides),
gives autograd its backward pass and torch.compile an opaque operator.

Letters: a, b, c weigh k v^T, v k^T and Diag(d): a = w (pi_outer + pi_sym / 2), b = w pi_sym / 2,
c = w pi_diag, with the write strength w = 1 - rho. Without rule mixing there is a = w alone.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unimatrix.ops.backend import loops_problem, watched
from unimatrix.ops.derivatives import plain_gradients, plain_gradients_wanted
from unimatrix.ops.shapes import HeadScalars, HeadVectors, MatrixState, RuleWeights, accumulation_dtype

MAX_COMPILED_DIM = 32  # beyond it a step is 4096 numbers of straight-line code, slow to compile; chunks serve


def compiled_problem(k: Tensor, v: Tensor) -> str | None:
    """Why the compiled form cannot run on tensors like k and v; None if it can."""
    dim = max(k.shape[-1], v.shape[-1])
    problem = loops_problem(v)
    if problem is None and (dim & (dim - 1) or not 2 <= dim <= MAX_COMPILED_DIM):
        return f"it takes a state_dim that is a power of two from 2 to {MAX_COMPILED_DIM}, got {dim}"
    return problem


def matrix_state_compiled(
    q: HeadVectors,
    k: HeadVectors,
    v: HeadVectors,
    log_retention: HeadScalars,
    rule_weights: RuleWeights | None,
    diag: HeadVectors | None,
    state: MatrixState | None,
) -> tuple[HeadVectors, MatrixState]:
    """Arguments as in `matrix_state`, already checked; the mask is already in log_retention."""
    dtype = accumulation_dtype(q.dtype)
    out_dtype = v.dtype
    batch, _, heads, dim = k.shape
    width = v.shape[-1]
    if width != dim:
        # the loops know square states alone: the narrower side gets columns of zeros, which stay zero
        q, k, v = (F.pad(x, (0, max(dim, width) - x.shape[-1])) for x in (q, k, v))
        if state is not None:
            state = F.pad(state, (0, max(0, dim - width), 0, max(0, width - dim)))
    log_rho = log_retention.to(dtype)
    write = -torch.expm1(log_rho)
    if rule_weights is None or diag is None:
        weights = write[..., None]  # [B, T, H, 1]
    else:
        pi_outer, pi_diag, pi_sym = (write[..., None] * rule_weights.to(dtype)).unbind(-1)
        weights = torch.stack([pi_outer + 0.5 * pi_sym, 0.5 * pi_sym, pi_diag], dim=-1)  # a, b, c
        diag = diag.to(dtype)
    if state is None:
        state = q.new_zeros(batch, heads, q.shape[-1], q.shape[-1], dtype=dtype)
    arguments = (q.to(dtype), k.to(dtype), v.to(dtype), log_rho.exp(), weights, diag, state.to(dtype))
    if watched(q):
        keep = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in arguments)
        y, last, _ = torch.ops.unimatrix.matrix_state_forward(*arguments, keep)
    else:
        y, last = _Scan.apply(*arguments)  # type: ignore[misc]
    if width != dim:
        y, last = y[..., :dim], last[..., :dim, :width].clone()
    return y.to(out_dtype), last


class _Scan(torch.autograd.Function):
    """The kernels in eager mode; under torch.compile the registered operator below takes their place.

    The operator alone would do, but its dispatch costs eager mode 20 us a call.
    """

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
        keep = any(ctx.needs_input_grad)
        y, last, borders = _forward(*arguments, keep)
        if keep:
            ctx.save_for_backward(*arguments, borders)
        return y, last

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        return _gradients(_backward, ctx, *grad_outputs)


def _gradients(run: Any, ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
    """By the kernel (`run`), or by plain torch where they will be differentiated again."""
    *arguments, state, borders = ctx.saved_tensors
    if plain_gradients_wanted(*grad_outputs):
        return plain_gradients(_plain, (*arguments, state), ctx.needs_input_grad[:7], grad_outputs)
    *grads, grad_diag, grad_state = run(*arguments, borders, *grad_outputs)
    return (*grads, grad_diag if ctx.needs_input_grad[5] else None, grad_state)


def _plain(
    q: Tensor, k: Tensor, v: Tensor, rho: Tensor, weights: Tensor, diag: Tensor | None, state: Tensor
) -> tuple[Tensor, Tensor]:
    """What the kernels compute, token by token; the other forms start from other arguments."""
    write = k[..., :, None] * v[..., None, :]  # [B, T, H, S, S]
    updates = weights[..., 0, None, None] * write
    if diag is not None:
        updates = updates + weights[..., 1, None, None] * write.mT
        updates = updates + torch.diag_embed(weights[..., 2, None] * diag)
    outputs = []
    for rho_t, update, q_t in zip(rho.unbind(1), updates.unbind(1), q.unbind(1), strict=True):
        state = rho_t[..., None, None] * state + update
        outputs.append((state * q_t[..., None, :]).sum(-1))
    return torch.stack(outputs, dim=1) if outputs else torch.zeros_like(q), state


def _forward(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    from unimatrix.ops.matrix_state import kernels

    return kernels.run_forward(*args)


def _backward(*args: Any) -> tuple[Tensor, ...]:
    from unimatrix.ops.matrix_state import kernels

    return kernels.run_backward(*args)


def _forward_shapes(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rho: Tensor,
    weights: Tensor,
    diag: Tensor | None,
    state: Tensor,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    from unimatrix.ops.matrix_state.kernels import border_shape

    batch, length, heads, dim = q.shape
    borders = border_shape(batch, length, heads, dim) if keep else (0,)
    return q.new_empty(q.shape), state.new_empty(state.shape), q.new_empty(borders)


def _backward_shapes(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rho: Tensor,
    weights: Tensor,
    diag: Tensor | None,
    borders: Tensor,
    grad_y: Tensor,
    grad_last: Tensor,
) -> tuple[Tensor, ...]:
    shapes = [q.shape] * 3 + [
        rho.shape,
        weights.shape,
        q.shape if diag is not None else (0,),
        grad_last.shape,
    ]
    return tuple(q.new_empty(shape) for shape in shapes)


_library = torch.library.Library("unimatrix", "FRAGMENT")
_library.define(
    "matrix_state_forward(Tensor q, Tensor k, Tensor v, Tensor rho, Tensor weights, Tensor? diag, "
    "Tensor state, bool keep) -> (Tensor, Tensor, Tensor)"
)
_library.define(
    "matrix_state_backward(Tensor q, Tensor k, Tensor v, Tensor rho, Tensor weights, Tensor? diag, "
    "Tensor borders, Tensor grad_y, Tensor grad_last) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)
_library.impl("matrix_state_forward", _forward, "CPU")
_library.impl("matrix_state_backward", _backward, "CPU")
torch.library.register_fake("unimatrix::matrix_state_forward", _forward_shapes, lib=_library)
torch.library.register_fake("unimatrix::matrix_state_backward", _backward_shapes, lib=_library)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, _keep = inputs
    ctx.save_for_backward(*tensors, output[2])


def _differentiate(
    ctx: Any, grad_y: Tensor, grad_last: Tensor, grad_borders: Tensor
) -> tuple[Tensor | None, ...]:
    return (*_gradients(torch.ops.unimatrix.matrix_state_backward, ctx, grad_y, grad_last), None)


torch.library.register_autograd(
    "unimatrix::matrix_state_forward", _differentiate, setup_context=_remember, lib=_library
)
