"""The product in the middle of a gated feed-forward layer: one public function, two forms.

`reference` is the equation, `compiled` is one CPU loop. Both agree in the output and every gradient
(tests/ops/test_gated_product.py).
"""

import torch
from torch import Tensor

from unimatrix.errors import UserError
from unimatrix.ops.backend import Backend, BackendChoice, choose_backend, loops_problem
from unimatrix.ops.gated_product.compiled import gated_product_compiled
from unimatrix.ops.gated_product.reference import gated_product_reference
from unimatrix.ops.internals import plain
from unimatrix.ops.shapes import check_first

__all__ = ["gated_product"]


def gated_product(gate_and_up: Tensor, *, backend: Backend | BackendChoice = "auto") -> Tensor:
    """y = silu(gate) * up, elementwise (SwiGLU, arXiv:2002.05202).

    Args:
        gate_and_up: [..., 2 W], the gate's W channels first, any float dtype.
        backend: "auto" takes the compiled form on a CPU for float32 and float64, and plain torch elsewhere,
            for a token of [B, 1, 2 W] without gradients, and under torch.compile, which joins it to what
            lies around. A form asked for by name that cannot run here raises.

    Returns:
        [..., W] in the same dtype.

    Raises:
        UserError: not a float tensor, an odd number of channels, a backend that is unknown or cannot
            run here.

    Numerics: the compiled form works in float32, or float64 for float64. Differentiable.
    """
    asked = backend.asked if isinstance(backend, BackendChoice) else backend
    if asked == "auto" and _is_a_step(gate_and_up):
        if isinstance(backend, BackendChoice):
            backend.ran = "reference"
        return gated_product_reference(gate_and_up)
    dims = gate_and_up.dim() if isinstance(gate_and_up, Tensor) else 1
    letters = "2 width" if dims < 2 else "..., 2 width"
    check_first("gate_and_up", gate_and_up, ", ".join(["..."] * (dims - 1) + ["2 width"]))
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


def _is_a_step(x: Tensor) -> bool:
    """Whether it is one token of each row, as in decoding, where to choose costs more than the loop saves."""
    return (
        not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and type(x) is Tensor
        and x.dim() == 3
        and x.shape[1] == 1
        and x.is_floating_point()
        and x.shape[2] % 2 == 0
    )
