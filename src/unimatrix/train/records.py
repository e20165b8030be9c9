"""What a run writes about itself, as frozen values: run.json of its folder, trainer.json of a checkpoint.

Both are read through unimatrix.codec, which names the file and the field that does not fit.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from unimatrix.codec import decode, read_json
from unimatrix.data.settings import check_range
from unimatrix.errors import UserError
from unimatrix.train.config import Experiment

FORMAT = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class TextDocuments:
    """sha256: of where they begin, 8 bytes each, the lowest first."""

    number: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class TextSplit:
    """documents: None where they are not kept apart."""

    sha256: str
    bytes: int
    documents: TextDocuments | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskStream:
    """sequences: None for a stream without end."""

    sha256: str
    sequences: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class TextData:
    kind: ClassVar[str] = "text"
    name: str
    notes: tuple[str, ...]
    is_paper_corpus: bool
    train: TextSplit
    valid: TextSplit


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskData:
    kind: ClassVar[str] = "task"
    name: str
    notes: tuple[str, ...]
    is_paper_corpus: bool
    train: TaskStream
    valid: TaskStream


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRecord:
    """run.json: the mark of a run.

    id: the same after a resume. data: see unimatrix.train.sources.describe. metrics: what was evaluated at
    its end, by name; None before, and in runs of older versions. experiment: the settings that it was last
    begun with, or, where there are metrics, measured by.
    """

    kind: ClassVar[str] = "unimatrix training run"
    id: str
    experiment: Experiment
    data: TextData | TaskData
    metrics: Mapping[str, float] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainerRecord:
    """trainer.json: how far a checkpoint's run had come.

    step: optimiser steps done; the other counters are those of unimatrix.train.run.Run.
    scaler: of fp16's loss scaling, None without it.
    """

    format: int = FORMAT
    step: int
    experiment: Experiment
    data: TextData | TaskData
    seconds: float
    loss: float | None
    curve: tuple[tuple[int, float], ...]
    # none in a checkpoint from before there was eval_at
    at_steps: Mapping[str, float] = field(default_factory=dict)
    scaler: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise UserError(f"format: expected {FORMAT}, got {self.format}")
        check_range(self, "step", low=1)
        check_range(self, "seconds", low=0.0)


def data_record(values: Mapping[str, Any]) -> TextData | TaskData:
    """The record of what `describe` says."""
    return decode(TextData | TaskData, values, where="data")  # pyright: ignore[reportArgumentType, reportReturnType]


def read_run(path: Path) -> RunRecord | None:
    """The contents of a run.json; None where there is none.

    Raises:
        UserError: it is something else, which is not ours to replace.
    """
    if not path.is_symlink() and not path.exists():
        return None
    values = read_json(path)
    if not isinstance(values, Mapping) or values.get("kind") != RunRecord.kind:
        raise UserError(f"{path}: is not the mark of a training run; expected another output folder")
    return decode(RunRecord, _with_kind_of_data(values), where=path)


def read_trainer(path: Path) -> TrainerRecord:
    """The contents of a trainer.json; a UserError names the file and the field that is wrong."""
    return decode(TrainerRecord, _with_kind_of_data(read_json(path)), where=path)


def _with_kind_of_data(values: Any) -> Any:
    """Data had no kind before there were tasks: all of it was text."""
    if isinstance(values, Mapping) and isinstance(values.get("data"), Mapping):
        return {**values, "data": {"kind": TextData.kind, **values["data"]}}
    return values
