"""The look into a trained slot memory: traced from a checkpoint, and kept beside the results.

OUT/inspections/<experiment>-seed<seed>.json    {"identity": of the run, "traced": what the look gave}

What is traced is unimatrix.evals.inspection's; unimatrix.lab.charts.slots draws it, with packages that a look
alone does not need.
"""

import json
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from unimatrix.codec import decode, read_record
from unimatrix.codec import encode as to_json
from unimatrix.data.tasks import IGNORE, TaskConfig, task_of
from unimatrix.data.tokenizer import BOS, encode, token_name
from unimatrix.errors import UserError, home_expanded
from unimatrix.evals.inspection import SlotHistory, Traced, inspect_slots, slot_memory_of
from unimatrix.evals.tasks import DRAWN_TOGETHER
from unimatrix.hf import load
from unimatrix.lab.results import Result, Samples, naming
from unimatrix.lab.study import Inspection
from unimatrix.models import AnyModel
from unimatrix.train import Experiment, find_checkpoint, load_checkpoint
from unimatrix.train.checkpoint import latest_checkpoint

FOLDER = "inspections"


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
    folder = home_expanded(checkpoint, what="checkpoint")
    if folder.is_dir() and (latest_checkpoint(folder) is not None or (folder / "trainer.json").is_file()):
        found = load_checkpoint(find_checkpoint(folder))
        return found.build_model(), found.trainer.experiment
    return load(str(checkpoint))[0].language_model, None


def _task_sequence(task: TaskConfig, *, seed: int, sample: int) -> tuple[list[int], int]:
    """An evaluation sequence of the run's own stream up to its last question: token ids, and the answer."""
    if not 0 <= sample < task.eval_sequences:
        raise UserError(f"sample: expected 0 to {task.eval_sequences - 1}, got {sample}")
    step, row = divmod(sample, DRAWN_TOGETHER)  # as the evaluation draws them
    batch = task_of(task).make(task, seed=seed, step=step, batch_size=row + 1, stream="eval")
    labels = batch.labels[row]
    last = int((labels != IGNORE).nonzero()[-1])
    return batch.input_ids[row, : last + 1].tolist(), int(labels[last])


def _mentioned(history: SlotHistory) -> set[int]:
    tokens = {step.token for step in history.steps}
    return tokens | {choice.token for step in history.steps for choice in step.choices}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Kept:
    """identity: the run's stamp."""

    identity: str
    traced: dict[str, Any]


def _path(out: Path, run: Result) -> Path:
    return out / FOLDER / f"{run.experiment}-seed{run.seed}.json"


def write_trace(out: Path, inspection: Inspection, run: Result, *, checkpoint: Path) -> Path:
    """Look into a finished run's checkpoint and keep what is found; an older file is replaced whole.

    Raises:
        OSError: the folder cannot be written.
    """
    path = _path(out, run)
    path.parent.mkdir(exist_ok=True)
    kept = _Kept(identity=run.stamp_on_disk, traced=to_json(inspection.trace(checkpoint)))
    text = json.dumps(to_json(kept), allow_nan=False)
    unfinished = path.with_suffix(".unfinished")
    with naming(path):
        unfinished.write_text(text + "\n", encoding="utf-8")
        os.replace(unfinished, path)
    return path


def read_trace(out: Path, inspection: Inspection, samples: Samples) -> Any:
    """What was found in one of the chosen runs, that of the first seed; None where none was looked into.

    Raises:
        UserError: a file there is not one that `write_trace` wrote.
    """
    for _, run in sorted(samples.get(inspection.experiment.name, {}).items()):
        path = _path(out, run)
        if not os.path.lexists(path):
            continue
        kept = read_record(_Kept, path)
        # a run of other settings may have left its file under the same name
        if kept.identity == run.stamp_on_disk:
            return decode(inspection.record, kept.traced, where=f"{path}: traced")
    return None
