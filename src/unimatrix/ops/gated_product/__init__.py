"""The product in the middle of a gated feed-forward layer: one public function, two forms.

`reference` is the equation, `compiled` is one CPU loop. Both agree in the output and every gradient
(tests/ops/test_gated_product.py).
"""

from typing import Any

import torch
from torch import Tensor

from unimatrix.errors import UserError
from unimatrix.ops.backend import Backend, BackendChoice, choose_backend, loops_problem
from unimatrix.ops.gated_product.compiled import gated_product_compiled, run_loop
from unimatrix.ops.gated_product.reference import gated_product_reference
from unimatrix.ops.internals import plain, watched
from unimatrix.ops.shapes import check_first

__all__ = ["gated_product"]


def gated_product(gate_and_up: Tensor, *, backend: Backend | BackendChoice = "auto") -> Tensor:
    """y = silu(gate) * up, elementwise (SwiGLU, arXiv:2002.05202).

    Args:
        gate_and_up: [..., 2 W], the gate's W channels first, any float dtype.
        backend: "auto" takes the compiled form on a CPU for float32 and float64, and plain torch elsewhere,
            and under torch.compile, which joins it to what lies around. A form asked for by name that cannot
            run here raises.

    Returns:
        [..., W] in the same dtype.

    Raises:
        UserError: not a float tensor, an odd number of channels, a backend that is unknown or cannot
            run here.

    Numerics: the compiled form works in float32, or float64 for float64. Differentiable.
    """
    if backend == "auto" and _is_plain(gate_and_up):  # in few calls: decoding looks here at each token
        return run_loop(gate_and_up)
    dims = gate_and_up.dim() if isinstance(gate_and_up, Tensor) else 1
    letters = ", ".join(["..."] * (dims - 1) + ["2 width"])
    check_first("gate_and_up", gate_and_up, letters)
    if gate_and_up.shape[-1] % 2:
        raise UserError(f"gate_and_up: expected [{letters}], got {list(gate_and_up.shape)}")
    problem = loops_problem(gate_and_up)
    joined = torch.compiler.is_compiling()
    by_address = problem is None and not joined and plain(gate_and_up.dtype, gate_and_up)
    form = choose_backend(
        "gated_product",
        backend,
        preferred="compiled" if by_address and gate_and_up.element_size() >= 4 else "reference",
        problems={"compiled": problem, "chunked": "it has no such form: nothing goes from token to token"},
    )
    return gated_product_compiled(gate_and_up) if form == "compiled" else gated_product_reference(gate_and_up)


def _is_plain(x: Any) -> bool:
    """Whether it is as it has to be, and the loop may run at once: no gradients, nobody who follows."""
    return (
        type(x) is Tensor
        and not torch.is_grad_enabled()
        and not watched(x)
        and x.dtype is torch.float32
        and loops_problem(x) is None
        and not x.is_neg()
        and x.layout is torch.strided
        and x.dim() > 0
        and x.shape[-1] % 2 == 0
    )
