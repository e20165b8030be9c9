"""Files of earlier versions load: d beside q, k, v in one matrix, and PyTorch's spectral normalisation."""

import pytest
import torch
from torch import Tensor
from trained_size import PRESETS, random_ids, trained_size

from unimatrix.mixers import MatrixStateMixer, SpectralLinear
from unimatrix.models import upgrade_weights

IDS = random_ids(2, 12)
JOINT = (
    "unimatrix-core",
    "unimatrix-rosa",
    "unimatrix-assoc",
    "unimatrix-sparse-pointer",
    "unimatrix-rosa-exact",
    "unimatrix-hybrid",
)


def as_before(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """This version's tensors under the names of 0.1."""
    old = {}
    for name, tensor in tensors.items():
        if name.endswith("mixer.d.weight"):
            behind = tensors[name.replace(".d.", ".qkv.")]
            old[name.replace(".d.", ".dqkv.")] = torch.cat([tensor, behind]) if tensor.dim() else tensor
        elif name.endswith(".original"):
            old[name.replace(".original", ".parametrizations.weight.original")] = tensor
        elif name.endswith((".u", ".v")):
            old[f"{name[:-2]}.parametrizations.weight.0._{name[-1]}"] = torch.ones_like(tensor)
        elif not (name.endswith("mixer.qkv.weight") and name.replace(".qkv.", ".d.") in tensors):
            old[name] = tensor
    return old


@pytest.mark.parametrize("name", PRESETS)
def test_old_weights_give_the_same_model(name):
    model, other = trained_size(name), trained_size(name)
    for module in model.modules():
        if isinstance(module, SpectralLinear):
            module.settle()  # what is found anew when old weights are loaded
    new = model.state_dict()
    old = as_before(new)
    assert (old.keys() == new.keys()) == (
        name not in (*JOINT, "unimatrix-discovery", "unimatrix-discovery-exact")
    )
    upgraded = upgrade_weights(old)
    assert upgraded.keys() == new.keys()
    assert all(torch.equal(upgraded[key], new[key]) for key in new)
    before = dict(old)
    torch.nn.init.normal_(other.embedding.weight)
    other.load_state_dict(old)
    assert old.keys() == before.keys()
    assert torch.equal(other(IDS)[0], model(IDS)[0])
    # what has the new names already, and a wrapper's prefix
    assert upgrade_weights(new).keys() == new.keys()
    prefixed = upgrade_weights({f"language_model.{key}": tensor for key, tensor in old.items()})
    assert prefixed.keys() == {f"language_model.{key}" for key in new}


@pytest.mark.parametrize("name", ["unimatrix-core", "unimatrix-discovery"])
def test_an_optimisers_moments_are_divided_alike(name):
    model = trained_size(name).requires_grad_(True)
    moments = {f"exp_avg/{key}": torch.randn_like(value) for key, value in model.named_parameters()}
    steps = {f"step/{key}": torch.tensor(7.0) for key, _ in model.named_parameters()}
    upgraded = upgrade_weights(as_before(moments | steps))
    assert upgraded.keys() == (moments | steps).keys()
    assert all(torch.equal(upgraded[key], value) for key, value in (moments | steps).items())
    # an optimiser counts in place: no two names may share a tensor
    assert len({value.data_ptr() for value in upgraded.values()}) == len(upgraded)


def test_a_mixer_alone_loads_them_too():
    mixer, other = MatrixStateMixer(8, 2, 4), MatrixStateMixer(8, 2, 4)
    old = dict(mixer.state_dict())
    old["dqkv.weight"] = torch.cat([old.pop("d.weight"), old.pop("qkv.weight")])
    other.load_state_dict(old)
    assert torch.equal(other.qkv.weight, mixer.qkv.weight)
    assert torch.equal(other.d.weight, mixer.d.weight)


@pytest.mark.parametrize("name", JOINT)
def test_d_learns_nothing_and_decays_as_every_weight(name):
    model = trained_size(name).requires_grad_(True).train()
    d = model.blocks[0].mixer.d
    before = d.weight.detach().clone()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    model(IDS)[0].square().mean().backward()
    assert (d.weight.grad == 0).all()
    optimizer.step()
    assert torch.allclose(d.weight, before * 0.95)
