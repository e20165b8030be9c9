"""The matrix state between vectors of two widths: k of the width S, q and v of the width R, states S x R."""

import pytest
import torch
import torch.nn.functional as F
from tolerances import assert_close
from torch import Tensor

from unimatrix import UserError
from unimatrix.ops import BackendChoice, matrix_state

FAST = ("chunked", "compiled")
CHUNK = 16
WIDTHS = pytest.mark.parametrize(("dim", "width"), [(8, 3), (16, 2), (3, 8), (1, 16)])  # S and R


def make_inputs(
    length: int, dim: int, width: int, *, batch: int = 2, heads: int = 3, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    sizes = {"q": width, "k": dim, "v": width}
    inputs = {name: normal(batch, length, heads, size) for name, size in sizes.items()}
    inputs["log_retention"] = F.logsigmoid(3 * normal(batch, length, heads))
    inputs["state"] = normal(batch, heads, dim, width)
    return inputs


def run(inputs: dict[str, Tensor], backend: str | BackendChoice, **options) -> dict[str, Tensor]:
    """Outputs, final state and the gradient of every input, for fixed random output gradients."""
    leaves = {name: x.clone().requires_grad_() for name, x in inputs.items()}
    y, last = matrix_state(**leaves, backend=backend, **options)
    generator = torch.Generator().manual_seed(99)
    grad_y = torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y)
    grad_last = torch.randn(last.shape, generator=generator, dtype=torch.float64).to(last)
    ((y * grad_y).sum() + (last * grad_last).sum()).backward()
    return {"y": y.detach(), "last": last.detach()} | {name: x.grad for name, x in leaves.items()}


def assert_same(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, value in expected.items():
        quantity = {"y": "output", "last": "state"}.get(name, "gradient")
        assert_close(got[name], value, quantity)


@pytest.mark.parametrize("backend", ["reference", *FAST])
@WIDTHS
def test_two_tokens_written_out(backend, dim, width):
    """What is bound is as wide as the query, what comes back as wide as the key."""
    inputs = make_inputs(2, dim, width, batch=1, heads=1, dtype=torch.float64)
    start = inputs["state"][0, 0]
    q, k, v, log_rho = (inputs[name][0, :, 0] for name in ("q", "k", "v", "log_retention"))
    rho = log_rho.exp()
    first = rho[0] * start + (1 - rho[0]) * torch.outer(k[0], v[0])
    second = rho[1] * first + (1 - rho[1]) * torch.outer(k[1], v[1])
    y, last = matrix_state(**inputs, backend=backend)
    assert_close(y[0, :, 0], torch.stack([first @ q[0], second @ q[1]]), "output")
    assert_close(last[0, 0], second, "state")


@pytest.mark.parametrize("backend", FAST)
@WIDTHS
def test_holes_and_hard_gates(backend, dim, width):
    inputs = make_inputs(40, dim, width)
    generator = torch.Generator().manual_seed(5)
    hard = torch.tensor([-torch.inf, 0.0, -69.0776, -1e-7, -1.0])
    inputs["log_retention"] = hard[torch.randint(0, 5, (2, 40, 3), generator=generator)]
    mask = torch.rand(2, 40, generator=generator) > 0.3
    got = run(inputs, backend, mask=mask, chunk_len=CHUNK)
    assert_same(got, run(inputs, "reference", mask=mask))
    assert (got["y"][~mask] == 0).all()
    assert (got["v"][~mask] == 0).all()


@pytest.mark.parametrize(
    ("dim", "width", "form"),
    [(3, 16, "compiled"), (16, 12, "compiled"), (8, 12, "chunked"), (64, 8, "chunked")],
)
def test_the_larger_width_decides_the_form(dim, width, form):
    inputs = make_inputs(5, dim, width)
    got = run(inputs, choice := BackendChoice())
    assert choice.ran == form
    assert_same(got, run(inputs, "reference"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": torch.zeros(2, 6, 3, 4)}, r"v: expected shape \[2, 6, 3, 4\], got \[2, 6, 3, 2\]"),
        ({"k": torch.zeros(2, 6, 3, 4)}, r"state: expected shape \[2, 3, 4, 2\], got \[2, 3, 8, 2\]"),
        ({"k": torch.zeros(2, 6, 8)}, r"k: expected shape"),
        (
            {"rule_weights": torch.zeros(2, 6, 3, 3), "diag": torch.zeros(2, 6, 3, 2)},
            r"k: expected shape \[2, 6, 3, 2\], got \[2, 6, 3, 8\]",
        ),
    ],
)
def test_wrong_arguments_are_named(change, message):
    with pytest.raises(UserError, match=message):
        matrix_state(**make_inputs(6, 8, 2) | change)
