"""What every op promises in every form: of wrong arguments, low precision, empty inputs, states, devices."""

import ast
from pathlib import Path

import pytest
import torch
from every_op import CASES, SHARED, every_case, every_form
from tolerances import assert_close
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

import unimatrix.ops
from unimatrix import UserError
from unimatrix.errors import UserTypeError
from unimatrix.ops import BackendChoice

NOT_TENSORS = (None, [[1.0]], 1.0, "x")


@every_form
def test_wrong_tensors_are_named(case, backend):
    inputs = CASES[case].make(dtype=torch.float32)
    optional = {"state", "addresses", "rule_weights", "diag"}

    # the others' shapes and dtypes are held against this one's
    first = next(name for name in ("q", "x", "write", "gates", "a", "query") if name in inputs)

    def refused(name: str, x: object, kind: type[UserError] = UserError) -> None:
        with pytest.raises(
            kind, match=rf"^{'' if name == first else name.replace('.', '[.]')}.*: expected"
        ) as caught:
            CASES[case].call(inputs | {name: x}, backend=backend)
        assert "\n" not in str(caught.value)

    for name, x in inputs.items():
        for wrong in NOT_TENSORS:
            if wrong is not None or name not in optional:
                refused(name, wrong, UserTypeError)
        for wrong in (x.long(), x.bool(), x.to(torch.complex64)):
            refused(name, wrong)
        refused(name, x.to("meta"))
        if name != first:
            refused(name, x.double())
        refused(name, x[0])
        refused(name, torch.cat([x, x]) if name not in ("addresses", "weight") else x.repeat(1, 2))
        refused(name, torch.imag(torch.complex(x, x).conj()))


@every_form
def test_wrong_options_are_named(case, backend):
    inputs = CASES[case].make(dtype=torch.float32)
    shape = (2, 5)
    masks = (torch.ones(shape), torch.ones(shape).long(), [[True] * 5] * 2, torch.ones(2, 4).bool(), True)
    masks += (torch.ones(shape, dtype=torch.bool, device="meta"),)
    wrong: list[tuple[str, object]] = [(name, mask) for mask in masks for name in ("mask", "starts")]
    wrong += [
        ("backend", name)
        for name in (None, "", "compild", 3, ["compiled"], "triton", BackendChoice("triton"))
    ]
    if case.startswith(("matrix", "slot", "surprise")):
        wrong += [("chunk_len", value) for value in (1.5, 0, -1, "16", True, torch.tensor(4))]
    if case.startswith("slot"):
        wrong += [("num_slots", value) for value in (0, None, 3.0, True)]
        wrong += [("top_k", value) for value in (0, 4, 1.5, "2")]
        wrong += [("match_threshold", value) for value in (1.0, -2.0, float("nan"), None, "x")]
        wrong += [("write_threshold", value) for value in (1.0, -0.1, float("nan"), None, True)]
    if case.startswith(("slot", "surprise", "triple")):
        wrong += [("state", value) for value in (torch.zeros(2), (1, 2), "x", 0)]
    for name, value in wrong:
        with pytest.raises(UserError, match=rf"^{name}\b"):
            CASES[case].call(inputs, **{"backend": backend, name: value})


@every_form
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "torch.compile"])
def test_numbers_out_of_range_are_named(case, backend, compiled):
    """Retentions above 1 and strengths outside [0, 1], on a CPU; a masked position may hold anything."""
    if compiled and backend != "compiled":
        return  # a look would cost a synchronisation there; the loops see every number anyway
    inputs = CASES[case].make(dtype=torch.float32)
    torch.compiler.reset()
    call = torch.compile(CASES[case].call, backend="aot_eager") if compiled else CASES[case].call
    limits = {
        "log_retention": (1e-9, 1e-3, 5.0),  # of the first the exponential is 1
        "log_pair_retention": (1e-9, 1e-3, 5.0),
        "write_strength": (1.01, -0.01),
    }
    mask = torch.ones(2, 5, dtype=torch.bool)
    mask[1, 3] = False
    for name in inputs.keys() & limits.keys():
        for wrong in (*limits[name], float("nan")):
            x = inputs[name].clone()
            x[1, 3] = wrong
            with pytest.raises(UserError, match=rf"{name}: expected numbers"):
                call(inputs | {name: x}, backend=backend)
            for y in call(inputs | {name: x}, backend=backend, mask=mask):
                assert torch.isfinite(y).all()


@every_form
@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("autocast", [False, True], ids=["plain", "autocast"])
def test_low_precision(case, backend, low, autocast):
    """Sums are float32 all the same: it gives what the rounded numbers give in float32."""
    inputs = CASES[case].make(dtype=low)
    gates = [name for name in inputs if "retention" in name or name == "decay"]
    mixed = {name: x.float() if name in gates else x for name, x in inputs.items()}
    for given in (inputs, mixed):
        leaves = {name: x.clone().requires_grad_() for name, x in given.items()}
        with torch.autocast("cpu", low, enabled=autocast):
            outputs = CASES[case].call(leaves, backend=backend)
        expected = CASES[case].call({name: x.float() for name, x in given.items()}, backend="reference")
        assert outputs[0].dtype == low
        assert all(y.dtype == torch.float32 for y in outputs[1:])
        for got, right in zip(outputs, expected, strict=True):
            assert_close(
                got.float(), right, "output", got.dtype if got.dtype == torch.float32 else torch.bfloat16
            )
        grads = torch.autograd.grad(sum(y.float().square().sum() for y in outputs), list(leaves.values()))
        for x, grad in zip(leaves.values(), grads, strict=True):
            assert grad.dtype == x.dtype
            assert torch.isfinite(grad).all()


@every_form
@pytest.mark.parametrize(("batch", "length"), [(0, 5), (2, 0), (0, 0)])
def test_empty_batches_and_texts(case, backend, batch, length):
    leaves = {name: x.requires_grad_() for name, x in CASES[case].make(batch=batch, length=length).items()}
    outputs = CASES[case].call(leaves, backend=backend)
    assert outputs[0].shape[:2] == (batch, length)
    total = sum(y.sum() for y in outputs)
    if total.requires_grad:
        torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    fresh = {name: x.detach() for name, x in leaves.items() if not name.startswith("state")}
    for y, same in zip(CASES[case].call(fresh, backend=backend), outputs, strict=True):
        assert y.shape == same.shape


@every_form
@pytest.mark.parametrize("length", [0, 1, 70])
@pytest.mark.parametrize("given", [True, False], ids=["given", "fresh"])
def test_a_returned_state_owns_its_memory_and_no_more(case, backend, length, given):
    inputs = CASES[case].make(length=length)
    if given:
        # views into something larger
        inputs = {name: torch.cat([x, x], dim=-1)[..., : x.shape[-1]] for name, x in inputs.items()}
    else:
        inputs = {name: x for name, x in inputs.items() if not name.startswith("state")}
    with torch.no_grad():
        states = CASES[case].call(inputs, backend=backend)[
            2 if case.startswith(("slot", "surprise")) else 1 :
        ]
    addresses = {x.untyped_storage().data_ptr() for x in inputs.values()}
    for state in states:
        assert state.untyped_storage().nbytes() == state.nbytes
        # no memory at all has the address 0
        assert not state.numel() or state.untyped_storage().data_ptr() not in addresses


@every_form
@pytest.mark.parametrize("masked", [False, True])
def test_another_default_device_changes_nothing(case, backend, masked):
    inputs = CASES[case].make()
    options = {"mask": torch.tensor([[False] + [True] * 4] * 2)} if masked else {}

    def run() -> list[torch.Tensor]:
        leaves = {name: x.clone().requires_grad_() for name, x in inputs.items()}
        outputs = CASES[case].call(leaves, backend=backend, **options)
        return [*outputs, *torch.autograd.grad([y.square().sum() for y in outputs], list(leaves.values()))]

    expected = run()
    with torch.device("meta"):
        got = run()
    assert all(torch.equal(x, y) for x, y in zip(got, expected, strict=True))


@pytest.mark.parametrize("room", ["ops"])
def test_every_tensor_that_is_made_says_its_device(room):
    makers = {
        "empty",
        "zeros",
        "ones",
        "full",
        "arange",
        "tensor",
        "eye",
        "linspace",
        "rand",
        "randn",
        "randint",
    }
    makers |= {"as_tensor", "empty_strided", "randperm", "scalar_tensor", "logspace"}
    for file in (Path(unimatrix.ops.__file__).parent.parent / room).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            of_torch = isinstance(node.func.value, ast.Name) and node.func.value.id == "torch"
            if of_torch and node.func.attr in makers:
                assert "device" in {keyword.arg for keyword in node.keywords}, f"{file.name}:{node.lineno}"


@every_case
def test_who_follows_the_operators_sees_the_compiled_loops(case):
    """A traced graph computes with new numbers, and fake tensors have no memory to read."""
    inputs = CASES[case].make()
    graph = make_fx(lambda xs: CASES[case].call(xs, backend="compiled"))(inputs)
    other = {name: x.flip(0) if name not in SHARED else x for name, x in inputs.items()}
    for got, right in zip(graph(other), CASES[case].call(other, backend="compiled"), strict=True):
        assert torch.equal(got, right)
    with FakeTensorMode() as mode:
        fake = {name: mode.from_tensor(x) for name, x in inputs.items()}
        shapes = [y.shape for y in CASES[case].call(fake, backend="compiled")]
    assert shapes == [y.shape for y in CASES[case].call(inputs, backend="compiled")]
