"""Train what a table still lacks, then judge, draw and report: what `unimatrix reproduce` does.

OUT/results.jsonl          one line per finished run, appended and never rewritten
OUT/runs/...               the runs themselves: checkpoints and curves
OUT/inspections/...        what the tables' looks into trained models found (unimatrix.lab.look)
OUT/figures/, report.html  rebuilt from these each time
"""

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from unimatrix.data import Corpus, load_corpus
from unimatrix.errors import UserError
from unimatrix.evals.provenance import git_commit, machine, now_utc, versions
from unimatrix.lab.identity import resolve, run_identity
from unimatrix.lab.look import read_trace, write_trace
from unimatrix.lab.page import shared_cautions, write_report
from unimatrix.lab.paper import Paper
from unimatrix.lab.results import (
    Result,
    Samples,
    append_result,
    folder_name,
    latest_identities,
    read_results,
    select,
)
from unimatrix.lab.study import Study
from unimatrix.lab.terminal import print_summaries
from unimatrix.lab.words import Summary, summarise
from unimatrix.train import Experiment, TrainResult, latest_checkpoint, train
from unimatrix.train.config import Device
from unimatrix.train.launch import device_kind
from unimatrix.train.progress import PlainConsole, say
from unimatrix.train.run_folder import check_path
from unimatrix.train.sources import Source, source_of

RESULTS = "results.jsonl"
DEFAULT_SEEDS = (7, 11)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reproduction:
    """What came out: one summary per table, and the page.

    stop_signal: the Ctrl-C or SIGTERM that ended it early; then nothing is reported and page is None.
    """

    summaries: tuple[Summary, ...]
    page: Path | None
    stop_signal: int | None = None


def reproduce(
    *,
    tables: Sequence[Study],
    paper: Paper,
    out: Path = Path("reproduction"),
    seeds: Sequence[int] = DEFAULT_SEEDS,
    source: str = "auto",
    corpus: Corpus | None = None,
    device: Device = "auto",
    console: Console | None = None,
) -> Reproduction:
    """Train every missing run of the tables, append each to OUT/results.jsonl, then print and report.

    A run is finished if results.jsonl has a row of the same settings, seed and text. Started again after an
    interruption it goes on where it stopped; more seeds add to those that are there, and all of them count.

    Args:
        tables: what is trained and judged. paper: what it is held against, for the page.
        out: the folder for results, runs, figures and the page; made if need be.
        seeds: one run of every experiment for each. Claims pair the models by seed.
        source: what `unimatrix.data.load_corpus` takes; looked at only if an experiment reads a text.
        corpus: the text itself, if it is loaded already.
    Raises:
        UserError: no seed, no text, a damaged results file, or what training refuses.
        OSError: the folder cannot be written.
    """
    console = console or PlainConsole()
    check_path(out)
    if not seeds or not tables:
        raise UserError("seeds and tables: expected at least one of each, got none")
    planned = _plan(tables, seeds=seeds, device=device, source=source)
    rows = read_results(out / RESULTS)
    if corpus is None and reads_text(planned):
        corpus = load_corpus(source)
    identities = {run.name: _identity(run, _source(run, corpus).describe()) for run in planned}
    finished = {(row.experiment, row.identity, row.seed) for row in rows}
    missing = [run for run in planned if (run.name, identities[run.name], run.loop.seed) not in finished]
    out.mkdir(parents=True, exist_ok=True)
    _announce(console, planned, missing, corpus=corpus)
    stop_signal = _train_all(missing, corpus=corpus, out=out, console=console)
    if stop_signal is not None:
        return Reproduction(summaries=(), page=None, stop_signal=stop_signal)
    samples = select(read_results(out / RESULTS), identities)
    _inspect(tables, samples, seed=seeds[0], out=out)
    return _report(tables, {table.name: samples for table in tables}, paper=paper, out=out, console=console)


def report(
    *,
    tables: Sequence[Study],
    paper: Paper,
    out: Path = Path("reproduction"),
    console: Console | None = None,
) -> Reproduction:
    """Judge, draw and report again from OUT/results.jsonl, training nothing.

    Of each experiment the newest settings count, on the text of the table's newest row.

    Raises:
        UserError: there is no result of these tables yet, or the results file is damaged.
    """
    console = console or PlainConsole()
    check_path(out)
    rows = read_results(out / RESULTS)
    samples = {table.name: select(rows, latest_identities(rows, table.names)) for table in tables}
    if not any(runs for chosen in samples.values() for runs in chosen.values()):
        raise UserError(f"{out / RESULTS}: no finished run to report; run `unimatrix reproduce` first")
    found = _report(tables, samples, paper=paper, out=out, console=console)
    for name in _outdated(tables, samples, rows):
        say(
            console,
            f"Note: the runs of {name} are left out: what they measured has changed since; "
            "`unimatrix reproduce` makes them anew",
        )
    return found


def _outdated(
    tables: Sequence[Study], samples: Mapping[str, Samples], rows: Sequence[Result]
) -> Iterable[str]:
    """The tables' experiments that have rows, none of which counts any more."""
    names = dict.fromkeys(
        name for table in tables for name in table.names if not samples[table.name].get(name)
    )
    return (name for name in names if any(row.experiment == name for row in rows))


def _report(
    tables: Sequence[Study], samples: Mapping[str, Samples], *, paper: Paper, out: Path, console: Console
) -> Reproduction:
    summaries = tuple(_summary(table, samples[table.name], out=out) for table in tables)
    page = write_report(summaries, paper, out)
    print_summaries(console, summaries)
    for caution in shared_cautions(summaries):
        console.print(Text(f"Note: {caution}", style="yellow"))
    say(console, f"\nReport: {page}")
    return Reproduction(summaries=summaries, page=page)


def _summary(table: Study, samples: Samples, *, out: Path) -> Summary:
    look = table.inspection
    traced = None if look is None else read_trace(out, look, samples)
    return summarise(table, samples, traced=traced)


def _inspect(tables: Sequence[Study], samples: Samples, *, seed: int, out: Path) -> None:
    """Look into the trained models that the tables name, wherever the checkpoint is still there."""
    for look in (table.inspection for table in tables if table.inspection is not None):
        run = samples[look.experiment][seed]
        checkpoint = latest_checkpoint(out / "runs" / run.folder)
        if checkpoint is not None:
            write_trace(out, look, run, checkpoint=checkpoint)


def reads_text(experiments: Iterable[Experiment]) -> bool:
    """Whether any of them trains on a text; a task draws its own sequences."""
    return any(experiment.task is None for experiment in experiments)


def _source(experiment: Experiment, corpus: Corpus | None) -> Source:
    """What the experiment learns from: the one corpus, or a task of its own."""
    return source_of(experiment, corpus if experiment.task is None else None)


def _plan(
    tables: Sequence[Study],
    *,
    seeds: Sequence[int],
    device: Device,
    source: str,
) -> list[Experiment]:
    """Seed by seed, so that an interrupted reproduction holds whole pairs."""
    recipes = {recipe.name: recipe for table in tables for recipe in table.experiments}
    planned = []
    for seed in dict.fromkeys(seeds):
        for recipe in recipes.values():
            loop = dataclasses.replace(recipe.loop, seed=seed, device=device)
            text = source if recipe.task is None else recipe.data
            planned.append(dataclasses.replace(recipe, data=text, loop=loop))
    return planned


def _announce(
    console: Console, planned: Sequence[Experiment], missing: Sequence[Experiment], *, corpus: Corpus | None
) -> None:
    if corpus is not None:
        kind = "the paper's corpus" if corpus.is_paper_corpus else "not the paper's corpus"
        sizes = f"{len(corpus.train):,} bytes to train on, {len(corpus.valid):,} to evaluate on"
        say(console, f"Text: {corpus.name} ({kind}), {sizes}")
    tasks = dict.fromkeys(run.task.kind for run in planned if run.task is not None)
    if tasks:
        say(console, f"Tasks: {', '.join(tasks)} (sequences drawn from each run's seed)")
    say(console, f"Runs: {len(planned)}, of which {len(planned) - len(missing)} finished before")


def _train_all(
    missing: Sequence[Experiment], *, corpus: Corpus | None, out: Path, console: Console
) -> int | None:
    """Train and append each run; the signal that ended it early, or None."""
    durations: list[float] = []
    with _overall_progress(console, len(missing)) as show:
        for number, experiment in enumerate(missing, start=1):
            say(console, f"[{number}/{len(missing)}] {experiment.name}, seed {experiment.loop.seed}")
            started = time.monotonic()
            source = _source(experiment, corpus)
            folder = run_folder(out, experiment, source.describe())
            # a folder of ours without a checkpoint was killed before its first one: nothing to keep
            resume = latest_checkpoint(folder) is not None
            text = corpus if experiment.task is None else None
            trained = train(
                experiment, out=folder, resume=resume, overwrite=not resume, corpus=text, console=console
            )
            # a run that is stopped before its end has no number to append; it goes on from its checkpoint
            if not trained.interrupted:
                result = _result(experiment, trained)
                append_result(out / RESULTS, result)
                durations.append(time.monotonic() - started)
                left = _time_left(durations, len(missing) - number)
                found = source.headline_text(result.metrics)
                say(console, f"  {found} after {durations[-1]:.1f} s{left and f'; {left}'}")
                show(number, left)
            if trained.stop_signal is not None:
                return trained.stop_signal
    return None


@contextmanager
def _overall_progress(console: Console, total: int) -> Iterator[Callable[[int, str], None]]:
    """A bar of finished runs below everything on a terminal; elsewhere the printed lines say it all."""
    if not console.is_terminal or total == 0:
        yield lambda number, left: None
        return
    columns = (
        TextColumn("runs"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[left]}", markup=False),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("runs", total=total, left="")
        yield lambda number, left: progress.update(task, completed=number, left=left)


def run_folder(out: Path, experiment: Experiment, data: Mapping[str, Any]) -> Path:
    """Where a run's checkpoints lie: named by experiment, seed and identity, so that none is shared."""
    name = folder_name(experiment.name, experiment.loop.seed, _identity(experiment, data))
    return out / "runs" / name


def _identity(experiment: Experiment, data: Mapping[str, Any]) -> str:
    """What the experiment's result will be found by."""
    device = device_kind(experiment.loop.device)
    return run_identity(experiment.to_dict(), resolve(experiment), data, device=device)


def _time_left(durations: Sequence[float], left: int) -> str:
    if left == 0:
        return ""
    seconds = left * sum(durations) / len(durations)
    time_left = f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
    return f"{left} {'run' if left == 1 else 'runs'} left, about {time_left}"


def _result(experiment: Experiment, trained: TrainResult) -> Result:
    assert trained.metrics is not None
    return Result(
        experiment=experiment.name,
        model=experiment.model.preset,
        seed=experiment.loop.seed,
        steps=trained.steps,
        parameters=trained.parameters,
        metrics=trained.metrics,
        seconds=trained.seconds,
        tokens_per_second=trained.tokens_per_second,
        data=trained.data,
        git_commit=git_commit(),
        versions=versions(),
        machine=machine(trained.device),
        threads=trained.threads,
        device=trained.device,
        backend=trained.backend,
        date_utc=now_utc(),
        config=experiment.to_dict(),
        resolved=resolve(experiment),
        stamp=_identity(experiment, trained.data),
        curve=[[step, value] for step, value in trained.curve],
    )
