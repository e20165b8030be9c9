"""The folder of a run: whose it is, what may be deleted in it, and what a resumed run goes on from.

run.json          the settings and the data's fingerprints: the mark of a run
checkpoint-*/     see unimatrix.train.checkpoint
config.json, ...  the model of the newest checkpoint, see unimatrix.train.run_model
logs/             TensorBoard's event files
"""

import os
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from unimatrix.atomic import write_json
from unimatrix.codec import encode, is_utf8
from unimatrix.data import VOCAB_SIZE
from unimatrix.errors import UserError, shown
from unimatrix.models import config_from_dict, resolved
from unimatrix.train.checkpoint import (
    Checkpoint,
    delete_checkpoints,
    delete_leftovers,
    latest_checkpoint,
    load_checkpoint,
)
from unimatrix.train.config import Experiment, first_difference
from unimatrix.train.records import RunRecord, TaskData, TextData, TrainerRecord, data_record, read_run
from unimatrix.train.run_model import check_run_model, point_to

try:
    import fcntl
except ImportError:  # Windows, where two runs in one folder go unnoticed
    fcntl = None

MARK = "run.json"
LOGS = "logs"
# how often a lock is asked for before somebody else has it for long, and the seconds between
_LOOKS, _LOOK_S = 10, 0.05


def check_run_folder(
    out: Path, experiment: Experiment, data: dict[str, Any], *, resume: bool, overwrite: bool
) -> Checkpoint | None:
    """Whether a run may use this folder; changes nothing in it.

    Args:
        data: {"train": fingerprint, "valid": fingerprint, ...} of what is to be trained on.
    Returns:
        What to go on from; None to start at step 0.
    Raises:
        UserError: the folder holds another run and neither resume nor overwrite is asked for, or both are;
            nothing to resume; the saved run has other settings or another text; a damaged checkpoint; an
            index of weights that cannot be read.
    """
    if resume and overwrite:
        raise UserError("output folder: expected one of resume and overwrite, got both")
    check_path(out)
    check_run_model(out)
    latest = latest_checkpoint(out)
    mark = read_run(out / MARK)
    if not resume:
        if (mark is not None or latest is not None) and not overwrite:
            raise UserError(
                f"output folder {str(out)!r} holds another run; expected --resume, --overwrite or another "
                "--out"
            )
        return None
    check_holds_run(out)
    checkpoint = None if latest is None else load_checkpoint(latest)
    saved = checkpoint.trainer if checkpoint is not None else mark
    assert saved is not None
    if checkpoint is not None:
        _check_still_its_model(checkpoint)
    _check_same_run(out, saved, experiment, data)
    return checkpoint


def check_holds_run(out: Path) -> None:
    """Raise a UserError unless there is a run in the folder to go on with."""
    if read_run(out / MARK) is None and latest_checkpoint(out) is None:
        above = out.resolve().parent
        of = f"; it is a checkpoint of {str(above)!r}" if read_run(above / MARK) is not None else ""
        raise UserError(f"output folder {str(out)!r}: no run to resume, expected one that holds {MARK}{of}")


def check_path(out: Path) -> None:
    """Raise a UserError unless the system, and all that write below it, can take this path for a folder."""
    reason = None if is_utf8(str(out)) else "not UTF-8"
    try:
        # of paths that are too long, or hold a NUL, the system itself knows
        os.stat(out)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:
        reason = reason or (error.strerror if isinstance(error, OSError) else None) or str(error)
    if reason is not None:
        raise UserError(f"output folder: expected the path of a folder, got {shown(str(out))} ({reason})")
    if out.exists() and not out.is_dir():
        raise UserError(f"output folder: expected a folder, got the file {shown(str(out))}")


def _lock(descriptor: int) -> None:
    """Take the lock; whoever only looks whether it is taken, as `unimatrix runs`, has it for an instant."""
    assert fcntl is not None
    for _ in range(_LOOKS):
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(_LOOK_S)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def sole_use(out: Path) -> Iterator[None]:
    """Within the block no other process trains in this folder, which is made if it is not there.

    The lock is on the folder itself and leaves nothing behind, however the process ends.

    Raises:
        UserError: another process does, or the folder cannot be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        descriptor = None if fcntl is None else os.open(out, os.O_RDONLY)
    except OSError as error:
        raise _not_writable(out, error) from error
    try:
        if fcntl is not None and descriptor is not None:
            try:
                _lock(descriptor)
            except BlockingIOError as error:
                raise UserError(
                    f"output folder {str(out)!r}: another training is running in it; expected it to end first"
                ) from error
            except OSError:
                pass  # a file system that has no locks
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _not_writable(out: Path, error: OSError) -> UserError:
    return UserError(f"output folder {str(out)!r}: cannot be written ({error.strerror or error})")


def open_run_folder(out: Path, experiment: Experiment, data: dict[str, Any], *, overwrite: bool) -> str:
    """Make the folder this run's own: with overwrite the earlier run's files go, and only those.

    Returns:
        The run's id, the same after a resume.
    Raises:
        UserError: the folder cannot be written.
    """
    try:
        delete_leftovers(out)
        # a kill may have come between writing the last one and deleting the oldest
        delete_checkpoints(out, keep=0 if overwrite else experiment.loop.keep_checkpoints)
        if overwrite:
            _delete_logs(out / LOGS)
        latest = latest_checkpoint(out)
        if latest is not None:
            # a newer one may have been deleted by hand, or the run begun before its folder was a model
            point_to(latest)
        mark = None if overwrite else read_run(out / MARK)
        run_id = mark.id if mark is not None else uuid.uuid4().hex
        # what a finished run came to stays, and what it was measured by, until it is measured anew
        if mark is None or mark.metrics is None or mark.experiment.loop.steps != experiment.loop.steps:
            _write_mark(out, RunRecord(id=run_id, experiment=experiment, data=data_record(data)))
    except OSError as error:
        raise _not_writable(out, error) from error
    return run_id


def record_metrics(
    out: Path, metrics: Mapping[str, float], *, experiment: Experiment, data: dict[str, Any]
) -> None:
    """Write what a finished run came to into its mark; a UserError where it cannot be written."""
    mark = read_run(out / MARK)
    assert mark is not None, "written when the run began"
    try:
        _write_mark(
            out, RunRecord(id=mark.id, experiment=experiment, data=data_record(data), metrics=metrics)
        )
    except OSError as error:
        raise _not_writable(out, error) from error


def _write_mark(out: Path, mark: RunRecord) -> None:
    write_json(out / MARK, encode(mark) | {"experiment": mark.experiment.to_dict()})


def _check_still_its_model(checkpoint: Checkpoint) -> None:
    """That the settings of the run come to the model that it trained: a preset may have changed since."""
    saved, file = checkpoint.trainer.experiment, checkpoint.folder / "trainer.json"
    vocab_size = VOCAB_SIZE if saved.task is None else saved.task.vocab_size
    # as configs, not as dicts: one saved before a part of the model existed does not mention it
    began_with = resolved(config_from_dict(checkpoint.model_config))
    try:
        same = resolved(saved.model.resolved(vocab_size)) == began_with
    except UserError as error:
        raise UserError(f"{file}: the run's settings are no model's in this version ({error})") from error
    if not same:
        raise UserError(
            f"{file}: the run's settings come to another model than config.json beside it: the preset "
            f"{saved.model.preset} has changed since, or one of the files; the model can be read, but the "
            "run not continued: expected --overwrite or another --out"
        )


def _check_same_run(
    out: Path, saved: RunRecord | TrainerRecord, asked: Experiment, data: dict[str, Any]
) -> None:
    try:
        difference = first_difference(saved.experiment, asked)
    except UserError as error:
        raise UserError(f"resume: the run in {str(out)!r}: {error}") from error
    if difference is not None:
        field, was, now = difference
        raise UserError(f"resume: the run in {str(out)!r} has {field} {was!r}, got {now!r}")
    changed = first_change(saved.data, data)
    if changed is None:
        return
    split = changed.split
    if changed.what == "documents":
        words = f"keeps other documents of the {split} text apart"
    elif asked.task is not None:
        # the settings agree: this version draws other sequences than the one that began the run
        words = f"has other {split} sequences of {asked.task.kind}"
    else:
        words = f"has another {split} text"
    raise UserError(f"resume: the run in {str(out)!r} {words}: {changed.was}; got {changed.now}")


class Change(NamedTuple):
    """What is not as it was of a split, "text" or "documents", and in words what was recorded and is now."""

    split: str
    what: str
    was: str
    now: str


def first_change(saved: TextData | TaskData, data: Mapping[str, Any]) -> Change | None:
    """The first split whose bytes, sequences or documents are others than those that were saved.

    Args:
        data: what `unimatrix.train.sources.Source.describe` says of them now.
    """
    for split in ("train", "valid"):
        was, now = encode(getattr(saved, split)), data[split]
        if was["sha256"] != now["sha256"]:
            return Change(split, "text", _contents(was), _contents(now))
        if was.get("documents") != now.get("documents"):
            return Change(split, "documents", _documents(was), _documents(now))
    return None


def _contents(split: Mapping[str, Any]) -> str:
    size = f"{split['bytes']:,} bytes, " if "bytes" in split else ""  # a task's sequences are not counted so
    return f"{size}sha256 {split['sha256'][:8]}..."


def _documents(split: Mapping[str, Any]) -> str:
    """In words, those of a split that are known to be kept apart."""
    found = split.get("documents")
    return "none" if found is None else f"{found['number']:,}, sha256 {found['sha256'][:8]}..."


def _delete_logs(logs: Path) -> None:
    for path in logs.glob("events.out.tfevents.*"):
        path.unlink()
