"""A shared block applied more often: the same function as a model made so deep, and what its steps are."""

import pytest
import torch
from trained_size import random_ids, trained_size

import unimatrix
from unimatrix import UserError
from unimatrix.evals import at_depth

IDS = random_ids(2, 20, below=53)


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
@pytest.mark.parametrize("preset", ["unimatrix-core", "unimatrix-discovery"])
def test_it_is_the_model_that_is_made_so_deep(preset, depth):
    model = trained_size(preset)
    before = torch.get_rng_state()
    found = at_depth(model, depth)
    assert torch.equal(torch.get_rng_state(), before)
    expected = unimatrix.build(preset, depth=depth).eval()
    weights = model.state_dict()
    if preset == "unimatrix-discovery":
        steps = weights["steps.weight"]
        weights["steps.weight"] = steps[[min(step, 2) for step in range(depth)]]
    expected.load_state_dict(weights)
    assert found.config == expected.config
    with torch.no_grad():
        assert torch.equal(found(IDS)[0], expected(IDS)[0])
        if depth == 3:
            assert torch.equal(found(IDS)[0], model(IDS)[0])
        else:
            assert not torch.allclose(found(IDS)[0], model(IDS)[0])


def test_it_is_a_copy_in_the_same_dtype_and_mode():
    model = trained_size("unimatrix-core").double()
    found = at_depth(model.train(), 4)
    assert found.training
    assert found.embedding.weight.dtype == torch.float64
    with torch.no_grad():
        found.embedding.weight.zero_()
    assert model.embedding.weight.any()


@pytest.mark.parametrize("preset", ["transformer", "unimatrix-hybrid", "mamba2"])
def test_separate_layers_are_refused(preset):
    with pytest.raises(UserError, match=r"^depth: expected a language model of one layer that is shared"):
        at_depth(unimatrix.build(preset), 2)


@pytest.mark.parametrize("depth", [0, -1, 2**13])
def test_a_depth_is_a_count(depth):
    with pytest.raises(UserError, match=r"^depth: expected"):
        at_depth(unimatrix.build("unimatrix-core"), depth)
