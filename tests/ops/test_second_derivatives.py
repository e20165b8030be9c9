"""Second derivatives, forward mode, transforms: right, or refused in words, in every form of every op.

What autograd of the equation says is right; gradgradcheck compares with finite differences on its own.
"""

import random
from collections.abc import Sequence
from itertools import combinations

import pytest
import torch
from every_op import CASES, Inputs, every_case, every_fast_form, every_form, forms_of
from tolerances import assert_close
from torch import Tensor
from torch.autograd import forward_ad

import unimatrix
from unimatrix import UserError
from unimatrix.ops import BackendChoice, backends_of

MASK = torch.tensor([[False, True, True, False, True], [True] * 5])
STARTS = torch.tensor([[False, False, True, True, False], [True, False, False, True, False]])
OPTIONS = {"all": {}, "masked": {"mask": MASK}, "starts": {"mask": MASK, "starts": STARTS}}


def subsets(names: list[str]) -> list[tuple[str, ...]]:
    """Every input alone, all of them, and a few between."""
    several = [some for size in range(2, len(names)) for some in combinations(names, size)]
    random.Random(len(names)).shuffle(several)
    return [*((name,) for name in names), *several[:4], tuple(names)]


def second(
    case: str, backend: str, wanted: tuple[str, ...], used: slice, call=None, **options
) -> list[Tensor]:
    """First and second derivatives at `wanted`, and at the directions that the first ones are taken in."""
    inputs = CASES[case].make()
    leaves = {name: inputs[name].clone().requires_grad_() for name in wanted}
    outputs = (call or CASES[case].call)(inputs | leaves, backend=backend, **options)[used]
    generator = torch.Generator().manual_seed(5)

    def directions(tensors: Sequence[Tensor]) -> list[Tensor]:
        return [torch.randn(x.shape, generator=generator, dtype=x.dtype).requires_grad_() for x in tensors]

    into = directions(outputs)
    along = directions(list(leaves.values()))
    targets = [*leaves.values(), *into]

    def gradients(total: Tensor, at: list[Tensor]) -> list[Tensor]:
        if not total.requires_grad:
            return [torch.zeros_like(x) for x in at]
        found = torch.autograd.grad(total, at, create_graph=True, allow_unused=True)
        return [torch.zeros_like(x) if g is None else g for x, g in zip(at, found, strict=True)]

    def total(tensors: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
        return torch.stack([(x * w).sum() for x, w in zip(tensors, weights, strict=True)]).sum()

    first = gradients(total(outputs, into), list(leaves.values()))
    again = gradients(total(first, along), targets)
    third = gradients(total(again, again), targets)
    return [x.detach() for x in (*first, *again, *third)]


@pytest.mark.parametrize("options", OPTIONS)
@every_fast_form
def test_second_and_third_derivatives_equal_the_equations(case, backend, options):
    options = OPTIONS[options]
    for wanted in subsets(list(CASES[case].make())):
        for used in (slice(None), slice(0, 1), slice(-1, None)):
            got = second(case, backend, wanted, used, **options)
            expected = second(case, "reference", wanted, used, **options)
            for mine, theirs in zip(got, expected, strict=True):
                assert_close(mine, theirs, "gradient")


@every_form
def test_gradgradcheck(case, backend):
    inputs = CASES[case].make(batch=1, length=3)
    names = [name for name in inputs if not name.startswith("state")]

    def call(*xs: Tensor):
        return CASES[case].call(inputs | dict(zip(names, xs, strict=True)), backend=backend)

    leaves = [inputs[name].requires_grad_() for name in names]
    assert torch.autograd.gradgradcheck(call, leaves)


@every_fast_form
def test_hessian_where_one_input_makes_the_others(case, backend):
    """Every input is a function of one vector, so that the way from one to another is no part of an op's."""
    inputs = CASES[case].make(length=3)

    def loss(x: Tensor, form: str) -> Tensor:
        made = {name: x.sin().sum() * value - x.cos().mean() * value for name, value in inputs.items()}
        for name in made:
            if "retention" in name:
                made[name] = -made[name].square()
            if "strength" in name:
                made[name] = 0.6 + 0.1 * made[name].sigmoid()
        outputs = CASES[case].call(made, backend=form)
        return sum((y.square().sum() for y in outputs), torch.zeros(()))

    x = torch.tensor([0.3, 0.9], dtype=torch.float64)
    expected = torch.autograd.functional.hessian(lambda y: loss(y, "reference"), x)
    for options in ({}, {"vectorize": True}):
        got = torch.autograd.functional.hessian(lambda y: loss(y, backend), x, **options)
        assert_close(got, expected, "gradient")


@every_case
def test_under_torch_compile_second_derivatives_are_right_or_refused(case):
    """aot_autograd refuses them; the plain backend runs the operators with their own derivatives."""
    inputs = CASES[case].make()
    expected = second(case, "reference", tuple(inputs), slice(None))
    torch.compiler.reset()
    call = torch.compile(CASES[case].call, backend="eager")
    for mine, theirs in zip(
        second(case, "compiled", tuple(inputs), slice(None), call=call), expected, strict=True
    ):
        assert_close(mine, theirs, "gradient")
    torch.compiler.reset()
    call = torch.compile(CASES[case].call, backend="aot_eager")
    # the second where aot_autograd first copies a gradient into other strides, which fails one step earlier
    with pytest.raises(RuntimeError, match=r"does not currently support double backward|in-place operation"):
        second(case, "compiled", tuple(inputs), slice(None), call=call)


def forward_mode(inputs: Inputs, call) -> list[Tensor]:
    with forward_ad.dual_level():
        outputs = call({name: forward_ad.make_dual(x, x.cos()) for name, x in inputs.items()})
        tangents = [forward_ad.unpack_dual(y).tangent for y in outputs]
    return [x for x in tangents if x is not None]


def batched(inputs: Inputs, call) -> list[Tensor]:
    leaves = {name: x.clone().requires_grad_() for name, x in inputs.items()}
    outputs = call(leaves)
    into = [torch.stack([y.detach().sin(), y.detach().cos()]) for y in outputs]
    return list(torch.autograd.grad(outputs, list(leaves.values()), into, is_grads_batched=True))


TRANSFORMS = {
    "grad": lambda inputs, call: list(
        torch.func.grad(lambda xs: sum(y.square().sum() for y in call(xs)))(inputs).values()
    ),
    "jvp": lambda inputs, call: list(
        torch.func.jvp(call, (inputs,), ({name: x.cos() for name, x in inputs.items()},))[1]
    ),
    "vmap": lambda inputs, call: list(
        torch.func.vmap(call)({name: torch.stack([x, x]) for name, x in inputs.items()})
    ),
    "no_grad vmap": torch.no_grad()(
        lambda inputs, call: list(
            torch.func.vmap(call)({name: torch.stack([x, x]) for name, x in inputs.items()})
        )
    ),
    "forward mode": forward_mode,
    "no_grad forward mode": torch.no_grad()(forward_mode),
}


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch's own
@pytest.mark.parametrize("transform", TRANSFORMS)
@every_case
def test_transforms_are_right_by_auto_and_right_or_refused_by_name(case, transform):
    inputs, apply = CASES[case].make(), TRANSFORMS[transform]
    expected = apply(inputs, lambda xs: CASES[case].call(xs, backend="reference"))
    assert expected
    for backend in ("auto", *forms_of(case)[1:]):
        choice = BackendChoice(backend)
        try:
            got = apply(inputs, lambda xs, choice=choice: CASES[case].call(xs, backend=choice))
        except UserError:
            assert backend != "auto"
            assert not (transform.endswith("vmap") and backend == "compiled")
            continue
        # a batch of texts is a larger batch
        assert backend != "compiled" or transform.endswith("vmap")
        if backend == "auto":
            assert (choice.ran == "compiled") == transform.endswith("vmap")
        for mine, theirs in zip(got, expected, strict=True):
            assert_close(mine, theirs, "gradient")


@every_fast_form
def test_many_gradients_at_once(case, backend):
    inputs = CASES[case].make()
    got = batched(inputs, lambda xs: CASES[case].call(xs, backend=backend))
    expected = batched(inputs, lambda xs: CASES[case].call(xs, backend="reference"))
    for mine, theirs in zip(got, expected, strict=True):
        assert_close(mine, theirs, "gradient")


def test_a_whole_model_against_finite_differences():
    torch.manual_seed(0)
    model = unimatrix.build("unimatrix-core", vocab_size=11, max_positions=16, d_model=16).double().eval()
    ids = torch.randint(11, (2, 12))
    weights = list(model.parameters())
    steps = [torch.randn_like(x) for x in weights]

    def slope(create_graph: bool) -> Tensor:
        """The derivative of a loss along `steps`."""
        loss = torch.nn.functional.cross_entropy(model(ids)[0].flatten(0, 1), ids.flatten())
        grads = torch.autograd.grad(loss, weights, create_graph=create_graph, allow_unused=True)
        return sum((g * d).sum() for g, d in zip(grads, steps, strict=True) if g is not None)  # type: ignore

    curvature = torch.autograd.grad(slope(True), weights, allow_unused=True)
    got = sum(float((g * d).sum()) for g, d in zip(curvature, steps, strict=True) if g is not None)
    assert set(backends_of(model).values()) == {"compiled"}
    size = 1e-5
    ends = []
    for sign in (1, -2):
        with torch.no_grad():
            for x, d in zip(weights, steps, strict=True):
                x.add_(sign * size * d)
        ends.append(float(slope(False)))
    assert got == pytest.approx((ends[0] - ends[1]) / (2 * size), rel=1e-5)
