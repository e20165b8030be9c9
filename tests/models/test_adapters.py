"""No weight is read past its module: what hooks onto a module, wraps it or merges into it has its effect."""

import copy

import pytest
import torch
from tolerances import assert_close
from torch import nn
from trained_size import ALL_PRESETS, random_ids, trained_size

from unimatrix.mixers import SpectralLinear
from unimatrix.models import LanguageModel

IDS = random_ids(2, 24, below=53)


class Adapted(nn.Module):
    """base(x) and a low-rank change of its matrix."""

    def __init__(self, base: nn.Linear | nn.Embedding | SpectralLinear) -> None:
        super().__init__()
        self.base = base
        rows, columns = base.weight.shape
        self.change = 0.3 * torch.randn(rows, 2) @ torch.randn(2, columns)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if isinstance(self.base, nn.Embedding):
            return self.base(x) + self.change[x]
        return self.base(x) + x @ self.change.mT

    def merged(self) -> nn.Module:
        new = copy.deepcopy(self.base)
        new.weight = nn.Parameter(self.base.weight + self.change)
        return new


def with_module(model: LanguageModel, name: str, module: nn.Module) -> LanguageModel:
    """A copy of the model that has another module at a place."""
    changed = copy.deepcopy(model)
    parent, _, last = name.rpartition(".")
    setattr(changed.get_submodule(parent), last, module)
    return changed


def owners(model: LanguageModel) -> dict[str, nn.Module]:
    """The modules that hold weights themselves."""
    return {name: module for name, module in model.named_modules() if list(module.parameters(recurse=False))}


@pytest.mark.parametrize("name", ALL_PRESETS)
@pytest.mark.parametrize("training", [False, True])
@torch.no_grad()
def test_every_module_with_weights_is_called(name, training):
    model, called = trained_size(name).train(training), set()
    for place, module in owners(model).items():
        module.register_forward_hook(lambda *_, place=place: called.add(place))
    state = model(IDS)[1]
    model(IDS[:, :1], state)
    # d has no part in what Core computes; it takes part where there are gradients
    idle = {place for place in owners(model) if place.endswith("mixer.d")}
    assert called == set(owners(model)) - idle
    with torch.enable_grad():
        model(IDS)
    assert called == set(owners(model))


@pytest.mark.parametrize("name", ALL_PRESETS)
@torch.no_grad()
def test_an_adapter_on_any_module_works_and_merges(name):
    model = trained_size(name)
    before = model(IDS)[0]
    tried = 0
    for place, module in owners(model).items():
        if not isinstance(module, nn.Linear | nn.Embedding):
            continue
        adapted = Adapted(module)
        after = with_module(model, place, adapted)(IDS)[0]
        real = torch.isfinite(before)  # a head of classes gives the others no chance
        if place.endswith("mixer.d"):
            assert torch.equal(after, before)
            continue
        assert not torch.allclose(after[real], before[real], atol=1e-3), place
        merged = with_module(model, place, adapted.merged())(IDS)[0]
        assert_close(merged[real], after[real], "output")
        tried += 1
    assert tried > 5


@pytest.mark.parametrize("name", ALL_PRESETS)
def test_a_hook_on_any_linear_changes_what_follows(name):
    model = trained_size(name)
    before = model(IDS)[0]
    for place, module in owners(model).items():
        if isinstance(module, nn.Linear | nn.LayerNorm | SpectralLinear) and not place.endswith("mixer.d"):
            shift = 0.5 * torch.randn(module(torch.zeros(1, module.weight.shape[-1])).shape[-1])
            handle = module.register_forward_hook(lambda _, __, output, shift=shift: output + shift)
            assert not torch.allclose(model(IDS)[0], before, atol=1e-3), place
            handle.remove()
    assert torch.equal(model(IDS)[0], before)


def test_a_merge_into_a_spectrally_normalised_matrix_cannot_happen_silently():
    mixer = trained_size("unimatrix-discovery").blocks[0].mixer
    for module in (mixer.dqkv, mixer.readout):
        assert not isinstance(module, nn.Linear)
        with pytest.raises((AttributeError, TypeError, KeyError)):
            module.weight = nn.Parameter(module.weight + 1.0)


@pytest.mark.parametrize("name", ["transformer", "unimatrix-core", "transformer-triple"])
def test_the_head_is_the_embedding(name, tmp_path):
    model = trained_size(name)
    keys = dict(model.named_parameters()).keys()
    assert model.state_dict().keys() >= keys
    assert "head.weight" not in model.state_dict()
    if not model.config.head.tied:
        assert not model.tied
        return
    assert model.head.weight is model.embedding.weight
    assert len(list(model.parameters())) == len(keys)
    expected = model(IDS)[0]
    copied = copy.deepcopy(model)
    emptied = trained_size(name).to_empty(device="cpu")
    emptied.load_state_dict(model.state_dict())
    with torch.device("meta"):
        assigned = LanguageModel(model.config).eval()
    assigned.load_state_dict(model.state_dict(), assign=True)
    torch.save(model, tmp_path / "model.pt")
    pickled = torch.load(tmp_path / "model.pt", weights_only=False)
    for other in (copied, emptied, assigned, pickled, copied.double().float()):
        assert other.tied
        assert other.state_dict().keys() == model.state_dict().keys()
        assert torch.equal(other(IDS)[0], expected)


def test_a_head_made_its_own_stays_so():
    model = trained_size("unimatrix-core")
    model.head = Adapted(model.head).merged()
    before = model(IDS)[0]
    assert torch.equal(copy.deepcopy(model).double().float()(IDS)[0], before)
    assert "head.weight" in model.state_dict()
    other = trained_size("unimatrix-core")
    other.head = nn.Linear(64, 259, bias=False)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(IDS)[0], before)


@pytest.mark.parametrize("vocab_size", [259, 3000])
def test_a_long_text_has_the_same_logits_as_its_pieces(vocab_size):
    model = trained_size("unimatrix-core", max_positions=None, vocab_size=vocab_size)
    ids = random_ids(3, 1500)
    whole = model(ids)[0]
    rows = torch.cat([model(row[None])[0] for row in ids])
    assert_close(whole, rows, "logits")
