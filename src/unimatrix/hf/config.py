"""The model's configuration in the form that transformers saves, loads and registers.

`UniMatrixConfig.model` is `ModelConfig.to_dict()`, whole, and is the only thing a model is built from. The
names that transformers' own code looks for (vocab_size, hidden_size, ...) are copies of it, made here and
checked whenever the model configuration is read back, so that the two can never disagree in silence.
"""

from typing import Any

from transformers import PreTrainedConfig

from unimatrix.data.tokenizer import BOS, EOS, PAD
from unimatrix.errors import UserError
from unimatrix.models import ModelConfig, preset_config

DEFAULT_PRESET = "unimatrix-core"
BYTE_VOCABULARY = {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}


class UniMatrixConfig(PreTrainedConfig):
    """A `ModelConfig`, dressed for transformers.

    Args:
        model: `ModelConfig.to_dict()`; None means the preset `unimatrix-core` at the paper's size.
        use_cache: whether a forward pass outside training returns the model's state (as `past_key_values`).
        bos_token_id, eos_token_id, pad_token_id: the byte vocabulary's, or None for ids beyond the model's vocabulary.
        vocab_size, hidden_size, num_hidden_layers, num_attention_heads, max_position_embeddings: copies of what
            `model` says; given explicitly they must agree with it.
    Raises:
        UserError: `model` is no model configuration, or a copy disagrees with it.
    """

    model_type = "unimatrix"
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012 (transformers reads it off the class)

    model: dict[str, Any] | None = None
    use_cache: bool = True
    tie_word_embeddings: bool = True  # the output head is the embedding itself
    bos_token_id: int | None = BOS
    eos_token_id: int | list[int] | None = EOS
    pad_token_id: int | None = PAD
    vocab_size: int | None = None
    hidden_size: int | None = None
    num_hidden_layers: int | None = None
    num_attention_heads: int | None = None
    max_position_embeddings: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        config = preset_config(DEFAULT_PRESET) if self.model is None else ModelConfig.from_dict(self.model)
        self.model = config.to_dict()
        for name, value in _copies(config).items():
            if getattr(self, name) is None:
                setattr(self, name, value)
        self.to_model_config()
        for name in BYTE_VOCABULARY:
            token_id = getattr(self, name)
            if isinstance(token_id, int) and token_id >= config.vocab_size:
                setattr(self, name, None)
        super().__post_init__(**kwargs)

    @classmethod
    def from_model_config(cls, config: ModelConfig, **kwargs: Any) -> "UniMatrixConfig":
        """Wrap a model configuration; kwargs are the other fields."""
        return cls(model=config.to_dict(), **kwargs)

    def to_model_config(self) -> ModelConfig:
        """The model configuration to build from.

        Raises:
            UserError: a copy (vocab_size, hidden_size, ...) was changed and no longer agrees with `model`.
        """
        assert self.model is not None, "filled in when the configuration was made"
        config = ModelConfig.from_dict(self.model)
        for name, value in _copies(config).items():
            if getattr(self, name) != value:
                raise UserError(
                    f"UniMatrixConfig.{name}: expected {value}, as its `model` says, got {getattr(self, name)}"
                )
        return config


def _copies(config: ModelConfig) -> dict[str, int | None]:
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "max_position_embeddings": config.max_positions,
    }
