"""How long a training step of each of several models takes: each in a process of its own, in turns.

What else a process holds, and where its memory lies, changes a step's time by a fifth, for some models and
not for others (docs/log.md): so each has a process to itself, as its run has. The machine's speed drifts from
minute to minute: so they take turns, which a slow spell hits alike.
"""

import dataclasses
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection

from unimatrix.data import Corpus
from unimatrix.errors import TrainingStopped, UserError
from unimatrix.lab.measured import Stopped
from unimatrix.lab.training import computing_with
from unimatrix.memory import keep_freed_memory
from unimatrix.train import Experiment
from unimatrix.train.interrupts import SIGNALS, Interrupts
from unimatrix.train.launch import start_accelerator
from unimatrix.train.run import Run
from unimatrix.train.sources import source_of

TURN_SECONDS, UNTIMED = 4.0, 0.25  # of one model, and the share of it that goes before, untimed
TURNS = 3  # of each, at least
AT_REST = 1e-12  # the learning rate while steps are timed: so that no number of them is enough to diverge
_POLL_S = 0.1


def seconds_in_turns(
    experiments: Mapping[str, Experiment], corpus: Corpus, *, threads: int, seconds: float
) -> dict[str, float]:
    """The mean seconds of a training step of each; all of its loop's work.

    Times a number of steps it is how long they take: the median would leave out every slow one.

    Args:
        seconds: of the timing, in all, three turns of each at least; the processes' start comes before it.
    Raises:
        TrainingStopped: a loss or a weight is no longer finite (names the experiment).
        UserError: what training refuses, or a process that ended (names the experiment).
        Stopped: Ctrl-C or SIGTERM came.
    """
    turn = min(TURN_SECONDS, seconds / (TURNS * len(experiments)))
    steps, spent = dict.fromkeys(experiments, 0), dict.fromkeys(experiments, 0.0)
    with Interrupts() as interrupts, ExitStack() as held:
        pipes = {}
        for name, experiment in experiments.items():
            pipes[name] = held.enter_context(_started(experiment, corpus, threads))
            _answer(name, pipes[name], interrupts)
        begin, rounds = time.perf_counter(), 0
        while rounds < TURNS or time.perf_counter() - begin < seconds:
            for name, pipe in pipes.items():
                with suppress(OSError):  # of one that has ended the answer says so
                    pipe.send((UNTIMED * turn, turn))
                made, took = _answer(name, pipe, interrupts)
                steps[name] += made
                spent[name] += took
            rounds += 1
    return {name: spent[name] / steps[name] for name in experiments}


def _answer(name: str, pipe: Connection, interrupts: Interrupts) -> tuple[int, float]:
    """What a process says: how many steps it made, and in how many seconds."""
    try:
        while not pipe.poll(_POLL_S):
            if interrupts.signal is not None:
                raise Stopped(interrupts.signal)
        answer = pipe.recv()
    except (EOFError, OSError):
        raise UserError(f"{name}: the process that timed its steps ended") from None
    if isinstance(answer, TrainingStopped):
        raise TrainingStopped(f"{name}: {answer}") from answer
    if isinstance(answer, UserError):
        raise UserError(f"{name}: {answer}") from answer
    return answer


@contextmanager
def _started(experiment: Experiment, corpus: Corpus, threads: int) -> Iterator[Connection]:
    """The pipe to a process that makes steps of that experiment when asked to; it ends with the block."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(
        target=_step_when_asked, args=(theirs, experiment, corpus, threads), daemon=True
    )
    # Python's own helper comes first: its start would let signals through again
    resource_tracker.ensure_running()
    # it begins with the signals held back: the parent alone hears them
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    theirs.close()
    try:
        yield ours
    finally:
        ours.close()
        process.kill()
        process.join()


def _step_when_asked(pipe: Connection, experiment: Experiment, corpus: Corpus, threads: int) -> None:
    keep_freed_memory()
    still = dataclasses.replace(experiment, optim=dataclasses.replace(experiment.optim, lr=AT_REST))
    try:
        with computing_with(threads):
            accelerator = start_accelerator(still)
            run = Run(still, source=source_of(still, corpus), accelerator=accelerator, data={})
            pipe.send(_stepped(run, 0.0))
            while True:
                untimed, timed = pipe.recv()
                _stepped(run, untimed)
                pipe.send(_stepped(run, timed))
    except UserError as error:  # a TrainingStopped too
        pipe.send(error)
    except (EOFError, OSError):
        return  # nobody asks any more


def _stepped(run: Run, seconds: float) -> tuple[int, float]:
    """Make steps for so long, at least one: how many, and in how many seconds."""
    begin, steps = time.perf_counter(), 0
    while not steps or time.perf_counter() - begin < seconds:
        run.train_step()
        steps += 1
    return steps, time.perf_counter() - begin
