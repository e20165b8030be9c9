"""Training what is missing, one run after another or several side by side; each is handed over when finished.

Every run computes with as many threads as its study says, one where it says nothing, however many run at a
time. The order in which more of them add up their parts is another one, and a rounding grows through a
training: so the number of threads is part of the recipe, and nothing that a run learns depends on how many
went side by side. Seconds do: runs whose seconds are judged go alone (unimatrix.lab.run).
"""

import dataclasses
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from rich.console import Console

from unimatrix.data import Corpus
from unimatrix.errors import TrainingStopped
from unimatrix.evals.compressors import COMPRESSORS, compressor_bits
from unimatrix.evals.provenance import git_commit, machine, now_utc, versions
from unimatrix.extras import needs
from unimatrix.lab.identity import resolve, run_identity
from unimatrix.lab.results import GaveUp, Result, folder_name
from unimatrix.train import Experiment, LoopConfig, TrainResult, latest_checkpoint, train
from unimatrix.train.interrupts import Interrupts
from unimatrix.train.launch import device_kind, start_accelerator
from unimatrix.train.memory import check_memory
from unimatrix.train.records import read_run
from unimatrix.train.run import Run
from unimatrix.train.run_folder import MARK
from unimatrix.train.sources import Source, source_of

THREADS = 1


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """What came out of one run.

    result: None where it was stopped before its end: it goes on from its checkpoint. headline: its number in
    words. seconds: that the whole of it took here. stop_signal: the signal that came.
    """

    result: Result | None
    headline: str
    seconds: float
    stop_signal: int | None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Book:
    """Who is told of the runs: each as it begins, as it is finished, and as it stops for good, and why."""

    begun: Callable[[Experiment], None]
    finished: Callable[[Experiment, Trained], None]
    gave_up: Callable[[Experiment, TrainingStopped], None]


def train_in_turn(
    missing: Sequence[Experiment],
    *,
    corpus: Corpus | None,
    out: Path,
    console: Console,
    book: Book,
    threads: Mapping[str, int] = MappingProxyType({}),
    timed: Collection[str] = (),
) -> int | None:
    """Train one run after another in this process; the signal that ended it early, or None.

    A run that cannot go on is told to the book, and the next one begins: started again it would come to the
    same end, and no run behind it would ever begin.

    threads: experiment -> of its runs, where these are not THREADS. timed: the experiments whose seconds
    count: what the first step compiles, or loads, is in none of them.
    """
    ready: set[str] = set()
    for experiment in missing:
        book.begun(experiment)
        number, is_timed = threads.get(experiment.name, THREADS), experiment.name in timed
        try:
            if is_timed and experiment.name not in ready:
                if (signal := _take_a_step(experiment, corpus=corpus, threads=number)) is not None:
                    return signal
                ready.add(experiment.name)
            trained = train_one(
                experiment, corpus=corpus, out=out, console=console, threads=number, timed=is_timed
            )
        except TrainingStopped as why:
            book.gave_up(experiment, why)
            if why.signal is not None:
                return why.signal
            continue
        if trained.result is not None:
            book.finished(experiment, trained)
        if trained.stop_signal is not None:
            return trained.stop_signal
    return None


def _take_a_step(experiment: Experiment, *, corpus: Corpus | None, threads: int) -> int | None:
    """Train a copy for one step and forget it; a signal that came meanwhile."""
    needs("accelerate")
    check_memory(experiment)
    with computing_with(threads), torch.random.fork_rng(devices=[]), Interrupts() as interrupts:
        accelerator = start_accelerator(experiment)
        Run(experiment, source=source_for(experiment, corpus), accelerator=accelerator, data={}).train_step()
    return interrupts.signal


def train_one(
    experiment: Experiment,
    *,
    corpus: Corpus | None,
    out: Path,
    console: Console,
    threads: int = THREADS,
    timed: bool = False,
) -> Trained:
    """Train a run in its own folder, from its last checkpoint where there is one.

    timed: its seconds count. Where it was finished before and its row is gone, it is trained anew: whoever
    deletes a row, as the machine was busy, wants other seconds, and today's machine and threads did not take
    those of then.

    Raises:
        UserError, OSError: what training refuses.
    """
    started = time.monotonic()
    source = source_for(experiment, corpus)
    folder = run_folder(out, experiment, source.describe())
    # a folder of ours without a checkpoint was killed before its first one: nothing to keep
    resume = latest_checkpoint(folder) is not None
    if resume and timed:
        mark = read_run(folder / MARK)
        resume = mark is None or mark.metrics is None
    text = corpus if experiment.task is None else None
    # a report knows rows alone, so each tells what the same stream costs programs; one may be missing
    programs = {} if text is None else _compressed(text, experiment.loop)
    with computing_with(threads):
        trained = train(
            experiment, out=folder, resume=resume, overwrite=not resume, corpus=text, console=console
        )
    return Trained(
        result=None if trained.interrupted else _result(experiment, trained, programs),
        headline="" if trained.metrics is None else source.headline_text(trained.metrics),
        seconds=time.monotonic() - started,
        stop_signal=trained.stop_signal,
    )


@contextmanager
def computing_with(number: int) -> Iterator[None]:
    """Within the block torch computes with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def source_for(experiment: Experiment, corpus: Corpus | None) -> Source:
    """What the experiment learns from: the one corpus, or a task of its own."""
    return source_of(experiment, corpus if experiment.task is None else None)


def run_folder(out: Path, experiment: Experiment, data: Mapping[str, Any]) -> Path:
    """Where a run's checkpoints lie: named by experiment, seed and identity, so that none is shared."""
    name = folder_name(experiment.name, experiment.loop.seed, identity_of(experiment, data))
    return out / "runs" / name


def identity_of(experiment: Experiment, data: Mapping[str, Any]) -> str:
    """What the experiment's result will be found by."""
    device = device_kind(experiment.loop.device)
    return run_identity(experiment.to_dict(), resolve(experiment), data, device=device)


def settings_of_row(experiment: Experiment, data: Mapping[str, Any]) -> dict[str, Any]:
    """The experiment's settings; a text by its name, as where it lies is of one machine alone."""
    of_text = {"data": data["name"]} if experiment.task is None else {}
    return experiment.to_dict() | of_text


def run_that_gave_up(experiment: Experiment, why: TrainingStopped, corpus: Corpus | None) -> GaveUp:
    """What is kept of a run that could not go on."""
    data = source_for(experiment, corpus).describe()
    return GaveUp(**about_run(experiment, data, device=device_kind(experiment.loop.device)), why=str(why))


def about_run(experiment: Experiment, data: dict[str, Any], *, device: str) -> dict[str, Any]:
    """What a line says of any run."""
    return {
        "experiment": experiment.name,
        "seed": experiment.loop.seed,
        "data": data,
        "git_commit": git_commit(),
        "device": device,
        "date_utc": now_utc(),
        "config": settings_of_row(experiment, data),
        "resolved": resolve(experiment),
        "stamp": identity_of(experiment, data),
    }


def _result(experiment: Experiment, trained: TrainResult, programs: Mapping[str, float]) -> Result:
    assert trained.metrics is not None
    return Result(
        **about_run(experiment, trained.data, device=trained.device),
        model=experiment.model.preset,
        steps=trained.steps,
        parameters=trained.parameters,
        metrics={**trained.metrics, **programs},
        seconds=trained.seconds,
        tokens_per_second=trained.tokens_per_second,
        versions=versions(),
        machine=machine(trained.device),
        threads=trained.threads,
        backend=trained.backend,
        curve=[[step, value] for step, value in trained.curve],
    )


def _compressed(corpus: Corpus, loop: LoopConfig) -> dict[str, float]:
    """Bits per byte of what is read as a stream by each compressor, as metrics ("xz_bpb")."""
    if loop.stream_bytes is None:
        return {}
    text = corpus.split(loop.eval_split)[: loop.stream_bytes]
    return {f"{name}_bpb": compressor_bits(text, name).bpb for name in COMPRESSORS}


def seconds_left(
    done: Sequence[tuple[str, float]],
    to_do: Sequence[str],
    expected: Mapping[str, float],
    *,
    jobs: int = 1,
    alone: Collection[str] = (),
) -> float | None:
    """How long the runs to do will take, by what they took elsewhere and how this machine compares with it.

    Args:
        done: (experiment, seconds that it took here). expected: experiment -> seconds that it took elsewhere.
        alone: experiments that nothing runs beside, however many jobs.
    Returns:
        None where nothing is known yet.
    """
    if not to_do:
        return 0.0
    both = [(expected[name], seconds) for name, seconds in done if name in expected]
    scale = sum(seconds for _, seconds in both) / (sum(there for there, _ in both) or 1.0) if both else 1.0
    here = [seconds for _, seconds in done] or [scale * seconds for seconds in expected.values()]
    if not here:
        return None
    usual = sum(here) / len(here)
    guesses = [(name, scale * expected[name] if name in expected else usual) for name in to_do]
    shared = [guess for name, guess in guesses if name not in alone]
    # the longest is not shared
    together = max(sum(shared) / jobs, *shared) if shared else 0.0
    return together + sum(guess for name, guess in guesses if name in alone)


def left_in_words(seconds: float | None, runs: int) -> str:
    """ "7 runs left, about 3 min"; nothing where none is left."""
    if not runs:
        return ""
    left = f"{runs} {'run' if runs == 1 else 'runs'} left"
    if seconds is None:
        return left
    return f"{left}, about {f'{seconds:.0f} s' if seconds < 100 else f'{seconds / 60:.0f} min'}"
