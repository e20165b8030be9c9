"""M2RNN as one compiled CPU loop: a head's state stays in the first-level cache, token after token.

Token by token in torch every step is a handful of calls on small matrices, whose cost is the calls. The loops
are numba's (unimatrix.ops.m2rnn.kernels).

Letters: retention = exp(log_retention), write = 1 - retention, both [B, T, H].
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from unimatrix.ops.m2rnn.reference import m2rnn_steps
from unimatrix.ops.operator import Operator
from unimatrix.ops.shapes import HeadScalars, HeadVectors, TokenMask, accumulation_dtype


def m2rnn_compiled(
    q: HeadVectors,
    k: HeadVectors,
    v: HeadVectors,
    log_retention: HeadScalars,
    transition: Tensor,
    state: Tensor,
    starts: TokenMask | None,
) -> tuple[HeadVectors, Tensor]:
    """Arguments as in `m2rnn`, already checked; the mask is already in log_retention."""
    dtype = accumulation_dtype(q.dtype)
    vectors = (x.to(dtype) for x in (q, k, v))
    log_keep = log_retention.to(dtype)
    gates = log_keep.exp(), -torch.expm1(log_keep)
    y, last = _scan(*vectors, *gates, state.to(dtype), transition.to(dtype), starts)
    return y.to(v.dtype), last


@cache
def _loops() -> Any:
    from unimatrix.ops.m2rnn import kernels

    return kernels


def _shapes(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    retention: Tensor,
    write: Tensor,
    state: Tensor,
    transition: Tensor,
    starts: Tensor | None,
    for_backward: bool,
) -> tuple[Tensor, ...]:
    borders = q.new_empty(_loops().border_shape(v, q.shape[-1], for_backward))
    return v.new_empty(v.shape), state.new_empty(state.shape), borders


def _plain(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    retention: Tensor,
    write: Tensor,
    state: Tensor,
    transition: Tensor,
    starts: Tensor | None,
) -> tuple[Tensor, Tensor]:
    return m2rnn_steps(q, k, v, retention, write, transition, state, starts=starts)


_scan = Operator(
    "m2rnn",
    "Tensor q, Tensor k, Tensor v, Tensor retention, Tensor write, Tensor state, Tensor transition, "
    "Tensor? starts",
    outputs="y last",
    kept="borders",
    loops=_loops,
    shapes=_shapes,
    plain=_plain,
    constant="starts",
    shared="transition",
)
