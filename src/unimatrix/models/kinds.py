"""The two kinds of model: what a config builds, and which config a dict of JSON values is.

The general language model, and the one that knows its task.
"""

from collections.abc import Mapping
from typing import Any

from unimatrix.errors import UserError
from unimatrix.models.config import ModelConfig
from unimatrix.models.language_model import LanguageModel
from unimatrix.models.typed_latent import TypedLatent, TypedLatentConfig

AnyModelConfig = ModelConfig | TypedLatentConfig
AnyModel = LanguageModel | TypedLatent


def model_from_config(config: AnyModelConfig) -> AnyModel:
    """A model with fresh weights, drawn from torch's global generator."""
    return LanguageModel(config) if isinstance(config, ModelConfig) else TypedLatent(config)


def config_from_dict(values: Mapping[str, Any]) -> AnyModelConfig:
    """The inverse of both configs' to_dict; without a "kind" it is the general language model's.

    Raises:
        UserError: an unknown kind or setting (names those expected), or a value that does not fit.
    """
    kind = values.get("kind") if isinstance(values, Mapping) else None
    if kind is None:
        return ModelConfig.from_dict(values)
    if kind != TypedLatentConfig.kind:
        raise UserError(f"model config: expected no kind or {TypedLatentConfig.kind}, got {kind!r}")
    return TypedLatentConfig.from_dict(values)
