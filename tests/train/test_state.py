"""Optimiser and random generators: to named tensors and back."""

import pytest
import torch

from unimatrix.errors import UserError
from unimatrix.models import build
from unimatrix.train.state import (
    load_optimizer_tensors,
    load_rng_tensors,
    optimizer_tensors,
    rng_tensors,
    seed_process,
)

SIZES = {"d_model": 16, "num_heads": 2, "depth": 1}


def model_and_optimizer(seed, **sizes):
    torch.manual_seed(seed)
    model = build("unimatrix-core", **(SIZES | sizes))
    return model, torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)


def update(model, optimizer, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()


def test_an_optimiser_goes_on_bit_for_bit():
    model, optimizer = model_and_optimizer(0)
    update(model, optimizer, 1)
    tensors = {name: tensor.clone() for name, tensor in optimizer_tensors(optimizer, model).items()}
    copy, copied_optimizer = model_and_optimizer(9)
    copy.load_state_dict(model.state_dict())
    load_optimizer_tensors(copied_optimizer, copy, tensors)
    update(model, optimizer, 2)
    update(copy, copied_optimizer, 2)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, copy.state_dict()[name]), name


def test_tensors_are_named_by_quantity_and_parameter():
    model, optimizer = model_and_optimizer(0)
    assert optimizer_tensors(optimizer, model) == {}
    update(model, optimizer, 1)
    names = set(optimizer_tensors(optimizer, model))
    parameters = [name for name, _ in model.named_parameters()]
    assert names == {f"{what}/{name}" for what in ("exp_avg", "exp_avg_sq", "step") for name in parameters}


@pytest.mark.parametrize(
    ("sizes", "message"),
    [({"depth": 1, "d_model": 32}, "expected shape"), ({"max_positions": None}, "no parameter")],
)
def test_another_models_state_is_refused(sizes, message):
    model, optimizer = model_and_optimizer(0)
    update(model, optimizer, 1)
    tensors = optimizer_tensors(optimizer, model)
    other, other_optimizer = model_and_optimizer(0, **sizes)
    with pytest.raises(UserError, match=message):
        load_optimizer_tensors(other_optimizer, other, tensors)


def test_the_generators_go_on_where_they_were():
    cpu = torch.device("cpu")
    seed_process(3, process_index=0)
    states = rng_tensors(cpu)
    assert all(state.dtype == torch.uint8 for state in states.values())
    drawn = torch.rand(5)
    torch.rand(100)
    assert load_rng_tensors(states, cpu)
    assert torch.equal(torch.rand(5), drawn)


def test_a_checkpoint_without_random_numbers_for_this_process_says_so():
    assert not load_rng_tensors({}, torch.device("cpu"))


def test_processes_draw_differently():
    draws = []
    for seed, index in [(3, 0), (3, 1), (4, 0)]:
        seed_process(seed, process_index=index)
        draws.append(tuple(torch.rand(3).tolist()))
    assert len(set(draws)) == 3
