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
from contextlib import suppress
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from unimatrix.atomic import flush
from unimatrix.codec import check_file, encode, read_json
from unimatrix.errors import UserError, home_expanded, shown
from unimatrix.hf import ByteTokenizer, UniMatrixForCausalLM
from unimatrix.hf.checksums import CHECKSUMS, verify_checksums, write_checksums
from unimatrix.models import AnyModel, TypedLatent, config_from_dict, model_from_config, upgrade_weights
from unimatrix.train.records import TrainerRecord, read_trainer
from unimatrix.train.run_model import delete_run_model, point_to

TRAINER = "trainer.json"
CONFIG = "config.json"
WEIGHTS, OPTIMIZER, RNG = (f"{name}.safetensors" for name in ("model", "optimizer", "rng"))
_NAME = re.compile(r"checkpoint-(\d{6,})")
# hidden leftovers of a kill: a checkpoint not finished, replaced, or half deleted
_LEFTOVER = re.compile(r"\.checkpoint-\d{6,}\.(partial|replaced|deleted)")
_WEIGHTS_PREFIX = "language_model."


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Checkpoint:
    """A checkpoint read back and verified.

    weights: the model's state dict. optimizer, rng: as unimatrix.train.state names them.
    model_config: to_dict() of its config, of whatever kind.
    """

    folder: Path
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    rng: dict[str, Tensor]
    model_config: dict[str, Any]
    trainer: TrainerRecord

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
            raise UserError(f"{self.folder / WEIGHTS}: {' '.join(str(error).split())}") from error
        return model.eval()


def save_checkpoint(
    out: Path,
    *,
    model: AnyModel,
    optimizer: dict[str, Tensor],
    rng: dict[str, Tensor],
    trainer: TrainerRecord,
    keep: int,
) -> Path:
    """Write a checkpoint of the run in `out`, named by its step, then delete all but the last `keep`.

    Raises:
        UserError: it could not be written (disk full, folder gone, ...): names the last good one, which
            stays.
    """
    final = out / f"checkpoint-{trainer.step:06d}"
    partial, unwritten = _hidden(final, "partial"), final
    try:
        if partial.exists():
            shutil.rmtree(partial)
        partial.mkdir()
        _write_files(partial, model=model, optimizer=optimizer, rng=rng, trainer=trainer)
        _move_into_place(partial, final)
        unwritten = out
        # before the ones that the folder led to until now are deleted
        point_to(final)
    except (OSError, SafetensorError) as error:
        # what was begun takes up the very space that is short
        shutil.rmtree(partial, ignore_errors=True)
        last = latest_checkpoint(out)
        kept = "there is none before it" if last is None else f"the last good one is {last}"
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error).splitlines()[0]
        raise UserError(f"{unwritten}: could not be written ({reason}); {kept}") from error
    delete_checkpoints(out, keep=keep)
    return final


def latest_checkpoint(out: Path) -> Path | None:
    """The run's checkpoint with the highest step; None where there is none.

    What a kill leaves of an unfinished one has another name and does not count. One that lacks a file does:
    it was whole once, and loading it says what is missing.
    """
    found = _checkpoints(out)
    return found[-1] if found else None


def find_checkpoint(path: str | Path) -> Path:
    """The checkpoint folder meant by `path`: itself, or the latest of the run folder that it is.

    Raises:
        UserError: it is neither.
    """
    folder = home_expanded(path, what="checkpoint")
    if (folder / CHECKSUMS).exists() or (folder / TRAINER).exists():
        return folder
    latest = latest_checkpoint(folder)
    if latest is None:
        raise UserError(f"checkpoint: expected a checkpoint or the folder of a run, got {str(folder)!r}")
    return latest


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint after checking every file against its checksum.

    Raises:
        UserError: a file missing, cut short, changed or not what belongs there (names it, and the checkpoint
            before, if any).
    """
    before = _before(folder)
    needed = (TRAINER, CONFIG, WEIGHTS, OPTIMIZER, RNG)
    for name in (CHECKSUMS, *needed):
        if not os.path.lexists(folder / name):
            raise UserError(f"{folder / name}: missing from its checkpoint{before}")
        check_file(folder / name)
    verify_checksums(folder, must_list=needed, advice=before)
    trainer = read_trainer(folder / TRAINER)
    if _step_of(folder) not in (0, trainer.step):
        raise UserError(f"{folder / TRAINER}: step: expected {_step_of(folder)}, got {trainer.step}")
    config = read_json(folder / CONFIG)
    model_config = config.get("model") if isinstance(config, dict) else None
    if not isinstance(model_config, dict):
        raise UserError(
            f"{folder / CONFIG}: model: expected an object with fields, got {shown(model_config)}"
        )
    weights = _load_tensors(folder / WEIGHTS)
    weights = {name.removeprefix(_WEIGHTS_PREFIX): tensor for name, tensor in weights.items()}
    return Checkpoint(
        folder=folder,
        weights=_upgraded(weights, folder / WEIGHTS),
        optimizer=_upgraded(_load_tensors(folder / OPTIMIZER), folder / OPTIMIZER),
        rng=_load_tensors(folder / RNG),
        model_config=model_config,
        trainer=trainer,
    )


def delete_leftovers(out: Path) -> None:
    """Delete the hidden folders that a kill in the middle of writing or deleting left behind.

    One that cannot be deleted stays for the next time: a file of it may be open elsewhere, on NFS.
    """
    for path in out.iterdir():
        if _LEFTOVER.fullmatch(path.name) and path.is_dir():
            _remove(path)


def _remove(folder: Path) -> None:
    with suppress(OSError):
        if folder.is_symlink():  # somebody moved it to where there is room
            folder.unlink()
        else:
            shutil.rmtree(folder)


def delete_checkpoints(out: Path, *, keep: int = 0) -> None:
    """Delete the checkpoints that a run wrote into `out` but for the last `keep`, and nothing else.

    One that lacks its checksums is left alone while others are kept: somebody may want to mend it.
    """
    if keep == 0 and out.is_dir():
        delete_run_model(out)
    found = [path for path in _checkpoints(out) if keep == 0 or _is_complete(path)]
    for folder in found[: max(0, len(found) - keep)]:
        _delete(folder)


def _write_files(
    folder: Path,
    *,
    model: AnyModel,
    optimizer: dict[str, Tensor],
    rng: dict[str, Tensor],
    trainer: TrainerRecord,
) -> None:
    _write_model(folder, model, reads_text=trainer.experiment.task is None)
    safetensors.torch.save_file(optimizer, folder / OPTIMIZER)
    safetensors.torch.save_file(rng, folder / RNG)
    values = encode(trainer) | {"experiment": trainer.experiment.to_dict()}
    (folder / TRAINER).write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    for path in folder.iterdir():
        # safetensors writes for the owner alone; a checkpoint follows the umask like any other file
        shutil.copymode(folder / TRAINER, path)
    write_checksums(folder)
    for path in folder.iterdir():
        flush(path)
    flush(folder)


def _write_model(folder: Path, model: AnyModel, *, reads_text: bool) -> None:
    if isinstance(model, TypedLatent):
        # transformers and hf.load tell by the type that this is none of theirs
        values = {"model_type": model.config.kind, "model": model.config.to_dict()}
        (folder / CONFIG).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        safetensors.torch.save_file(model.state_dict(), folder / WEIGHTS)
        return
    UniMatrixForCausalLM.from_language_model(model).save_pretrained(folder)
    if reads_text:  # a task's tokens are no bytes
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
    flush(final.parent)


def _load_tensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors = safetensors.torch.load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read as safetensors ({str(error).splitlines()[0]})") from error
    # cloned: safetensors gives views of the file, at addresses where matrix products may round differently
    return {name: tensor.clone() for name, tensor in tensors.items()}


def _upgraded(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Under the names of this version, in which an older one may have written them."""
    try:
        return upgrade_weights(tensors)
    except (RuntimeError, IndexError) as error:
        raise UserError(f"{path}: expected an older version's tensors, got others ({error})") from error


def _delete(folder: Path) -> None:
    # renamed first: a kill half-way must not leave something that looks like a checkpoint
    hidden = _hidden(folder, "deleted")
    os.rename(folder, hidden)
    _remove(hidden)


def _hidden(final: Path, what: str) -> Path:
    return final.with_name(f".{final.name}.{what}")


def _checkpoints(out: Path) -> list[Path]:
    """The checkpoints of a run, by step."""
    if not out.is_dir():
        return []
    return sorted((path for path in out.iterdir() if _step_of(path) and path.is_dir()), key=_step_of)


def _step_of(folder: Path) -> int:
    """The step that a checkpoint's name tells; 0 for another name."""
    match = _NAME.fullmatch(folder.name)
    return int(match[1]) if match else 0


def _is_complete(folder: Path) -> bool:
    """Whether the checksums are there, the last thing written into a checkpoint."""
    return (folder / CHECKSUMS).is_file()


def _before(folder: Path) -> str:
    """Where to go on from when this checkpoint is damaged."""
    step = _step_of(folder)
    earlier = [path for path in _checkpoints(folder.parent) if _step_of(path) < step and _is_complete(path)]
    return f"; delete {folder.name} to go on from {earlier[-1].name}" if earlier else ""
