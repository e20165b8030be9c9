"""Derivatives that a hand-written backward does not give: second ones, forward mode, torch.func, batches.

A kernel's backward returns numbers, which autograd takes for constants. Where somebody wants to differentiate
them again, or puts tensors of torch.func in their place, the gradients are those of a form in plain torch.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from unimatrix.ops.internals import many_at_once, transforming
from unimatrix.ops.shapes import without_autocast


def plain_gradients_wanted(*grad_outputs: Tensor | None) -> bool:
    """Whether a backward's results will be differentiated again, or are many at once (is_grads_batched)."""
    if torch.is_grad_enabled() or transforming():
        return True
    for grad in grad_outputs:  # noqa: SIM110  (any() of a generator costs a small op a hundredth)
        if grad is not None and many_at_once(grad):
            return True
    return False


def plain_gradients(
    plain: Callable[..., Sequence[Tensor]],
    arguments: Sequence[Any],
    needed: Sequence[bool],
    grad_outputs: Sequence[Tensor | None],
) -> tuple[Tensor | None, ...]:
    """The gradients of `plain` at the needed arguments, None for the others, as part of the graph.

    Args:
        plain: the same function as the kernel's, from plain torch; its outputs are matched with grad_outputs.
        arguments: what the kernel was given, as autograd saved it: with its place in the graph.
        needed: which of them need a gradient. grad_outputs: None for an output that nothing depends on.
    """
    create_graph = torch.is_grad_enabled()
    device = next(x for x in arguments if isinstance(x, Tensor)).device
    with torch.enable_grad(), without_autocast(device):
        # a view each: an argument that depends on another one is not the way of the other one's gradient
        inputs = [x.view_as(x) if need else x for x, need in zip(arguments, needed, strict=True)]
        pairs = [
            (output, grad)
            for output, grad in zip(plain(*inputs), grad_outputs, strict=True)
            if grad is not None and output.requires_grad
        ]
        wanted = [x for x, need in zip(inputs, needed, strict=True) if need]
        outputs, grads = [list(column) for column in zip(*pairs, strict=True)] or [[], []]
        found = iter(
            torch.autograd.grad(outputs, wanted, grads, create_graph=create_graph, allow_unused=True)
            if outputs
            else [None] * len(wanted)
        )
    return tuple(next(found) if need else None for need in needed)
