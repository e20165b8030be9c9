"""The triple latent as one compiled CPU loop: a head's sum and pairs stay in the first-level cache.

A composition of signed_scan and matrix_state costs the same arithmetic and a dozen calls more, which is what
counts at a few hundred tokens (docs/performance.md). The loops are numba's
(unimatrix.ops.triple_latent.kernels).

Letters: keep = exp(log retention), write = 1 - keep, both [B, T, H, 2], the sum's gate first; z = P_t^T q_l.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from unimatrix.ops.operator import Operator
from unimatrix.ops.shapes import HeadScalars, HeadVectors, TokenMask, accumulation_dtype
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
    starts: TokenMask | None,
) -> tuple[HeadVectors, TripleLatentState]:
    """Arguments as in `triple_latent`, already checked; the mask is already in the retentions."""
    dtype = accumulation_dtype(a.dtype)
    vectors = (x.to(dtype) for x in (a, b, q_l, q_r))
    log_keep = torch.stack([log_retention.to(dtype), log_pair_retention.to(dtype)], dim=-1)
    # a copy, as numpy pins the memory it is shown, and FSDP2 frees that of a gathered weight
    addresses = None if addresses is None else addresses.to(dtype, copy=True)
    y, *last = _scan(*vectors, log_keep, state.sum.to(dtype), state.pairs.to(dtype), addresses, starts)
    return y.to(b.dtype), TripleLatentState(*last)


@cache
def _loops() -> Any:
    from unimatrix.ops.triple_latent import kernels

    return kernels


def _shapes(
    a: Tensor,
    b: Tensor,
    q_l: Tensor,
    q_r: Tensor,
    log_keep: Tensor,
    start: Tensor,
    pairs: Tensor,
    addresses: Tensor | None,
    starts: Tensor | None,
    for_backward: bool,
) -> tuple[Tensor, ...]:
    shapes = (a.shape, start.shape, pairs.shape, log_keep.shape, log_keep.shape)
    kept = _loops().kept_shapes(a, addresses, for_backward)
    return tuple(a.new_empty(shape) for shape in (*shapes, *kept))


def _plain(
    a: Tensor,
    b: Tensor,
    q_l: Tensor,
    q_r: Tensor,
    log_keep: Tensor,
    start: Tensor,
    pairs: Tensor,
    addresses: Tensor | None,
    starts: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    gates, state = (log_keep.exp(), -torch.expm1(log_keep)), TripleLatentState(start, pairs)
    y, last = triple_latent_steps(a, b, q_l, q_r, *gates, addresses=addresses, state=state, starts=starts)
    return y, last.sum, last.pairs


_scan = Operator(
    "triple_latent",
    "Tensor a, Tensor b, Tensor q_l, Tensor q_r, Tensor log_keep, Tensor start, Tensor pairs, "
    "Tensor? addresses, Tensor? starts",
    outputs="y last_sum last_pairs",
    kept="keep write z before borders weights",
    loops=_loops,
    shapes=_shapes,
    plain=_plain,
    constant="starts",
    shared="addresses",
)
