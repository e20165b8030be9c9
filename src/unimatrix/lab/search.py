"""A search of settings with the same budget for every contestant, each run of it kept as one line.

The first runs of a contestant are drawn from its space by a fixed seed, every choice of a setting about as
often as any other, low ones as often as high ones; spaces of the same sizes get the same draws. The runs
after them change two settings of the best of these, each to a choice beside it. All runs train for the same
seconds on the same threads: as many steps as fit into these by the mean of the run's own step, timed just
before on the same kind of batches. So what a run learns depends on no clock once its steps are known, and
they stand in its row, with its draw. A run that then took other seconds, as the machine was slower at one of
the two, is timed and trained again.

OUT/search.jsonl     the runs as results (unimatrix.lab.results), only ever appended to
OUT/gave_up.jsonl    why those that diverged did
"""

import dataclasses
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from rich.console import Console

from unimatrix.data import VOCAB_SIZE, Corpus
from unimatrix.data.streams import bit_generator
from unimatrix.errors import TrainingStopped, UserError
from unimatrix.evals.provenance import git_commit, machine, versions
from unimatrix.lab.measured import Stopped
from unimatrix.lab.results import GAVE_UP, GaveUp, Result, append_result, read_results
from unimatrix.lab.step_timing import seconds_here
from unimatrix.lab.training import about_run, left_in_words, run_that_gave_up, train_one
from unimatrix.models.estimate import estimate
from unimatrix.train import Experiment
from unimatrix.train.progress import PlainConsole, say
from unimatrix.train.run_folder import check_path
from unimatrix.train.sources import source_of

SEARCH = "search.jsonl"
PART_BYTES = 65_536  # the last of the validation text, that a run of a search is measured on
OF_THE_BUDGET, DIVERGED = "budget_seconds", "diverged"  # metrics of a row beside what it measured
CHOICE = "choice_"  # and which choice of each setting it had, from 0
_READ = ("train", "valid")  # the splits that a search reads
_SEED = 0  # of the draws, and of every run's weights and batches
UNEVEN = 0.1  # of a run's seconds, by which those that it took may differ from them
_TRIES = 3  # at a run that differs more
_TIMING_SHARE = 0.1  # of a run's seconds, spent before it on timing its step
_TIMED_AS = 1_000  # as of a run of so many steps

Draw = tuple[int, ...]  # which choice of each setting, in their order


@dataclass(frozen=True, kw_only=True, slots=True)
class Space:
    """What is searched for one contestant.

    axes: setting -> its choices, those beside each other near each other. make: a choice of each and a number
    of steps in, the experiment out.
    """

    name: str
    axes: Mapping[str, tuple[Any, ...]]
    make: Callable[[Mapping[str, Any], int], Experiment]

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many choices each setting has."""
        return tuple(map(len, self.axes.values()))

    def told(self, draw: Draw) -> dict[str, float]:
        """The draw as metrics of its row."""
        return {f"{CHOICE}{name}": float(at) for name, at in zip(self.axes, draw, strict=True)}

    def experiment(self, draw: Draw, *, number: int, steps: int) -> Experiment:
        """The run of that number."""
        chosen = {name: of[at] for (name, of), at in zip(self.axes.items(), draw, strict=True)}
        made = self.make(chosen, steps)
        loop = dataclasses.replace(made.loop, seed=_SEED, device="cpu", tracker="none")
        return dataclasses.replace(made, name=f"search.{self.name}.{number:02}", loop=loop)


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """What every contestant has: runs that are drawn, runs near the best of these, seconds of each."""

    drawn: int = 12
    near: int = 8
    seconds: float = 30.0

    @property
    def runs(self) -> int:
        return self.drawn + self.near


def drawn(sizes: Sequence[int], number: int) -> tuple[Draw, ...]:
    """So many draws, a setting's choices spread over them evenly, in an order shuffled for each setting."""
    columns = [
        _shuffled([at * size // number for at in range(number)], place) for place, size in enumerate(sizes)
    ]
    return tuple(zip(*columns, strict=True))


def near(best: Draw, sizes: Sequence[int], number: int) -> tuple[Draw, ...]:
    """So many draws that differ from the best one in two settings, each by one choice.

    Raises:
        UserError: there are fewer.
    """
    found = []
    for places in itertools.combinations(range(len(sizes)), 2):
        for moves in itertools.product((-1, 1), repeat=2):
            draw = list(best)
            for place, move in zip(places, moves, strict=True):
                draw[place] += move
            if all(0 <= at < size for at, size in zip(draw, sizes, strict=True)):
                found.append(tuple(draw))
    if len(found) < number:
        raise UserError(f"near: expected at most the {len(found)} draws beside the best, got {number}")
    return tuple(_shuffled(found, len(sizes))[:number])


def _shuffled(items: Sequence[Any], place: int) -> list[Any]:
    """In the order of a stream of that place."""
    keys = bit_generator("search", seed=_SEED, place=place).random_raw(len(items)).tolist()
    return [item for _, item in sorted(zip(keys, items, strict=True), key=lambda pair: pair[0])]


def is_whole(row: Result) -> bool:
    """Whether it diverged, or holds all that its settings ask for as numbers that bits can be."""
    if DIVERGED in row.metrics:
        return True
    streams = Experiment.from_dict(row.config).loop.stream_bytes is not None
    names = ("bpb", "stream_bpb") if streams else ("bpb",)
    return all(0.0 < row.metrics.get(name, 0.0) < float("inf") for name in names)


def bits(row: Result, metric: str = "bpb") -> float:
    """What a run is ordered by; infinite of one that diverged."""
    return row.metrics.get(metric, float("inf"))


def search(
    spaces: Sequence[Space],
    *,
    out: Path,
    corpus: Corpus,
    budget: Budget,
    threads: int,
    console: Console | None = None,
) -> dict[str, list[Result]]:
    """Train every run that OUT/search.jsonl lacks, contestants in turns; all runs by contestant, in order.

    Started again it goes on: of a run that was stopped nothing is kept.

    Args:
        corpus: of its validation text the last PART_BYTES count, all of a shorter one.
    Raises:
        UserError: a damaged file, spaces of unequal sizes or too few draws, what training refuses.
        Stopped: by a signal; finished runs are kept.
    """
    check_path(out)
    if len({space.sizes for space in spaces}) != 1:
        raise UserError("spaces: expected as many choices of each setting for every contestant")
    near((0,) * len(spaces[0].sizes), spaces[0].sizes, budget.near)  # the fewest that a best draw may have
    out.mkdir(parents=True, exist_ok=True)  # not after a run's seconds: it may be none that can be
    console = console or PlainConsole()
    corpus = _part_of(corpus)
    log, kept = _Log(out / SEARCH, corpus, budget, threads), {space.name: [] for space in spaces}
    if log.of_others:
        say(
            console,
            f"{log.of_others} runs in {out / SEARCH} are of another search, of which the text, the seconds, "
            "the machine, the threads, the commit or the versions were others: they count for nothing here",
        )
    spent: list[float] = []
    total = budget.runs * len(spaces)
    for number in range(budget.runs):
        for space in spaces:
            rows = kept[space.name]
            draw = _nth(space, number, rows, budget)
            row = log.find(space, draw, number)
            if row is None:
                began = time.monotonic()
                row, gave_up, signal = _run(
                    space, draw, number, corpus=corpus, budget=budget, threads=threads
                )
                if gave_up is not None:
                    append_result(out / GAVE_UP, gave_up)
                log.append(row)
                spent.append(time.monotonic() - began)
                left = total - 1 - number * len(spaces) - list(spaces).index(space)
                words = left_in_words(left * sum(spent) / len(spent), left)
                say(console, f"{row.experiment}: {_in_words(row)}{words and f'; {words}'}")
                if signal is not None:
                    raise Stopped(signal)
            rows.append(row)
    return kept


def _nth(space: Space, number: int, rows: Sequence[Result], budget: Budget) -> Draw:
    """The draw of that number; of those near the best one the first runs must be there."""
    first = drawn(space.sizes, budget.drawn)
    if number < budget.drawn:
        return first[number]
    best = min(range(budget.drawn), key=lambda at: bits(rows[at]))
    return near(first[best], space.sizes, budget.near)[number - budget.drawn]


def _run(
    space: Space, draw: Draw, number: int, *, corpus: Corpus, budget: Budget, threads: int
) -> tuple[Result, GaveUp | None, int | None]:
    """A run of these seconds, or of several tries the one that comes nearest to them.

    Where a further try diverges, the nearest one before it counts. Of a run that is stopped before its tries
    are done nothing is kept.

    Returns:
        Its row; why it diverged, if it did; a signal that came too late to stop it.
    """
    tries: list[Result] = []
    while True:
        row, gave_up, signal = _try(space, draw, number, corpus=corpus, budget=budget, threads=threads)
        if gave_up is not None and not tries:
            return row, gave_up, signal
        if gave_up is None:
            tries.append(row)
        nearest = min(tries, key=lambda row: abs(row.seconds - budget.seconds))
        even = abs(nearest.seconds - budget.seconds) <= UNEVEN * budget.seconds
        if even or gave_up is not None or len(tries) == _TRIES:
            return nearest, None, signal
        if signal is not None:
            raise Stopped(signal)


def _try(
    space: Space, draw: Draw, number: int, *, corpus: Corpus, budget: Budget, threads: int
) -> tuple[Result, GaveUp | None, int | None]:
    """Time a step, then train for as many as fit."""
    experiment = space.experiment(draw, number=number, steps=_TIMED_AS)
    beside = {OF_THE_BUDGET: budget.seconds, **space.told(draw)}
    quiet = PlainConsole(quiet=True)

    def diverged(why: TrainingStopped) -> tuple[Result, GaveUp, int | None]:
        row = _diverged(experiment, corpus, beside, threads)
        return row, run_that_gave_up(experiment, why, corpus), why.signal

    with TemporaryDirectory() as folder:
        try:
            step = seconds_here(experiment, corpus, threads=threads, seconds=_TIMING_SHARE * budget.seconds)
            steps = max(1, round(budget.seconds / step))
            experiment = space.experiment(draw, number=number, steps=steps)
            trained = train_one(experiment, corpus=corpus, out=Path(folder), console=quiet, threads=threads)
        except TrainingStopped as why:
            return diverged(why)
    if trained.result is None:
        assert trained.stop_signal is not None
        raise Stopped(trained.stop_signal)
    row = dataclasses.replace(trained.result, metrics={**trained.result.metrics, **beside})
    if not is_whole(row):
        why = TrainingStopped("a number that was measured is not finite")
        why.signal = trained.stop_signal
        return diverged(why)
    return row, None, trained.stop_signal


def _diverged(experiment: Experiment, corpus: Corpus, beside: Mapping[str, float], threads: int) -> Result:
    """The row of a run whose loss or weights are no longer finite: it counts as one, and measured nothing."""
    data, kind = source_of(experiment, corpus).describe(), experiment.loop.device
    return Result(
        **about_run(experiment, data, device=kind),
        model=experiment.model.preset,
        steps=experiment.loop.steps,
        parameters=estimate(experiment.model.resolved(VOCAB_SIZE)).parameters,
        metrics={**beside, DIVERGED: 1.0},
        seconds=0.0,
        tokens_per_second=0.0,
        versions=versions(),
        machine=machine(kind),
        threads=threads,
        backend="",
    )


def _part_of(corpus: Corpus) -> Corpus:
    """The same with the validation text's last part alone: what studies read as a stream is its first."""
    begins, first = corpus.begins["valid"], max(0, len(corpus.valid) - PART_BYTES)
    return dataclasses.replace(
        corpus,
        valid=corpus.valid[first:],
        # a document that the border cuts begins there
        begins={**corpus.begins, "valid": np.concatenate([[0], begins[begins > first] - first])},
        is_paper_corpus=False,
        notes=(*corpus.notes, f"Of the validation text the last {len(corpus.valid) - first:,} bytes."),
    )


def _in_words(row: Result) -> str:
    measured = "diverged" if DIVERGED in row.metrics else f"{row.metrics['bpb']:.4f} bits per byte"
    return f"{measured} after {row.steps:,} steps in {row.seconds:.1f} s"


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """What the runs of one search have in common: how fast they were made, and on what.

    sha256s: split -> the checksum of what was read of the text. git_commit, versions: of the sources, and of
    what they run on: another kernel, or another torch, fits other steps into the same seconds.
    """

    seconds: float
    machine: str
    threads: int
    sha256s: dict[str, str]
    git_commit: str
    versions: dict[str, str]

    @classmethod
    def of(cls, row: Result) -> "Made":
        """Of a run's row; of another kind of row, seconds of 0."""
        return cls(
            seconds=row.metrics.get(OF_THE_BUDGET, 0.0),
            machine=row.machine,
            threads=row.threads,
            sha256s={split: row.data[split]["sha256"] for split in _READ},
            git_commit=row.git_commit,
            versions=row.versions,
        )

    @classmethod
    def here(cls, corpus: Corpus, *, seconds: float, threads: int) -> "Made":
        """Of runs that are made now, in this process."""
        return cls(
            seconds=seconds,
            machine=machine("cpu"),
            threads=threads,
            sha256s={split: str(corpus.fingerprint(split)["sha256"]) for split in _READ},
            git_commit=git_commit(),
            versions=versions(),
        )


class _Log:
    """The file of runs: which of them are there, made as they would be now; how many are not."""

    def __init__(self, path: Path, corpus: Corpus, budget: Budget, threads: int) -> None:
        self._path = path
        here = Made.here(corpus, seconds=budget.seconds, threads=threads)
        there = [row for row in read_results(path) if is_whole(row)]
        self._rows = {row.experiment: row for row in there if Made.of(row) == here}
        self.of_others = sum(Made.of(row) != here for row in there)

    def find(self, space: Space, draw: Draw, number: int) -> Result | None:
        """The row of that run, if one of these settings is there."""
        row = self._rows.get(f"search.{space.name}.{number:02}")
        if row is None:
            return None
        wanted = space.experiment(draw, number=number, steps=row.steps)
        found = dataclasses.replace(Experiment.from_dict(row.config), data=wanted.data)
        same = found == wanted and space.told(draw).items() <= row.metrics.items()
        return row if same and row.is_current else None

    def append(self, row: Result) -> None:
        append_result(self._path, row)
