"""Small models whose next token is clear-cut, and the plain loops that everything is compared with."""

from collections.abc import Callable

import pytest
import torch
from small_models import one_thread, preset, small_settings

from unimatrix.hf import UniMatrixForCausalLM
from unimatrix.models import LanguageModel, build

__all__ = ["one_thread", "preset"]


@pytest.fixture
def make_model() -> Callable[..., UniMatrixForCausalLM]:
    def make(name: str, *, seed: int = 0, **overrides) -> UniMatrixForCausalLM:
        torch.manual_seed(seed)
        language_model = build(name, **small_settings(name) | overrides)
        # fresh weights leave the next token to rounding; wide ones make it clear, and unlike any fresh draw
        with torch.no_grad():
            # where logits are scaled and products gated, less: or nothing but one token had a chance
            size = 0.2 if name == "unimatrix" else 0.4
            for parameter in language_model.parameters():
                parameter.add_(size * torch.randn_like(parameter))
            # spectral normalisation learns the new largest singular values in training mode
            language_model.train()
            for _ in range(20 if name.startswith("unimatrix-discovery") else 0):
                language_model(torch.zeros(1, 1, dtype=torch.int64))
        return UniMatrixForCausalLM.from_language_model(language_model.eval())

    return make


@pytest.fixture
def last_logits() -> Callable[[LanguageModel, list[list[int]]], torch.Tensor]:
    """Logits [B, V] after each row, every row alone, unpadded and from its beginning."""

    @torch.no_grad()
    def compute(language_model: LanguageModel, rows: list[list[int]]) -> torch.Tensor:
        return torch.cat([language_model(torch.tensor([row]))[0][:, -1] for row in rows])

    return compute


@pytest.fixture
def count_fed() -> Callable[[LanguageModel], list[tuple[int, int]]]:
    """The shape of the token ids of every call that the language model gets from now on."""

    def watch(language_model: LanguageModel) -> list[tuple[int, int]]:
        shapes: list[tuple[int, int]] = []
        language_model.register_forward_pre_hook(lambda _, args: shapes.append(tuple(args[0].shape)))
        return shapes

    return watch
