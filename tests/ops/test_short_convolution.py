"""The short convolution beyond its cases in tests/every_op.py: subclasses of tensors, traces, threads."""

import pytest
import torch
from tolerances import assert_close
from torch.testing._internal.two_tensor import TwoTensor

from unimatrix.ops import short_convolution, threads


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def inner(x: torch.Tensor) -> torch.Tensor:
    return x.a if isinstance(x, TwoTensor) else x


@pytest.mark.parametrize("place", ["x", "weight", "state", "starts"])
@pytest.mark.parametrize("backend", ["auto", "compiled"])
def test_a_tensor_that_is_its_own_has_no_address_wherever_it_stands(place, backend):
    """The loop would read elsewhere, or take 0 for "windows that nothing cuts"."""
    starts = torch.zeros(2, 9, dtype=torch.bool)
    starts[:, 5] = True
    given = {"x": drawn(2, 9, 3), "weight": drawn(4, 3), "state": drawn(2, 3, 3), "starts": starts}
    expected = short_convolution(**given, backend=backend)
    given[place] = TwoTensor(given[place], given[place].clone())
    for found, whole in zip(short_convolution(**given, backend=backend), expected, strict=True):
        assert_close(inner(found), whole, "output")


@pytest.mark.filterwarnings("ignore:.torch.jit", "ignore::torch.jit.TracerWarning")  # torch's own
def test_a_trace_holds_the_operator_and_no_empty_numbers():
    weight = drawn(4, 3)
    with torch.no_grad():
        traced = torch.jit.trace(lambda x: short_convolution(x, weight)[0], drawn(2, 9, 3))
    assert "short_convolution_forward" in str(traced.graph)
    other = drawn(5, 9, 3)
    assert_close(traced(other), short_convolution(other, weight)[0], "output")


def test_the_weight_s_gradient_does_not_depend_on_the_number_of_threads(monkeypatch):
    """Of several runs of tokens, and of more numbers than torch sums with one thread."""
    monkeypatch.setattr(threads, "THREADING_PAYS", 0)
    x, before, found = drawn(64, 300, 48), torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            weight = drawn(4, 48).requires_grad_()
            short_convolution(x, weight, backend="compiled")[0].sin().sum().backward()
            found.append(weight.grad)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, found[0]) for one in found)
