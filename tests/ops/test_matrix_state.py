"""What is the matrix state's own beside tests/ops/test_forms.py: state dimensions, chunks, retentions."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from tolerances import assert_close
from torch import Tensor

from unimatrix import UserError
from unimatrix.ops import BackendChoice, matrix_state
from unimatrix.ops.matrix_state.chunked import carry

FAST = ("chunked", "compiled")
CHUNK = 16
DTYPES = (torch.float64, torch.float32)


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


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("dim", [2, 32])
def test_every_state_dimension(backend, dim):
    inputs = make_inputs(21, dim=dim, dtype=torch.float32, mixed=True)
    assert_same(run(inputs, backend, chunk_len=CHUNK), run(inputs, "reference"))


def test_dimensions_that_are_no_power_of_two_run_chunked():
    inputs = make_inputs(21, dim=12, mixed=True)
    got = run(inputs, choice := BackendChoice())
    assert choice.ran == "chunked"
    assert_same(got, run(inputs, "reference"))


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("mixed", [False, True], ids=["outer", "mixed"])
@pytest.mark.parametrize("log_retention", [-torch.inf, 0.0, -69.0776, -1e-7, -1e4], ids=str)
def test_constant_extreme_retention(backend, mixed, log_retention):
    inputs = make_inputs(50, dtype=torch.float32, mixed=mixed)
    inputs["log_retention"] = torch.full_like(inputs["log_retention"], log_retention)
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
        ({"k": torch.zeros(2, 5, 3, 8)}, r"k: expected shape \[2, 6, 3, 8\], got \[2, 5, 3, 8\]"),
        ({"q": torch.zeros(2, 6, 8)}, "q: expected"),
        ({"state": torch.zeros(2, 3, 8, 4)}, "state: expected"),
        ({"log_retention": torch.zeros(2, 6)}, "log_retention: expected"),
        ({"diag": torch.zeros(2, 6, 3, 8)}, "both or neither"),
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
