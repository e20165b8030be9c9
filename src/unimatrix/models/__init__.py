"""The models, their configurations, and the paper's models by name."""

from unimatrix.mixers import upgrade_weights
from unimatrix.models.config import ModelConfig, Parts
from unimatrix.models.estimate import Estimate, estimate
from unimatrix.models.kinds import (
    AnyModel,
    AnyModelConfig,
    Preset,
    TextModel,
    TextModelConfig,
    config_from_dict,
    is_model_config,
    model_from_config,
    resolved,
    text_config_from_dict,
    text_model_from_config,
)
from unimatrix.models.language_model import LanguageModel, LanguageModelState, parameter_count
from unimatrix.models.mamba2 import Mamba2, Mamba2Config, Mamba2State
from unimatrix.models.peer_presets import PEER_PRESETS, peer_presets
from unimatrix.models.presets import PRESETS, build, build_language_model, preset_config, presets
from unimatrix.models.settings import edit, setting, settings_of
from unimatrix.models.state import move_state, select_batch, state_bytes
from unimatrix.models.task_presets import TASK_PRESETS, task_presets
from unimatrix.models.typed_latent import TypedLatent, TypedLatentConfig, TypedLatentState

__all__ = [
    "PEER_PRESETS",
    "PRESETS",
    "TASK_PRESETS",
    "AnyModel",
    "AnyModelConfig",
    "Estimate",
    "LanguageModel",
    "LanguageModelState",
    "Mamba2",
    "Mamba2Config",
    "Mamba2State",
    "ModelConfig",
    "Parts",
    "Preset",
    "TextModel",
    "TextModelConfig",
    "TypedLatent",
    "TypedLatentConfig",
    "TypedLatentState",
    "build",
    "build_language_model",
    "config_from_dict",
    "edit",
    "estimate",
    "is_model_config",
    "model_from_config",
    "move_state",
    "parameter_count",
    "peer_presets",
    "preset_config",
    "presets",
    "resolved",
    "select_batch",
    "setting",
    "settings_of",
    "state_bytes",
    "task_presets",
    "text_config_from_dict",
    "text_model_from_config",
    "upgrade_weights",
]
