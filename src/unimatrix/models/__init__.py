"""The language model, its configuration, and the paper's models by name."""

from unimatrix.models.config import ModelConfig
from unimatrix.models.language_model import LanguageModel, LanguageModelState, parameter_count
from unimatrix.models.presets import build, preset_config, presets
from unimatrix.models.state import select_batch, state_bytes

__all__ = [
    "LanguageModel",
    "LanguageModelState",
    "ModelConfig",
    "build",
    "parameter_count",
    "preset_config",
    "presets",
    "select_batch",
    "state_bytes",
]
