"""What is the gated scan's own beside tests/ops/test_forms.py: any width, its tanh, what is no number."""

import pytest
import torch
from tolerances import assert_close
from torch import Tensor

from unimatrix import UserError
from unimatrix.ops import gated_scan, signed_scan

FAST = ("chunked", "compiled")
FORMS = ("reference", *FAST)
DTYPES = (torch.float64, torch.float32)
KINDS = pytest.mark.parametrize("kinds", [3, 4], ids=["plain", "query"])
# forget gates whose decays are exactly 0, 1, -1, next to them, vanishing, ordinary
HARD = (0.0, -0.0, 40.0, -40.0, 8.5, -8.5, 1e-6, -1e-6, 0.5, -0.5)


def make_inputs(
    length: int,
    *,
    kinds: int = 4,
    width: int = 12,
    batch: int = 2,
    dtype: torch.dtype = torch.float64,
    hard: bool = False,
    state: bool = True,
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(length + kinds)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    gates = normal(batch, length, kinds, width)
    forget = gates[:, :, 0]
    if hard:
        forget = torch.tensor(HARD, dtype=dtype)[torch.randint(len(HARD), forget.shape, generator=generator)]
    gates = torch.cat([2 * forget[:, :, None], gates[:, :, 1:]], dim=2)
    return {"gates": gates} | ({"state": normal(batch, width)} if state else {})


def run(inputs: dict[str, Tensor], backend: str, **options) -> dict[str, Tensor]:
    """Output, last state and the gradient of every input, for fixed random output gradients."""
    leaves = {name: x.detach().clone().requires_grad_() for name, x in inputs.items()}
    y, last = gated_scan(**leaves, backend=backend, **options)
    generator = torch.Generator().manual_seed(0)
    weights = [
        torch.randn(out.shape, generator=generator, dtype=torch.float64).to(y.device) for out in (y, last)
    ]
    loss = sum((out.double() * weight).sum() for out, weight in zip((y, last), weights, strict=True))
    grads = torch.autograd.grad(loss, list(leaves.values()))
    found = {f"gradient of {name}": grad for name, grad in zip(leaves, grads, strict=True)}
    return {"output": y, "state": last} | found


def check(got: dict[str, Tensor], expected: dict[str, Tensor], dtype: torch.dtype) -> None:
    assert got.keys() == expected.keys()
    for name in got:
        assert_close(got[name], expected[name], name.partition(" ")[0], dtype)


@KINDS
def test_the_equation_is_the_signed_scan_between_gates(kinds):
    inputs = make_inputs(40, kinds=kinds)
    forget, write, output, *query = inputs["gates"].unbind(2)
    states, last = signed_scan(torch.tanh(forget), write, inputs["state"], backend="reference")
    y, end = gated_scan(**inputs, backend="reference")
    assert_close(y, output * states * (query[0] if query else 1.0), "output")
    assert_close(end, last, "state")


@pytest.mark.parametrize("form", FAST)
@pytest.mark.parametrize("width", [1, 3, 64, 130, 300])
def test_any_width(form, width):
    inputs = make_inputs(9, width=width, batch=1)
    check(run(inputs, form), run(inputs, "reference"), torch.float64)


@pytest.mark.parametrize("threads", [1, 2])
def test_channels_cut_into_blocks_for_the_threads(threads):
    """Large enough for several threads; one batch row, so that its channels are cut."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        inputs = make_inputs(100, width=300, batch=1, dtype=torch.float32)
        expected = run({name: x.double() for name, x in inputs.items()}, "reference")
        check(run(inputs, "compiled"), expected, torch.float32)
    finally:
        torch.set_num_threads(before)


def decays(forget: Tensor) -> Tensor:
    """What the compiled form multiplies a state of ones by."""
    gates = torch.zeros(1, 1, 3, len(forget), dtype=forget.dtype)
    gates[0, 0, 0], gates[0, 0, 2] = forget, 1.0
    return gated_scan(gates, torch.ones(1, len(forget), dtype=forget.dtype), backend="compiled")[0][0, 0]


def test_the_compiled_tanh_is_tanh():
    forget = torch.linspace(-12, 12, 100_001)
    exact = torch.tanh(forget.double())
    assert (decays(forget) - exact).abs().max().item() < 2e-7
    assert (decays(forget.double()) - exact).abs().max().item() < 1e-15
    ends = torch.tensor([0.0, 10.0, -10.0, torch.inf, -torch.inf, 3e38])
    assert torch.equal(decays(ends), torch.tensor([0.0, 1.0, -1.0, 1.0, -1.0, 1.0]))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_what_is_not_a_number_is_not_hidden(dtype, form):
    gates = torch.zeros(1, 2, 3, 16, dtype=dtype)
    gates[0, 0, 0, 5] = torch.nan
    _, last = gated_scan(gates, torch.ones(1, 16, dtype=dtype), backend=form)
    assert torch.isnan(last[0]).tolist() == [channel == 5 for channel in range(16)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"gates": torch.zeros(2, 5, 12)},
            r"gates: expected \[batch, time, 3 or 4, width\], got \[2, 5, 12\]",
        ),
        ({"gates": torch.zeros(2, 5, 2, 12)}, r"gates: expected .* got \[2, 5, 2, 12\]"),
        (
            {"gates": torch.zeros(2, 5, 3, 12), "state": torch.zeros(2, 11)},
            r"state: expected shape \[2, 12\], got \[2, 11\]",
        ),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(UserError, match=message):
        gated_scan(**arguments)
