"""How long a training step of each of several models takes: each in a process of its own, in turns.

Each has a process to itself, as its run has: another's numbers are in its caches for its first steps at most.
A virtual machine's cores lie now on one cache and now on two, for some seconds each: what threads hand to
each other then takes twice as long, and a step up to two fifths longer, of each model another part. So turns
are short, and a round of all is over before that changes often (docs/log.md: what longer ones came to).
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing.connection import Connection

import torch

from unimatrix.data import Corpus
from unimatrix.errors import TrainingStopped, UserError
from unimatrix.lab.measured import Stopped
from unimatrix.lab.training import computing_with
from unimatrix.lab.workers import spawned
from unimatrix.memory import keep_freed_memory
from unimatrix.train import Experiment
from unimatrix.train.interrupts import Interrupts
from unimatrix.train.launch import start_accelerator
from unimatrix.train.run import Run
from unimatrix.train.sources import source_of

TURN_SECONDS, UNTIMED = 0.4, 0.5  # of one model, and the share of it that goes before, untimed
TURNS = 3  # of each, at least
UNTIMED_HERE = 0.25
_AT_REST = 1e-12  # the learning rate while steps are timed
_POLL_S = 0.1


def seconds_in_turns(
    experiments: Mapping[str, Experiment],
    corpus: Corpus,
    *,
    threads: int,
    seconds: float,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, float]:
    """The mean seconds of a training step of each; all of its loop's work.

    Times a number of steps it is how long they take: the median would leave out every slow one.

    Args:
        seconds: of the timing, in all, three turns of each at least; the processes' start comes before it.
        say: told how far it is.
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
            say(f"{len(pipes)} of {len(experiments)} models have started")
        begin, rounds = time.perf_counter(), 0
        while rounds < TURNS or time.perf_counter() - begin < seconds:
            for name, pipe in pipes.items():
                with suppress(OSError):  # of one that has ended the answer says so
                    pipe.send((UNTIMED * turn, turn))
                made, took = _answer(name, pipe, interrupts)
                steps[name] += made
                spent[name] += took
            rounds += 1
            spent_s = time.perf_counter() - begin
            left = max(seconds - spent_s, (TURNS - rounds) * spent_s / rounds, 0.0)
            say(f"{rounds} rounds of turns done, about {left / 60:.0f} min left")
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
    """The pipe to a process that makes steps of that experiment when asked to; it ends with the block.

    Its signals stay held back: the parent alone hears them.
    """
    process, pipe = spawned(_step_when_asked, experiment, corpus, threads)
    try:
        yield pipe
    finally:
        pipe.close()
        process.kill()
        process.join()


def _step_when_asked(pipe: Connection, experiment: Experiment, corpus: Corpus, threads: int) -> None:
    keep_freed_memory()
    try:
        with computing_with(threads):
            run = _at_rest(experiment, corpus)
            pipe.send(_stepped(run, 0.0))
            while True:
                untimed, timed = pipe.recv()
                _stepped(run, untimed)
                pipe.send(_stepped(run, timed))
    except UserError as error:  # a TrainingStopped too
        pipe.send(error)
    except (EOFError, OSError):
        return  # nobody asks any more


def seconds_here(experiment: Experiment, corpus: Corpus, *, threads: int, seconds: float) -> float:
    """The same of one model, in this process, which does nothing else: a quarter of `seconds` more untimed.

    Raises:
        TrainingStopped, UserError, Stopped: as `seconds_in_turns` does; Stopped between steps, as what is
            raised within compiled code may be lost.
    """
    with computing_with(threads), torch.random.fork_rng(devices=[]), Interrupts() as interrupts:
        run = _at_rest(experiment, corpus)
        try:
            _stepped(run, UNTIMED_HERE * seconds, interrupts)
            steps, spent = _stepped(run, seconds, interrupts)
        except TrainingStopped as error:
            raise TrainingStopped(f"{experiment.name}: {error}") from error
    return spent / steps


def _at_rest(experiment: Experiment, corpus: Corpus) -> Run:
    """The run, which learns next to nothing: so that no number of steps is enough to diverge."""
    still = dataclasses.replace(experiment, optim=dataclasses.replace(experiment.optim, lr=_AT_REST))
    accelerator = start_accelerator(still)
    return Run(still, source=source_of(still, corpus), accelerator=accelerator, data={})


def _stepped(run: Run, seconds: float, interrupts: Interrupts | None = None) -> tuple[int, float]:
    """Make steps for so long, at least one: how many, and in how many seconds."""
    begin, steps = time.perf_counter(), 0
    while not steps or time.perf_counter() - begin < seconds:
        if interrupts is not None and interrupts.signal is not None:
            raise Stopped(interrupts.signal)
        run.train_step()
        steps += 1
    return steps, time.perf_counter() - begin
