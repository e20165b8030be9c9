"""A saved model by its name, and text from it as it comes: what `unimatrix generate` stands on."""

import codecs
import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from logging import CRITICAL
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import HTTPError  # type: ignore[reportPrivateImportUsage]
from huggingface_hub.utils import get_session
from safetensors import SafetensorError
from torch import Tensor
from transformers import GenerationConfig
from transformers.generation.logits_process import (
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.utils import logging

from unimatrix.codec import check_file, decode, read_json, shown
from unimatrix.data.streams import torch_seed
from unimatrix.data.tokenizer import BOS, EOS, VOCAB_SIZE
from unimatrix.errors import UserError, UserTypeError
from unimatrix.hf.checksums import CHECKSUMS, verify_checksums
from unimatrix.hf.config import UniMatrixConfig
from unimatrix.hf.modeling import UniMatrixForCausalLM
from unimatrix.hf.numbers import check_logits, check_plain, check_weights
from unimatrix.hf.settings import check_settings
from unimatrix.hf.tokenizer import ByteTokenizer

WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json")
SETTING_FILES = ("config.json", "generation_config.json", "tokenizer_config.json")
HUB_FILES = [*SETTING_FILES, *WEIGHT_FILES, "*.safetensors"]
# what transformers lets out when such a file holds what it does not expect
READING_ERRORS = (OSError, ValueError, RuntimeError, TypeError, AttributeError, KeyError)
PROBE_SECONDS = 5.0
# below it the softmax of any logits that differ in float32 is 0 and 1, and dividing by it overflows
COLDEST = 1e-30
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
            without a model, another kind of model, damaged or missing weights (in a checkpoint of
            training one altered byte is enough; a whole checkpoint beside it is named) or such as hold
            NaN, a device that is not there.
    """
    if not isinstance(path_or_hub_name, str | Path):
        raise UserTypeError(f"path_or_hub_name: expected a text or a path, got {shown(path_or_hub_name)}")
    if not isinstance(device, str | torch.device | None):
        raise UserTypeError(f"device: expected a text, got {shown(device)}")
    folder = _find_folder(path_or_hub_name)
    try:
        _check_files(folder)
    except UserError as error:
        raise UserError(f"{error}{_whole_one_beside(folder)}") from error
    try:
        with _quiet_log():
            model, info = UniMatrixForCausalLM.from_pretrained(
                folder,
                use_safetensors=True,
                local_files_only=True,
                ignore_mismatched_sizes=True,  # they are named below
                output_loading_info=True,
            )
    except SafetensorError as error:
        raise UserError(f"{folder}: the weights are cut short or corrupt ({_first_line(error)})") from error
    except READING_ERRORS as error:
        raise UserError(f"{folder}: cannot be loaded ({_first_line(error)})") from error
    lacking = {*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])}
    if lacking:
        raise UserError(f"{folder}: no weights, or of the wrong shape, for {min(lacking)}")
    if info["unexpected_keys"]:
        raise UserError(
            f"{folder}: the weights do not belong to its config.json; unknown: {min(info['unexpected_keys'])}"
        )
    check_weights(model, name=str(folder))
    if model.config.vocab_size < VOCAB_SIZE:
        raise UserError(
            f"{folder}: a vocabulary of {model.config.vocab_size} tokens is no text, expected {VOCAB_SIZE}"
        )
    _check_generation(folder, vocab_size=model.config.vocab_size)
    tokenizer = _tokenizer(folder)
    if device is not None:
        try:
            model.to(torch.device(device))
        except (RuntimeError, AssertionError) as error:
            raise UserError(f"device {str(device)!r}: not available ({_first_line(error)})") from error
    return model, tokenizer


def stream(
    model: UniMatrixForCausalLM,
    tokenizer: ByteTokenizer,
    prompt: str | bytes,
    *,
    max_new_tokens: int | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
) -> Iterator[str]:
    """Continue a prompt, yielding text as soon as its bytes make whole characters.

    The prompt is read once; each further token costs one step. Generation ends at EOS, after
    `max_new_tokens`, or where the model's positions end; without any of these it never does. Bytes that are
    not UTF-8 come out as U+FFFD, special tokens as nothing. The model must be in evaluation mode (`load` sees
    to that).

    Args:
        prompt: text or raw bytes; if empty, BOS is what the model continues.
        max_new_tokens: None means until EOS or the last position.
        temperature: the logits are divided by it; 0 takes the likeliest token every time.
        top_k, top_p: sample among the k likeliest, or the likeliest that together reach probability p.
        seed: of a generator of its own; None draws from torch's global one.
    Returns:
        an iterator of non-empty pieces; all errors but NaN are raised before the first one.
    Raises:
        UserError: a setting out of range, prompt and new tokens do not fit the model's positions, or the
            logits hold NaN.
    """
    if not hasattr(model, "language_model"):
        raise UserTypeError(f"model: expected a UniMatrixForCausalLM, got {shown(model)}")
    if not isinstance(tokenizer, ByteTokenizer):
        raise UserTypeError(f"tokenizer: expected a ByteTokenizer, got {shown(tokenizer)}")
    if not isinstance(prompt, str | bytes):
        raise UserTypeError(f"prompt: expected a text or bytes, got {shown(prompt)}")
    if temperature is None:
        raise UserTypeError("temperature: expected a number, got None")
    check_plain("temperature", temperature, float)
    check_plain("top_p", top_p, float)
    for name, number in (("max_new_tokens", max_new_tokens), ("top_k", top_k), ("seed", seed)):
        check_plain(name, number, int)
    if max_new_tokens is not None and max_new_tokens < 1:
        raise UserError(f"max_new_tokens: expected at least 1, got {max_new_tokens}")
    choose = _chooser(temperature, top_k, top_p, seed, model.device)
    prompt_ids = tokenizer.encode_bytes(prompt)
    if tokenizer.prepend_bos or not prompt_ids:
        prompt_ids = [BOS, *prompt_ids]

    max_positions = model.language_model.config.max_positions
    if max_positions is not None:
        if len(prompt_ids) + (max_new_tokens or 1) > max_positions:
            raise UserError(
                f"prompt of {len(prompt_ids)} tokens + max_new_tokens = {max_new_tokens or 1}: more than"
                f" max_positions = {max_positions}; a model built with max_positions=None has no limit"
            )
        if max_new_tokens is None:
            max_new_tokens = max_positions - len(prompt_ids)
    return _text_pieces(_tokens(model, prompt_ids, choose), max_new_tokens)


def _tokens(
    model: UniMatrixForCausalLM, prompt_ids: list[int], choose: Callable[[Tensor], Tensor]
) -> Iterator[int]:
    fed = torch.tensor([prompt_ids], device=model.device)
    state = None
    while True:
        with torch.no_grad():
            logits, state = model.language_model(fed, state)
            check_logits(model, logits[:, -1])
            fed = choose(logits[:, -1].float())  # [1, 1]
        yield int(fed)


def _text_pieces(tokens: Iterator[int], max_new_tokens: int | None) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    num_new = 0
    while max_new_tokens is None or num_new < max_new_tokens:
        token = next(tokens)
        num_new += 1
        if token == EOS:
            break
        piece = decoder.decode(bytes([token])) if token < 256 else ""
        if piece:
            yield piece
    rest = decoder.decode(b"", final=True)
    if rest:
        yield rest


def _chooser(
    temperature: float, top_k: int | None, top_p: float | None, seed: int | None, device: torch.device
) -> Callable[[Tensor], Tensor]:
    """Logits [B, V] to tokens [B, 1], in the same steps as transformers' `generate`."""
    if not (math.isfinite(temperature) and temperature >= 0):
        raise UserError(f"temperature: expected 0 or a positive number, got {temperature}")
    if top_k is not None and top_k < 1:
        raise UserError(f"top_k: expected at least 1, got {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise UserError(f"top_p: expected 0 < top_p <= 1, got {top_p}")
    if seed is not None and not 0 <= seed < 2**64:
        raise UserError(f"seed: expected at least 0 and below 2^64, got {seed}")
    if temperature < COLDEST:
        return lambda logits: logits.argmax(-1, keepdim=True)

    warpers = LogitsProcessorList()
    if temperature != 1:
        warpers.append(TemperatureLogitsWarper(float(temperature)))
    if top_k is not None:
        warpers.append(TopKLogitsWarper(top_k))
    if top_p is not None and top_p < 1:
        warpers.append(TopPLogitsWarper(top_p))
    generator = (
        None if seed is None else torch.Generator(device).manual_seed(torch_seed("sampling", seed=seed))
    )
    no_ids = torch.empty(1, 0, dtype=torch.long, device=device)  # these warpers look at the scores alone

    def sample(logits: Tensor) -> Tensor:
        probabilities = warpers(no_ids, logits).softmax(-1)  # type: ignore[arg-type]
        return torch.multinomial(probabilities, num_samples=1, generator=generator)

    return sample


def _find_folder(path_or_hub_name: str | Path) -> Path:
    """The local folder that holds the model; a hub name is downloaded into transformers' usual cache."""
    if path_or_hub_name == "":
        raise UserError("model: expected a folder or a hub name, got an empty text")
    name = str(path_or_hub_name)
    try:
        path = Path(path_or_hub_name).expanduser()
        is_file, is_folder = path.is_file(), path.is_dir()
    except (OSError, RuntimeError) as error:  # a name that is too long, a user that is not there
        raise UserError(f"{shown(name)}: no such folder ({_first_line(error)[:80]})") from error
    if is_file:
        raise UserError(f"{path_or_hub_name}: expected a folder or a hub name, got a file")
    if is_folder:
        return _newest_checkpoint(path)
    if isinstance(path_or_hub_name, Path) or not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name):
        raise UserError(f"{name}: no such folder")
    problem = _why_unreachable()
    try:
        return Path(snapshot_download(name, allow_patterns=HUB_FILES, local_files_only=problem is not None))
    except (OSError, ValueError) as error:
        if problem is not None:
            raise UserError(
                f"{name}: no such folder, and the Hugging Face hub cannot be reached ({problem})"
            ) from error
        raise UserError(
            f"{name}: no such folder, and nothing to load on the Hugging Face hub ({_first_line(error)})"
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
        raise UserError(f"{run}: cannot be read ({_first_line(error)})") from error
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


def _why_unreachable() -> str | None:
    """None if the hub answers; else the reason. The hub's own retries would take half a minute to say so."""
    try:
        get_session().head(constants.ENDPOINT, timeout=PROBE_SECONDS)
    except (HTTPError, OSError) as error:
        return _first_line(error)
    return None


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
            with _quiet_log():
                GenerationConfig.from_dict(values)
        except READING_ERRORS as error:
            raise UserError(f"{path}: cannot be read ({_first_line(error)})") from error


def _tokenizer(folder: Path) -> ByteTokenizer:
    path = folder / "tokenizer_config.json"
    if not path.exists():
        return ByteTokenizer()
    try:
        with _quiet_log():
            return ByteTokenizer.from_pretrained(folder)
    except READING_ERRORS as error:
        # what is no ValueError speaks of Python's types, and of no field
        words = _first_line(error) if isinstance(error, ValueError) else "a field of another type"
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
def _quiet_log() -> Iterator[None]:
    """No log lines from transformers inside the block: what goes wrong is raised."""
    before = logging.get_verbosity()
    logging.set_verbosity(CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
