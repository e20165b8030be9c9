"""What swaps or wraps single modules: weights on the disk or elsewhere, 8-bit layers, weight norm."""

import copy

import pytest
import torch
from accelerate import cpu_offload, disk_offload
from accelerate.utils import offload_state_dict
from small_models import PRESETS, small_model
from tolerances import assert_close
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

IDS = torch.randint(0, 256, (2, 24), generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def test_weights_that_come_for_each_call(preset, tmp_path):
    """accelerate's hooks put a module's weights on the device when it is called and take them away after."""
    expected, state = small_model(preset)(IDS)
    expected_next = small_model(preset)(IDS[:, :1], state)[0]
    # a state dict holds the matrix of embedding and head once, the hooks look for it under both names
    model, other = small_model(preset), small_model(preset)
    weights = model.state_dict() | {"head.weight": model.embedding.weight.detach()}
    cpu_offload(model, torch.device("cpu"), state_dict=weights)
    offload_state_dict(str(tmp_path), weights)
    disk_offload(other, str(tmp_path), torch.device("cpu"))
    for offloaded in (model, other):
        assert all(parameter.is_meta for parameter in offloaded.parameters())
        logits, state = offloaded(IDS)
        assert torch.equal(logits, expected)
        # a hooked module is called, where a step without hooks is one loop
        assert_close(offloaded(IDS[:, :1], state)[0], expected_next, "logits", torch.float32)


class EightBit(nn.Module):
    """A linear layer whose matrix is kept as whole numbers of 8 bits and a scale for each row."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        scale = layer.weight.abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
        self.register_buffer("rounded", (layer.weight / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.rounded * self.scale, self.bias)


def in_eight_bits(model: nn.Module) -> nn.Module:
    quantised = copy.deepcopy(model)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            quantised.set_submodule(name, EightBit(module))
    return quantised


def by_torch(model: nn.Module) -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)


# torch has arithmetic of 8 bits for some processors alone
WAYS = [in_eight_bits, *([by_torch] if "fbgemm" in torch.backends.quantized.supported_engines else [])]


@pytest.mark.filterwarnings("ignore:.*torch.ao.quantization is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
@pytest.mark.filterwarnings("ignore:.*quantized:UserWarning")
@pytest.mark.parametrize("quantise", WAYS)
def test_quantisation_reaches_every_linear(preset, quantise):
    model = small_model(preset)
    quantised = quantise(model)
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    called = set()
    for name in linear:
        module = quantised.get_submodule(name)
        assert not isinstance(module, nn.Linear)
        module.register_forward_pre_hook(lambda *_, name=name: called.add(name))
    logits, expected = quantised(IDS)[0], model(IDS)[0]
    assert called == {name for name in linear if not name.endswith("mixer.d")}
    error = (logits - expected).norm() / expected.norm()
    assert 0 < error < 0.1


@pytest.mark.parametrize("name", PRESETS)
def test_weight_norm_on_any_linear_acts(name):
    expected = small_model(name)(IDS)[0]
    for place, module in small_model(name).named_modules():
        if not isinstance(module, nn.Linear) or place.endswith("mixer.d") or place == "head":
            continue
        if not module.weight.any():
            continue  # zeros have no direction: weight_norm makes NaN of them
        model = small_model(name)
        layer = weight_norm(model.get_submodule(place))
        torch.testing.assert_close(model(IDS)[0], expected)
        layer.parametrizations.weight.original0.mul_(2.0)
        assert not torch.allclose(model(IDS)[0], expected, atol=1e-3), place
