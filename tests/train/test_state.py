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
    load_optimizer_tensors(copied_optimizer, copy, tensors, most_steps=1)
    update(model, optimizer, 2)
    update(copy, copied_optimizer, 2)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, copy.state_dict()[name]), name


def test_an_optimiser_that_has_made_no_step_goes_on_from_none():
    model, optimizer = model_and_optimizer(0)
    copy, copied_optimizer = model_and_optimizer(0)
    load_optimizer_tensors(copied_optimizer, copy, optimizer_tensors(optimizer, model), most_steps=1)
    update(model, optimizer, 1)
    update(copy, copied_optimizer, 1)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, copy.state_dict()[name]), name


def test_tensors_are_named_by_quantity_and_parameter():
    model, optimizer = model_and_optimizer(0)
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
        load_optimizer_tensors(other_optimizer, other, tensors, most_steps=1)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("exp_avg/norm.weight", None, "'exp_avg/norm.weight' is missing, one of "),
        ("exp_avg/norm.weight", lambda old: old.double(), "expected shape .16. of torch.float32, got"),
        ("exp_avg/norm.weight", lambda old: old[None], r"expected shape \[16\] of .*, got \[1, 16\] of"),
        ("exp_avg/norm.weight", lambda old: old * torch.nan, "expected finite numbers, got others"),
        ("exp_avg_sq/norm.weight", lambda old: old / 0.0, "expected finite numbers from 0 on, got others"),
        ("exp_avg_sq/norm.weight", lambda old: -1.0 - old, "expected finite numbers from 0 on, got others"),
        ("step/norm.weight", lambda old: old - 5, "expected finite numbers from 0 on, got others"),
        ("step/norm.weight", lambda old: old + 5, "expected at most the 1 steps made, got 6"),
        ("step/norm.weight", lambda old: old[None], r"expected shape \[\] of .*, got \[1\] of"),
        ("exp_avg/norm.bias.more", lambda old: torch.zeros(16), "belongs to no parameter of this model"),
        ("max_exp_avg_sq/norm.bias", lambda old: torch.zeros(16), "belongs to no parameter of this model"),
        ("", lambda old: torch.zeros(16), "'' belongs to no parameter of this model"),
    ],
)
def test_what_adamw_did_not_write_is_refused_before_anything_changes(name, change, message):
    model, optimizer = model_and_optimizer(0)
    update(model, optimizer, 1)
    tensors = {key: tensor.clone() for key, tensor in optimizer_tensors(optimizer, model).items()}
    bad = {key: tensor for key, tensor in tensors.items() if key != name}
    if change is not None:
        bad[name] = change(tensors.get(name))
    for given, words in ((bad, message), ({}, "is missing, one of")):
        with pytest.raises(UserError, match=words):
            load_optimizer_tensors(optimizer, model, given, most_steps=1)
    for key, tensor in optimizer_tensors(optimizer, model).items():
        assert torch.equal(tensor, tensors[key])


def rows_of(states):
    return {name: state[None] for name, state in states.items()}


def test_the_generators_go_on_where_they_were():
    cpu = torch.device("cpu")
    seed_process(3, process_index=0)
    states = rng_tensors(cpu)
    assert all(state.dtype == torch.uint8 for state in states.values())
    drawn = torch.rand(5)
    torch.rand(100)
    assert load_rng_tensors(rows_of(states), cpu)
    assert torch.equal(torch.rand(5), drawn)


def test_each_process_has_its_own_generator_back():
    cpu, states = torch.device("cpu"), []
    for seed in (1, 2, 3):
        torch.manual_seed(seed)
        states.append(torch.get_rng_state())
    for index, state in enumerate(states):
        assert load_rng_tensors({"cpu": torch.stack(states)}, cpu, process_index=index)
        assert torch.equal(torch.get_rng_state(), state)


def test_a_checkpoint_without_random_numbers_for_this_process_says_so():
    cpu = torch.device("cpu")
    before = torch.get_rng_state()
    assert not load_rng_tensors(rows_of(rng_tensors(cpu)), cpu, process_index=1)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({}, "'cpu' is missing"),
        ({"cuda": torch.zeros(1, 16, dtype=torch.uint8)}, "'cpu' is missing"),
        ({"cpu": torch.zeros(1, 16, dtype=torch.uint8)}, r"'cpu': expected shape \[1, \d+\] of torch.uint8"),
        ({"cpu": torch.zeros(0, 5056, dtype=torch.uint8)}, r"'cpu': expected shape .* got \[0, "),
        ({"cpu": torch.zeros((), dtype=torch.uint8)}, r"'cpu': expected shape .* got \[\]"),
        ({"cpu": torch.zeros(1, 5056)}, "of torch.uint8, got .* of torch.float32"),
        ({"cpu": torch.full((1, 5056), 255, dtype=torch.uint8)}, "expected states of generators, got others"),
    ],
)
def test_what_is_no_state_of_a_generator_is_refused(rows, message):
    before = torch.get_rng_state()
    with pytest.raises(UserError, match=message):
        load_rng_tensors(rows, torch.device("cpu"))
    assert torch.equal(torch.get_rng_state(), before)


def test_processes_draw_differently():
    draws = []
    for seed, index in [(3, 0), (3, 1), (4, 0)]:
        seed_process(seed, process_index=index)
        draws.append(tuple(torch.rand(3).tolist()))
    assert len(set(draws)) == 3
