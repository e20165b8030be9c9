"""No number of an op's comes from memory that nobody has written, whatever the mask leaves out."""

from collections.abc import Iterator

import pytest
import torch
from every_op import CASES, FORMS
from tolerances import assert_close
from torch.utils import deterministic

LENGTH = 70  # several chunks, and blocks of the compiled loops


@pytest.fixture
def poisoned() -> Iterator[None]:
    """New memory of torch's holds NaN."""
    before = torch.are_deterministic_algorithms_enabled(), deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    deterministic.fill_uninitialized_memory = True
    assert torch.empty(3).isnan().all()
    assert torch.ones(2).new_empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(before[0])
    deterministic.fill_uninitialized_memory = before[1]


def masks() -> dict[str, torch.Tensor]:
    times = torch.arange(LENGTH).expand(2, -1)
    return {
        "left": times >= torch.tensor([[3], [LENGTH - 1]]),
        "right": times < torch.tensor([[33], [1]]),
        "scattered": torch.rand(2, LENGTH, generator=torch.Generator().manual_seed(0)) > 0.4,
        "a whole row": torch.tensor([[True], [False]]).expand(2, LENGTH),
        "everything": torch.zeros(2, LENGTH, dtype=torch.bool),
    }


@pytest.mark.parametrize("backend", FORMS)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("mask", masks())
def test_masked_positions_hold_numbers(case, backend, mask, request):
    inputs = {
        name: x.requires_grad_() for name, x in CASES[case].make(length=LENGTH, dtype=torch.float32).items()
    }

    def numbers() -> list[torch.Tensor | None]:
        outputs = CASES[case].call(inputs, mask=masks()[mask], backend=backend)
        total = sum(y.square().sum() for y in outputs)
        return [*outputs, *torch.autograd.grad(total, list(inputs.values()), allow_unused=True)]

    expected = numbers()
    request.getfixturevalue("poisoned")
    for got, right in zip(numbers(), expected, strict=True):
        assert (got is None) == (right is None)
        if got is not None and right is not None:
            assert torch.isfinite(got).all()
            assert_close(got, right, "output")
