"""Runs side by side: each worker is a process of its own that trains one run after another, as it is told to.

Workers are started afresh ("spawn"), not forked: threads and accelerators do not outlive a fork. The parent
alone writes results. Between runs a worker hears nothing but the parent; within one, a signal lets the step
end and saves a checkpoint, as it does in `unimatrix train`.
"""

import os
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path

from unimatrix.data import Corpus
from unimatrix.errors import TrainingStopped, UserError
from unimatrix.lab.training import Book, Trained, train_one
from unimatrix.memory import keep_freed_memory
from unimatrix.train import Experiment
from unimatrix.train.interrupts import SIGNALS, Interrupts
from unimatrix.train.progress import PlainConsole

_POLL_S = 0.2
_PATIENCE_S = 60.0


@dataclass(kw_only=True, slots=True)
class _Worker:
    """at: the run that it was given and has not answered for."""

    process: SpawnProcess
    pipe: Connection
    at: Experiment | None = None

    def give(self, experiment: Experiment, book: Book) -> None:
        book.begun(experiment)
        self.at = experiment
        # of one that has ended `answer` says how
        with suppress(OSError):
            self.pipe.send(experiment)

    def answer(self) -> Trained:
        """What came of the run that it was given; raises what was raised there."""
        experiment, self.at = self.at, None
        assert experiment is not None
        run = f"{experiment.name}, seed {experiment.loop.seed}"
        try:
            answer = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            raise UserError(
                f"{run}: its process {_end(self.process.exitcode)}; finished runs are kept"
            ) from None
        if isinstance(answer, TrainingStopped):
            raise answer
        if isinstance(answer, UserError):
            raise UserError(f"{run}: {answer}")
        if isinstance(answer, OSError):
            raise answer
        if isinstance(answer, str):
            raise RuntimeError(f"{run}:\n{answer}")
        return answer


def train_side_by_side(
    missing: Sequence[Experiment], *, jobs: int, corpus: Corpus | None, out: Path, book: Book
) -> int | None:
    """Train the runs, `jobs` at a time; the signal that ended it early, or None.

    A run that cannot go on is told to the book, and its worker is given the next one. Where training refuses
    one, or its process ends, those beside it save a checkpoint and stop, as after Ctrl-C. Another Ctrl-C ends
    them at once.

    Raises:
        UserError: what training refuses, or a process that ended (names the run).
        OSError: the folder cannot be written.
    """
    waiting = deque(missing)
    failed: Exception | None = None
    stopped: int | None = None
    with Interrupts() as interrupts, _crew(min(jobs, len(missing)), corpus=corpus, out=out) as crew:
        for worker in crew:
            worker.give(waiting.popleft(), book)
        while busy := [worker for worker in crew if worker.at is not None]:
            stopped = stopped or interrupts.signal
            if stopped is not None or failed is not None:
                for worker in busy:
                    # again and again: one that is not in its steps yet does not hear it
                    _ask_to_stop(worker.process)
            ready = connection.wait([worker.pipe for worker in busy], timeout=_POLL_S)
            for worker in (worker for worker in busy if worker.pipe in ready):
                experiment = worker.at
                assert experiment is not None
                trained = None
                try:
                    trained = worker.answer()
                except TrainingStopped as why:
                    book.gave_up(experiment, why)
                    stopped = stopped or why.signal
                except (UserError, OSError, RuntimeError) as error:
                    failed = failed or error
                    continue
                if trained is not None and trained.result is not None:
                    book.finished(experiment, trained)
                if failed is None:
                    stopped = stopped or interrupts.signal or (trained and trained.stop_signal)
                    if stopped is None and waiting:
                        worker.give(waiting.popleft(), book)
    if failed is not None:
        raise failed
    return stopped


@contextmanager
def _crew(number: int, *, corpus: Corpus | None, out: Path) -> Iterator[list[_Worker]]:
    """So many workers, who end with the block; one that is still at work then is killed."""
    crew: list[_Worker] = []
    try:
        crew.extend(_started(corpus, out) for _ in range(number))
        yield crew
    finally:
        for worker in crew:
            worker.pipe.close()
            if worker.at is not None:
                worker.process.kill()
        for worker in crew:
            worker.process.join()


def _started(corpus: Corpus | None, out: Path) -> _Worker:
    process, pipe = spawned(_work, corpus, out)
    return _Worker(process=process, pipe=pipe)


def spawned(target: Callable[..., None], *arguments: object) -> tuple[SpawnProcess, Connection]:
    """A process that calls target(its end of a pipe, *arguments), and our end.

    It begins with the signals held back, until it says what it does with them.
    """
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=target, args=(theirs, *arguments), daemon=True)
    # Python's own helper comes first: its start would let signals through again
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    theirs.close()
    return process, ours


def _ask_to_stop(process: SpawnProcess) -> None:
    if process.is_alive() and process.pid is not None:
        os.kill(process.pid, signal.SIGTERM)


def _end(code: int | None) -> str:
    if code is not None and code < 0:
        killed = " (killed, perhaps for want of memory)" if -code == signal.SIGKILL else ""
        return f"was ended by signal {-code}{killed}"
    return f"ended with exit code {code}"


def _work(pipe: Connection, corpus: Corpus | None, out: Path) -> None:
    """A worker's whole life: experiments in, what came of them out, until the parent closes the pipe."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    keep_freed_memory()
    console = PlainConsole(quiet=True)
    while True:
        try:
            experiment = pipe.recv()
        except EOFError:
            return
        try:
            answer: object = train_one(experiment, corpus=corpus, out=out, console=console)
        except (UserError, OSError) as error:
            answer = error
        except Exception:
            answer = traceback.format_exc()
        try:
            pipe.send(answer)
        except OSError:
            return


def _end_with_parent() -> None:
    """A parent that was killed asks nobody to stop: then the run is saved and left.

    What does not hear it for _PATIENCE_S (an evaluation, whose result nobody would take) ends at once.
    """
    parent = parent_process()
    assert parent is not None
    # the sentinel alone would be held open by whoever the parent forked
    while not connection.wait([parent.sentinel], timeout=_POLL_S) and os.getppid() == parent.pid:
        pass
    until = time.monotonic() + _PATIENCE_S
    while time.monotonic() < until:
        # again and again, as the parent would: between runs and before its first step none is heard
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_POLL_S)
    os._exit(1)
