"""Small models whose every part matters, and fixtures for tests in which many steps or processes run."""

from collections.abc import Iterator

import pytest
import torch
from trained_size import PRESETS, trained_size

import unimatrix
from unimatrix.models import LanguageModel, setting

__all__ = ["PRESETS", "one_thread", "preset", "small_model", "small_settings"]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """These models are far too small to share out, and threads that wait for each other cost seconds."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=PRESETS)
def preset(request: pytest.FixtureRequest) -> str:
    return request.param


def small_settings(name: str) -> dict[str, int]:
    """What makes a preset 16 wide and, where its layers are alike, two deep."""
    config = unimatrix.presets()[name]
    settings = {"d_model": 16, "num_heads": 2}
    if all(layer == config.layers[0] for layer in config.layers):
        settings["depth"] = 2
    if setting(config, "state_dim") is not None:
        settings["state_dim"] = 8
    return settings


def small_model(name: str, **overrides) -> LanguageModel:
    """A preset of width 16 in evaluation mode, its weights ready for gradients."""
    return trained_size(name, **small_settings(name) | overrides).requires_grad_(True)
