"""`unimatrix reproduce`: the paper's tables, trained, judged and reported."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from unimatrix.cli.arguments import DataDir, DataSource, choose_corpus, parse
from unimatrix.data import Corpus
from unimatrix.errors import UserError
from unimatrix.lab.run import DEFAULT_SEEDS, reads_text, reproduce
from unimatrix.lab.study import Study
from unimatrix.studies import catalogue
from unimatrix.studies.paper.claims import PAPER
from unimatrix.train.config import Device
from unimatrix.train.progress import PlainConsole, say

ABOUT = """Train the models of the paper's tables, compare, and judge its claims.

Every finished run is a line of OUT/results.jsonl; started again, the command
trains only what is missing. It writes OUT/report.html and OUT/figures/.

examples:
  unimatrix reproduce
  unimatrix reproduce --seeds 7 11 13 17 19
  unimatrix reproduce --tables table3 table4 table5
  unimatrix reproduce --data-dir wikitext-2-raw --out reproduction-wikitext"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("reproduction")
    """Folder for results.jsonl, report.html, the figures and the runs."""
    seeds: Annotated[tuple[int, ...], tyro.conf.arg(metavar="SEED [SEED ...]")] = DEFAULT_SEEDS
    """Each experiment runs once per seed; a claim needs at least 5."""
    tables: Annotated[tuple[str, ...], tyro.conf.arg(metavar="TABLE [TABLE ...]")] = tuple(catalogue.STUDIES)
    """Which tables."""
    data: DataSource = None
    data_dir: DataDir = None
    device: Device = "auto"
    """Where to train; auto takes the accelerator where there is one."""


def run(arguments: Sequence[str]) -> int:
    """The command; its exit code."""
    options = parse(Options, arguments, command="reproduce", about=ABOUT)
    tables = tuple(catalogue.study(name) for name in options.tables)
    source, corpus = _text(options, tables)
    console = PlainConsole()
    result = reproduce(
        out=options.out,
        seeds=options.seeds,
        source=source,
        corpus=corpus,
        device=options.device,
        tables=tables,
        paper=PAPER,
        console=console,
    )
    if result.stop_signal is None:
        return 0
    again = shlex.join(["unimatrix", "reproduce", *arguments])
    say(console, f"Stopped; to go on: {again}")
    return 128 + result.stop_signal


def _text(options: Options, tables: Sequence[Study]) -> tuple[str, Corpus | None]:
    """The source of the text and the text; none where the tables' models learn from tasks alone.

    Raises:
        UserError: there is no such text, or one is asked for that nothing would read.
    """
    if reads_text(found for table in tables for found in table.experiments):
        return choose_corpus(options.data, options.data_dir, otherwise="auto")
    if options.data is not None or options.data_dir is not None:
        option = "--data" if options.data is not None else "--data-dir"
        raise UserError(
            f"{option}: {' '.join(options.tables)}: these tables read no text, they draw sequences"
        )
    return "auto", None
