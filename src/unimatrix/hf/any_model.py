"""A causal language model by its name, whoever made it: ours, or any that transformers knows."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from unimatrix.codec import read_json
from unimatrix.errors import UserError
from unimatrix.hf.config import UniMatrixConfig
from unimatrix.hf.generation import (
    HUB_FILES,
    READING_ERRORS,
    VOCABULARY_FILES,
    find_folder,
    first_line,
    load,
    other_tokenizer,
    put_on,
    quiet_log,
)
from unimatrix.hf.modeling import quiet_progress
from unimatrix.hf.numbers import check_weights

# what says how a text becomes tokens, in one of transformers' many ways
_TOKENIZER_FILES = (
    *VOCABULARY_FILES,
    *("merges.txt", "added_tokens.json", "special_tokens_map.json"),
)
# of a checkpoint that training goes on from
_OF_TRAINING = ("optimizer.safetensors", "rng.safetensors")
MODEL_FILES = (*HUB_FILES, *_TOKENIZER_FILES)


@dataclass(frozen=True, kw_only=True, slots=True)
class CausalModel:
    """model: with transformers' `generate`, in evaluation mode. folder: what it was loaded from."""

    model: Any
    tokenizer: Any
    folder: Path

    @property
    def max_positions(self) -> int | None:
        """The longest sequence that it says it has positions for; None where it says nothing."""
        ours = getattr(self.model, "language_model", None)
        if ours is not None:
            return ours.config.max_positions
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    def sha256(self) -> str:
        """Of the files that answers hang on: settings, weights, tokenizer, by their names."""
        found = {path for pattern in MODEL_FILES for path in self.folder.glob(pattern) if path.is_file()}
        paths = {path for path in found if path.name not in _OF_TRAINING}
        digest = hashlib.sha256()
        for path in sorted(paths):
            with path.open("rb") as file:
                digest.update(f"{path.name}\n".encode() + hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()


def load_causal(path_or_hub_name: str | Path, device: str | torch.device | None = None) -> CausalModel:
    """Load a model and its tokenizer, ready to generate (evaluation mode), in the numbers it was saved in.

    Nothing that comes with a model is run: transformers must know its kind. Weights are safetensors.

    Args:
        path_or_hub_name: as for `unimatrix.hf.load`; also another model's folder or name.
        device: where to put it; None leaves it on the CPU.
    Raises:
        UserError: as of `load`; a kind of model that transformers does not know, or no tokenizer.
    """
    folder = find_folder(path_or_hub_name, files=MODEL_FILES)
    config = folder / "config.json"
    values = read_json(config) if config.is_file() else None
    known = isinstance(values, dict)  # what is none is told by `load`
    ours = known and values.get("model_type") == UniMatrixConfig.model_type
    if not known or (ours and other_tokenizer(folder) is None):
        model, tokenizer = load(folder, device)
    else:
        model, tokenizer = _load_other(folder)
        put_on(model, device)
    return CausalModel(model=model, tokenizer=tokenizer, folder=folder)


def _load_other(folder: Path) -> tuple[Any, Any]:
    settings = {"local_files_only": True, "trust_remote_code": False}
    try:
        with quiet_log(), quiet_progress():
            tokenizer = AutoTokenizer.from_pretrained(folder, **settings)
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder, use_safetensors=True, dtype="auto", output_loading_info=True, **settings
            )
    except SafetensorError as error:
        raise UserError(f"{folder}: the weights are cut short or corrupt ({first_line(error)})") from error
    except (*READING_ERRORS, ImportError) as error:
        raise UserError(f"{folder}: cannot be loaded ({first_line(error)})") from error
    model, info = loaded
    if info["missing_keys"]:
        # which transformers would draw at random
        raise UserError(f"{folder}: no weights for {min(info['missing_keys'])}")
    check_weights(model, name=str(folder))
    return model.eval(), tokenizer
