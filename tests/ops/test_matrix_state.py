"""Every form of the matrix state against the equation: outputs, final state, every gradient, hard gates."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from tolerances import assert_close
from torch import Tensor

from unimatrix import UserError
from unimatrix.ops import chosen_backends, matrix_state
from unimatrix.ops.matrix_state.chunked import carry

FAST = ("chunked", "compiled")
CHUNK = 16
DTYPES = (torch.float64, torch.float32)


@pytest.fixture(autouse=True)
def poisoned_memory():
    """torch.empty comes filled with NaN: what a kernel forgets to write is seen."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def make_inputs(
    length: int,
    *,
    batch: int = 2,
    heads: int = 3,
    dim: int = 8,
    dtype: torch.dtype = torch.float64,
    mixed: bool = False,
    state: bool = True,
    seed: int = 0,
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    inputs = {name: normal(batch, length, heads, dim) for name in ("q", "k", "v")}
    inputs["log_retention"] = F.logsigmoid(3 * normal(batch, length, heads))
    if mixed:
        inputs["rule_weights"] = normal(batch, length, heads, 3).softmax(-1)
        inputs["diag"] = normal(batch, length, heads, dim)
    if state:
        inputs["state"] = normal(batch, heads, dim, dim)
    return inputs


def run(inputs: dict[str, Tensor], backend: str, **options) -> dict[str, Tensor]:
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


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mixed", [False, True], ids=["outer", "mixed"])
@pytest.mark.parametrize("length", [1, CHUNK - 1, CHUNK, CHUNK + 1, 63, 1000])
def test_equals_reference(backend, dtype, mixed, length):
    inputs = make_inputs(length, dtype=dtype, mixed=mixed, batch=1 if length == 1000 else 2)
    assert_same(run(inputs, backend, chunk_len=CHUNK), run(inputs, "reference"))


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("dim", [2, 32])
def test_every_state_dimension(backend, dim):
    inputs = make_inputs(21, dim=dim, dtype=torch.float32, mixed=True)
    assert_same(run(inputs, backend, chunk_len=CHUNK), run(inputs, "reference"))


def test_dimensions_that_are_no_power_of_two_run_chunked():
    inputs = make_inputs(21, dim=12, mixed=True)
    got = run(inputs, "auto")
    assert chosen_backends()["matrix_state"] == "chunked"
    assert_same(got, run(inputs, "reference"))


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("mixed", [False, True], ids=["outer", "mixed"])
@pytest.mark.parametrize("log_retention", [-torch.inf, 0.0, -69.0776, -1e-7, -1e4], ids=str)
def test_constant_extreme_retention(backend, mixed, log_retention):
    inputs = make_inputs(50, dtype=torch.float32, mixed=mixed)
    inputs["log_retention"] = torch.full_like(inputs["log_retention"], log_retention)
    assert_same(run(inputs, backend, chunk_len=CHUNK), run(inputs, "reference"))


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("dtype", DTYPES)
def test_extreme_retentions_among_ordinary_ones(backend, dtype):
    inputs = make_inputs(100, dtype=dtype, mixed=True)
    hard = torch.tensor([-torch.inf, 0.0, -69.0776, -1e-7, -1.0], dtype=dtype)
    choice = torch.randint(0, 5, inputs["log_retention"].shape, generator=torch.Generator().manual_seed(3))
    inputs["log_retention"] = hard[choice]
    assert_same(run(inputs, backend, chunk_len=CHUNK), run(inputs, "reference"))


@pytest.mark.parametrize("backend", FAST)
def test_forgetting_everything_leaves_no_trace_of_the_state(backend):
    inputs = make_inputs(20, dtype=torch.float32)
    inputs["log_retention"][:, 10] = -torch.inf
    late = {name: x[:, 10:] for name, x in inputs.items() if name != "state"}
    y, last = matrix_state(**inputs, backend=backend)
    y_late, last_late = matrix_state(**late, backend=backend)
    assert_close(y[:, 10:], y_late, "output")
    assert_close(last, last_late, "state")


@pytest.mark.parametrize("backend", ["reference", *FAST])
def test_mask_neither_writes_nor_decays(backend):
    inputs = make_inputs(40, mixed=True)
    mask = torch.rand(2, 40, generator=torch.Generator().manual_seed(5)) > 0.3
    mask[0, :7] = False
    y, last = matrix_state(**inputs, mask=mask, backend=backend)
    assert (y[~mask] == 0).all()
    for row in range(2):
        kept = {
            name: x[row : row + 1] if name == "state" else x[row : row + 1, mask[row]]
            for name, x in inputs.items()
        }
        y_row, last_row = matrix_state(**kept, backend="reference")
        assert_close(y[row : row + 1, mask[row]], y_row, "output")
        assert_close(last[row : row + 1], last_row, "state")


@pytest.mark.parametrize("backend", FAST)
def test_masked_gradients(backend):
    inputs = make_inputs(40, mixed=True)
    mask = torch.rand(2, 40, generator=torch.Generator().manual_seed(5)) > 0.3
    got = run(inputs, backend, mask=mask, chunk_len=CHUNK)
    assert_same(got, run(inputs, "reference", mask=mask))
    assert (got["k"][~mask] == 0).all()


@pytest.mark.parametrize("backend", ["reference", *FAST])
def test_pieces_equal_the_whole(backend):
    inputs = make_inputs(100, mixed=True, dtype=torch.float32)
    whole, last = matrix_state(**inputs, backend=backend)
    state, pieces = inputs.pop("state"), []
    for start, stop in ((0, 1), (1, 2), (2, 2), (2, 33), (33, 99), (99, 100)):
        piece = {name: x[:, start:stop] for name, x in inputs.items()}
        y, state = matrix_state(**piece, state=state, backend=backend, chunk_len=CHUNK)
        pieces.append(y)
    assert_close(torch.cat(pieces, 1), whole, "output")
    assert_close(state, last, "state")


def test_chunk_length_changes_nothing():
    inputs = make_inputs(130, dtype=torch.float32, mixed=True)
    expected = run(inputs, "reference")
    for chunk_len in (1, 2, 7, 64, 128, 130, 1000):
        assert_same(run(inputs, "chunked", chunk_len=chunk_len), expected)


def test_carry_over_many_chunks_equals_the_loop():
    generator = torch.Generator().manual_seed(0)
    log_decay = -torch.rand(2, 600, generator=generator, dtype=torch.float64)
    log_decay[:, 100] = -torch.inf
    ends = torch.randn(2, 600, 3, generator=generator, dtype=torch.float64)
    x = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    states = carry(log_decay, ends, x)
    for n in range(600):
        x = log_decay[:, n, None].exp() * x + ends[:, n]
        assert_close(states[:, n + 1], x, "state")


@pytest.mark.parametrize("backend", FAST)
def test_long_stream_stays_finite_and_right(backend):
    inputs = make_inputs(16384, batch=1, heads=2, dtype=torch.float32, state=False)
    hard = torch.tensor([-torch.inf, 0.0, -69.0776, -1e-7, -1e-3, -1.0])
    choice = torch.randint(0, 6, (1, 16384, 2), generator=torch.Generator().manual_seed(1))
    inputs["log_retention"] = hard[choice]
    got = run(inputs, backend)
    y, last = matrix_state(**{name: x.double() for name, x in inputs.items()}, backend="compiled")
    assert_close(got["y"].double(), y, "output", torch.float32)
    assert_close(got["last"].double(), last, "state", torch.float32)
    assert all(torch.isfinite(x).all() for x in got.values())


@pytest.mark.gpu
@pytest.mark.parametrize("mixed", [False, True], ids=["outer", "mixed"])
@pytest.mark.parametrize("length", [1, 63, 1000])
def test_chunks_on_a_gpu_equal_the_reference(mixed, length):
    inputs = make_inputs(length, mixed=mixed, dtype=torch.float32)
    expected = run(inputs, "reference")
    got = run({name: x.cuda() for name, x in inputs.items()}, "auto", chunk_len=CHUNK)
    assert chosen_backends()["matrix_state"] == "chunked"
    assert_same({name: x.cpu() for name, x in got.items()}, expected)


@pytest.mark.parametrize("backend", FAST)
def test_memory_for_the_backward_is_linear_in_time(backend):
    def kept(length: int) -> int:
        sizes: dict[int, int] = {}  # by storage: views of one tensor count once

        def remember(tensor: Tensor) -> Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        inputs = make_inputs(length, batch=1, dtype=torch.float32, state=False)
        leaves = {name: x.requires_grad_() for name, x in inputs.items()}
        with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
            y, _ = matrix_state(**leaves, backend=backend, chunk_len=CHUNK)
            del y
        return sum(sizes.values())

    assert kept(8192) <= 2.1 * kept(4096)


@pytest.mark.parametrize("backend", ["reference", *FAST])
@pytest.mark.parametrize("mixed", [False, True], ids=["outer", "mixed"])
def test_gradcheck(backend, mixed):
    inputs = make_inputs(7, batch=1, heads=1, dim=2, mixed=mixed)
    names, values = list(inputs), [x.requires_grad_() for x in inputs.values()]
    assert torch.autograd.gradcheck(
        lambda *xs: matrix_state(**dict(zip(names, xs, strict=True)), backend=backend, chunk_len=4), values
    )


@pytest.mark.parametrize("backend", FAST)
def test_views_of_one_projection_and_frozen_inputs(backend):
    packed = torch.randn(2, 30, 3 * 4 * 16 + 4, dtype=torch.float32)
    q, k, v = packed[..., 4:].unflatten(-1, (3, 4, 16)).unbind(2)
    log_retention = F.logsigmoid(packed[..., :4])
    y, last = matrix_state(q, k, v, log_retention, backend=backend)
    expected, expected_last = matrix_state(q, k, v, log_retention, backend="reference")
    assert not y.requires_grad
    assert_close(y, expected, "output")
    assert_close(last, expected_last, "state")
    # inner strides other than 1
    q, k, v = (x.transpose(-1, -2).contiguous().transpose(-1, -2) for x in (q, k, v))
    assert_close(matrix_state(q, k, v, log_retention, backend=backend)[0], expected, "output")


@pytest.mark.parametrize("backend", FAST)
def test_bfloat16_accumulates_in_float32(backend):
    inputs = make_inputs(200, dtype=torch.float32, state=False)
    expected, expected_last = matrix_state(**inputs, backend="reference")
    log_retention = inputs.pop("log_retention")
    low = {name: x.bfloat16() for name, x in inputs.items()}
    y, last = matrix_state(**low, log_retention=log_retention, backend=backend)
    assert y.dtype == torch.bfloat16
    assert last.dtype == torch.float32
    assert_close(y.float(), expected, "output", torch.bfloat16)
    assert_close(last, expected_last, "state", torch.bfloat16)


@pytest.mark.parametrize("backend", ["reference", *FAST])
def test_state_is_not_modified(backend):
    inputs = make_inputs(9)
    before = inputs["state"].clone()
    matrix_state(**inputs, backend=backend)
    assert torch.equal(inputs["state"], before)


@pytest.mark.parametrize("backend", ["reference", *FAST])
def test_empty_input_returns_the_state(backend):
    inputs = make_inputs(0)
    y, last = matrix_state(**inputs, backend=backend)
    assert y.shape == (2, 0, 3, 8)
    assert torch.equal(last, inputs["state"])


def test_one_thread_equals_two():
    inputs = make_inputs(40, dtype=torch.float32, mixed=True)
    threads = torch.get_num_threads()
    both = []
    for count in (1, 2):
        torch.set_num_threads(count)
        both.append(run(inputs, "compiled"))
    torch.set_num_threads(threads)
    assert all(torch.equal(both[0][name], both[1][name]) for name in both[0])


@pytest.mark.parametrize("asked_by", ["a call", "the environment"])
def test_the_first_kernel_leaves_torchs_threads_alone(asked_by, monkeypatch):
    ask = "torch.set_num_threads(1)"
    if asked_by == "the environment":
        ask = "pass"
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
    else:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    code = (
        f"import torch; from unimatrix.ops import matrix_state; {ask}; "
        "x = torch.zeros(1, 2, 1, 8); matrix_state(x, x, x, x[..., 0], backend='compiled'); "
        "print(torch.get_num_threads())"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "1"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backend": "chunkd"}, "did you mean 'chunked'"),
        ({"backend": "triton"}, "cannot run here"),
        ({"chunk_len": 0}, "chunk_len: expected at least 1, got 0"),
        ({"k": torch.zeros(2, 5, 3, 8)}, r"k: expected shape \[2, 6, 3, 8\], got \[2, 5, 3, 8\]"),
        ({"q": torch.zeros(2, 6, 8)}, "q: expected"),
        ({"state": torch.zeros(2, 3, 8, 4)}, "state: expected"),
        ({"log_retention": torch.zeros(2, 6)}, "log_retention: expected"),
        ({"diag": torch.zeros(2, 6, 3, 8)}, "both or neither"),
        ({"mask": torch.ones(2, 6)}, "mask: expected dtype bool"),
        ({"mask": torch.ones(2, 5, dtype=torch.bool)}, "mask: expected shape"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    inputs = make_inputs(6, dtype=torch.float32) | change
    with pytest.raises(UserError, match=message):
        matrix_state(**inputs)


def test_compiled_says_why_it_cannot_run():
    inputs = make_inputs(6, dim=12)
    with pytest.raises(UserError, match="power of two from 2 to 32, got 12"):
        matrix_state(**inputs, backend="compiled")
