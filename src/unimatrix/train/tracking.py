"""Where the curves of a run go: TensorBoard, trackio or W&B through accelerate's trackers, or nowhere.

What accelerate leaves to its caller is here: a resumed run's curves go on where they stopped, a disk that is
full is one line, and no tracker's package is needed but the one asked for.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from unimatrix.errors import UserError
from unimatrix.extras import needs
from unimatrix.train.config import Experiment, TrackerName

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

PROJECT = "unimatrix"  # under which trackio and W&B keep runs


class Curves:
    """Takes the points of a run's curves; without a tracker it keeps nothing.

    problem: why the first that could not be written could not: no curve is worth a step, so that a run is
        saved before anybody is told.
    """

    def __init__(self, tracker: "GeneralTracker | None" = None, *, logs: Path | None = None) -> None:
        self._tracker = tracker
        self._logs = logs
        self.problem: UserError | None = None

    def log(self, values: dict[str, float], *, step: int) -> None:
        """Points of curves at `step` done steps; after a problem none."""
        if self._tracker is None or self.problem is not None:
            return
        try:
            with _written(self._logs):
                self._tracker.log(values, step=step)
        except UserError as error:
            self.problem = error

    def close(self) -> None:
        """Nothing more will come; what was logged is on its way.

        Raises:
            UserError: it cannot be written.
        """
        if self._tracker is not None:
            with _written(self._logs):
                self._tracker.finish()


def check_tracker(name: TrackerName) -> None:
    """Raises MissingPackage where the tracker's package, which has its name, is not installed."""
    if name != "none":
        needs(name)


@contextmanager
def tracking(experiment: Experiment, *, logs: Path, run_id: str, start: int) -> Iterator[Curves]:
    """The experiment's curves, for points from step `start` on; closed at the end of the block.

    Args:
        logs: where TensorBoard's files go.
        run_id: the same after a resume, so that the curves go on.
    Raises:
        UserError: the curves cannot be written; at the end of the block, of one that could not be.
    """
    with _told_once():
        with _written(logs):
            tracker = _start(experiment, logs=logs, run_id=run_id, start=start)
        curves = Curves(tracker, logs=logs)
        try:
            yield curves
        except BaseException as error:
            # what went wrong first is what counts
            with suppress(UserError):
                curves.close()
            if curves.problem is not None and isinstance(error, UserError):
                raise curves.problem from error
            raise
        if curves.problem is None:
            curves.close()
            return
        with suppress(UserError):
            curves.close()
        raise curves.problem


def _start(experiment: Experiment, *, logs: Path, run_id: str, start: int) -> "GeneralTracker | None":
    name = experiment.loop.tracker
    if name == "none":
        return None
    # imported here: accelerate takes a second
    from accelerate.tracking import TensorBoardTracker, TrackioTracker, WandBTracker

    if name == "tensorboard":
        # a killed run may have drawn points beyond its last checkpoint: they give way to those that come
        tracker = TensorBoardTracker(logs.name, logs.parent, purge_step=start + 1)
    elif name == "trackio":
        # which knows a run by its name alone: one that a resume renames begins anew there
        known_as = f"{experiment.name}-{run_id[:8]}"
        tracker = TrackioTracker(PROJECT, name=known_as, resume="allow", config=experiment.to_dict())
    else:
        settings = {"name": experiment.name, "id": run_id, "resume": "allow", "config": experiment.to_dict()}
        tracker = WandBTracker(PROJECT, **settings)
    tracker.start()
    return tracker


@contextmanager
def _written(logs: Path | None) -> Iterator[None]:
    """An OSError that leaves the block is about curves that could not be written."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{logs}: the curves could not be written ({error.strerror or error})") from error


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
