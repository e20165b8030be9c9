"""The gated product: its compiled loop against the equation, in numbers, gradients, and whoever looks on."""

import pytest
import torch
import torch.nn.functional as F
from tolerances import assert_close
from torch.fx.experimental.proxy_tensor import make_fx

from unimatrix.errors import UserError, UserTypeError
from unimatrix.mixers import GatedMLPConfig, Size
from unimatrix.ops import BackendChoice, gated_product

# where a sigmoid is all, nothing, next to either; beyond 87 float32 has no ordinary number left of e^-x
HARD = (0.0, -0.0, 1e-30, -1e-30, 20.0, -20.0, 86.0, -86.0, 88.0, -88.0, 1e4, -1e4, 1e30, -1e30, 1e37, -1e37)
HARD += (-3e38,)  # times what comes back it is infinite


def equation(x: torch.Tensor) -> torch.Tensor:
    gate, up = x.double().chunk(2, dim=-1)
    return gate / (1 + torch.exp(-gate)) * up


def drawn(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64).to(
        dtype
    )


def gradient(x: torch.Tensor, backend: str) -> torch.Tensor:
    leaf = x.clone().requires_grad_()
    y = gated_product(leaf, backend=backend)
    y.backward(drawn(*y.shape, dtype=y.dtype))
    assert leaf.grad is not None
    return leaf.grad


@pytest.mark.parametrize("backend", ["reference", "compiled"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "shape", [(2, 5, 6), (2,), (1, 2), (3, 0, 8), (4, 0), (0, 4), (700, 14), (2, 1, 3, 130)]
)
def test_it_is_the_equation(shape, dtype, backend):
    x = drawn(*shape, dtype=dtype)
    y = gated_product(x, backend=backend)
    assert (y.shape, y.dtype) == ((*shape[:-1], shape[-1] // 2), dtype)
    assert_close(y, equation(x).to(dtype), "output")
    leaf = x.detach().clone().double().requires_grad_()
    expected = equation(leaf)
    expected.backward(drawn(*expected.shape, dtype=dtype).double())
    assert_close(gradient(x, backend), leaf.grad.to(dtype), "gradient")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_hard_gates(dtype):
    x = torch.cat([torch.tensor(HARD, dtype=dtype), drawn(len(HARD), dtype=dtype)]).repeat(3, 1)
    gates = x[:, : len(HARD)]
    small = gates.abs() <= 87
    for made in (lambda name: gated_product(x, backend=name), lambda name: gradient(x, name)):
        halves = (made(name).split(len(HARD), 1) for name in ("compiled", "reference"))
        for ours, theirs in zip(*halves, strict=True):
            # small ones too, to a share that grows with the gate
            allowed = (4e-6 + 2e-7 * gates.abs()) * theirs.abs()
            assert ((ours - theirs).abs() <= allowed)[small].all()
            # beyond, a gate lets all through or nothing
            assert ((ours - theirs).abs() <= 1e-6 * theirs.abs() + 1e-34)[~small].all()


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("at", [0, 5])
def test_a_wrong_number_shows_where_it_is_and_nowhere_else(at, wrong):
    x = drawn(4, 10)
    x[2, at] = wrong
    y, d_x = gated_product(x, backend="compiled"), gradient(x, "compiled")
    spoilt = torch.zeros(4, 5, dtype=torch.bool)
    spoilt[2, 0] = True
    assert torch.equal(~y.isfinite(), spoilt)
    # silu ends at 0 where a gate is -inf, and torch makes nan of it; of an infinite one its slope is known
    assert d_x[~spoilt.repeat(1, 2)].isfinite().all()
    if wrong != wrong:
        assert not d_x[2, 0].isfinite()
        assert at == 5 or not d_x[2, 5].isfinite()


def test_views_and_expanded_gradients_are_read_as_they_are():
    x = drawn(6, 5, 2, 8)[:, ::2, 1].transpose(0, 1).requires_grad_()
    ours, theirs = (gated_product(x, backend=name) for name in ("compiled", "reference"))
    assert_close(ours, theirs, "output")
    grads = [torch.autograd.grad(y.sum(), x)[0] for y in (ours, theirs)]
    assert_close(*grads, "gradient")


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch's own
def test_second_derivatives_and_transforms_are_those_of_plain_torch():
    x = drawn(3, 4, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: gated_product(x, backend="compiled"), x)
    assert torch.autograd.gradgradcheck(lambda x: gated_product(x, backend="compiled"), x)
    whole = torch.func.jacrev(gated_product)(x.detach())
    assert_close(torch.func.jacfwd(gated_product)(x.detach()), whole, "gradient")
    expected = gated_product(x.detach(), backend="reference")
    for backend in ("auto", "compiled"):
        mapped = torch.func.vmap(lambda row, name=backend: gated_product(row, backend=name))
        assert_close(mapped(x.detach()), expected, "output")
        assert_close(torch.func.vmap(mapped)(x.detach()[None])[0], expected, "output")
    (grads,) = torch.autograd.grad(
        gated_product(x), x, torch.eye(6, dtype=torch.float64).view(6, 3, 2), is_grads_batched=True
    )
    assert grads.shape == (6, 3, 4)
    with pytest.raises(UserError, match="compiled"):
        torch.func.grad(lambda x: gated_product(x, backend="compiled").sum())(x.detach())


@pytest.mark.filterwarnings(
    "ignore:.torch.jit", "ignore:The .grad attribute of a Tensor that is not a leaf"
)  # torch's
def test_who_follows_the_operators_sees_the_loop_and_its_gradient():
    x = drawn(3, 8).requires_grad_()

    def step(x):
        return torch.autograd.grad(gated_product(x, backend="compiled").sum(), x)[0]

    names = {str(node.target) for node in make_fx(step)(x).graph.nodes}
    assert {"unimatrix.gated_product_forward.default", "unimatrix.gated_product_backward.default"} <= names
    for backend in ("auto", "compiled"):
        compiled = torch.compile(lambda x, name=backend: gated_product(x, backend=name), fullgraph=True)
        assert_close(torch.autograd.grad(compiled(x).sum(), x)[0], step(x), "gradient")
    torch.library.opcheck(torch.ops.unimatrix.gated_product_forward, (x, True))


@pytest.mark.filterwarnings("ignore:.torch.jit", "ignore::torch.jit.TracerWarning")  # torch's own
def test_a_trace_of_a_layer_holds_the_operator_and_no_empty_numbers():
    part = GatedMLPConfig(expansion=2).build(Size(vocab_size=259, d_model=8, depth=1))
    with torch.no_grad():
        traced = torch.jit.trace(part, drawn(2, 7, 8))
        other = drawn(3, 7, 8)
        assert "gated_product_forward" in str(traced.inlined_graph)
        assert_close(traced(other), part(other), "output")


def test_several_threads_give_the_same_bits_as_one():
    x, threads = drawn(3000, 200), torch.get_num_threads()
    found = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append((gated_product(x, backend="compiled"), gradient(x, "compiled")))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))


def test_which_form_runs():
    for x, form in (
        (drawn(2, 4), "compiled"),
        (drawn(2, 4, dtype=torch.float64), "compiled"),
        (drawn(2, 4, dtype=torch.bfloat16), "reference"),
        (drawn(2, 4).to("meta"), "reference"),
    ):
        choice = BackendChoice()
        assert gated_product(x, backend=choice).dtype == x.dtype
        assert choice.ran == form
    # a token of each row in plain torch, if nobody asks for another form or for gradients
    token = drawn(3, 1, 8)
    for asked, form in ((BackendChoice(), "reference"), (BackendChoice("compiled"), "compiled")):
        with torch.no_grad():
            assert_close(gated_product(token, backend=asked), equation(token).float(), "output")
        assert asked.ran == form
        gated_product(token.clone().requires_grad_(), backend=asked)
        assert asked.ran == "compiled"
    narrow = drawn(2, 4, dtype=torch.bfloat16)
    found = gated_product(narrow, backend="compiled")
    assert (found - equation(narrow)).abs().max() < 0.01


@pytest.mark.parametrize(
    ("x", "kind", "message"),
    [
        (None, UserTypeError, "gate_and_up: expected a tensor, got NoneType"),
        (torch.zeros(3, 5), UserError, r"gate_and_up: expected \[\.\.\., 2 width\], got \[3, 5\]"),
        (torch.zeros(2, 3, 5), UserError, r"gate_and_up: expected \[\.\.\., 2 width\], got \[2, 3, 5\]"),
        (torch.zeros(3, 4).long(), UserError, "gate_and_up: expected"),
        (torch.zeros(()), UserError, r"gate_and_up: expected \[2 width\], got \[\]"),
    ],
)
def test_what_it_cannot_take_is_one_line(x, kind, message):
    with pytest.raises(kind, match=message):
        gated_product(x)


def test_there_are_no_chunks():
    with pytest.raises(
        UserError, match="backend 'chunked' of gated_product cannot run here: it has no such form"
    ):
        gated_product(torch.zeros(2, 4), backend="chunked")


def test_a_gated_layer_is_the_same_by_hand():
    mlp = GatedMLPConfig(width=5).build(Size(vocab_size=259, d_model=4, depth=1))
    x = drawn(2, 7, 4)
    gate, up = F.linear(x, mlp.gate_and_up.weight).chunk(2, dim=-1)
    assert_close(mlp(x), F.linear(F.silu(gate) * up, mlp.down.weight), "output")
    with torch.autocast("cpu", torch.bfloat16):
        assert mlp(x).dtype == torch.bfloat16
