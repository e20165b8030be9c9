"""A trained slot memory looked into: from a checkpoint to JSON values, and from these to a picture."""

from functools import partial
from pathlib import Path

import torch

from unimatrix.data.tasks import TaskConfig, task_of
from unimatrix.data.tokenizer import BOS, encode, token_name
from unimatrix.errors import UserError
from unimatrix.evals.inspection import SlotHistory, Traced, inspect_slots, slot_memory_of
from unimatrix.hf import load
from unimatrix.lab.results import naming
from unimatrix.models import AnyModel
from unimatrix.train import Experiment, find_checkpoint, load_checkpoint
from unimatrix.train.checkpoint import latest_checkpoint


def trace_checkpoint(
    checkpoint: str | Path, *, prompt: str | None = None, sample: int | None = None
) -> Traced:
    """Let a checkpoint's model read a prompt, or a sequence of its task, and note what its slots do.

    Args:
        checkpoint: a checkpoint's or a run's folder, or a hub name.
        prompt: bytes for a model of texts, names of symbols for one of a task. sample: without a prompt,
            which evaluation sequence of the task, from 0 on (None: the first).
    Raises:
        UserError: no such checkpoint, no slot memory, a prompt that does not fit the vocabulary, both prompt
            and sample, or neither for a model of texts.
    """
    if prompt is not None and sample is not None:
        raise UserError("inspect: expected one of a prompt and a sample, got both")
    model, experiment = _open(checkpoint)
    slot_memory_of(model)  # before anything is asked of a prompt
    task = None if experiment is None else experiment.task
    expected = None
    if task is None:
        if prompt is None:
            raise UserError(
                "inspect: expected a prompt (--prompt); without one only a task's model has what to read"
            )
        ids = [BOS, *encode(prompt).tolist()]
        name = token_name
    else:
        assert experiment is not None
        name = partial(task_of(task).symbol, task)
        if prompt is not None:
            ids = task_of(task).read_symbols(task, prompt)
        else:
            ids, answer = _task_sequence(task, seed=experiment.loop.seed, sample=sample or 0)
            expected = name(answer)
    history = inspect_slots(model, torch.tensor(ids, dtype=torch.int64))
    names = {str(token): name(token) for token in sorted(_mentioned(history))}
    return Traced(history=history, names=names, expected=expected)


def _open(checkpoint: str | Path) -> tuple[AnyModel, Experiment | None]:
    """The model, and the experiment that trained it if the checkpoint is one of ours."""
    folder = Path(checkpoint).expanduser()
    if folder.is_dir() and (latest_checkpoint(folder) is not None or (folder / "trainer.json").is_file()):
        found = load_checkpoint(find_checkpoint(folder))
        return found.build_model(), found.trainer.experiment
    return load(str(checkpoint))[0].language_model, None


def _task_sequence(task: TaskConfig, *, seed: int, sample: int) -> tuple[list[int], int]:
    """Token ids and the answer of an evaluation sequence of the run's own stream."""
    if not 0 <= sample < task.eval_sequences:
        raise UserError(f"sample: expected 0 to {task.eval_sequences - 1}, got {sample}")
    batch = task_of(task).make(task, seed=seed, step=0, batch_size=sample + 1, stream="eval")
    return batch.input_ids[sample].tolist(), int(batch.labels[sample, -1])


def _mentioned(history: SlotHistory) -> set[int]:
    tokens = {step.token for step in history.steps}
    return tokens | {choice.token for step in history.steps for choice in step.choices}


def save_picture(traced: Traced, path: Path) -> None:
    """Draw what `trace_checkpoint` gave into a file, in the format of its ending.

    Raises:
        OSError: the file cannot be written.
    """
    # imported here: looking into a model needs nothing to draw with
    from unimatrix.lab.charts import LIGHT, PNG_DOTS_PER_INCH
    from unimatrix.lab.slots_figure import draw_slots

    with naming(path):
        draw_slots(traced, LIGHT).savefig(path, dpi=PNG_DOTS_PER_INCH)
