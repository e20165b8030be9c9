"""Where the curves of a run go: TensorBoard, Weights & Biases, or nowhere."""

import importlib
import importlib.util
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from unimatrix.errors import UserError
from unimatrix.train.config import Experiment, TrackerName


class Tracker(Protocol):
    def log(self, values: dict[str, float], *, step: int) -> None:
        """Points of curves at `step` done steps."""
        ...

    def close(self) -> None:
        """Nothing more will come; what was logged is on its way."""
        ...


def check_tracker(name: TrackerName) -> None:
    """Raises UserError where the tracker's package is not installed."""
    package = {"tensorboard": "tensorboard", "wandb": "wandb", "none": None}[name]
    if package is not None and importlib.util.find_spec(package) is None:
        raise UserError(f"tracker: {name} is not installed; expected one that is, or none")


@contextmanager
def tracking(experiment: Experiment, *, logs: Path, run_id: str, start: int) -> Iterator[Tracker]:
    """The experiment's tracker, for points from step `start` on; closed at the end of the block.

    Args:
        logs: where TensorBoard's files go.
        run_id: the same after a resume, so that the curves go on.
    Raises:
        UserError: the curves cannot be written.
    """
    with _told_once():
        try:
            tracker = _start(experiment, logs=logs, run_id=run_id, start=start)
        except OSError as error:
            raise _not_written(logs, error) from error
        try:
            yield tracker
        except BaseException:
            # what went wrong first is what counts
            with suppress(OSError):
                tracker.close()
            raise
        try:
            tracker.close()
        except OSError as error:
            raise _not_written(logs, error) from error


@contextmanager
def _told_once() -> Iterator[None]:
    """No traceback from TensorBoard's own threads about a disk: the next call from ours raises the same."""
    before = threading.excepthook

    def hook(failure: threading.ExceptHookArgs) -> None:
        if not (isinstance(failure.exc_value, OSError) and _is_writer(failure.thread)):
            before(failure)

    threading.excepthook = hook
    try:
        yield
    except UserError:
        for thread in filter(_is_writer, threading.enumerate()):
            # it hands its error over first and dies after that
            thread.join(timeout=1.0)
        raise
    finally:
        threading.excepthook = before


def _is_writer(thread: threading.Thread | None) -> bool:
    return type(thread).__module__.startswith("tensorboard.")


def no_tracker() -> Tracker:
    """A tracker that keeps nothing."""
    return _Nowhere()


def _not_written(logs: Path, error: OSError) -> UserError:
    return UserError(f"{logs}: the curves could not be written ({error.strerror or error})")


def _start(experiment: Experiment, *, logs: Path, run_id: str, start: int) -> Tracker:
    if experiment.loop.tracker == "tensorboard":
        return _TensorBoard(logs, start)
    if experiment.loop.tracker == "wandb":
        return _WandB(experiment, run_id)
    return _Nowhere()


class _TensorBoard:
    def __init__(self, logs: Path, start: int) -> None:
        # imported here: it takes a second
        from torch.utils.tensorboard import SummaryWriter

        self._logs = logs
        # a killed run may have drawn points beyond its last checkpoint: they give way to those that come
        self._writer = SummaryWriter(str(logs), purge_step=start + 1 if start else None)

    def log(self, values: dict[str, float], *, step: int) -> None:
        try:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)
        except OSError as error:
            raise _not_written(self._logs, error) from error

    def close(self) -> None:
        self._writer.close()


class _WandB:
    def __init__(self, experiment: Experiment, run_id: str) -> None:
        wandb: Any = importlib.import_module("wandb")
        self._run = wandb.init(
            project="unimatrix", name=experiment.name, id=run_id, resume="allow", config=experiment.to_dict()
        )

    def log(self, values: dict[str, float], *, step: int) -> None:
        self._run.log(values, step=step)

    def close(self) -> None:
        self._run.finish()


class _Nowhere:
    def log(self, values: dict[str, float], *, step: int) -> None:
        pass

    def close(self) -> None:
        pass
