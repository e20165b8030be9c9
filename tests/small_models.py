"""Small models whose every part matters, for tests in which many steps or processes run."""

from trained_size import PRESETS, trained_size

import unimatrix
from unimatrix.models import LanguageModel, setting

__all__ = ["PRESETS", "small_model"]


def small_model(name: str, **overrides) -> LanguageModel:
    """A preset of width 16 in evaluation mode, its weights ready for gradients."""
    settings = {"d_model": 16, "num_heads": 2, "depth": 2}
    if setting(unimatrix.presets()[name], "state_dim") is not None:
        settings["state_dim"] = 8
    return trained_size(name, **settings | overrides).requires_grad_(True)
