"""`unimatrix report`: figures and report.html from the runs that are finished, without training."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from unimatrix.cli.arguments import parse
from unimatrix.lab.report import report
from unimatrix.studies import catalogue
from unimatrix.studies.paper.claims import PAPER

ABOUT = """Judge, draw and report again from OUT/results.jsonl, training nothing.

examples:
  unimatrix report
  unimatrix report --out reproduction-wikitext"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("reproduction")
    """The folder that `unimatrix reproduce` wrote."""
    studies: Annotated[tuple[str, ...], tyro.conf.arg(metavar="STUDY [STUDY ...]")] = tuple(catalogue.ALL)
    """Which studies."""


def run(arguments: Sequence[str]) -> int:
    """The command; its exit code."""
    options = parse(Options, arguments, command="report", about=ABOUT)
    studies = tuple(catalogue.study(name) for name in dict.fromkeys(options.studies))
    report(studies=studies, paper=PAPER, out=options.out)
    return 0
