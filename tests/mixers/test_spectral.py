"""The spectrally normalised projection: norm 1 from the first weight on, one iteration a forward pass."""

import copy
import threading

import pytest
import torch
from tolerances import assert_close
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm
from trained_size import random_ids

import unimatrix
from unimatrix.mixers import SpectralLinear
from unimatrix.models import LanguageModel

IDS = random_ids(2, 12)


def norms(model: nn.Module) -> list[float]:
    """The true largest singular values of what the normalised projections multiply with."""
    return [
        torch.linalg.matrix_norm(module.weight.detach().double(), 2).item()
        for module in model.modules()
        if isinstance(module, SpectralLinear)
    ]


def vectors(model: nn.Module) -> list[torch.Tensor]:
    return [buffer.clone() for buffer in model.buffers()]


def discovery(**settings) -> LanguageModel:
    torch.manual_seed(0)
    return unimatrix.build("unimatrix-discovery", **settings)


@pytest.mark.parametrize("sizes", [{}, {"d_model": 128, "state_dim": 32}, {"d_model": 16, "num_heads": 1}])
def test_a_fresh_model_has_norm_1(sizes):
    model = discovery(**sizes).eval()
    assert norms(model) == pytest.approx([1.0, 1.0], abs=1e-4)
    model.init_weights()
    assert norms(model) == pytest.approx([1.0, 1.0], abs=1e-4)


def test_a_model_built_on_no_device_has_norm_1_once_it_has_weights():
    with torch.device("meta"):
        model = LanguageModel(discovery().config)
    model.to_empty(device="cpu").init_weights()
    assert norms(model) == pytest.approx([1.0, 1.0], abs=1e-4)


def test_evaluation_changes_no_vector_and_training_changes_them_once_a_pass():
    model = discovery()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, SpectralLinear):
                module.original.normal_()
    before = vectors(model)
    model.eval()(IDS)
    assert all(map(torch.equal, vectors(model), before))
    once = copy.deepcopy(model).train()
    for module in once.modules():
        if isinstance(module, SpectralLinear):
            module.renew()
            module(torch.zeros(1, module.in_features))
    model.train()(IDS)
    assert not any(map(torch.equal, vectors(model), before))
    assert all(map(torch.equal, vectors(model), vectors(once)))


def test_the_shared_block_has_one_matrix_at_all_depth_steps():
    model, seen = discovery().train(), []
    module = model.blocks[0].mixer.dqkv
    module.original.data.normal_()
    module.register_forward_hook(lambda *_: seen.append(module.weight.detach()))
    for given in (IDS, random_ids(1, 5000)):
        with torch.no_grad():
            unlimited = given[:, :128]
            model(unlimited)
    assert len(seen) == 2 * 3
    assert torch.equal(seen[0], seen[2])
    assert not torch.equal(seen[2], seen[3])


def test_training_follows_the_weights():
    model = discovery().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(30):
        optimizer.zero_grad()
        logits = model(IDS)[0]
        nn.functional.cross_entropy(logits.flatten(0, 1), IDS.flatten()).backward()
        optimizer.step()
    assert norms(model) == pytest.approx([1.0, 1.0], abs=2e-2)


def test_the_gradient_is_that_of_pytorchs_own():
    torch.manual_seed(0)
    ours = SpectralLinear(5, 7).double()
    theirs = spectral_norm(nn.Linear(5, 7, bias=False).double())
    with torch.no_grad():
        stored = theirs.parametrizations.weight
        stored.original.copy_(ours.original)
        ours.u.normal_().div_(ours.u.norm())
        ours.v.normal_().div_(ours.v.norm())
        stored[0]._u.copy_(ours.u)
        stored[0]._v.copy_(ours.v)
    x = torch.randn(3, 5, dtype=torch.float64)
    for training in (False, True):
        theirs.train(training)
        if training:
            ours.renew()
        theirs.zero_grad()
        ours.zero_grad()
        mine, other = ours(x), theirs(x)
        assert_close(mine, other, "output")
        mine.square().sum().backward()
        other.square().sum().backward()
        assert_close(ours.original.grad, stored.original.grad, "gradient")


def test_two_passes_before_one_backward():
    model = discovery().train()
    (model(IDS)[0].square().mean() + model(IDS + 1)[0].square().mean()).backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def test_a_matrix_of_zeros_stays_one():
    linear = SpectralLinear(4, 6)
    nn.init.zeros_(linear.original)
    linear.settle()
    assert (linear(torch.randn(2, 4)) == 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes_keep_the_norm(dtype):
    model = discovery().to(dtype).eval()
    assert norms(model) == pytest.approx([1.0, 1.0], abs=5e-3 if dtype == torch.bfloat16 else 1e-4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert norms(discovery()) == pytest.approx([1.0, 1.0], abs=1e-4)


def test_copies_and_state_dicts_keep_all():
    model = discovery().train()
    model.blocks[0].mixer.dqkv.original.data.normal_()
    model(IDS)  # the vectors are now behind the weights, and stay as far behind
    expected = model.eval()(IDS)[0]
    other = discovery().eval()
    other.load_state_dict(model.state_dict())
    for copied in (other, copy.deepcopy(model)):
        assert torch.equal(copied(IDS)[0], expected)


def test_threads_in_evaluation_do_not_meet():
    model = discovery().eval()
    expected, got = model(IDS)[0], []
    threads = [threading.Thread(target=lambda: got.append(model(IDS)[0])) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 2
    assert all(torch.equal(logits, expected) for logits in got)
