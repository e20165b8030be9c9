"""The gated product as one compiled CPU loop, which writes both halves of the gradient into one tensor.

Apart, a SiLU and a product read and write all of the text three times, and five times in the backward, which
joins the halves by a copy. The loops are numba's (unimatrix.ops.gated_product.kernels).
"""

from functools import cache
from typing import Any

from torch import Tensor

from unimatrix.ops.gated_product.reference import gated_product_reference
from unimatrix.ops.operator import Operator
from unimatrix.ops.shapes import accumulation_dtype


def gated_product_compiled(gate_and_up: Tensor) -> Tensor:
    """Arguments as in `gated_product`, already checked."""
    numbers = gate_and_up.to(accumulation_dtype(gate_and_up.dtype))
    # an operator's first dimension is the batch, also where torch.func.vmap adds another
    y = _product(numbers[None])[0][0] if numbers.dim() == 1 else _product(numbers)[0]
    return y.to(gate_and_up.dtype)


@cache
def _loops() -> Any:
    from unimatrix.ops.gated_product import kernels

    return kernels


def _shapes(gate_and_up: Tensor, *_: object) -> tuple[Tensor, ...]:
    return (gate_and_up.new_empty((*gate_and_up.shape[:-1], gate_and_up.shape[-1] // 2)),)


def _plain(gate_and_up: Tensor) -> tuple[Tensor, ...]:
    return (gated_product_reference(gate_and_up),)


_product = Operator(
    "gated_product", "Tensor gate_and_up", outputs="y", loops=_loops, shapes=_shapes, plain=_plain
)
