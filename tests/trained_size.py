"""Models whose every part matters, without training: what the tests of models share."""

import torch

import unimatrix
from unimatrix.models import LanguageModel, task_presets

PRESETS = tuple(unimatrix.presets())
# and the one with a head of its own
ALL_PRESETS = (*PRESETS, *(name for name in task_presets() if name.startswith("transformer")))


def trained_size(name: str, **overrides) -> LanguageModel:
    """A model whose weights are large enough for every part of it to matter."""
    torch.manual_seed(0)
    model = unimatrix.build(name, **overrides).eval().requires_grad_(False)
    for key, parameter in model.named_parameters():
        if parameter.dim() > 1:
            parameter.mul_(5.0)
        elif key.endswith("bias"):
            parameter.normal_(std=0.5)
    return model


def random_ids(*shape: int, below: int = 256) -> torch.Tensor:
    return torch.randint(0, below, shape, generator=torch.Generator().manual_seed(1))
