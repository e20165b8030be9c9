"""The gated scan as one compiled CPU loop: decays, scan and readout while a row of gates is in the cache.

Apart, they would be a tanh that torch computes slowly on a view, a scan and two products, each of which reads
and writes all of the text once more. The gates are read where they lie, and the backward writes all of their
gradients into one tensor. The loops are numba's (unimatrix.ops.gated_scan.kernels).
"""

from functools import cache
from typing import Any

from torch import Tensor

from unimatrix.ops.gated_scan.reference import gated_scan_reference
from unimatrix.ops.operator import Operator
from unimatrix.ops.shapes import Stream, accumulation_dtype


def gated_scan_compiled(gates: Tensor, state: Tensor | None, starts: Tensor | None) -> tuple[Stream, Tensor]:
    """Arguments as in `gated_scan`, already checked; the mask is already in the gates."""
    dtype = accumulation_dtype(gates.dtype)
    y, last = _scan(gates.to(dtype), None if state is None else state.to(dtype), starts)
    return y.to(gates.dtype), last


@cache
def _loops() -> Any:
    from unimatrix.ops.gated_scan import kernels

    return kernels


def _shapes(gates: Tensor, state: Tensor | None, starts: Tensor | None, keep: bool) -> tuple[Tensor, ...]:
    batch, length, _, width = gates.shape
    shapes = ((batch, length, width), (batch, width), (batch, length if keep else 0, width))
    return tuple(gates.new_empty(shape) for shape in shapes)


def _plain(gates: Tensor, state: Tensor | None, starts: Tensor | None) -> tuple[Tensor, Tensor]:
    return gated_scan_reference(gates, state, mask=None, starts=starts)


_scan = Operator(
    "gated_scan",
    "Tensor gates, Tensor? state, Tensor? starts",
    outputs="y last",
    kept="states",
    loops=_loops,
    shapes=_shapes,
    plain=_plain,
    constant="starts",
)
