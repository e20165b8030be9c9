"""Every form of the triple latent against the equation: outputs, both states, every gradient, hard gates."""

import pytest
import torch
import torch.nn.functional as F
from tolerances import assert_close
from torch import Tensor

from unimatrix.ops import TripleLatentState, chosen_backends, triple_latent

FAST = ("chunked", "compiled")
CHUNK = 16  # of the chunked form on a CPU
DTYPES = (torch.float64, torch.float32)
HARD = (-torch.inf, 0.0, -1e-7, -50.0)
NAMES = ("a", "b", "q_l", "q_r", "log_retention", "log_pair_retention")


@pytest.fixture(autouse=True)
def poisoned_memory():
    """torch.empty comes filled with NaN: what a kernel forgets to write is seen."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


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


def call(inputs: dict[str, Tensor], backend: str, **options) -> tuple[Tensor, TripleLatentState]:
    given = dict(inputs)
    if "sum" in given:
        options["state"] = TripleLatentState(given.pop("sum"), given.pop("pairs"))
    return triple_latent(**given, backend=backend, **options)


def run(inputs: dict[str, Tensor], backend: str, **options) -> dict[str, Tensor]:
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


def seeded_mask(batch: int, length: int) -> Tensor:
    """Holes everywhere, and left padding in the first row."""
    mask = torch.rand(batch, length, generator=torch.Generator().manual_seed(5)) > 0.3
    mask[0, :7] = False
    return mask


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


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("slots", [None, 5], ids=["dense", "slots"])
@pytest.mark.parametrize("length", [1, 2, CHUNK - 1, CHUNK, CHUNK + 1, 63])
def test_equals_reference(backend, dtype, slots, length):
    inputs = make_inputs(length, dtype=dtype, slots=slots)
    assert_same(run(inputs, backend), run(inputs, "reference"))


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("slots", [None, 2], ids=["dense", "slots"])
def test_long_text(backend, slots):
    inputs = make_inputs(1000, dtype=torch.float32, slots=slots, batch=1, heads=2)
    assert_same(run(inputs, backend), run(inputs, "reference"))


SIZES = [(2, None), (16, None), (32, None), (8, 1), (8, 2), (8, 16), (8, 32), (16, 5)]


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize(("dim", "slots"), SIZES)
def test_any_state_dimension_and_number_of_slots(backend, dim, slots):
    inputs = make_inputs(21, dim=dim, slots=slots, dtype=torch.float32)
    assert_same(run(inputs, backend), run(inputs, "reference"))


@pytest.mark.parametrize(("dim", "slots"), [(12, None), (12, 2), (5, 16), (8, 33), (64, None)])
def test_sizes_without_a_kernel_run_chunked(dim, slots):
    inputs = make_inputs(21, dim=dim, slots=slots)
    got = run(inputs, "auto")
    assert chosen_backends()["triple_latent"] == "chunked"
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


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("slots", [None, 5], ids=["dense", "slots"])
def test_extreme_retentions_among_ordinary_ones(backend, dtype, slots):
    inputs = make_inputs(100, dtype=dtype, slots=slots)
    generator = torch.Generator().manual_seed(3)
    hard = torch.tensor([*HARD, -1.0], dtype=dtype)
    for gate in NAMES[4:]:
        inputs[gate] = hard[torch.randint(0, len(hard), inputs[gate].shape, generator=generator)]
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


@pytest.mark.parametrize("backend", ["reference", *FAST])
@pytest.mark.parametrize("slots", [None, 5], ids=["dense", "slots"])
def test_mask_neither_writes_nor_decays(backend, slots):
    inputs = make_inputs(40, slots=slots)
    mask = seeded_mask(2, 40)
    y, last = call(inputs, backend, mask=mask)
    assert (y[~mask] == 0).all()
    for row in range(2):
        kept = dict(inputs)
        for name in inputs:
            if name in NAMES:
                kept[name] = inputs[name][row : row + 1, mask[row]]
            elif name != "addresses":
                kept[name] = inputs[name][row : row + 1]
        y_row, last_row = call(kept, "reference")
        assert_close(y[row : row + 1, mask[row]], y_row, "output")
        assert_state(TripleLatentState(*(part[row : row + 1] for part in last)), last_row)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("slots", [None, 5], ids=["dense", "slots"])
def test_masked_gradients(backend, slots):
    inputs = make_inputs(40, slots=slots)
    mask = seeded_mask(2, 40)
    got = run(inputs, backend, mask=mask)
    assert_same(got, run(inputs, "reference", mask=mask))
    for name in NAMES:
        assert (got[name][~mask] == 0).all(), name


@pytest.mark.parametrize("backend", ["reference", *FAST])
@pytest.mark.parametrize("slots", [None, 5], ids=["dense", "slots"])
def test_pieces_equal_the_whole(backend, slots):
    inputs = make_inputs(100, slots=slots, dtype=torch.float32)
    whole, last = call(inputs, backend)
    carried = dict(inputs)
    pieces = []
    for start, stop in ((0, 1), (1, 2), (2, 2), (2, 33), (33, 99), (99, 100)):
        piece = {name: x[:, start:stop] if name in NAMES else x for name, x in carried.items()}
        y, state = call(piece, backend)
        carried |= state._asdict()
        pieces.append(y)
    assert_close(torch.cat(pieces, 1), whole, "output")
    assert_state(state, last)


@pytest.mark.parametrize("backend", ["reference", *FAST])
@pytest.mark.parametrize("slots", [None, 5], ids=["dense", "slots"])
def test_no_state_is_zeros(backend, slots):
    inputs = make_inputs(9, slots=slots)
    zeros = {name: torch.zeros_like(inputs.pop(name)) for name in ("sum", "pairs")}
    y, last = call(inputs, backend)
    expected, expected_last = call(inputs | zeros, backend)
    assert torch.equal(y, expected)
    assert_state(last, expected_last)


@pytest.mark.parametrize("backend", ["reference", *FAST])
def test_state_is_not_modified(backend):
    inputs = make_inputs(9)
    before = inputs["sum"].clone(), inputs["pairs"].clone()
    call(inputs, backend)
    assert torch.equal(inputs["sum"], before[0])
    assert torch.equal(inputs["pairs"], before[1])


@pytest.mark.parametrize("backend", ["reference", *FAST])
@pytest.mark.parametrize("slots", [None, 5], ids=["dense", "slots"])
def test_empty_input_returns_the_state(backend, slots):
    inputs = make_inputs(0, slots=slots)
    y, last = call(inputs, backend)
    assert y.shape == (2, 0, 3, 8)
    assert_state(last, TripleLatentState(inputs["sum"], inputs["pairs"]))


@pytest.mark.parametrize("backend", ["reference", *FAST])
@pytest.mark.parametrize("slots", [None, 4], ids=["dense", "slots"])
def test_gradcheck(backend, slots):
    inputs = make_inputs(5, batch=1, heads=1, dim=2, slots=slots)
    names, values = list(inputs), [x.requires_grad_() for x in inputs.values()]

    def flat(*xs: Tensor) -> tuple[Tensor, ...]:
        y, last = call(dict(zip(names, xs, strict=True)), backend)
        return y, *last

    assert torch.autograd.gradcheck(flat, values)


@pytest.mark.parametrize("backend", FAST)
def test_views_of_one_projection_and_frozen_inputs(backend):
    packed = torch.randn(2, 30, 4 * 4 * 16 + 8, generator=torch.Generator().manual_seed(0))
    vectors = packed[..., 8:].unflatten(-1, (4, 4, 16)).unbind(2)
    gates = F.logsigmoid(packed[..., :8]).split(4, dim=-1)
    expected, expected_last = triple_latent(*vectors, *gates, backend="reference")
    y, last = triple_latent(*vectors, *gates, backend=backend)
    assert not y.requires_grad
    assert_close(y, expected, "output")
    assert_state(last, expected_last)
    # inner strides other than 1, and time before the batch
    strided = [x.transpose(-1, -2).contiguous().transpose(-1, -2) for x in vectors]
    turned = [x.transpose(0, 1).contiguous().transpose(0, 1) for x in gates]
    assert_close(triple_latent(*strided, *turned, backend=backend)[0], expected, "output")


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("slots", [None, 5], ids=["dense", "slots"])
def test_bfloat16_accumulates_in_float32(backend, slots):
    inputs = make_inputs(200, dtype=torch.float32, slots=slots, state=False)
    expected, expected_last = call(inputs, "reference")
    low = {name: x if name.startswith("log") else x.bfloat16() for name, x in inputs.items()}
    y, last = call(low, backend)
    assert y.dtype == torch.bfloat16
    assert last.sum.dtype == last.pairs.dtype == torch.float32
    assert_close(y.float(), expected, "output", torch.bfloat16)
    for mine, theirs in zip(last, expected_last, strict=True):
        assert_close(mine, theirs, "state", torch.bfloat16)


@pytest.mark.parametrize("slots", [None, 2], ids=["dense", "slots"])
def test_torch_compile_gives_the_same(slots):
    inputs = make_inputs(20, dtype=torch.float32, slots=slots)
    torch.compiler.reset()
    compiled = torch.compile(call, dynamic=False, backend="aot_eager", fullgraph=True)
    expected = run(inputs, "auto")
    leaves = {name: x.requires_grad_() for name, x in inputs.items()}
    y, last = compiled(leaves, "auto")
    assert_close(y, expected["y"], "output")
    assert_state(last, TripleLatentState(expected["last sum"], expected["last pairs"]))
    y.sum().backward()
    got = {name: x.grad.clone() for name, x in leaves.items()}
    for x in leaves.values():
        x.grad = None
    call(leaves, "auto")[0].sum().backward()
    for name, x in leaves.items():
        assert_close(got[name], x.grad, "gradient")


@pytest.mark.parametrize("slots", [None, 5], ids=["dense", "slots"])
def test_one_thread_equals_two(slots):
    inputs = make_inputs(40, dtype=torch.float32, slots=slots)
    threads = torch.get_num_threads()
    both = []
    for count in (1, 2):
        torch.set_num_threads(count)
        both.append(run(inputs, "compiled"))
    torch.set_num_threads(threads)
    assert all(torch.equal(both[0][name], both[1][name]) for name in both[0])


@pytest.mark.gpu
@pytest.mark.parametrize("slots", [None, 5], ids=["dense", "slots"])
@pytest.mark.parametrize("length", [1, 63])
def test_on_a_gpu_equals_the_reference(slots, length):
    inputs = make_inputs(length, slots=slots, dtype=torch.float32)
    got = run({name: x.cuda() for name, x in inputs.items()}, "auto")
    assert chosen_backends()["triple_latent"] == "chunked"
    assert_same({name: x.cpu() for name, x in got.items()}, run(inputs, "reference"))
