"""Checkpoints on disk: whole or not there at all, verified at load, readable without this library.

    checkpoint-000080/
        config.json, model.safetensors, tokenizer files    what Hugging Face's from_pretrained takes; a model
                                                           of a task's tokens has no tokenizer, and one that
                                                           is no language model is unknown there
        optimizer.safetensors, rng.safetensors             named tensors (see unimatrix.train.state)
        trainer.json                                       step, settings, data, counters
        checksums.json                                     sha256 and size of every file above

A checkpoint is written into a hidden folder beside it, flushed to the disk, and renamed: a kill at any moment
leaves the previous or the next one whole. Nothing is pickled.
"""

import dataclasses
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from unimatrix.data import VOCAB_SIZE
from unimatrix.errors import UserError
from unimatrix.hf import ByteTokenizer, UniMatrixForCausalLM
from unimatrix.hf.checksums import CHECKSUMS, verify_checksums, write_checksums
from unimatrix.models import AnyModel, TypedLatent, config_from_dict, model_from_config

TRAINER = "trainer.json"
CONFIG = "config.json"
_FORMAT = 1
_NAME = re.compile(r"checkpoint-(\d{6,})")
# hidden leftovers of a kill: a checkpoint not finished, replaced, or half deleted
_LEFTOVER = re.compile(r"\.checkpoint-\d{6,}\.(partial|replaced|deleted)")
_WEIGHTS_PREFIX = "language_model."


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Checkpoint:
    """A checkpoint read back and verified.

    weights: the model's state dict. optimizer, rng: as unimatrix.train.state names them.
    model_config: to_dict() of its config, of whatever kind. trainer: the contents of trainer.json.
    """

    folder: Path
    step: int
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    rng: dict[str, Tensor]
    model_config: dict[str, Any]
    trainer: dict[str, Any]

    def build_model(self) -> AnyModel:
        """The model with its weights, in evaluation mode, on the CPU.

        Raises:
            UserError: config.json is no model's, or the weights are another's.
        """
        with torch.random.fork_rng(devices=[]):
            model = model_from_config(config_from_dict(self.model_config))
        try:
            model.load_state_dict(self.weights)
        except RuntimeError as error:
            raise UserError(f"{self.folder / 'model.safetensors'}: {' '.join(str(error).split())}") from error
        return model.eval()


def save_checkpoint(
    out: Path,
    *,
    step: int,
    model: AnyModel,
    optimizer: dict[str, Tensor],
    rng: dict[str, Tensor],
    trainer: dict[str, Any],
    keep: int,
) -> Path:
    """Write checkpoint `step` of the run in `out`, then delete all but the last `keep`.

    Raises:
        UserError: it could not be written (disk full, folder gone, ...): names the last good one, which
            stays.
    """
    final = out / f"checkpoint-{step:06d}"
    partial = _hidden(final, "partial")
    try:
        if partial.exists():
            shutil.rmtree(partial)
        partial.mkdir()
        _write_files(partial, step=step, model=model, optimizer=optimizer, rng=rng, trainer=trainer)
        _move_into_place(partial, final)
    except (OSError, SafetensorError) as error:
        # what was begun takes up the very space that is short
        shutil.rmtree(partial, ignore_errors=True)
        last = latest_checkpoint(out)
        kept = "there is none before it" if last is None else f"the last good one is {last}"
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error).splitlines()[0]
        raise UserError(f"{final}: could not be written ({reason}); {kept}") from error
    delete_checkpoints(out, keep=keep)
    return final


def latest_checkpoint(out: Path) -> Path | None:
    """The run's checkpoint with the highest step; None where there is none. Unfinished ones do not count."""
    found = _checkpoints(out)
    return found[-1] if found else None


def find_checkpoint(path: str | Path) -> Path:
    """The checkpoint folder meant by `path`: itself, or the latest of the run folder that it is.

    Raises:
        UserError: it is neither.
    """
    folder = Path(path).expanduser()
    if (folder / CHECKSUMS).is_file():
        return folder
    latest = latest_checkpoint(folder)
    if latest is None:
        raise UserError(f"checkpoint: expected a checkpoint or the folder of a run, got {str(folder)!r}")
    return latest


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint after checking every file against its checksum.

    Raises:
        UserError: a file missing, cut short or changed (names it, and the checkpoint before, if any).
    """
    verify_checksums(folder, advice=_before(folder))
    try:
        trainer = json.loads((folder / TRAINER).read_text(encoding="utf-8"))
        model_config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))["model"]
        weights, optimizer, rng = (
            _load_tensors(folder / f"{name}.safetensors") for name in ("model", "optimizer", "rng")
        )
        if trainer["format"] != _FORMAT:
            raise UserError(f"{folder / TRAINER}: expected format {_FORMAT}, got {trainer['format']}")
        return Checkpoint(
            folder=folder,
            step=trainer["step"],
            weights={name.removeprefix(_WEIGHTS_PREFIX): tensor for name, tensor in weights.items()},
            optimizer=optimizer,
            rng=rng,
            model_config=model_config,
            trainer=trainer,
        )
    except (OSError, KeyError, json.JSONDecodeError, SafetensorError) as error:
        raise UserError(f"{folder}: expected a checkpoint of a training run ({error!r})") from error


def delete_leftovers(out: Path) -> None:
    """Delete the hidden folders that a kill in the middle of writing or deleting left behind."""
    for path in out.iterdir():
        if _LEFTOVER.fullmatch(path.name) and path.is_dir():
            shutil.rmtree(path)


def delete_checkpoints(out: Path, *, keep: int = 0) -> None:
    """Delete the checkpoints that a run wrote into `out` but for the last `keep`, and nothing else."""
    found = _checkpoints(out)
    for folder in found[: max(0, len(found) - keep)]:
        _delete(folder)


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Replace a JSON file atomically: a reader finds the old contents or the new."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
        _flush(partial)
        os.replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def _write_files(
    folder: Path,
    *,
    step: int,
    model: AnyModel,
    optimizer: dict[str, Tensor],
    rng: dict[str, Tensor],
    trainer: dict[str, Any],
) -> None:
    _write_model(folder, model)
    safetensors.torch.save_file(optimizer, folder / "optimizer.safetensors")
    safetensors.torch.save_file(rng, folder / "rng.safetensors")
    values = {"format": _FORMAT, "step": step} | trainer
    (folder / TRAINER).write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    for path in folder.iterdir():
        # safetensors writes for the owner alone; a checkpoint follows the umask like any other file
        shutil.copymode(folder / TRAINER, path)
    write_checksums(folder)
    for path in folder.iterdir():
        _flush(path)
    _flush(folder)


def _write_model(folder: Path, model: AnyModel) -> None:
    if isinstance(model, TypedLatent):
        # transformers and hf.load tell by the type that this is none of theirs
        values = {"model_type": model.config.kind, "model": model.config.to_dict()}
        (folder / CONFIG).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        safetensors.torch.save_file(model.state_dict(), folder / "model.safetensors")
        return
    UniMatrixForCausalLM.from_language_model(model).save_pretrained(folder)
    if model.config.vocab_size >= VOCAB_SIZE:
        # a task's tokens are no bytes
        ByteTokenizer().save_pretrained(folder)


def _move_into_place(partial: Path, final: Path) -> None:
    if final.exists():
        # the same step once more, as after a damaged file; a rename cannot replace a folder that is not empty
        replaced = _hidden(final, "replaced")
        os.rename(final, replaced)
        os.rename(partial, final)
        shutil.rmtree(replaced)
    else:
        os.rename(partial, final)
    _flush(final.parent)


def _load_tensors(path: Path) -> dict[str, Tensor]:
    # cloned: safetensors gives views of the file, at addresses where matrix products may round differently
    return {name: tensor.clone() for name, tensor in safetensors.torch.load_file(path).items()}


def _delete(folder: Path) -> None:
    # renamed first: a kill half-way must not leave something that looks like a checkpoint
    hidden = _hidden(folder, "deleted")
    os.rename(folder, hidden)
    shutil.rmtree(hidden)


def _hidden(final: Path, what: str) -> Path:
    return final.with_name(f".{final.name}.{what}")


def _checkpoints(out: Path) -> list[Path]:
    """The finished checkpoints of a run, by step; the checksums are the last thing written into one."""
    if not out.is_dir():
        return []
    matches = ((_NAME.fullmatch(path.name), path) for path in out.iterdir())
    numbered = [(int(match[1]), path) for match, path in matches if match and (path / CHECKSUMS).is_file()]
    return [path for _, path in sorted(numbered)]


def _before(folder: Path) -> str:
    """Where to go on from when this checkpoint is damaged."""
    match = _NAME.fullmatch(folder.name)
    earlier = [path for path in _checkpoints(folder.parent) if path.name < folder.name] if match else []
    return f"; delete {folder.name} to go on from {earlier[-1].name}" if earlier else ""


def _flush(path: Path) -> None:
    """fsync of a file or a folder: a rename is only worth something once what it names is on the disk."""
    if os.name == "nt" and path.is_dir():
        # Windows has no handle on a folder to flush
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
