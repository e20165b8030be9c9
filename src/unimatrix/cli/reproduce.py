"""`unimatrix reproduce`: the paper's tables and figures, trained, judged and reported."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from unimatrix.cli.again import command
from unimatrix.cli.arguments import DataDir, DataSource, choose_corpus, parse
from unimatrix.data import Corpus
from unimatrix.errors import UserError
from unimatrix.lab.run import reads_text, reproduce
from unimatrix.lab.study import Study
from unimatrix.memory import keep_freed_memory
from unimatrix.studies import catalogue
from unimatrix.studies.paper.claims import PAPER
from unimatrix.train.config import Device
from unimatrix.train.launch import device_kind
from unimatrix.train.progress import PlainConsole, say

ABOUT = """Train the models of the paper's tables, compare, and judge its claims.

Every finished run is a line of OUT/results.jsonl; started again, the command
trains only what is missing. It writes OUT/report.html, OUT/figures/ and
OUT/results.csv. The longest experiments are shown from the project's own runs;
--full trains them too. Of a run whose loss is no longer a number the last line
says so, and the exit code is then 1; all others are trained and reported.

examples:
  unimatrix reproduce
  unimatrix reproduce --full --num-seeds 5
  unimatrix reproduce --seeds 7 11 13
  unimatrix reproduce --studies table3 table4 table5
  unimatrix reproduce --data-dir wikitext-2-raw --out reproduction-wikitext"""

# each holds a model library and a text: beyond this many, memory is what runs out
_MOST_JOBS_UNASKED = 8
_MOST_JOBS = 16
_MOST_SEEDS = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("reproduction")
    """Folder for results.jsonl, report.html, the figures and the runs."""
    seeds: Annotated[tuple[int, ...], tyro.conf.arg(metavar="SEED [SEED ...]")] = ()
    """Each experiment runs once per seed; if none is named once, by its first. A claim needs at least 5."""
    num_seeds: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Instead of --seeds: the first N of 7, 11, 1, 2, 3 and so on; of the fair fight's 101, 102 and on."""
    studies: Annotated[tuple[str, ...], tyro.conf.arg(metavar="STUDY [STUDY ...]")] = tuple(catalogue.ALL)
    """Which studies."""
    full: bool = False
    """Train the longest experiments too, which are otherwise shown from the project's own runs."""
    jobs: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """How many runs at a time, of one thread each; without it one per core, or one on an accelerator."""
    data: DataSource = None
    data_dir: DataDir = None
    device: Device = "auto"
    """Where to train; auto takes the accelerator where there is one."""


def run(arguments: Sequence[str]) -> int:
    """The command; its exit code."""
    options = parse(Options, arguments, command="reproduce", about=ABOUT)
    keep_freed_memory()
    seeds = _seeds(options)
    studies = tuple(catalogue.study(name) for name in dict.fromkeys(options.studies))
    jobs = _jobs(options)
    source, corpus = _text(options, studies)
    console = PlainConsole()
    result = reproduce(
        out=options.out,
        seeds=seeds,
        skip=() if options.full else catalogue.ONLY_IN_FULL,
        jobs=jobs,
        source=source,
        corpus=corpus,
        device=options.device,
        studies=studies,
        paper=PAPER,
        console=console,
    )
    if result.gave_up:
        say(console, f"Not trained to the end, and in no table: {'; '.join(map(str, result.gave_up))}")
    if result.stop_signal is None:
        return 1 if result.gave_up else 0
    again = command("reproduce", *arguments)
    say(console, f"Stopped; to go on: {again}")
    return 128 + result.stop_signal


def _seeds(options: Options) -> tuple[int, ...] | int:
    if options.num_seeds is None:
        return options.seeds or 1
    if options.seeds:
        raise UserError("--num-seeds: expected it or --seeds, got both")
    if not 1 <= options.num_seeds <= _MOST_SEEDS:
        raise UserError(f"--num-seeds: expected 1 to {_MOST_SEEDS}, got {options.num_seeds}")
    return options.num_seeds


def _jobs(options: Options) -> int:
    """How many runs at a time: as asked, or one for each core."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if options.jobs is None:
        return min(cores, _MOST_JOBS_UNASKED) if device_kind(options.device) == "cpu" else 1
    most = max(cores, _MOST_JOBS)
    if not 1 <= options.jobs <= most:
        raise UserError(f"--jobs: expected 1 to {most}, got {options.jobs}")
    return options.jobs


def _text(options: Options, studies: Sequence[Study]) -> tuple[str, Corpus | None]:
    """The source of the text and the text; none where the studies' models learn from tasks alone.

    Raises:
        UserError: there is no such text, or one is asked for that nothing would read.
    """
    if reads_text(found for study in studies for found in study.experiments):
        return choose_corpus(options.data, options.data_dir, otherwise="auto")
    if options.data is not None or options.data_dir is not None:
        option = "--data" if options.data is not None else "--data-dir"
        raise UserError(
            f"{option}: {' '.join(options.studies)}: these studies read no text, they draw sequences"
        )
    return "auto", None
