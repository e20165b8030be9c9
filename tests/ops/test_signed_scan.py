"""Every form of the signed scan against the float64 equation: states, every gradient, hard decays."""

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import assert_close
from torch import Tensor

from unimatrix import UserError
from unimatrix.ops import chosen_backends, signed_scan
from unimatrix.ops.signed_scan.chunked import CHUNK_LEN

FAST = ("chunked", "compiled")
FORMS = ("reference", *FAST)
DTYPES = (torch.float64, torch.float32)
NEXT_TO_ONE = 1 - 1e-7
# both signs of: nothing kept, all kept, next to all, products that vanish after two steps, ordinary
HARD = (0.0, -0.0, 1.0, -1.0, NEXT_TO_ONE, -NEXT_TO_ONE, 1e-30, -1e-30, 0.5, -0.5)


@pytest.fixture(autouse=True, scope="module")
def poisoned_memory():
    """torch.empty comes filled with NaN: what a kernel forgets to write is seen."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


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


@pytest.mark.parametrize("backend", FORMS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("groups", [1, 4, 12])
@pytest.mark.parametrize("length", [1, 2, CHUNK_LEN - 1, CHUNK_LEN, CHUNK_LEN + 1, 63, CHUNK_LEN**2 + 1])
def test_equals_the_equation(backend, dtype, groups, length):
    inputs = make_inputs(length, groups=groups, dtype=dtype)
    assert_same(run(inputs, backend), exact(inputs))


@pytest.mark.parametrize("backend", FORMS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("groups", [4, 12])
def test_hard_decays_among_ordinary_ones(backend, dtype, groups):
    inputs = make_inputs(101, groups=groups, dtype=dtype, hard=True)
    assert_same(run(inputs, backend), exact(inputs))


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


@pytest.mark.parametrize("backend", FORMS)
def test_left_padding_is_as_if_it_were_not_there(backend):
    inputs = make_inputs(40)
    mask = torch.ones(2, 40, dtype=torch.bool)
    mask[:, :7] = False
    got = run(inputs, backend, mask=mask)
    late = {name: x if name == "state" else x[:, 7:] for name, x in inputs.items()}
    states, last = signed_scan(**late, backend="reference")
    assert_close(got["states"][:, 7:], states, "output")
    assert_close(got["last"], last, "state")
    assert torch.equal(got["states"][:, :7], inputs["state"][:, None].expand(-1, 7, -1))
    assert (got["write"][:, :7] == 0).all()
    assert (got["decay"][:, :7] == 0).all()


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("groups", [1, 4, 12])
def test_holes(backend, groups):
    inputs = make_inputs(70, groups=groups, dtype=torch.float32)
    mask = torch.rand(2, 70, generator=torch.Generator().manual_seed(5)) > 0.3
    got = run(inputs, backend, mask=mask)
    assert_same(got, exact(inputs, mask=mask))
    assert (got["write"][~mask] == 0).all()
    for row in range(2):  # the mask of the equation is itself the equation without the masked positions
        kept = {name: x[row : row + 1] for name, x in inputs.items()}
        kept = {name: x if name == "state" else x[:, mask[row]] for name, x in kept.items()}
        states, last = signed_scan(**kept, backend="reference")
        assert_close(got["states"][row : row + 1, mask[row]], states, "output")
        assert_close(got["last"][row : row + 1], last, "state")


@pytest.mark.parametrize("backend", FORMS)
def test_pieces_equal_the_whole(backend):
    inputs = make_inputs(100, groups=4, dtype=torch.float32)
    whole, last = signed_scan(**inputs, backend=backend)
    state, pieces = inputs.pop("state"), []
    for start, stop in ((0, 1), (1, 2), (2, 2), (2, 33), (33, 99), (99, 100)):
        piece = {name: x[:, start:stop] for name, x in inputs.items()}
        states, state = signed_scan(**piece, state=state, backend=backend)
        pieces.append(states)
    assert_close(torch.cat(pieces, 1), whole, "output")
    assert_close(state, last, "state")


@pytest.mark.parametrize("backend", FORMS)
def test_empty_input_returns_the_state(backend):
    inputs = make_inputs(0)
    states, last = signed_scan(**inputs, backend=backend)
    assert states.shape == (2, 0, 12)
    assert torch.equal(last, inputs["state"])
    assert torch.equal(signed_scan(inputs["decay"], inputs["write"], backend=backend)[1], torch.zeros(2, 12))
    got = run(inputs, backend)
    assert torch.isfinite(got["state"]).all()
    assert (got["state"] != 0).all()


@pytest.mark.parametrize("backend", FAST)
def test_views_of_one_projection(backend):
    packed = torch.randn(3, 45, 40, generator=torch.Generator().manual_seed(0))
    views = {"decay": packed[1:, ::2, 3:7].tanh(), "write": packed[1:, ::2, 8:20]}
    views["decay"] = torch.cat([views["decay"], packed[1:, ::2, :4]], -1)[..., :4]  # a view again
    assert_same(run_views(views, backend), exact(views))
    inner = {name: x.transpose(1, 2).contiguous().transpose(1, 2) for name, x in views.items()}
    assert inner["write"].stride(-1) != 1
    assert_same(run_views(inner, backend), exact(views))
    same = {"decay": views["decay"][:1].expand(2, -1, -1), "write": views["write"][:, :1].expand(-1, 23, -1)}
    assert_same(run_views(same, backend), exact(same))


def run_views(inputs: dict[str, Tensor], backend: str) -> dict[str, Tensor]:
    """As `run`, for tensors that keep their strides."""
    for x in inputs.values():
        assert not x.is_contiguous()
    states, last = signed_scan(**inputs, backend=backend)
    leaves = [x.detach().requires_grad_() for x in inputs.values()]  # detach keeps the strides
    again, last_again = signed_scan(*leaves, backend=backend)
    generator = torch.Generator().manual_seed(99)
    grad_states = torch.randn(states.shape, generator=generator, dtype=torch.float64).to(states)
    grad_last = torch.randn(last.shape, generator=generator, dtype=torch.float64).to(last)
    grad_states = (
        grad_states.transpose(0, 1).contiguous().transpose(0, 1)
    )  # neither is the gradient contiguous
    grads = torch.autograd.grad([again, last_again], leaves, [grad_states, grad_last])
    return {"states": states, "last": last} | dict(zip(inputs, grads, strict=True))


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("used", ["states", "last"])
def test_gradients_where_only_one_output_is_used(backend, used):
    inputs = make_inputs(21, groups=4)

    def grads(form: str) -> tuple[Tensor, ...]:
        leaves = [x.clone().requires_grad_() for x in inputs.values()]
        states, last = signed_scan(*leaves, backend=form)
        return torch.autograd.grad((states if used == "states" else last).sum(), leaves)

    for got, expected in zip(grads(backend), grads("reference"), strict=True):
        assert_close(got, expected, "gradient")


@pytest.mark.parametrize("backend", FAST)
def test_frozen_inputs(backend):
    inputs = make_inputs(21)
    assert not signed_scan(**inputs, backend=backend)[0].requires_grad
    expected = run(inputs, "reference")
    for name in inputs:
        leaves = inputs | {name: inputs[name].clone().requires_grad_()}
        states, last = signed_scan(**leaves, backend=backend)
        assert_close(states.detach(), expected["states"], "output")
        (states.sum() + last.sum()).backward()
        assert leaves[name].grad is not None
        assert torch.isfinite(leaves[name].grad).all()


@pytest.mark.parametrize("backend", FORMS)
def test_bfloat16_accumulates_in_float32(backend):
    inputs = make_inputs(200, groups=4, dtype=torch.float32)
    low = {name: x if name == "decay" else x.bfloat16() for name, x in inputs.items()}
    got = run(low, backend)
    assert got["states"].dtype == got["write"].dtype == got["state"].dtype == torch.bfloat16
    assert got["last"].dtype == got["decay"].dtype == torch.float32
    expected = exact(low)
    assert_close(got["states"].double(), expected["states"], "output", torch.bfloat16)
    assert_close(got["last"].double(), expected["last"], "state", torch.float32)


@pytest.mark.parametrize("backend", FORMS)
def test_state_is_not_modified(backend):
    inputs = make_inputs(9)
    before = inputs["state"].clone()
    run(inputs, backend)
    signed_scan(**inputs, backend=backend)
    assert torch.equal(inputs["state"], before)


@pytest.mark.parametrize("backend", FORMS)
@pytest.mark.parametrize("groups", [2, 4])
def test_gradcheck(backend, groups):
    inputs = make_inputs(CHUNK_LEN + 3, groups=groups, width=4, batch=1)
    inputs["decay"][:, 3], inputs["decay"][:, 9] = 0.0, -1.0
    assert torch.autograd.gradcheck(
        lambda *xs: signed_scan(*xs, backend=backend), [x.requires_grad_() for x in inputs.values()]
    )


# torch's own words to itself while it traces an autograd.Function
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("backend", FAST)
def test_under_torch_compile(backend):
    inputs = make_inputs(40, groups=4, dtype=torch.float32)
    mask = torch.rand(2, 40, generator=torch.Generator().manual_seed(5)) > 0.3
    call = torch.compile(
        lambda **given: signed_scan(**given, mask=mask, backend=backend), backend="aot_eager", fullgraph=True
    )
    leaves = {name: x.clone().requires_grad_() for name, x in inputs.items()}
    states, last = call(**leaves)
    expected = run(inputs, "reference", mask=mask)
    assert_close(states.detach(), expected["states"], "output")
    assert_close(last.detach(), expected["last"], "state")
    grads = torch.autograd.grad(states.square().sum() + last.sum(), list(leaves.values()))
    eager = {name: x.clone().requires_grad_() for name, x in inputs.items()}
    states, last = signed_scan(**eager, mask=mask, backend=backend)
    for got, plain in zip(
        grads, torch.autograd.grad(states.square().sum() + last.sum(), list(eager.values())), strict=True
    ):
        assert_close(got, plain, "gradient")


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


def test_auto_is_compiled_on_a_cpu():
    signed_scan(**make_inputs(3), backend="reference")
    signed_scan(**make_inputs(3))
    assert chosen_backends()["signed_scan"] == "compiled"


@pytest.mark.gpu
@pytest.mark.parametrize("length", [1, 63, 1000])
def test_chunks_on_a_gpu_equal_the_equation(length):
    inputs = make_inputs(length, groups=4, dtype=torch.float32, hard=True)
    got = run({name: x.cuda() for name, x in inputs.items()}, "auto")
    assert chosen_backends()["signed_scan"] == "chunked"
    assert_same({name: x.cpu() for name, x in got.items()}, exact(inputs))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backend": "chunkd"}, "did you mean 'chunked'"),
        ({"backend": "triton"}, "cannot run here"),
        ({"write": torch.zeros(2, 12)}, r"write: expected \[batch, time, channels\], got \[2, 12\]"),
        ({"decay": torch.zeros(2, 6)}, r"decay: expected \[batch, time, groups\], got \[2, 6\]"),
        ({"decay": torch.zeros(2, 5, 12)}, r"decay: expected shape \[2, 6, 12\], got \[2, 5, 12\]"),
        ({"decay": torch.zeros(2, 6, 5)}, "groups that divide the 12 channels of write, got 5"),
        ({"decay": torch.zeros(2, 6, 0)}, "groups that divide the 12 channels of write, got 0"),
        ({"state": torch.zeros(2, 11)}, "state: expected shape"),
        ({"mask": torch.ones(2, 6)}, "mask: expected dtype bool"),
        ({"mask": torch.ones(2, 5, dtype=torch.bool)}, "mask: expected shape"),
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
