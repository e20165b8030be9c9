"""Train what a study still lacks, then judge, draw and report: what `unimatrix reproduce` does.

OUT/results.jsonl          one line per finished run, appended and never rewritten
OUT/gave_up.jsonl          one line per run that could not go on, and why: the page tells of it
OUT/runs/...               the runs themselves: checkpoints and curves
OUT/asked.json             study and text of each experiment, by which `unimatrix runs` tells how to go on
OUT/inspections/...        what the studies' looks into trained models found (unimatrix.lab.look)

The rest of OUT is made of these (unimatrix.lab.report).
"""

import dataclasses
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from functools import partial
from itertools import chain, count, islice, zip_longest
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from unimatrix.atomic import write_json
from unimatrix.codec import read_json
from unimatrix.data import Corpus, Split, load_corpus
from unimatrix.errors import TrainingStopped, UserError, first_names
from unimatrix.lab.committed import committed_rows, is_committed, seconds_by_experiment
from unimatrix.lab.look import write_trace
from unimatrix.lab.measured import Stopped, measure_missing, seconds_to_measure
from unimatrix.lab.newest import newest, on_each_text
from unimatrix.lab.paper import Paper
from unimatrix.lab.report import SHOWN, Reproduction, reported
from unimatrix.lab.results import (
    GAVE_UP,
    RESULTS,
    GaveUp,
    Samples,
    append_result,
    read_results,
    select,
    write_results,
)
from unimatrix.lab.study import Study
from unimatrix.lab.training import (
    Book,
    Trained,
    identity_of,
    left_in_words,
    run_that_gave_up,
    seconds_left,
    source_for,
    train_in_turn,
)
from unimatrix.lab.workers import train_side_by_side
from unimatrix.train import Experiment, latest_checkpoint
from unimatrix.train.config import Device
from unimatrix.train.progress import PlainConsole, say
from unimatrix.train.run_folder import check_path

ASKED = "asked.json"
_SEEDS_OF_THE_PAPER = (7, 11)


def first_seeds(number: int, own: tuple[int, ...] = ()) -> tuple[int, ...]:
    """The first so many of the seeds that are used in turn: the paper's 7 and 11, then 1, 2, 3 and so on.

    own: a study's own in place of these (`Study.seeds`); those after the largest follow.
    """
    first, then = (own, max(own) + 1) if own else (_SEEDS_OF_THE_PAPER, 1)
    return tuple(islice(chain(first, (seed for seed in count(then) if seed not in first)), number))


def reproduce(
    *,
    studies: Sequence[Study],
    paper: Paper,
    out: Path = Path("reproduction"),
    seeds: Sequence[int] | int = 1,
    skip: Collection[str] = (),
    jobs: int = 1,
    source: str = "auto",
    corpus: Corpus | None = None,
    device: Device = "auto",
    console: Console | None = None,
) -> Reproduction:
    """Train every missing run of the studies, append each to OUT/results.jsonl, then print and report.

    A run is finished if results.jsonl has a row of the same settings, seed and text. Started again after an
    interruption it goes on where it stopped; more seeds add to those that are there, and all of them count.
    A run whose loss or weights are no longer finite has no row there but one in OUT/gave_up.jsonl; the others
    go on, and the page is of them and names it.

    Args:
        studies: what is trained and judged; those of another text than this one are left out.
        paper: what it is held against, for the page.
        out: the folder for results, runs, figures and the page; made if need be.
        seeds: one run of every experiment for each; a number, the first so many of each study's
            (`first_seeds`). Claims pair the models by seed.
        skip: experiments that are not trained if none of their runs is finished here; committed runs of the
            same settings, text and kind of device are shown instead, where there are any.
        jobs: how many runs at a time, of those of one thread; from two on in processes of their own, so a
            script calls this below `if __name__ == "__main__":`. Of all numbers seconds alone depend on it:
            experiments of which a study shows them run alone, after the others.
        source: what `unimatrix.data.load_corpus` takes; looked at only if an experiment reads a text.
        corpus: the text itself, if it is loaded already.
    Raises:
        UserError: no seed, no text, none but studies of other texts, a damaged results file, or what
            training refuses.
        OSError: the folder cannot be written.
    """
    console = console or PlainConsole()
    check_path(out)
    if not seeds or (isinstance(seeds, int) and seeds < 1) or not studies:
        raise UserError("seeds and studies: expected at least one of each, got none")
    if jobs < 1:
        raise UserError(f"jobs: expected at least 1, got {jobs}")
    rows = read_results(out / RESULTS)
    anywhere = committed_rows()
    # none stands beside itself
    committed = [] if is_committed(out) else anywhere
    if corpus is None and reads_text(found for study in studies for found in study.experiments):
        corpus = load_corpus(source)
    studies = _of_text(studies, corpus, console)
    planned = _plan(studies, seeds=seeds, device=device, source=source)
    # the same for every seed
    recipes = {run.name: run for run in planned}
    identities = {name: identity_of(run, source_for(run, corpus).describe()) for name, run in recipes.items()}
    own, theirs = select(rows, identities), select(committed, identities)
    others = {name for name in identities if name in skip and not own[name]}
    for study in studies:  # seconds of two machines are not to be compared
        if not others.isdisjoint(study.timed):
            others |= {name for name in study.timed if name in skip and theirs.get(name)}
    skipped = {name: theirs[name] for name in identities if name in others}
    shown = {name: runs for name, runs in skipped.items() if runs}
    live = [run for run in planned if run.name not in skipped]
    missing = [run for run in live if run.loop.seed not in own[run.name]]
    out.mkdir(parents=True, exist_ok=True)
    _note_asked(studies, source=source, out=out)
    # what stands in for studies that were not chosen this time stays
    kept = (
        [] if is_committed(out) else [row for row in read_results(out / SHOWN) if row.experiment not in own]
    )
    write_results(out / SHOWN, [*kept, *(run for runs in shown.values() for run in runs.values())])
    _announce(console, live, missing, corpus=corpus)
    _announce_skipped(console, skipped)
    gave_up: list[GaveUp] = []
    stop_signal = _train_all(
        missing,
        jobs=jobs,
        corpus=corpus,
        out=out,
        console=console,
        expected=seconds_by_experiment(anywhere),
        alone={name for study in studies for name in study.timed},
        threads={run.name: study.threads for study in studies for run in study.experiments},
        gave_up=gave_up,
        afterwards=seconds_to_measure(studies, rows, anywhere, device=device),
    )
    if stop_signal is not None:
        return Reproduction(summaries=(), page=None, stop_signal=stop_signal, gave_up=tuple(gave_up))
    # last and alone: what is timed must not share the machine
    try:
        identities |= measure_missing(
            studies,
            rows,
            device=device,
            append=partial(append_result, out / RESULTS),
            say=partial(say, console),
        )
    except Stopped as stopped:
        return Reproduction(summaries=(), page=None, stop_signal=stopped.signal, gave_up=tuple(gave_up))
    rows = read_results(out / RESULTS)
    finished = select(rows, identities)
    samples = {name: shown.get(name) or runs for name, runs in finished.items()}
    _inspect(studies, samples, seeds=seeds, out=out, console=console)
    # of its own runs alone: texts of the same name may be read to another length elsewhere
    chosen = {one.name: {name: samples[name] for name in one.names if name in samples} for one in studies}
    first = None if corpus is None else corpus.name
    studies = [one for study in studies for one in on_each_text(study, rows, first=first)]
    return reported(
        studies,
        {study.name: newest(study, rows) for study in studies if study.name not in chosen} | chosen,
        shown=[run for runs in shown.values() for run in runs.values()],
        committed=committed,
        paper=paper,
        out=out,
        console=console,
        gave_up=gave_up,
    )


def _seeds_of(study: Study, seeds: Sequence[int] | int) -> Sequence[int]:
    return first_seeds(seeds, study.seeds) if isinstance(seeds, int) else seeds


def _inspect(
    studies: Sequence[Study], samples: Samples, *, seeds: Sequence[int] | int, out: Path, console: Console
) -> None:
    """Look into the trained models that the studies name, wherever a whole checkpoint is still there."""
    looks = [(study, study.inspection) for study in studies if study.inspection is not None]
    for study, look in looks:
        run = samples[look.experiment.name].get(_seeds_of(study, seeds)[0])
        checkpoint = None if run is None else latest_checkpoint(out / "runs" / run.folder)
        if run is not None and checkpoint is not None:
            try:
                write_trace(out, look, run, checkpoint=checkpoint)
            except UserError as error:  # the numbers do not hang on it
                say(console, f"Not looked into: {error}")


def reads_text(experiments: Iterable[Experiment]) -> bool:
    """Whether any of them trains on a text; a task draws its own sequences."""
    return any(experiment.task is None for experiment in experiments)


def _note_asked(studies: Sequence[Study], *, source: str, out: Path) -> None:
    """OUT/asked.json: of each experiment the study, and the text where that reads one, to go on with it."""
    try:
        asked = read_json(out / ASKED)
    except (OSError, UserError):
        asked = {}
    asked = dict(asked) if isinstance(asked, Mapping) else {}
    for study in studies:
        text = source if reads_text(study.experiments) else None
        asked |= {name: {"study": study.name, "data": text} for name in study.names}
    write_json(out / ASKED, asked)


def _of_text(studies: Sequence[Study], corpus: Corpus | None, console: Console) -> Sequence[Study]:
    """The studies that this text is for; says which it leaves out, and why.

    Raises:
        UserError: it is for none.
    """
    others = [study for study in studies if corpus is not None and not study.is_of(corpus.name)]
    if not others or corpus is None:
        return studies
    wanted = ", ".join(f"{study.name} (of {study.text})" for study in others)
    if len(others) == len(studies):
        raise UserError(f"text: expected that of {wanted}; got {corpus.name}")
    say(console, f"Left out, of another text than {corpus.name}: {wanted}")
    return [study for study in studies if study not in others]


def _plan(
    studies: Sequence[Study],
    *,
    seeds: Sequence[int] | int,
    device: Device,
    source: str,
) -> list[Experiment]:
    """Seed by seed, so that an interrupted reproduction holds whole pairs."""
    recipes = {recipe.name: recipe for study in studies for recipe in study.experiments}
    wanted: dict[str, dict[int, None]] = {name: {} for name in recipes}
    for study in studies:
        for recipe in study.experiments:
            wanted[recipe.name] |= dict.fromkeys(_seeds_of(study, seeds))
    planned = []
    for each in zip_longest(*wanted.values()):
        for recipe, seed in zip(recipes.values(), each, strict=True):
            if seed is None:
                continue
            # a recipe that names a device, as its steps are so many seconds there, stays on it
            there = device if recipe.loop.device == "auto" else recipe.loop.device
            loop = dataclasses.replace(recipe.loop, seed=seed, device=there)
            text = source if recipe.task is None else recipe.data
            planned.append(dataclasses.replace(recipe, data=text, loop=loop))
    return planned


def _announce(
    console: Console, live: Sequence[Experiment], missing: Sequence[Experiment], *, corpus: Corpus | None
) -> None:
    if corpus is not None:
        kind = "the paper's corpus" if corpus.is_paper_corpus else "not the paper's corpus"
        splits: list[Split] = sorted({run.loop.eval_split for run in live if run.task is None}) or ["valid"]
        evaluated = " and ".join(f"{len(corpus.split(split)):,}" for split in splits)
        sizes = f"{len(corpus.train):,} bytes to train on, {evaluated} to evaluate on"
        say(console, f"Text: {corpus.name} ({kind}), {sizes}")
    tasks = dict.fromkeys(run.task.kind for run in live if run.task is not None)
    if tasks:
        say(console, f"Tasks: {', '.join(tasks)} (sequences drawn from each run's seed)")
    say(console, f"Runs: {len(live)}, of which {len(live) - len(missing)} finished before")


def _announce_skipped(console: Console, skipped: Mapping[str, Sized]) -> None:
    """What is not trained though it could be, and what stands in its place."""
    for names, words in (
        ([name for name, runs in skipped.items() if runs], "shown from the project's own runs"),
        (
            [name for name, runs in skipped.items() if not runs],
            "none of them on this text and device to show",
        ),
    ):
        if names:
            say(console, f"Not trained, {words} (--full trains all): {first_names(names)}")


def _train_all(
    missing: Sequence[Experiment],
    *,
    jobs: int,
    corpus: Corpus | None,
    out: Path,
    console: Console,
    expected: Mapping[str, float],
    alone: Collection[str],
    threads: Mapping[str, int],
    gave_up: list[GaveUp],
    afterwards: float,
) -> int | None:
    """Train and append each run; the signal that ended it early, or None.

    alone: the experiments that are timed. threads: of each experiment's runs. gave_up: is given the runs that
    could not go on. afterwards: the seconds that the measuring will take.
    """
    to_do = [run.name for run in missing]
    done: list[tuple[str, float]] = []
    begun = count(1)

    def time_left() -> str:
        seconds = seconds_left(done, to_do, expected, jobs=jobs, alone=alone if jobs > 1 else ())
        return left_in_words(None if seconds is None else seconds + afterwards, len(to_do))

    if left := time_left():
        say(console, left)
    with _overall_progress(console, len(missing), left) as show:

        def on_begun(run: Experiment) -> None:
            say(console, f"[{next(begun)}/{len(missing)}] {run.name}, seed {run.loop.seed}")

        def on_finished(run: Experiment, trained: Trained) -> None:
            assert trained.result is not None
            append_result(out / RESULTS, trained.result)
            done.append((run.name, trained.seconds))
            to_do.remove(run.name)
            left = time_left()
            # side by side, the line above is another run's
            name = f"{run.name}, seed {run.loop.seed}: " if jobs > 1 else ""
            end = f"{left and f'; {left}'}"
            say(console, f"  {name}{trained.headline} after {trained.seconds:.1f} s{end}")
            show(len(missing) - len(to_do), left)

        def on_gave_up(run: Experiment, why: TrainingStopped) -> None:
            gave_up.append(run_that_gave_up(run, why, corpus))
            append_result(out / GAVE_UP, gave_up[-1])
            to_do.remove(run.name)
            left = time_left()
            say(console, f"  {gave_up[-1]}{left and f'; {left}'}")
            show(len(missing) - len(to_do), left)

        book = Book(begun=on_begun, finished=on_finished, gave_up=on_gave_up)
        together = [run for run in missing if run.name not in alone] if jobs > 1 else []
        stopped = None
        if len(together) > 1:
            stopped = train_side_by_side(together, jobs=jobs, corpus=corpus, out=out, book=book)
        if stopped is None:
            rest = [run for run in missing if run.name in alone] if len(together) > 1 else missing
            stopped = train_in_turn(
                rest, corpus=corpus, out=out, console=console, book=book, threads=threads, timed=alone
            )
        return stopped


@contextmanager
def _overall_progress(console: Console, total: int, left: str) -> Iterator[Callable[[int, str], None]]:
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
        task = progress.add_task("runs", total=total, left=left)
        yield lambda number, left: progress.update(task, completed=number, left=left)
