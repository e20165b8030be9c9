"""What is M2RNN's own beside tests/ops/test_forms.py: its equation by hand, widths, small numbers."""

import pytest
import torch
from every_op import CASES
from tolerances import assert_close
from torch import Tensor

from unimatrix import UserError
from unimatrix.ops import BackendChoice, m2rnn


def make(length: int, key: int, value: int, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(key + 100 * value)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    inputs = {
        "q": normal(2, length, 3, key),
        "k": normal(2, length, 3, key),
        "v": normal(2, length, 3, value),
    }
    inputs["log_retention"] = torch.nn.functional.logsigmoid(normal(2, length, 3))
    return inputs | {"transition": normal(3, value, value) / (2 * value**0.5)}


@pytest.mark.parametrize("backend", ["reference", "compiled"])
def test_three_tokens_by_hand(backend):
    """One head of one number: h = f h + (1 - f) tanh(W h + k v), read as q h."""
    q, k, v = ([2.0, 0.5, -1.0], [1.0, -0.5, 3.0], [0.25, 2.0, 0.5])
    f, w, h, expected = [0.5, 0.25, 0.9], torch.tensor(0.75, dtype=torch.float64), torch.tensor(0.0), []
    for t in range(3):
        h = f[t] * h + (1 - f[t]) * torch.tanh(w * h + k[t] * v[t])
        expected.append(q[t] * h)
    given = (torch.tensor(x, dtype=torch.float64).view(1, 3, 1, 1) for x in (q, k, v))
    log_f = torch.tensor(f, dtype=torch.float64).log().view(1, 3, 1)
    y, last = m2rnn(*given, log_f, w.view(1, 1, 1), backend=backend)
    assert_close(y.flatten(), torch.stack(expected).double(), "output")
    assert_close(last.flatten(), h.double().view(1), "state")


@pytest.mark.parametrize(("key", "value"), [(1, 1), (64, 16), (3, 8), (8, 3), (33, 6), (2, 17)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_any_widths(key, value, dtype):
    """Columns of any length, and numbers of columns that four do not divide."""
    found = []
    for backend, inputs in (
        ("compiled", make(35, key, value, dtype)),
        ("reference", {name: x.double() for name, x in make(35, key, value, dtype).items()}),
    ):
        leaves = {name: x.clone().requires_grad_() for name, x in inputs.items()}
        y, last = m2rnn(**leaves, backend=backend)
        (y.sin().sum() + last.square().sum()).backward()
        found.append((y, last, *(x.grad for x in leaves.values())))
    for n, (got, right) in enumerate(zip(*found, strict=True)):
        assert_close(got, right, ("output", "state")[n] if n < 2 else "gradient", dtype)


def test_small_numbers_keep_their_digits():
    """What a fresh model writes is a thousandth: a tanh that is exact to 1e-7 of 1 would lose half of it."""
    inputs = make(40, 16, 4, torch.float32)
    inputs |= {name: 0.01 * inputs[name] for name in ("k", "v")}
    y, last = m2rnn(**inputs, backend="compiled")
    right, end = m2rnn(**{name: x.double() for name, x in inputs.items()}, backend="reference")
    assert_close(y, right, "output", torch.float32)
    assert_close(last, end, "state", torch.float32)


def test_without_a_transition_and_far_from_its_ends_it_is_a_matrix_state():
    """tanh(x) is x for small x, and the identity in W's place would add the state once more."""
    from unimatrix.ops import matrix_state

    inputs = make(20, 4, 4)
    inputs |= {"k": 1e-6 * inputs["k"], "transition": torch.zeros(3, 4, 4, dtype=torch.float64)}
    y, last = m2rnn(**inputs)
    q, k, v, log_retention = (inputs[name] for name in ("q", "k", "v", "log_retention"))
    read, matrix = matrix_state(q, v, k, log_retention)  # it binds the other way round: S = v k^T, S q
    assert torch.allclose(y, read, rtol=1e-9, atol=0)
    assert torch.allclose(last, matrix.mT, rtol=1e-9, atol=0)


def test_there_are_no_chunks():
    with pytest.raises(UserError, match=r"^backend 'chunked' of m2rnn cannot run here: it is not linear"):
        CASES["m2rnn"].call(CASES["m2rnn"].make(), backend="chunked")
    with pytest.raises(UserError, match=r"^backend 'chunked' of m2rnn"):
        CASES["m2rnn"].call(CASES["m2rnn"].make(), backend=BackendChoice("chunked"))
