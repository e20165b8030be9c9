"""The kinds of model: what a config builds, and which config a dict of JSON values is.

The general language model, another's (Mamba-2), and the one that knows its task.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeGuard

from unimatrix.errors import UserError, shown
from unimatrix.models.config import ModelConfig
from unimatrix.models.language_model import LanguageModel
from unimatrix.models.mamba2 import Mamba2, Mamba2Config
from unimatrix.models.typed_latent import TypedLatent, TypedLatentConfig

# those that read any tokens, a text's among them
TextModelConfig = ModelConfig | Mamba2Config
TextModel = LanguageModel | Mamba2

AnyModelConfig = TextModelConfig | TypedLatentConfig
AnyModel = TextModel | TypedLatent


class Preset(NamedTuple):
    """A model's config, what it is in a line, and what one takes it for in a few words."""

    config: AnyModelConfig
    about: str
    use: str


# a general language model's config has no kind
_KINDS: dict[str, type[TypedLatentConfig | Mamba2Config]] = {
    TypedLatentConfig.kind: TypedLatentConfig,
    Mamba2Config.kind: Mamba2Config,
}


def is_model_config(value: object) -> TypeGuard[AnyModelConfig]:
    """Whether it is the config of a model of any kind."""
    return isinstance(value, ModelConfig | Mamba2Config | TypedLatentConfig)


def model_from_config(config: AnyModelConfig) -> AnyModel:
    """A model with fresh weights, drawn from torch's global generator."""
    return TypedLatent(config) if isinstance(config, TypedLatentConfig) else text_model_from_config(config)


def text_model_from_config(config: TextModelConfig) -> TextModel:
    """`model_from_config` of a model that reads any tokens."""
    return LanguageModel(config) if isinstance(config, ModelConfig) else Mamba2(config)


def resolved(config: AnyModelConfig) -> AnyModelConfig:
    """The config with a number in the place of every setting that the model's size decides."""
    return config.resolved() if isinstance(config, ModelConfig) else config


def config_from_dict(values: Mapping[str, Any]) -> AnyModelConfig:
    """The inverse of all configs' to_dict; without a "kind" it is the general language model's.

    Raises:
        UserError: an unknown kind or setting (names those expected), or a value that does not fit.
    """
    kind = values.get("kind") if isinstance(values, Mapping) else None
    if kind is None:
        return ModelConfig.from_dict(values)
    if not isinstance(kind, str) or kind not in _KINDS:
        raise UserError(f"model config: expected no kind or {' or '.join(_KINDS)}, got {shown(kind)}")
    return _KINDS[kind].from_dict(values)


def text_config_from_dict(values: Mapping[str, Any]) -> TextModelConfig:
    """`config_from_dict`; a UserError too for the config of a model that knows one task's tokens alone."""
    config = config_from_dict(values)
    if isinstance(config, TypedLatentConfig):
        raise UserError(f"model config: expected a language model's, got kind {config.kind!r}")
    return config
