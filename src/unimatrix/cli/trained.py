"""What the model in a folder was trained on, for the commands that ask something of it."""

from pathlib import Path

from unimatrix.data import Corpus
from unimatrix.errors import UserError
from unimatrix.hf.checksums import CHECKSUMS, verify_checksums
from unimatrix.train.checkpoint import TRAINER, latest_checkpoint
from unimatrix.train.records import TrainerRecord, read_trainer
from unimatrix.train.run_folder import first_change
from unimatrix.train.sources import source_of


def training_record(name: str) -> TrainerRecord | None:
    """What a checkpoint of ours says of its run; None for any other model."""
    try:
        folder = Path(name).expanduser()
    except RuntimeError:  # a user that is not there
        return None
    checkpoint = folder if (folder / TRAINER).is_file() else latest_checkpoint(folder)
    if checkpoint is None:
        return None
    if (checkpoint / CHECKSUMS).is_file():
        verify_checksums(checkpoint, names=(TRAINER,))
    return read_trainer(checkpoint / TRAINER)


def check_same_text(name: str, record: TrainerRecord, corpus: Corpus) -> None:
    """Raise a UserError where the source that a run names holds another text than it was trained on.

    What is called its validation or test part then may be what was trained on.
    """
    changed = first_change(record.data, source_of(record.experiment, corpus).describe())
    if changed is not None:
        raise UserError(
            f"data: {Path(record.experiment.data).name} has changed since {name} was trained on it: "
            f"{changed.split} {changed.what} {changed.was}, now {changed.now}; --data names the text to "
            "evaluate on"
        )


def check_reads_text(name: str) -> None:
    """Raise a UserError for a model whose tokens are a task's: what it writes is no text."""
    try:
        record = training_record(name)
    except UserError:
        return  # of damage to what it is made of loading tells
    task = None if record is None else record.experiment.task
    if task is not None:
        raise UserError(f"{name}: expected a model of text, got one trained on the task {task.kind}")
