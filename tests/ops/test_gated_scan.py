"""Every form of the gated scan against the float64 equation: output, state, every gradient, hard gates."""

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import assert_close
from torch import Tensor

from unimatrix import UserError
from unimatrix.ops import chosen_backends, gated_scan, signed_scan

FAST = ("chunked", "compiled")
FORMS = ("reference", *FAST)
DTYPES = (torch.float64, torch.float32)
KINDS = pytest.mark.parametrize("kinds", [3, 4], ids=["plain", "query"])
# forget gates whose decays are exactly 0, 1, -1, next to them, vanishing, ordinary
HARD = (0.0, -0.0, 40.0, -40.0, 8.5, -8.5, 1e-6, -1e-6, 0.5, -0.5)


@pytest.fixture(autouse=True, scope="module")
def poisoned_memory():
    """torch.empty comes filled with NaN: what a kernel forgets to write is seen."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


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


@cache
def expected_of(length: int, kinds: int, hard: bool, state: bool) -> dict[str, Tensor]:
    return run(make_inputs(length, kinds=kinds, hard=hard, state=state), "reference")


@pytest.mark.parametrize("form", FAST)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("length", [1, 2, 5, 64, 131])
@pytest.mark.parametrize("hard", [False, True], ids=["ordinary", "hard"])
@KINDS
def test_forms_are_the_equation(form, dtype, length, hard, kinds):
    for state in (False, True):
        inputs = make_inputs(length, kinds=kinds, hard=hard, state=state, dtype=dtype)
        check(run(inputs, form), expected_of(length, kinds, hard, state), dtype)


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


def test_a_long_text():
    inputs = make_inputs(16384, kinds=3, width=4, batch=1, hard=True, dtype=torch.float32)
    expected = run({name: x.double() for name, x in inputs.items()}, "chunked")
    for form in FAST:
        check(run(inputs, form), expected, torch.float32)


@pytest.mark.parametrize("form", FORMS)
@KINDS
def test_no_position_at_all(form, kinds):
    state = torch.randn(2, 12, dtype=torch.float64)
    for before in (None, state):
        y, last = gated_scan(torch.zeros(2, 0, kinds, 12, dtype=torch.float64), before, backend=form)
        assert y.shape == (2, 0, 12)
        assert torch.equal(last, torch.zeros_like(state) if before is None else state)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("cuts", [(1,), (2, 2, 3, 9), tuple(range(1, 20))], ids=len)
def test_pieces_equal_the_whole(form, cuts):
    gates = make_inputs(20, state=False)["gates"]
    whole, last = gated_scan(gates, backend=form)
    state, pieces = None, []
    for start, stop in zip((0, *cuts), (*cuts, 20), strict=True):
        y, state = gated_scan(gates[:, start:stop], state, backend=form)
        pieces.append(y)
    assert_close(torch.cat(pieces, 1), whole, "output")
    assert_close(state, last, "state")


@pytest.mark.parametrize("form", FORMS)
@KINDS
def test_masked_positions_are_no_tokens(form, kinds):
    """Output, state and gradients are those of the text without its holes; at a hole nothing is learned."""
    inputs = make_inputs(20, kinds=kinds)
    mask = torch.rand(2, 20, generator=torch.Generator().manual_seed(2)) > 0.4
    mask[0, :5] = False
    leaves = {name: x.clone().requires_grad_() for name, x in inputs.items()}
    y, last = gated_scan(**leaves, mask=mask, backend=form)
    weight = torch.randn(2, 20, 12, dtype=torch.float64)
    got = torch.autograd.grad((y * weight)[mask].sum() + last.sum(), list(leaves.values()))
    assert (got[0][~mask] == 0).all()
    for row in range(2):
        alone = {
            "gates": inputs["gates"][row : row + 1, mask[row]].clone().requires_grad_(),
            "state": inputs["state"][row : row + 1].clone().requires_grad_(),
        }
        dense, end = gated_scan(**alone, backend="reference")
        assert_close(y[row : row + 1, mask[row]], dense, "output")
        assert_close(last[row : row + 1], end, "state")
        grads = torch.autograd.grad(
            (dense[0] * weight[row, mask[row]]).sum() + end.sum(), list(alone.values())
        )
        assert_close(got[0][row : row + 1, mask[row]], grads[0], "gradient")
        assert_close(got[1][row : row + 1], grads[1], "gradient")


@pytest.mark.parametrize("form", FAST)
def test_views_are_read_where_they_lie(form):
    """The gates as a part of a wider projection, transposed in batch and time, and not contiguous inside."""
    generator = torch.Generator().manual_seed(3)
    wide = torch.randn(7, 3, 4 * 5 + 6, generator=generator, dtype=torch.float64)
    part = wide.transpose(0, 1)[..., 2:22].unflatten(-1, (4, 5))
    inner = torch.randn(3, 7, 5, 4, generator=generator, dtype=torch.float64).transpose(2, 3)
    for gates in (part, inner):
        got = run({"gates": gates}, form)
        check(got, run({"gates": gates.contiguous()}, "reference"), torch.float64)
        y, _ = gated_scan(gates, backend=form)
        assert torch.equal(y, gated_scan(gates.contiguous(), backend=form)[0])


@pytest.mark.parametrize("form", FORMS)
def test_bfloat16_keeps_a_float32_state(form):
    inputs = make_inputs(50, state=False)
    y, last = gated_scan(inputs["gates"].bfloat16(), backend=form)
    exact, end = gated_scan(inputs["gates"].bfloat16().double(), backend="reference")
    assert (y.dtype, last.dtype) == (torch.bfloat16, torch.float32)
    assert_close(y, exact, "output", torch.bfloat16)
    assert_close(last, end, "state", torch.float32)


@pytest.mark.parametrize("form", FAST)
@KINDS
def test_gradcheck(form, kinds):
    inputs = make_inputs(4, kinds=kinds, width=2, batch=1)
    leaves = [x.requires_grad_() for x in inputs.values()]
    assert torch.autograd.gradcheck(lambda *x: gated_scan(*x, backend=form), leaves)


@pytest.mark.parametrize("unused", ["output", "state"])
def test_an_output_that_nobody_uses(unused):
    inputs = make_inputs(10)
    grads = []
    for form in ("reference", "compiled"):
        leaves = {name: x.clone().requires_grad_() for name, x in inputs.items()}
        y, last = gated_scan(**leaves, backend=form)
        grads.append(torch.autograd.grad((last if unused == "output" else y).sum(), list(leaves.values())))
    for mine, theirs in zip(grads[1], grads[0], strict=True):
        assert_close(mine, theirs, "gradient")


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


def test_a_given_state_is_not_changed():
    inputs = make_inputs(6)
    before = inputs["state"].clone()
    for form in FORMS:
        gated_scan(**inputs, backend=form)
        assert torch.equal(inputs["state"], before)


def test_torch_compile_gives_the_same():
    torch.compiler.reset()
    inputs = make_inputs(30, dtype=torch.float32)

    def call(gates: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        y, last = gated_scan(gates * 1.5, state)
        return y + 1, last

    compiled = torch.compile(call, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        for mine, theirs in zip(compiled(**inputs), call(**inputs), strict=True):
            assert_close(mine, theirs, "output")
    grads = []
    for function in (call, compiled):
        leaves = [x.clone().requires_grad_() for x in inputs.values()]
        y, last = function(*leaves)
        grads.append(torch.autograd.grad(y.square().sum() + last.sum(), leaves))
    for mine, theirs in zip(grads[1], grads[0], strict=True):
        assert_close(mine, theirs, "gradient")


@given(
    length=st.integers(0, 20),
    batch=st.integers(1, 3),
    width=st.integers(1, 20),
    kinds=st.sampled_from([3, 4]),
    data=st.data(),
)
@settings(max_examples=40, deadline=None)
def test_any_shape_and_mask(length, batch, width, kinds, data):
    inputs = make_inputs(length, kinds=kinds, width=width, batch=batch, hard=data.draw(st.booleans()))
    bits = data.draw(st.lists(st.booleans(), min_size=batch * length, max_size=batch * length))
    mask = torch.tensor(bits, dtype=torch.bool).view(batch, length)
    expected = gated_scan(**inputs, mask=mask, backend="reference")
    for form in FAST:
        y, last = gated_scan(**inputs, mask=mask, backend=form)
        assert_close(y[mask], expected[0][mask], "output")
        assert_close(last, expected[1], "state")


def test_auto_is_recorded():
    gated_scan(torch.zeros(1, 1, 3, 2))
    assert chosen_backends()["gated_scan"] == "compiled"


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
        ({"gates": torch.zeros(2, 5, 3, 12), "mask": torch.ones(2, 5)}, "mask: expected dtype bool"),
        (
            {"gates": torch.zeros(2, 5, 3, 12), "mask": torch.ones(2, 4, dtype=torch.bool)},
            r"mask: expected shape \[2, 5\]",
        ),
        ({"gates": torch.zeros(2, 5, 3, 12), "backend": "triton"}, "there is no triton form"),
        ({"gates": torch.zeros(2, 5, 3, 12), "backend": "compild"}, "did you mean 'compiled'"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(UserError, match=message):
        gated_scan(**arguments)


@pytest.mark.gpu
@KINDS
def test_the_same_on_a_gpu(kinds):
    inputs = make_inputs(100, kinds=kinds, dtype=torch.float32)
    expected = run({name: x.double() for name, x in inputs.items()}, "reference")
    got = run({name: x.cuda() for name, x in inputs.items()}, "auto")
    check({name: x.cpu() for name, x in got.items()}, expected, torch.float32)
