"""Judge, draw and report what has run: what `unimatrix report` does, and `unimatrix reproduce` at its end.

OUT/shown.jsonl            of what was not trained here, the project's own runs that stand in for it
OUT/results.csv            of these and of OUT/results.jsonl what is of today's settings, a line per number
OUT/figures/, report.html  rebuilt each time
"""

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from rich.console import Console
from rich.text import Text

from unimatrix.atomic import replace_file
from unimatrix.errors import UserError
from unimatrix.lab.committed import agreements, committed_rows, is_committed
from unimatrix.lab.frames import written
from unimatrix.lab.look import read_trace
from unimatrix.lab.measured import was_replaced
from unimatrix.lab.newest import lost_of, newest, on_each_text
from unimatrix.lab.page import shared_cautions, write_report
from unimatrix.lab.paper import Paper
from unimatrix.lab.results import GAVE_UP, RESULTS, GaveUp, Result, Samples, read_gave_up, read_results
from unimatrix.lab.study import Study
from unimatrix.lab.terminal import print_summaries
from unimatrix.lab.words import Summary, summarise
from unimatrix.train.progress import PlainConsole, say
from unimatrix.train.run_folder import check_path

SHOWN = "shown.jsonl"
NUMBERS = "results.csv"


@dataclass(frozen=True, kw_only=True, slots=True)
class Reproduction:
    """What came out: one summary per study, and the page.

    stop_signal: the Ctrl-C, SIGTERM or SIGHUP that ended it early; then nothing is reported and page is None.
    gave_up: the runs whose training stopped for good; no number counts them, and the page tells of them.
    """

    summaries: tuple[Summary, ...]
    page: Path | None
    stop_signal: int | None = None
    gave_up: tuple[GaveUp, ...] = ()


def report(
    *,
    studies: Sequence[Study],
    paper: Paper,
    out: Path = Path("reproduction"),
    console: Console | None = None,
) -> Reproduction:
    """Judge, draw and report again from OUT/results.jsonl and OUT/shown.jsonl, training nothing.

    Of each experiment the newest settings count, on the text of the study's newest row; some studies are
    told of every text that they have rows of.

    Raises:
        UserError: there is no result of these studies yet, or the results file is damaged.
    """
    console = console or PlainConsole()
    check_path(out)
    # last, what stands in for runs: it was chosen by the settings and the text of the last reproduction
    shown = [] if is_committed(out) else read_results(out / SHOWN)
    rows = [*read_results(out / RESULTS), *shown]
    told = [on_each_text(study, rows) for study in studies]
    studies = list(chain.from_iterable(told))
    samples = {study.name: newest(study, rows) for study in studies}
    if not any(runs for chosen in samples.values() for runs in chosen.values()):
        raise UserError(f"{out / RESULTS}: no finished run to report; run `unimatrix reproduce` first")
    found = reported(
        studies,
        samples,
        shown=shown,
        committed=[] if is_committed(out) else committed_rows(),
        paper=paper,
        out=out,
        console=console,
    )
    for name in _outdated(told, samples, rows):
        say(
            console,
            f"Note: the runs of {name} are left out: their settings have changed since, or the newest run "
            "is of another text or device; `unimatrix reproduce` makes them anew",
        )
    return found


def _outdated(
    told: Iterable[Sequence[Study]], samples: Mapping[str, Samples], rows: Sequence[Result]
) -> Iterable[str]:
    """The studies' experiments that have rows, none of which counts any more, on whatever text it is told."""
    names = dict.fromkeys(
        name
        for studies in told
        for name in studies[0].names
        if not any(samples[study.name].get(name) for study in studies)
    )
    return (name for name in names if any(row.experiment == name for row in rows))


def reported(
    studies: Sequence[Study],
    samples: Mapping[str, Samples],
    *,
    shown: Sequence[Result],
    committed: Sequence[Result],
    paper: Paper,
    out: Path,
    console: Console,
    gave_up: Sequence[GaveUp] = (),
) -> Reproduction:
    """Judge these samples, and write and print all that is said of them.

    shown: the project's own runs among the samples. committed: which the others are held against.
    """
    folders = {run.folder for run in shown}
    lost = read_gave_up(out / GAVE_UP)
    summaries = tuple(
        _summary(
            study,
            samples[study.name],
            shown=folders,
            committed=committed,
            out=out,
            gave_up=lost_of(study, samples[study.name], lost),
        )
        for study in studies
    )
    page = write_report(summaries, paper, out)
    own = [row for row in read_results(out / RESULTS) if not was_replaced(row, studies)]
    replace_file(out / NUMBERS, written(own, read_results(out / SHOWN)).to_csv(index=False).encode())
    print_summaries(console, summaries)
    for caution in shared_cautions(summaries):
        console.print(Text(f"Note: {caution}", style="yellow"))
    _say_agreement(console, summaries)
    say(console, f"\nReport: {page}")
    return Reproduction(summaries=summaries, page=page, gave_up=tuple(gave_up))


def _summary(
    study: Study,
    samples: Samples,
    *,
    shown: Collection[str],
    committed: Sequence[Result],
    out: Path,
    gave_up: Sequence[GaveUp],
) -> Summary:
    """shown: the folders of runs that were not trained here."""
    shown = {name for name, runs in samples.items() if any(run.folder in shown for run in runs.values())}
    look = study.inspection
    traced = None if look is None else read_trace(out, look, samples)
    summary = summarise(study, samples, traced=traced, shown=shown, gave_up=gave_up)
    own = {name: runs for name, runs in samples.items() if name not in shown}
    return dataclasses.replace(summary, agreements=agreements(study, own, committed))


def _say_agreement(console: Console, summaries: Sequence[Summary]) -> None:
    """How one's own numbers lie to the committed ones, and which lie outside."""
    found = [agreement for summary in summaries for agreement in summary.agreements]
    if not found:
        return
    outside = [agreement for agreement in found if not agreement.inside]
    say(
        console,
        f"Beside the project's own runs: {len(found) - len(outside)} of {len(found)} numbers lie where one "
        "more seed does with 95 % (so about 1 in 20 lies outside by chance)",
    )
    for agreement in outside:
        say(
            console,
            f"  outside: {agreement.study}, {agreement.row}, {agreement.column}, seed {agreement.seed}: "
            f"{agreement.text}",
        )
