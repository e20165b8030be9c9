"""What is the triple latent's own beside tests/ops/test_forms.py: what is bound to what, sizes, gates."""

import pytest
import torch
import torch.nn.functional as F
from tolerances import assert_close
from torch import Tensor

from unimatrix.ops import BackendChoice, TripleLatentState, triple_latent

FAST = ("chunked", "compiled")
CHUNK = 16  # of the chunked form on a CPU
DTYPES = (torch.float64, torch.float32)
HARD = (-torch.inf, 0.0, -1e-7, -50.0)
NAMES = ("a", "b", "q_l", "q_r", "log_retention", "log_pair_retention")


def make_inputs(
    length: int,
    *,
    slots: int | None = None,
    batch: int = 2,
    heads: int = 3,
    dim: int = 8,
    dtype: torch.dtype = torch.float64,
    state: bool = True,
) -> dict[str, Tensor]:
    """The arguments by name, the parts of the state as "sum" and "pairs"."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    inputs = {name: normal(batch, length, heads, dim) for name in NAMES[:4]}
    for name in NAMES[4:]:
        inputs[name] = F.logsigmoid(3 * normal(batch, length, heads))
    if slots is not None:
        inputs["addresses"] = normal(slots, dim)
    if state:
        inputs["sum"] = normal(batch, heads, dim)
        inputs["pairs"] = normal(batch, heads, slots or dim, dim)
    return inputs


def call(
    inputs: dict[str, Tensor], backend: str | BackendChoice, **options
) -> tuple[Tensor, TripleLatentState]:
    given = dict(inputs)
    if "sum" in given:
        options["state"] = TripleLatentState(given.pop("sum"), given.pop("pairs"))
    return triple_latent(**given, backend=backend, **options)


def run(inputs: dict[str, Tensor], backend: str | BackendChoice, **options) -> dict[str, Tensor]:
    """Output, both final states and the gradient of every input, for fixed random output gradients."""
    leaves = {name: x.clone().requires_grad_() for name, x in inputs.items()}
    y, last = call(leaves, backend, **options)
    generator = torch.Generator().manual_seed(99)
    loss = y.new_zeros(())
    for value in (y, *last):
        grad = torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value)
        loss = loss + (value * grad).sum()
    loss.backward()
    results = {"y": y.detach(), "last sum": last.sum.detach(), "last pairs": last.pairs.detach()}
    return results | {name: x.grad for name, x in leaves.items()}


def assert_same(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, value in expected.items():
        quantity = {"y": "output", "last sum": "state", "last pairs": "state"}.get(name, "gradient")
        assert_close(got[name], value, quantity)


def assert_state(got: TripleLatentState, expected: TripleLatentState) -> None:
    for mine, theirs in zip(got, expected, strict=True):
        assert_close(mine, theirs, "state")


@pytest.mark.parametrize("slots", [None, 3], ids=["dense", "slots"])
def test_reference_is_the_sum_over_all_earlier_tokens(slots):
    """Section 3.5 written out: what every earlier token left of itself, without a recurrence."""
    inputs = make_inputs(6, slots=slots, batch=1, heads=1, dim=4, state=False)
    a, b, q_l, q_r, log_keep, log_keep_pairs = (inputs[name][0, :, 0] for name in NAMES)

    def left(log: Tensor, j: int, t: int) -> Tensor:
        """What is left at t of what token j wrote."""
        return (1 - log[j].exp()) * log[j + 1 : t + 1].sum().exp()

    def place(vector: Tensor) -> Tensor:
        return vector if slots is None else (inputs["addresses"] @ vector).softmax(0)

    nothing = torch.zeros(4, dtype=torch.float64)
    before = [sum((left(log_keep, i, t - 1) * a[i] for i in range(t)), nothing) for t in range(7)]
    expected = torch.zeros(6, 4, dtype=torch.float64)
    for t in range(6):
        for j in range(t + 1):
            match = place(before[j]) @ place(q_l[t])
            expected[t] += left(log_keep_pairs, j, t) * match * b[j] * q_r[t]
    y, last = call(inputs, "reference")
    assert_close(y[0, :, 0], expected, "output")
    assert_close(last.sum[0, 0], before[6], "state")
    pairs = sum(left(log_keep_pairs, j, 5) * torch.outer(place(before[j]), b[j]) for j in range(6))
    assert_close(last.pairs[0, 0], pairs, "state")


SIZES = [(2, None), (16, None), (32, None), (8, 1), (8, 2), (8, 16), (8, 32), (16, 5)]


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize(("dim", "slots"), SIZES)
def test_any_state_dimension_and_number_of_slots(backend, dim, slots):
    inputs = make_inputs(21, dim=dim, slots=slots, dtype=torch.float32)
    assert_same(run(inputs, backend), run(inputs, "reference"))


@pytest.mark.parametrize(("dim", "slots"), [(12, None), (12, 2), (5, 16), (8, 33), (64, None)])
def test_sizes_without_a_kernel_run_chunked(dim, slots):
    inputs = make_inputs(21, dim=dim, slots=slots)
    got = run(inputs, choice := BackendChoice())
    assert choice.ran == "chunked"
    assert_same(got, run(inputs, "reference"))


@pytest.mark.parametrize("backend", FAST)
def test_addresses_far_apart_choose_one_slot(backend):
    """Scores of a thousand: softmax is 0 or 1, and no exponential overflows."""
    inputs = make_inputs(21, slots=5)
    inputs["addresses"] *= 500.0
    assert (inputs["q_l"] @ inputs["addresses"].mT).max() > 1000
    assert_same(run(inputs, backend), run(inputs, "reference"))


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("slots", [None, 5], ids=["dense", "slots"])
@pytest.mark.parametrize("gates", [NAMES[4:5], NAMES[5:6], NAMES[4:6]], ids=["sum", "pairs", "both"])
@pytest.mark.parametrize("log_retention", HARD, ids=str)
def test_constant_extreme_retention(backend, slots, gates, log_retention):
    inputs = make_inputs(40, dtype=torch.float32, slots=slots)
    for gate in gates:
        # the last one stays ordinary and gives the gradient a scale: at -50 it is e^-50, and of that torch's
        # derivative of expm1, 1 + expm1(-50) = 0, has nothing
        inputs[gate][:, :-1] = log_retention
    assert_same(run(inputs, backend), run(inputs, "reference"))


@pytest.mark.parametrize("backend", ["reference", *FAST])
def test_what_is_bound_is_the_sum_before_the_token(backend):
    inputs = make_inputs(5, dtype=torch.float32, state=False)
    y, _ = call(inputs, backend)
    assert (y[:, 0] == 0).all(), "nothing came before the first token, so that it binds nothing"
    changed = inputs | {"a": inputs["a"].clone()}
    changed["a"][:, 2] += 1.0
    moved, _ = call(changed, backend)
    assert torch.equal(moved[:, :3], y[:, :3]), "a token's own a is not in what it reads"
    assert (moved[:, 3:] != y[:, 3:]).all()


@pytest.mark.parametrize("backend", ["reference", *FAST])
def test_the_first_token_is_spread_over_all_slots_alike(backend):
    inputs = make_inputs(1, slots=5, state=False)
    _, last = call(inputs, backend)
    written = -torch.expm1(inputs["log_pair_retention"][:, 0, :, None]) * inputs["b"][:, 0] / 5
    assert_close(last.pairs, written[:, :, None].expand_as(last.pairs), "state")


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("slots", [None, 5], ids=["dense", "slots"])
def test_forgetting_everything_leaves_no_trace(backend, slots):
    inputs = make_inputs(20, dtype=torch.float32, slots=slots)
    for gate in NAMES[4:]:
        inputs[gate][:, 9:11] = -torch.inf  # token 10 still binds the sum that token 9 left
    late = {name: x[:, 9:] if name in NAMES else x for name, x in inputs.items()}
    y_late, last_late = call({name: x for name, x in late.items() if name not in ("sum", "pairs")}, backend)
    y, last = call(inputs, backend)
    assert_close(y[:, 10:], y_late[:, 1:], "output")
    assert_state(last, last_late)
