"""What stands around the compiled loops: what torch is told of them, in every way of asking."""

import subprocess
import sys
from pathlib import Path

import every_op
import pytest
import torch
from every_op import CASES
from tolerances import assert_close
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from unimatrix.ops import internals

MASK = torch.tensor([[True, True, False, True, True]] * 2)
STARTS = torch.tensor([[False, False, False, True, False], [True, False, True, True, False]])
every_case = pytest.mark.parametrize("case", CASES)


class Calls(TorchDispatchMode):
    """Keeps the arguments of our operators."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "unimatrix":
            self.found.append((func, args))
        return func(*args, **kwargs or {})


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's own check
@pytest.mark.parametrize("fresh", [False, True], ids=["a state", "no state"])
@every_case
def test_opcheck(case, fresh):
    inputs = CASES[case].make()
    if fresh:
        inputs = {name: x for name, x in inputs.items() if not name.startswith("state")}
    options = {"mask": MASK} if fresh else {"mask": MASK, "starts": STARTS}
    with Calls() as calls:
        outputs = CASES[case].call(
            {n: x.requires_grad_() for n, x in inputs.items()}, **options, backend="compiled"
        )
        torch.autograd.grad([y.square().sum() for y in outputs], list(inputs.values()), allow_unused=True)
    assert [func._opname.rpartition("_")[2] for func, _ in calls.found] == ["forward", "backward"]
    for func, args in calls.found:
        leaves = [
            x.detach().clone().requires_grad_(x.is_floating_point() and "forward" in func._opname)
            if isinstance(x, Tensor)
            else x
            for x in args
        ]
        torch.library.opcheck(func, tuple(leaves))


def test_opcheck_of_the_slots_decisions():
    inputs = CASES["slot_memory"].make()
    with Calls() as calls:
        CASES["slot_memory"].call(inputs, mask=MASK, starts=STARTS, backend="chunked")
    ((func, args),) = calls.found
    torch.library.opcheck(func, args)


def slices(inputs: dict[str, Tensor], dims: dict[str, int | None], n: int) -> dict[str, Tensor]:
    return {name: x if dims[name] is None else x.select(dims[name], n) for name, x in inputs.items()}


@pytest.mark.parametrize(
    "which", ["all", "the first alone", "all but the first", "in other places", "none of the state"]
)
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "torch.compile"])
@every_case
def test_vmap_is_the_loop(case, compiled, which):
    """Through the compiled loops, gradients included."""
    made = CASES[case].make()
    first = next(iter(made))
    dims: dict[str, int | None] = {
        name: None
        if (which == "the first alone") != (name == first)
        and which in ("the first alone", "all but the first")
        else x.dim()
        if which == "in other places"
        else 0
        for name, x in made.items()
    }
    if which == "none of the state":
        dims = {name: None if name.startswith("state") else 0 for name in made}
    inputs = {
        name: x if dims[name] is None else torch.stack([x, 0.5 * x, 0.9 * x], dim=dims[name])
        for name, x in made.items()
    }
    leaves = {name: x.detach().clone().requires_grad_() for name, x in inputs.items()}

    def call(xs: dict[str, Tensor]) -> tuple[Tensor, ...]:
        return CASES[case].call(xs, mask=MASK, starts=STARTS, backend="compiled")

    def batched(xs: dict[str, Tensor]) -> tuple[Tensor, ...]:
        return torch.func.vmap(call, in_dims=(dims,))(xs)

    if compiled:
        torch.compiler.reset()
        batched = torch.compile(batched, backend="aot_eager", fullgraph=True)
    got = batched(leaves)
    each = [call(slices(leaves, dims, n)) for n in range(3)]
    expected = [torch.stack(parts) for parts in zip(*each, strict=True)]
    for mine, theirs in zip(got, expected, strict=True):
        assert_close(mine, theirs, "output")

    def grads(outputs) -> tuple[Tensor | None, ...]:
        return torch.autograd.grad(
            sum(y.square().sum() for y in outputs), list(leaves.values()), allow_unused=True
        )

    for mine, theirs in zip(grads(got), grads(expected), strict=True):
        assert_close(mine, theirs, "gradient")


@every_case
def test_vmap_in_vmap_and_of_gradients(case):
    inputs = CASES[case].make()
    twice = {
        name: torch.stack([torch.stack([x, 0.5 * x]), torch.stack([0.9 * x, x])])
        for name, x in inputs.items()
    }

    def call(xs: dict[str, Tensor], backend: str = "auto") -> tuple[Tensor, ...]:
        return CASES[case].call(xs, backend=backend)

    got = torch.func.vmap(torch.func.vmap(call))(twice)
    for n in range(2):
        for m in range(2):
            for mine, theirs in zip(got, call({k: x[n, m] for k, x in twice.items()}), strict=True):
                assert_close(mine[n, m], theirs, "output")

    def loss(xs: dict[str, Tensor], backend: str) -> Tensor:
        return torch.stack([y.square().sum() for y in call(xs, backend)]).sum()

    per_example = torch.func.vmap(torch.func.grad(lambda xs: loss(xs, "auto")))(
        twice_once := {k: x[0] for k, x in twice.items()}
    )
    for n in range(2):
        expected = torch.func.grad(lambda xs: loss(xs, "reference"))({k: x[n] for k, x in twice_once.items()})
        for name, theirs in expected.items():
            assert_close(per_example[name][n], theirs, "gradient")


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch's own
@pytest.mark.parametrize("gone", internals.NAMES)
def test_without_one_of_those_names_numbers_are_right_or_refused(gone):
    """In a process of its own, whose torch lacks the name from the beginning."""
    code = f"""
import sys
sys.path[:0] = {[str(Path(every_op.__file__).parent)]!r}
import torch
from torch.autograd import forward_ad
for home in (torch._C, torch._C._functorch, forward_ad, torch.nn.modules.module):
    if hasattr(home, {gone!r}):
        found = getattr(home, {gone!r})
        delattr(home, {gone!r})
        break
from unimatrix.ops import internals
setattr(home, {gone!r}, found)  # torch itself goes on
assert internals.missing() == [{gone!r}]
from every_op import CASES
from tolerances import assert_close
inputs = CASES["gated_scan"].make()
def call(xs, backend):
    return CASES["gated_scan"].call(xs, backend=backend)
def gradients(backend):
    leaves = {{name: x.clone().requires_grad_() for name, x in inputs.items()}}
    return torch.autograd.grad(sum(y.square().sum() for y in call(leaves, backend)), list(leaves.values()))
def tangents(backend):
    along = {{name: x.cos() for name, x in inputs.items()}}
    return torch.func.jvp(lambda xs: call(xs, backend), (inputs,), (along,))[1]
def duals(backend):
    with forward_ad.dual_level():
        outputs = call({{n: forward_ad.make_dual(x, x.cos()) for n, x in inputs.items()}}, backend)
        return [forward_ad.unpack_dual(y).tangent for y in outputs]
def batch(backend):
    twice = {{name: torch.stack([x, x]) for name, x in inputs.items()}}
    return torch.func.vmap(lambda xs: call(xs, backend))(twice)
def derivatives(backend):
    return torch.func.grad(lambda xs: sum(y.square().sum() for y in call(xs, backend)))(inputs).values()
for way in (gradients, tangents, duals, batch, derivatives):
    try:
        got = list(way("auto"))
    except RuntimeError as error:
        assert way is not gradients, error
        continue
    for mine, theirs in zip(got, way("reference"), strict=True):
        assert mine is not None
        assert_close(mine, theirs, "gradient")
"""
    command = [sys.executable, "-W", "ignore", "-c", code]
    found = subprocess.run(command, check=False, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


def test_torch_has_the_names_that_it_keeps_to_itself():
    """Where one is gone, see what took its place: until then every loop goes through the dispatcher."""
    assert internals.missing() == []
    assert internals._level() == -1
    with torch.autograd.forward_ad.dual_level():
        assert internals._level() >= 0
    assert not internals.transforming()
    assert not internals.watched(torch.zeros(1))
    seen = []

    def look(x):
        seen.append((internals.transforming(), internals.differentiating(), internals.mapping()))
        return x

    look(torch.zeros(2))
    torch.func.vmap(look)(torch.zeros(2))
    torch.func.grad(look)(torch.zeros(()))
    torch.func.vmap(torch.func.grad(look))(torch.zeros(2))
    nothing, mapped, derived = (False, False, False), (True, False, True), (True, True, False)
    assert seen == [nothing, mapped, derived, (True, True, True)]
