"""The models, their configurations, and the paper's models by name."""

from unimatrix.models.config import ClassHeadConfig, ModelConfig
from unimatrix.models.kinds import AnyModel, AnyModelConfig, config_from_dict, model_from_config
from unimatrix.models.language_model import LanguageModel, LanguageModelState, parameter_count
from unimatrix.models.presets import build, build_language_model, preset_config, presets
from unimatrix.models.state import select_batch, state_bytes
from unimatrix.models.task_presets import task_presets
from unimatrix.models.typed_latent import TypedLatent, TypedLatentConfig, TypedLatentState

__all__ = [
    "AnyModel",
    "AnyModelConfig",
    "ClassHeadConfig",
    "LanguageModel",
    "LanguageModelState",
    "ModelConfig",
    "TypedLatent",
    "TypedLatentConfig",
    "TypedLatentState",
    "build",
    "build_language_model",
    "config_from_dict",
    "model_from_config",
    "parameter_count",
    "preset_config",
    "presets",
    "select_batch",
    "state_bytes",
    "task_presets",
]
