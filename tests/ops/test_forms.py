"""Every form of every op against the float64 equation; what all promise of texts, masks, pieces, states."""

from functools import cache
from itertools import pairwise

import pytest
import torch
from every_op import (
    CASES,
    SHARED,
    Inputs,
    along_time,
    beginnings,
    cut,
    every_case,
    every_fast_form,
    every_form,
    forms_of,
    fresh,
    holes,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import assert_close
from torch import Tensor

from unimatrix import UserError
from unimatrix.ops import BackendChoice

LENGTHS = (1, 2, 15, 16, 17, 63, 257)  # around a chunk of 16 and a block of the loops, and 16 of them
KINDS = {  # hard gates, a mask, texts that begin on the way
    "ordinary": (False, False, False),
    "masked": (False, True, False),
    "hard": (True, False, False),
    "hard, masked": (True, True, False),
    "starts": (False, False, True),
    "hard, masked, starts": (True, True, True),
}


def run(case: str, inputs: Inputs, backend: str, call=None, **options) -> dict[str, Tensor]:
    """What comes out, and the gradient of every input, for fixed random output gradients."""
    leaves = {name: x.detach().requires_grad_() for name, x in inputs.items()}  # with its strides
    outputs = (call or CASES[case].call)(leaves, backend=backend, **options)
    generator = torch.Generator().manual_seed(9)
    into = [torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y) for y in outputs]
    pairs = [(y, grad) for y, grad in zip(outputs, into, strict=True) if y.requires_grad]
    grads = [torch.zeros_like(x) for x in leaves.values()]
    if pairs:  # without any position a query reaches no output
        used, into = zip(*pairs, strict=True)
        grads = torch.autograd.grad(
            used, list(leaves.values()), into, allow_unused=True, materialize_grads=True
        )
    found = {f"output {n}": y.detach() for n, y in enumerate(outputs)}
    return found | dict(zip(inputs, grads, strict=True))


def assert_same(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert got.keys() == expected.keys()
    grads = [
        x.double().square().mean().sqrt() for n, x in expected.items() if "output" not in n and x.numel()
    ]
    for name, value in expected.items():
        quantity, dtype = ("output" if "output" in name else "gradient"), got[name].dtype
        if quantity == "gradient" and value.numel():
            # beside others one may be zero but for their rounding, of float64
            error = (got[name].double() - value.double()).square().mean().sqrt()
            if error <= 1e-14 * max(grads):
                continue
        assert_close(got[name], value, quantity, dtype)


def exact(case: str, inputs: Inputs, **options) -> dict[str, Tensor]:
    """The equation in float64, for the numbers that `inputs` hold after their own rounding."""
    return run(case, {name: x.double() for name, x in inputs.items()}, "reference", **options)


@cache
def text(case: str, length: int, dtype: torch.dtype, kind: str, state: bool) -> tuple[Inputs, dict, dict]:
    """Inputs, the mask in options, and what the equation makes of them."""
    hard, masked, starting = KINDS[kind]
    inputs = CASES[case].make(length=length, dtype=dtype, hard=hard)
    options = {"mask": holes(2, length)} if masked else {}
    options |= {"starts": beginnings(2, length)} if starting else {}
    inputs = inputs if state else fresh(inputs)
    return inputs, options, exact(case, inputs, **options)


@every_form
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_equation(case, backend, dtype, kind):
    for length in LENGTHS:
        for state in (True, False) if length < 64 else (False,):
            inputs, options, expected = text(case, length, dtype, kind, state)
            assert_same(run(case, inputs, backend, **options), expected)


@every_fast_form
def test_a_long_text(case, backend):
    length = 4096 if case.startswith(("slot", "surprise", "triple")) else 16384
    inputs = CASES[case].make(batch=1, length=length, dtype=torch.float32, hard=True)
    wide = {name: x.double() for name, x in inputs.items()}
    assert_same(run(case, inputs, backend), run(case, wide, "compiled"))


MASKS = {
    "left": torch.arange(70) >= torch.tensor([[3], [69]]),
    "right": torch.arange(70) < torch.tensor([[33], [1]]),
    "a whole row": torch.tensor([[True], [False]]).expand(2, 70),
    "everything": torch.zeros(2, 70, dtype=torch.bool),
}


@every_fast_form
@pytest.mark.parametrize("mask", MASKS)
def test_whatever_a_mask_leaves_out(case, backend, mask):
    inputs = CASES[case].make(length=70, dtype=torch.float32)
    assert_same(run(case, inputs, backend, mask=MASKS[mask]), exact(case, inputs, mask=MASKS[mask]))


@every_form
def test_masked_positions_are_no_tokens(case, backend):
    """All is as in the text without its holes; a hole's output is zero, and nothing is learned from it."""
    inputs, mask = CASES[case].make(length=40), holes(2, 40)
    for name in filter(along_time, inputs):
        inputs[name][~mask] = 7.0  # whatever stands there, out of range or not
    leaves = {name: x.clone().requires_grad_() for name, x in inputs.items()}
    outputs = CASES[case].call(leaves, mask=mask, backend=backend)
    count = len(CASES[case].apply(inputs, mask=mask, backend=backend)[0])
    if CASES[case].masked_output_is_zero:
        assert all((y[~mask] == 0).all() for y in outputs[:count])
    weights = [torch.randn(y.shape, dtype=y.dtype) for y in outputs]
    for n in range(count):
        weights[n][~mask] = 0
    grads = dict(zip(leaves, torch.autograd.grad(outputs, list(leaves.values()), weights), strict=True))
    for name in filter(along_time, leaves):
        assert (grads[name][~mask] == 0).all(), name
    shared = {name: torch.zeros_like(x) for name, x in inputs.items() if name in SHARED}
    for row in range(2):
        one, real = slice(row, row + 1), mask[row]
        alone = {name: x.clone().requires_grad_() for name, x in cut(inputs, one, real).items()}
        dense = CASES[case].call(alone, backend="reference")
        into = [w[one, real] if n < count else w[one] for n, w in enumerate(weights)]
        for n, (y, theirs) in enumerate(zip(outputs, dense, strict=True)):
            assert_close(y[one, real] if n < count else y[one], theirs, "output" if n < count else "state")
        for name, theirs in zip(alone, torch.autograd.grad(dense, list(alone.values()), into), strict=True):
            if name in shared:
                shared[name] += theirs
            else:
                assert_close(
                    grads[name][one][:, real] if along_time(name) else grads[name][one], theirs, "gradient"
                )
    for name, theirs in shared.items():
        assert_close(grads[name], theirs, "gradient")


@every_form
@pytest.mark.parametrize("wrong", [torch.nan, torch.inf], ids=str)
def test_whatever_stands_at_masked_positions_reaches_nothing(case, backend, wrong):
    """Not the other outputs, the last state, or any gradient: nothing times NaN or infinity is NaN."""
    inputs, mask = CASES[case].make(length=40), holes(2, 40)
    found = []
    for filled in (0.0, wrong):
        inputs = {name: x.clone() for name, x in inputs.items()}
        for name in filter(along_time, inputs):
            inputs[name][~mask] = filled
        found.append(run(case, inputs, backend, mask=mask))
    for name, x in found[0].items():
        assert torch.isfinite(x).all(), name
        assert torch.equal(found[1][name], x), name
        assert name.startswith("output") or not along_time(name) or (x[~mask] == 0).all(), name


@every_fast_form
@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, -torch.inf], ids=str)
@pytest.mark.parametrize("kind", ["ordinary", "sharp", "starts"])
def test_one_wrong_number_shows_wherever_the_equation_has_it(case, backend, wrong, kind):
    """Not finite where the equation is not, in outputs, last state and gradients; and as it is elsewhere.

    The chunked forms multiply whole chunks, where nothing times infinity is no number: there it may be more.
    """
    if backend == "chunked" and kind == "starts":
        return  # a gate where a text begins gets no gradient there; in the equation, nothing times NaN
    inputs = CASES[case].make(length=9, dtype=torch.float32 if kind == "ordinary" else torch.float64)
    if kind == "sharp" and "query" in inputs:
        inputs["query"] = 300 * inputs["query"]  # many a weight is 0
    options = {"starts": beginnings(2, 9)} if kind == "starts" else {}
    for name, x in inputs.items():
        if not x.numel():
            continue  # the state of a kernel of one
        # near the end of a position, at the beginning of a state, whose first rows are held
        at = (1, 5, *(size - 1 for size in x.shape[2:])) if along_time(name) else (1, *[0] * (x.dim() - 1))
        at = tuple(min(place, size - 1) for place, size in zip(at, x.shape, strict=True))
        spoilt = inputs | {name: x.clone()}
        spoilt[name][at] = wrong
        try:
            expected = run(case, spoilt, "reference", **options)
        except UserError:  # a gate out of its range
            with pytest.raises(UserError, match=name):
                run(case, spoilt, backend, **options)
            continue
        got = run(case, spoilt, backend, **options)
        for quantity, theirs in expected.items():
            ours, finite = got[quantity], theirs.isfinite()
            assert not ours[~finite].isfinite().any(), f"{name}: {quantity}"
            assert backend == "chunked" or ours[finite].isfinite().all(), f"{name}: {quantity}"
        both = {
            quantity: got[quantity].isfinite() & theirs.isfinite() for quantity, theirs in expected.items()
        }
        assert_same(*({q: x.where(both[q], 0.0) for q, x in found.items()} for found in (got, expected)))


@every_form
@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
@pytest.mark.parametrize("given", [True, False], ids=["a state", "no state"])
def test_texts_in_a_row_are_texts_apart(case, backend, given, masked):
    """Outputs, gradients, and the last state, which is the last text's; the one given is the first text's."""
    length, starts = 75, beginnings(2, 75)
    starts[:, 40:45] = True  # across a border of blocks and chunks; five texts of one position
    inputs = CASES[case].make(length=length)
    inputs = inputs if given else fresh(inputs)
    mask = holes(2, length) if masked else torch.ones(2, length, dtype=torch.bool)
    mask[:, 60] = not masked
    starts[:, 60] = True  # at a position that is none of its text's, perhaps

    def apart(leaves: Inputs, **options) -> tuple[Tensor, ...]:
        rows = []
        for row in range(2):
            one = slice(row, row + 1)
            borders = sorted({0, length, *starts[row].nonzero()[:, 0].tolist()})
            texts = []
            for start, stop in pairwise(borders):
                text = cut(leaves, one, slice(start, stop))
                text = fresh(text) if starts[row, start] else text
                texts.append(CASES[case].apply(text, mask=mask[one, start:stop], **options))
            outputs = [
                torch.cat(parts, dim=1) for parts in zip(*(outputs for outputs, _ in texts), strict=True)
            ]
            last = texts[-1][1] if isinstance(texts[-1][1], tuple) else (texts[-1][1],)
            rows.append((*outputs, *(x for x in last if x.is_floating_point())))
        return tuple(torch.cat(parts) for parts in zip(*rows, strict=True))

    expected = run(case, inputs, "reference", apart)
    assert_same(run(case, inputs, backend, mask=mask, starts=starts), expected)


@every_form
def test_no_starts_are_none_and_only_starts_are_single_tokens(case, backend):
    inputs = CASES[case].make(length=20)
    never, always = torch.zeros(2, 20, dtype=torch.bool), torch.ones(2, 20, dtype=torch.bool)
    none = run(case, inputs, backend)
    got = run(case, inputs, backend, starts=never)
    assert_same(got, none)
    assert backend == "chunked" or all(torch.equal(x, none[name]) for name, x in got.items())
    got = CASES[case].apply(inputs, backend=backend, starts=always)[0]
    single = [
        CASES[case].apply(fresh(cut(inputs, times=slice(t, t + 1))), backend="reference")[0]
        for t in range(20)
    ]
    for y, each in zip(got, zip(*single, strict=True), strict=True):
        assert_close(y, torch.cat(each, dim=1), "output")


@pytest.mark.parametrize("backend", ["reference", "compiled"])
@pytest.mark.parametrize("wrong", [torch.inf, torch.nan], ids=str)
@every_case
def test_a_text_that_went_wrong_is_over_where_the_next_one_starts(case, backend, wrong):
    """The chunked forms multiply whole chunks, where nothing times infinity is no number."""
    inputs = CASES[case].make(length=40)
    starts = torch.zeros(2, 40, dtype=torch.bool)
    starts[:, 21] = True
    spoilt = {name: x.clone() for name, x in inputs.items()}
    for name in {"k", "v", "write", "gates", "a", "b", "key", "value", "x"} & spoilt.keys():
        spoilt[name][:, 5] = wrong
    late = fresh(cut(inputs, times=slice(21, None)))
    got = CASES[case].call(spoilt, backend=backend, starts=starts)
    count = len(CASES[case].apply(late, backend=backend)[0])
    for n, theirs in enumerate(CASES[case].call(late, backend=backend)):
        assert_close(got[n][:, 21:] if n < count else got[n], theirs, "output")


@every_form
@pytest.mark.parametrize("cuts", [(1,), (2, 2, 3, 19, 36), tuple(range(1, 40))], ids=len)
def test_pieces_equal_the_whole(case, backend, cuts):
    """Gradients included, which go back through the states between."""
    inputs = CASES[case].make(length=40)
    mask, starts, ends = holes(2, 40), beginnings(2, 40), []

    def in_pieces(leaves: Inputs, **options) -> tuple[Tensor, ...]:
        pieces, given, last = [], leaves, {}
        for start, stop in zip((0, *cuts), (*cuts, 40), strict=True):
            piece, here = cut(given, times=slice(start, stop)), slice(start, stop)
            at = {"mask": mask[:, here], "starts": starts[:, here]}
            outputs, state = CASES[case].apply(piece, **at, **options, **last)
            pieces.append(outputs)
            last, given = {"state": state}, fresh(leaves)
        ends.append(state)
        parts = state if isinstance(state, tuple) else (state,)
        whole = [torch.cat(outputs, dim=1) for outputs in zip(*pieces, strict=True)]
        return (*whole, *(x for x in parts if x.is_floating_point()))

    expected = run(case, inputs, backend, mask=mask, starts=starts)
    assert_same(run(case, inputs, backend, in_pieces), expected)
    _, whole = CASES[case].apply(inputs, backend=backend, mask=mask, starts=starts)
    for got, right in zip(ends[0], whole, strict=True):
        assert got.is_floating_point() or torch.equal(got, right)  # ids and ages


@every_form
def test_nothing_of_the_future_is_read(case, backend):
    inputs = CASES[case].make(length=30)
    count = len(CASES[case].apply(inputs, backend=backend)[0])
    before = CASES[case].call(inputs, backend=backend)[:count]
    changed = {name: x.clone() for name, x in inputs.items()}
    for name in filter(along_time, changed):
        changed[name][:, 20:] *= 0.9
    for y, moved in zip(before, CASES[case].call(changed, backend=backend)[:count], strict=True):
        assert torch.equal(y[:, :20], moved[:, :20])
        assert not torch.allclose(y[:, 20:], moved[:, 20:])


@every_form
def test_no_state_is_an_empty_one(case, backend):
    inputs = CASES[case].make(length=9)
    zeros = {name: torch.zeros_like(x) if name.startswith("state") else x for name, x in inputs.items()}
    if case.startswith(("slot", "surprise")):
        return  # an empty one is more than zeros: test_slot_bindings, test_surprise_store
    for y, same in zip(
        CASES[case].call(fresh(inputs), backend=backend),
        CASES[case].call(zeros, backend=backend),
        strict=True,
    ):
        assert torch.equal(y, same)


@every_form
def test_a_given_state_stays_as_it_is(case, backend):
    inputs = CASES[case].make(length=20)
    before = {name: x.clone() for name, x in inputs.items()}
    run(case, inputs, backend)
    CASES[case].call(inputs, backend=backend)
    assert all(torch.equal(x, before[name]) for name, x in inputs.items())


@every_form
def test_gradcheck(case, backend):
    inputs = CASES[case].make(batch=1, length=4)
    names = list(inputs)

    def call(*xs: Tensor) -> tuple[Tensor, ...]:
        return CASES[case].call(dict(zip(names, xs, strict=True)), backend=backend)

    assert torch.autograd.gradcheck(call, [x.requires_grad_() for x in inputs.values()])


@every_fast_form
def test_gradients_of_one_output_or_for_one_input_alone(case, backend):
    inputs = CASES[case].make(length=21)
    outputs = CASES[case].call(inputs, backend=backend)
    assert not any(y.requires_grad for y in outputs)
    wanted = [(tuple(inputs), n) for n in range(len(outputs))] + [((name,), None) for name in inputs]

    def grads(form: str, names: tuple[str, ...], n: int | None) -> tuple[Tensor, ...]:
        leaves = {name: inputs[name].clone().requires_grad_() for name in names}
        found = CASES[case].call(inputs | leaves, backend=form)
        used = [y for y in (found if n is None else found[n : n + 1]) if y.requires_grad]
        into = [y.detach().cos() for y in used]
        return torch.autograd.grad(
            used, list(leaves.values()), into, allow_unused=True, materialize_grads=True
        )

    for names, n in wanted:
        for got, expected in zip(grads(backend, names, n), grads("reference", names, n), strict=True):
            assert_close(got, expected, "gradient")


@every_fast_form
def test_views_are_read_where_they_lie(case, backend):
    """Every input a part of something wider, time before the batch, the last stride not 1, or expanded."""
    inputs = CASES[case].make(length=21)
    wider = {name: torch.cat([x, x], dim=-1)[..., : x.shape[-1]] for name, x in inputs.items()}
    turned = {name: x.transpose(0, 1).contiguous().transpose(0, 1) for name, x in inputs.items()}
    inner = {name: x.transpose(-1, -2).contiguous().transpose(-1, -2) for name, x in inputs.items()}
    spread = {name: x if name in SHARED else x[:1].expand_as(x) for name, x in inputs.items()}
    for views in (wider, turned, inner, spread):
        contiguous = {name: x.contiguous() for name, x in views.items()}
        got, expected = run(case, views, backend), run(case, contiguous, backend)
        if backend == "compiled":
            assert all(torch.equal(got[name], x) for name, x in expected.items())
        assert_same(got, expected)


@every_fast_form
def test_memory_for_the_backward_is_linear_in_time(case, backend):
    def kept(length: int) -> int:
        sizes: dict[int, int] = {}  # by storage: views of one tensor count once

        def remember(tensor: Tensor) -> Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        inputs = CASES[case].make(batch=1, length=length, dtype=torch.float32)
        leaves = {name: x.requires_grad_() for name, x in inputs.items()}
        with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
            outputs = CASES[case].call(leaves, backend=backend)
        del outputs
        return sum(sizes.values())

    assert kept(2048) <= 2.2 * kept(1024)


# torch's own words to itself while it traces an autograd.Function
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@every_fast_form
@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked, starts"])
def test_torch_compile_gives_the_same(case, backend, masked):
    options = {"mask": holes(2, 20), "starts": beginnings(2, 20)} if masked else {}
    inputs = CASES[case].make(length=20, dtype=torch.float32)
    torch.compiler.reset()

    def call(xs: Inputs, **options) -> tuple[Tensor, ...]:
        return tuple(y * 1.5 for y in CASES[case].call(xs, **options))

    compiled = torch.compile(call, backend="aot_eager", fullgraph=True)
    expected = run(case, inputs, backend, call, **options)
    assert_same(run(case, inputs, backend, compiled, **options), expected)
    with torch.no_grad():
        for n, y in enumerate(compiled(inputs, backend=backend, **options)):
            assert_close(y, expected[f"output {n}"], "output")


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_any_length_batch_mask_and_starts(data):
    case = data.draw(st.sampled_from(sorted(CASES)))
    batch, length = data.draw(st.integers(0, 3)), data.draw(st.integers(0, 40))
    inputs = CASES[case].make(batch=batch, length=length, hard=data.draw(st.booleans()))
    if data.draw(st.booleans()):
        inputs = fresh(inputs)
    bits = st.lists(st.booleans(), min_size=batch * length, max_size=batch * length)
    mask, starts = (torch.tensor(data.draw(bits), dtype=torch.bool).view(batch, length) for _ in range(2))
    mask[:1, -1:] = True  # an ordinary gate, so that the gradients have a scale
    options = {"mask": mask} | data.draw(st.sampled_from([{}, {"starts": starts}]))
    expected = run(case, inputs, "reference", **options)
    for backend in forms_of(case)[1:]:
        assert_same(run(case, inputs, backend, **options), expected)


@every_case
def test_what_ran_is_recorded_where_it_was_asked(case):
    elsewhere = forms_of(case)[-2]  # where there are no loops: in chunks, if it can be
    inputs, choices = CASES[case].make(), [BackendChoice(), BackendChoice(elsewhere)]
    for choice in choices:
        assert choice.ran is None
        CASES[case].call(inputs, backend=choice)
    assert [choice.ran for choice in choices] == ["compiled", elsewhere]
    inputs = {name: x.to("meta") for name, x in inputs.items()}
    if not case.startswith(("slot", "surprise")):  # whose decisions are made on the CPU
        CASES[case].call(inputs, backend=choices[0])
        assert choices[0].ran == elsewhere


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
@every_case
def test_the_same_on_a_gpu(case, kind):
    for length in (1, 63, 257):
        inputs, options, expected = text(case, length, torch.float32, kind, state=True)
        options = {name: x.cuda() for name, x in options.items()}
        choice = BackendChoice()
        got = run(case, {name: x.cuda() for name, x in inputs.items()}, choice, **options)
        assert choice.ran == forms_of(case)[-2]
        assert_same({name: x.cpu() for name, x in got.items()}, expected)
