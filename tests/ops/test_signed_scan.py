"""What is the signed scan's own beside tests/ops/test_forms.py: decays of every size and sign, groups."""

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import assert_close
from torch import Tensor

from unimatrix import UserError
from unimatrix.ops import signed_scan
from unimatrix.ops.signed_scan.chunked import CHUNK_LEN

FAST = ("chunked", "compiled")
FORMS = ("reference", *FAST)
DTYPES = (torch.float64, torch.float32)
NEXT_TO_ONE = 1 - 1e-7
# both signs of: nothing kept, all kept, next to all, products that vanish after two steps, ordinary
HARD = (0.0, -0.0, 1.0, -1.0, NEXT_TO_ONE, -NEXT_TO_ONE, 1e-30, -1e-30, 0.5, -0.5)


def make_inputs(
    length: int,
    *,
    groups: int = 12,
    width: int = 12,
    batch: int = 2,
    dtype: torch.dtype = torch.float64,
    hard: bool = False,
    state: bool = True,
) -> dict[str, Tensor]:
    """Decays over all of (-1, 1), or (hard) drawn from HARD."""
    generator = torch.Generator().manual_seed(length + groups)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    shape = (batch, length, groups)
    if hard:
        decay = torch.tensor(HARD, dtype=dtype)[torch.randint(len(HARD), shape, generator=generator)]
    else:
        decay = torch.tanh(2 * normal(*shape))
    inputs = {"decay": decay, "write": normal(batch, length, width)}
    return inputs | ({"state": normal(batch, width)} if state else {})


def run(inputs: dict[str, Tensor], backend: str, **options) -> dict[str, Tensor]:
    """States, last state and the gradient of every input, for fixed random output gradients."""
    leaves = {name: x.detach().clone().requires_grad_() for name, x in inputs.items()}
    states, last = signed_scan(**leaves, backend=backend, **options)
    generator = torch.Generator().manual_seed(99)
    grad_states = torch.randn(states.shape, generator=generator, dtype=torch.float64).to(states)
    grad_last = torch.randn(last.shape, generator=generator, dtype=torch.float64).to(last)
    ((states * grad_states).sum() + (last * grad_last).sum()).backward()
    return {"states": states.detach(), "last": last.detach()} | {name: x.grad for name, x in leaves.items()}


def exact(inputs: dict[str, Tensor], **options) -> dict[str, Tensor]:
    """The equation in float64, for the numbers that `inputs` hold after their own rounding."""
    return run({name: x.double() for name, x in inputs.items()}, "reference", **options)


def assert_same(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, value in expected.items():
        quantity = {"states": "output", "last": "state"}.get(name, "gradient")
        assert_close(got[name], value, quantity, got[name].dtype)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("decay", HARD, ids=str)
def test_one_decay_throughout(backend, decay):
    inputs = make_inputs(300, dtype=torch.float32)
    inputs["decay"] = torch.full_like(inputs["decay"], decay)
    assert_same(run(inputs, backend), exact(inputs))


@pytest.mark.parametrize("backend", FORMS)
def test_zero_forgets_and_minus_one_only_turns_the_sign(backend):
    inputs = make_inputs(50, dtype=torch.float32)
    kept, write, state = (torch.zeros_like(inputs["decay"]), inputs["write"], inputs["state"])
    assert torch.equal(signed_scan(kept, write, state, backend=backend)[0], write)
    states, last = signed_scan(kept - 1, torch.zeros_like(write), state, backend=backend)
    assert torch.equal(states[:, 0::2], -state[:, None].expand(-1, 25, -1))
    assert torch.equal(states[:, 1::2], state[:, None].expand(-1, 25, -1))
    assert torch.equal(last, state)


@cache
def long_stream() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    inputs = make_inputs(16384, groups=8, width=8, batch=1, dtype=torch.float32, state=False)
    inputs["decay"] = inputs["decay"].clone()
    hard = torch.tensor(HARD)
    inputs["decay"][..., 1] = hard[
        torch.randint(len(HARD), (16384,), generator=torch.Generator().manual_seed(1))
    ]
    inputs["decay"][..., 2:4] = torch.tensor([NEXT_TO_ONE, -NEXT_TO_ONE])
    inputs["decay"][..., 4:6] = torch.tensor([0.0, 1e-30])
    inputs["decay"][..., 6:8] = torch.tensor([0.9999, -0.9999])
    return inputs, exact(inputs)


@pytest.mark.parametrize("backend", FAST)
def test_long_stream(backend):
    inputs, expected = long_stream()
    assert_same(run(inputs, backend), expected)


def test_one_thread_equals_two():
    inputs = make_inputs(
        600, groups=128, width=256, batch=1, dtype=torch.float32
    )  # enough for a second thread
    threads = torch.get_num_threads()
    both = []
    for count in (1, 2):
        torch.set_num_threads(count)
        both.append(run(inputs, "compiled"))
    torch.set_num_threads(threads)
    assert all(torch.equal(both[0][name], both[1][name]) for name in both[0])


@pytest.mark.parametrize("backend", FAST)
def test_memory_for_the_backward_is_its_inputs_and_the_states(backend):
    sizes: dict[int, int] = {}  # by storage: views of one tensor count once

    def remember(tensor: Tensor) -> Tensor:
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    inputs = make_inputs(2048, groups=4, dtype=torch.float32)
    leaves = {name: x.requires_grad_() for name, x in inputs.items()}
    with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
        states, last = signed_scan(**leaves, backend=backend)
    assert sum(sizes.values()) <= sum(x.nbytes for x in (inputs["decay"], states, inputs["state"]))
    assert last.shape == (2, 12)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_any_shape_and_any_decays(data):
    batch, length = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3 * CHUNK_LEN))
    groups, share = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 5))
    inputs = make_inputs(length, batch=batch, groups=groups, width=groups * share)
    decays = st.one_of(st.sampled_from(HARD), st.floats(-1, 1, allow_nan=False))
    drawn = data.draw(st.lists(decays, min_size=1, max_size=20))
    spread = torch.tensor(drawn, dtype=torch.float64).repeat(inputs["decay"].numel() // len(drawn) + 1)
    inputs["decay"] = spread[: inputs["decay"].numel()].view_as(inputs["decay"])
    expected = run(inputs, "reference")
    for backend in FAST:
        assert_same(run(inputs, backend), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backend": "chunkd"}, "did you mean 'chunked'"),
        ({"write": torch.zeros(2, 12)}, r"write: expected \[batch, time, channels\], got \[2, 12\]"),
        ({"decay": torch.zeros(2, 6)}, r"decay: expected \[batch, time, groups\], got \[2, 6\]"),
        ({"decay": torch.zeros(2, 5, 12)}, r"decay: expected shape \[2, 6, 12\], got \[2, 5, 12\]"),
        ({"decay": torch.zeros(2, 6, 5)}, "groups that divide the 12 channels of write, got 5"),
        ({"decay": torch.zeros(2, 6, 0)}, "groups that divide the 12 channels of write, got 0"),
        ({"state": torch.zeros(2, 11)}, "state: expected shape"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    inputs = make_inputs(6, dtype=torch.float32) | change
    with pytest.raises(UserError, match=message):
        signed_scan(**inputs)


def test_compiled_says_why_it_cannot_run():
    inputs = {name: x.to("meta") for name, x in make_inputs(6).items()}
    with pytest.raises(UserError, match="it runs on the CPU, the tensors are on meta"):
        signed_scan(**inputs, backend="compiled")
