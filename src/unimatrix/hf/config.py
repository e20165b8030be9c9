"""The model's configuration in the form that transformers saves, loads and registers.

`UniMatrixConfig.model` is the model config's `to_dict()`, whole, and all that a model is built from. The
names that transformers and its tools look for (vocab_size, hidden_size, ...) are read off it, so the two can
never disagree; they are written into config.json too, for tools that read the file.

A saved folder says where its classes are, by three lines of code beside config.json that import them from the
installed package: so that programs which do not know this library (lm-evaluation-harness) load it by
`trust_remote_code=True`. Where `unimatrix.hf` was imported nothing in the folder is run.
"""

from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

from unimatrix.data.tokenizer import BOS, EOS, PAD, VOCAB_SIZE
from unimatrix.errors import UserError, UserTypeError, shown
from unimatrix.models import TextModelConfig, edit, preset_config, setting, text_config_from_dict

DEFAULT_PRESET = "unimatrix-core"
# what is read off the model config, and what it is called there
SETTINGS = {
    "vocab_size": "vocab_size",
    "hidden_size": "d_model",
    "num_hidden_layers": "depth",
    "num_attention_heads": "num_heads",
    "max_position_embeddings": "max_positions",
}
SPECIAL_IDS = {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}


class _OfBytes(int):
    """A special id that nobody gave: it counts where the vocabulary is that of bytes, and nowhere else."""


CODE_FILE = "modeling_unimatrix.py"
CODE = """\
# This model is one of the package unimatrix-lm, whose classes stand here by name: nothing else is run.
try:
    from unimatrix.hf import UniMatrixConfig, UniMatrixForCausalLM, UniMatrixModel
except ImportError as error:
    raise ImportError("this model needs the package unimatrix-lm: pip install unimatrix-lm") from error
"""
AUTO_MAP = {
    "AutoConfig": f"{CODE_FILE.removesuffix('.py')}.UniMatrixConfig",
    "AutoModel": f"{CODE_FILE.removesuffix('.py')}.UniMatrixModel",
    "AutoModelForCausalLM": f"{CODE_FILE.removesuffix('.py')}.UniMatrixForCausalLM",
}


class UniMatrixConfig(PreTrainedConfig):
    """A `ModelConfig` (or a peer's), dressed for transformers.

    Args:
        model: its `to_dict()`; None means the preset `unimatrix-core` at the paper's size.
        use_cache: whether a forward pass outside training returns the model's state (as `cache`).
        bos_token_id, eos_token_id, pad_token_id: in a vocabulary of 259 ids those of bytes, in any other
            None, unless they are given; ids that the model's vocabulary does not reach become None.
        tie_word_embeddings: says nothing here, and may not say that a tied head is another one.
    Raises:
        UserError: `model` is no model configuration, or another argument does not fit it.
    """

    model_type = "unimatrix"
    keys_to_ignore_at_inference = ["cache", "past_key_values"]  # noqa: RUF012 (transformers reads it off the class)

    model: dict[str, Any] | None = None
    use_cache: bool = True
    tie_word_embeddings: bool = True
    bos_token_id: int | None = _OfBytes(BOS)
    eos_token_id: int | list[int] | None = _OfBytes(EOS)
    pad_token_id: int | None = _OfBytes(PAD)

    def __post_init__(self, **kwargs: Any) -> None:
        changes = {name: kwargs.pop(name) for name in SETTINGS if kwargs.get(name) is not None}
        if self.model is None:
            self.model = preset_config(DEFAULT_PRESET).to_dict()
            for name, value in changes.items():
                self._set(name, value)
        config = text_config_from_dict(self.model)
        self.model = config.to_dict()
        for name, value in changes.items():
            if value != getattr(self, name, None):
                here = getattr(self, name, None)
                raise UserError(f"{name}: expected {here} as in the model's own settings, got {shown(value)}")
        self.auto_map = AUTO_MAP
        kwargs.pop("auto_map", None)
        if not isinstance(self.use_cache, bool):
            raise UserTypeError(f"use_cache: expected true or false, got {shown(self.use_cache)}")
        head = getattr(config, "head", None)
        if not self.tie_word_embeddings and (head is None or head.tied):  # Mamba-2's is always
            raise UserError(
                "tie_word_embeddings: expected true, as this model's head is its embedding, got"
                f" {shown(self.tie_word_embeddings)}"
            )
        for name in SPECIAL_IDS:
            token_id = getattr(self, name)
            several = name == "eos_token_id" and isinstance(token_id, list)
            for one in token_id if several else [token_id]:
                if one is not None and (not isinstance(one, int) or isinstance(one, bool)):
                    raise UserTypeError(f"{name}: expected a token id or None, got {shown(one)}")
            if isinstance(token_id, _OfBytes):
                setattr(self, name, int(token_id) if config.vocab_size == VOCAB_SIZE else None)
            elif isinstance(token_id, int) and token_id >= config.vocab_size:
                setattr(self, name, None)
        super().__post_init__(**kwargs)

    @classmethod
    def from_preset(cls, preset: str | TextModelConfig, **changes: Any) -> "UniMatrixConfig":
        """The configuration of a preset with changes by path, as `unimatrix.build` takes them."""
        return cls(model=text_config_from_dict(preset_config(preset, **changes).to_dict()).to_dict())

    @classmethod
    def from_model_config(cls, config: TextModelConfig) -> "UniMatrixConfig":
        """Wrap a model configuration."""
        return cls(model=config.to_dict())

    def to_model_config(self) -> TextModelConfig:
        """The model configuration to build from."""
        assert self.model is not None, "filled in when the configuration was made"
        return text_config_from_dict(self.model)

    def to_dict(self) -> dict[str, Any]:
        read_off = {name: getattr(self, name, None) for name in SETTINGS}
        return {name: value for name, value in read_off.items() if value is not None} | super().to_dict()

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        folder = Path(save_directory)
        if not folder.is_file():  # transformers says so
            folder.mkdir(parents=True, exist_ok=True)
            (folder / CODE_FILE).write_text(CODE, encoding="utf-8")
        super().save_pretrained(save_directory, *args, **kwargs)

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = "AutoConfig") -> None:
        """Does nothing: transformers would copy this file into saved folders, where it would grow old."""

    def _set(self, name: str, value: Any) -> None:
        """Change the model's setting that goes by this name in transformers; a model made before stays."""
        self.model = edit(self.to_model_config(), {SETTINGS[name]: value}).to_dict()

    @property
    def vocab_size(self) -> int:
        return self.to_model_config().vocab_size

    @vocab_size.setter
    def vocab_size(self, value: int) -> None:
        were_bytes = self.vocab_size == VOCAB_SIZE
        self._set("vocab_size", value)
        for name, of_bytes in SPECIAL_IDS.items():
            token_id = getattr(self, name)
            unfit = isinstance(token_id, int) and token_id >= value
            # no longer bytes, and their ids are other tokens'
            if unfit or (were_bytes and value != VOCAB_SIZE and token_id == of_bytes):
                setattr(self, name, None)

    @property
    def hidden_size(self) -> int:
        return self.to_model_config().d_model

    @hidden_size.setter
    def hidden_size(self, value: int) -> None:
        self._set("hidden_size", value)

    @property
    def num_hidden_layers(self) -> int:
        return self.to_model_config().depth

    @num_hidden_layers.setter
    def num_hidden_layers(self, value: int) -> None:
        self._set("num_hidden_layers", value)

    @property
    def num_attention_heads(self) -> int:
        return setting(self.to_model_config(), "num_heads")

    @num_attention_heads.setter
    def num_attention_heads(self, value: int) -> None:
        self._set("num_attention_heads", value)

    @property
    def max_position_embeddings(self) -> int:
        max_positions = self.to_model_config().max_positions
        if max_positions is None:
            # tools such as lm-evaluation-harness ask with hasattr, and take a number if there is one
            raise AttributeError("max_position_embeddings: this model has no positions, any length will do")
        return max_positions

    @max_position_embeddings.setter
    def max_position_embeddings(self, value: int | None) -> None:
        self._set("max_position_embeddings", value)
