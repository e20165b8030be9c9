"""A saved model by its name."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from logging import CRITICAL
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from transformers import GenerationConfig
from transformers.utils import logging

from unimatrix.codec import check_file, decode, read_json
from unimatrix.data import hub
from unimatrix.data.tokenizer import VOCAB_SIZE
from unimatrix.errors import UserError, UserTypeError, shown
from unimatrix.hf.checksums import CHECKSUMS, verify_checksums
from unimatrix.hf.config import UniMatrixConfig
from unimatrix.hf.modeling import UniMatrixForCausalLM
from unimatrix.hf.numbers import check_weights
from unimatrix.hf.settings import check_settings
from unimatrix.hf.tokenizer import ByteTokenizer

WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json")
TOKENIZER_FILE = "tokenizer_config.json"
SETTING_FILES = ("config.json", "generation_config.json", TOKENIZER_FILE)
HUB_FILES = [*SETTING_FILES, *WEIGHT_FILES, "*.safetensors"]
# what transformers lets out when such a file holds what it does not expect
READING_ERRORS = (OSError, ValueError, RuntimeError, TypeError, AttributeError, KeyError)
# in which other tokenizers keep their words
VOCABULARY_FILES = ("tokenizer.json", "*.model", "*.tiktoken", "tekken.json", "vocab.json", "vocab.txt")
_LONGEST_LINE = 120
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")


def load(
    path_or_hub_name: str | Path, device: str | torch.device | None = None
) -> tuple[UniMatrixForCausalLM, ByteTokenizer]:
    """Load a model and its tokenizer, ready to generate (evaluation mode).

    Args:
        path_or_hub_name: a folder written by `save_pretrained` or by training (a checkpoint), the folder
            of a training run (its newest complete checkpoint is taken), or a name on the Hugging Face hub.
        device: where to put the model; None leaves it on the CPU.
    Returns:
        the model and its tokenizer.
    Raises:
        UserError: no such folder or hub model, the hub cannot be reached (known within seconds), a folder
            without a model, another kind of model, one with another tokenizer than bytes', damaged or
            missing weights (in a checkpoint of training one altered byte is enough; a whole checkpoint
            beside it is named) or such as hold NaN, a device that is not there.
    """
    if not isinstance(path_or_hub_name, str | Path):
        raise UserTypeError(f"path_or_hub_name: expected a text or a path, got {shown(path_or_hub_name)}")
    if not isinstance(device, str | torch.device | None):
        raise UserTypeError(f"device: expected a text, got {shown(device)}")
    folder = find_folder(path_or_hub_name)
    try:
        _check_files(folder)
    except UserError as error:
        raise UserError(f"{error}{_whole_one_beside(folder)}") from error
    try:
        with quiet_log():
            model, info = UniMatrixForCausalLM.from_pretrained(
                folder,
                use_safetensors=True,
                local_files_only=True,
                ignore_mismatched_sizes=True,  # they are named below
                output_loading_info=True,
            )
    except SafetensorError as error:
        raise UserError(f"{folder}: the weights are cut short or corrupt ({first_line(error)})") from error
    except READING_ERRORS as error:
        raise UserError(f"{folder}: cannot be loaded ({first_line(error)})") from error
    lacking = {*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])}
    if lacking:
        raise UserError(f"{folder}: no weights, or of the wrong shape, for {min(lacking)}")
    if info["unexpected_keys"]:
        raise UserError(
            f"{folder}: the weights do not belong to its config.json; unknown: {min(info['unexpected_keys'])}"
        )
    check_weights(model, name=str(folder))
    size = model.config.vocab_size
    # a larger one may have rows to spare, which a tokenizer beside it then shows
    if size < VOCAB_SIZE or (size > VOCAB_SIZE and not (folder / TOKENIZER_FILE).exists()):
        raise UserError(f"{folder}: a vocabulary of {size} tokens is no text, expected {VOCAB_SIZE}")
    _check_generation(folder, vocab_size=model.config.vocab_size)
    tokenizer = _tokenizer(folder)
    put_on(model, device)
    return model, tokenizer


def put_on(model: Any, device: str | torch.device | None) -> None:
    """Move a model; a UserError where the device is not there."""
    if device is not None:
        try:
            model.to(torch.device(device))
        except (RuntimeError, AssertionError) as error:
            raise UserError(f"device {shown(str(device))}: not available ({first_line(error)})") from error


def find_folder(path_or_hub_name: str | Path, *, files: Sequence[str] = HUB_FILES) -> Path:
    """The local folder that holds the model; a hub name is downloaded into transformers' usual cache.

    Args:
        files: of a model on the hub, those that are wanted.
    """
    if path_or_hub_name == "":
        raise UserError("model: expected a folder or a hub name, got an empty text")
    name = str(path_or_hub_name)
    try:
        path = Path(path_or_hub_name).expanduser()
        is_file, is_folder = path.is_file(), path.is_dir()
    except (OSError, RuntimeError) as error:  # a name that is too long, a user that is not there
        raise UserError(f"{shown(name)}: no such folder ({first_line(error)[:80]})") from error
    if is_file:
        raise UserError(f"{path_or_hub_name}: expected a folder or a hub name, got a file")
    if is_folder:
        return _newest_checkpoint(path)
    if isinstance(path_or_hub_name, Path) or not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name):
        raise UserError(f"{name}: no such folder")
    problem = hub.why_unreachable()
    try:
        return Path(snapshot_download(name, allow_patterns=[*files], local_files_only=problem is not None))
    except (OSError, ValueError) as error:
        if problem is not None:
            raise UserError(
                f"{name}: no such folder, and the Hugging Face hub cannot be reached ({problem})"
            ) from error
        raise UserError(
            f"{name}: no such folder, and nothing to load on the Hugging Face hub ({first_line(error)})"
        ) from error


def _newest_checkpoint(folder: Path) -> Path:
    """The folder itself if it holds a model, else its newest complete `checkpoint-<step>`."""
    # a training run's own folder shows the newest checkpoint's model, whose checksums are in the checkpoint
    shows = (folder / "run.json").is_file() and not (folder / "model.safetensors").is_file()
    if (folder / "config.json").is_file() and not shows:
        return folder
    for _, path in sorted(_checkpoints(folder).items(), reverse=True):
        # what was finished and has lost a file since is damaged, and not for its elder to stand in for
        finished = (path / CHECKSUMS).is_file()
        if finished or (_holds_weights(path) and (path / "config.json").is_file()):
            return path
    raise UserError(
        f"{folder}: no model in this folder, expected config.json or a complete checkpoint-<step>"
    )


def _checkpoints(run: Path) -> dict[int, Path]:
    """The checkpoints of a run by step."""
    try:
        inside = list(run.iterdir())
    except OSError as error:
        raise UserError(f"{run}: cannot be read ({first_line(error)})") from error
    return {int(match[1]): path for path in inside if (match := _CHECKPOINT.fullmatch(path.name))}


def _check_files(folder: Path) -> None:
    """Raise a UserError unless everything that a model is loaded from is there and may be what it should."""
    if (folder / CHECKSUMS).is_file():
        verify_checksums(folder, names=(*SETTING_FILES, *WEIGHT_FILES))
    _check_config(folder)
    _check_index(folder)
    if not _holds_weights(folder):
        raise UserError(f"{folder}: no weights, expected model.safetensors")
    for name in (*SETTING_FILES, *WEIGHT_FILES[1:]):
        if (folder / name).exists():
            _read_object(folder / name)
    _check_generation(folder)


def _whole_one_beside(folder: Path) -> str:
    """What to load where a checkpoint of a run is damaged: the newest of the others that is not."""
    if not _CHECKPOINT.fullmatch(folder.name):
        return ""
    for _, path in sorted(_checkpoints(folder.parent).items(), reverse=True):
        if path != folder and (path / CHECKSUMS).is_file():
            try:
                _check_files(path)
            except UserError:
                continue
            return f"; {path.name} beside it is whole"
    return ""


def _holds_weights(folder: Path) -> bool:
    return any((folder / name).is_file() for name in WEIGHT_FILES)


def _check_config(folder: Path) -> None:
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{folder}: no model here, expected config.json")
    model_type = _read_object(path).get("model_type")
    if model_type != UniMatrixConfig.model_type:
        raise UserError(
            f"{path}: expected model_type {UniMatrixConfig.model_type!r}, got {shown(model_type)}"
        )


def _read_object(path: Path) -> dict[str, Any]:
    values = read_json(path)
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected an object with fields, got {shown(values)}")
    return values


def _check_generation(folder: Path, *, vocab_size: int | None = None) -> None:
    path = folder / "generation_config.json"
    if path.exists():
        values = _read_object(path)
        check_settings(values, where=path, vocab_size=vocab_size)
        try:
            with quiet_log():
                GenerationConfig.from_dict(values)
        except READING_ERRORS as error:
            raise UserError(f"{path}: cannot be read ({first_line(error)})") from error


def other_tokenizer(folder: Path) -> str | None:
    """The kind of tokenizer that lies with a model, if it is another one than bytes'."""
    path = folder / TOKENIZER_FILE
    kind = _read_object(path).get("tokenizer_class") if path.is_file() else None
    if kind is not None:
        return None if kind == ByteTokenizer.__name__ else shown(kind)
    files = (path.name for pattern in VOCABULARY_FILES for path in folder.glob(pattern))
    return next(files, None)


def _tokenizer(folder: Path) -> ByteTokenizer:
    path = folder / TOKENIZER_FILE
    other = other_tokenizer(folder)
    if other is not None:
        raise UserError(
            f"{folder}: expected a model that reads bytes, got one with a {other}; transformers'"
            " AutoModelForCausalLM and AutoTokenizer load it"
        )
    if not path.exists():
        return ByteTokenizer()
    try:
        with quiet_log():
            return ByteTokenizer.from_pretrained(folder)
    except READING_ERRORS as error:
        # what is no ValueError speaks of Python's types, and of no field
        words = first_line(error) if isinstance(error, ValueError) else "a field of another type"
        raise UserError(f"{path}: expected a tokenizer's settings ({words})") from error


def _check_index(folder: Path) -> None:
    """The table of contents of weights in several files, as transformers reads it."""
    path = folder / WEIGHT_FILES[1]
    if path.exists():
        files = decode(dict[str, str], _read_object(path).get("weight_map"), where=f"{path}: weight_map")
        for name in sorted(set(files.values())):
            if Path(name).name != name:
                raise UserError(f"{path}: weight_map: expected names of files beside it, got {shown(name)}")
            check_file(folder / name)
        if not files:
            raise UserError(f"{path}: weight_map: expected at least one weight, got none")


@contextmanager
def quiet_log() -> Iterator[None]:
    """No log lines from transformers inside the block: what goes wrong is raised."""
    before = logging.get_verbosity()
    logging.set_verbosity(CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(before)


def first_line(error: BaseException) -> str:
    """What another library says, for a complaint: its first line, cut short."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    return line if len(line) <= _LONGEST_LINE else line[:_LONGEST_LINE] + "..."
