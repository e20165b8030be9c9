"""The tables and the verdicts on a terminal."""

from collections.abc import Sequence
from functools import partial

from rich import box
from rich.cells import cell_len
from rich.console import Console, Group
from rich.padding import Padding
from rich.table import Table as Grid
from rich.text import Text

from unimatrix.bench.tables import tables_that_fit
from unimatrix.lab.answers import NOT_MEASURED
from unimatrix.lab.claims import Outcome
from unimatrix.lab.words import SHOWN, Cell, Summary

_OURS = "ours: mean ± half of the 95 % t-interval over n {noun}s"
_STAR = f"*: {SHOWN}, from the project's own runs"
_RULE_IN_SHORT = (
    "A verdict follows from the 95 % t-interval of the difference seed by seed: the whole of it on one side, "
    "or undecided; where a claim names its seeds, from the side in each of them. It speaks of the seeds "
    "only, not of other texts."
)
_OUTCOME_STYLE: dict[Outcome, str] = {
    "reproduced": "bold green",
    "not reproduced": "bold red",
    "undecided": "bold yellow",
}


def _numbers(summary: Summary, chosen: Sequence[int]) -> Grid:
    """A table of these columns of the study."""
    continued = "" if chosen[0] == 0 else ", continued"
    grid = Grid(
        title=summary.study.title + continued,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        # eighty columns hold four measured ones, with nothing to spare
        padding=(0, 0 if summary.stacked else 1, 0, 0),
    )
    # labels are wrapped where the numbers leave little room, but never within a word
    longest = max(len(word) for line in summary.lines for word in line.label.split())
    indent = 2 if any(line.group for line in summary.lines) else 0
    grid.add_column("model", min_width=longest + indent)

    def add(title: str, texts: Sequence[str]) -> None:
        widths = [cell_len(part) for text in (title, *texts) for part in text.split("\n")]
        grid.add_column(title, justify="right", no_wrap=True, min_width=max(widths))

    # a second count goes below the first: "70,660 (paper 78,916)" is too wide
    counts = [line.parameters_text.replace(" (", "\n").rstrip(")") for line in summary.lines]
    counted = summary.counted and not continued
    if counted:
        add("params" if summary.stacked else "parameters", counts)
    cells: list[Sequence[str]] = [counts] if counted else []
    for at in chosen:
        column, printed = summary.study.columns[at], summary.printed[at]
        # the title of every column stands on the first line
        below = f"\n{'paper' if printed else ''}" if summary.stacked else ""
        titles = [f"{column.title}\nours{below}"]
        if printed and not summary.stacked:
            titles.insert(0, "\npaper")
        texts = [_texts(line.cells[at], printed=printed, stacked=summary.stacked) for line in summary.lines]
        for title, of_column in zip(titles, zip(*texts, strict=True), strict=True):
            add(title, of_column)
            cells.append(of_column)
    grid.add_column("n", justify="right", no_wrap=True, min_width=2)
    group = ""
    for row, line in enumerate(summary.lines):
        if line.group != group:
            grid.add_row(Text(line.group, style="bold"))
        group = line.group
        label = line.label + (" *" if line.shown else "")
        label = Padding(label, (0, 0, 0, indent)) if group else label
        grid.add_row(label, *(texts[row] for texts in cells), line.seeds_text)
    return grid


def _texts(cell: Cell, *, printed: bool, stacked: bool) -> tuple[str, ...]:
    """What stands in a column's place, from left to right."""
    if not printed:
        return (cell.ours,)
    return ("\n".join(cell.stacked),) if stacked else (cell.paper, cell.ours)


def _verdicts(summary: Summary) -> Grid:
    title = "The paper's claims" if summary.study.paper else "Claims"
    grid = Grid(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    grid.add_column("claim", ratio=3)
    grid.add_column("verdict", ratio=1)
    for claim, verdict in summary.verdicts:
        details = Text("\n".join(verdict.details), style="dim")
        grid.add_row(
            Group(Text(claim.statement), details), Text(verdict.text, style=_OUTCOME_STYLE[verdict.outcome])
        )
    return grid


def print_summaries(console: Console, summaries: Sequence[Summary]) -> None:
    """Print the tables of the paper, each with its verdicts, and at the end the rule behind them."""
    for summary in summaries:
        if summary.waits:
            lost = summary.lost and f" {summary.lost}"
            console.print(f"{summary.study.title}. {NOT_MEASURED}{lost}\n", highlight=False)
            continue
        if not summary.lines:  # a drawing alone
            continue
        columns = range(len(summary.study.columns))
        for table in tables_that_fit(console, columns, partial(_numbers, summary)):
            console.print(table)
        notes = [_OURS.format(noun=summary.study.noun), *([_STAR] if summary.shown else [])]
        if summary.unmeasured:
            notes.append(f"Not measured yet: {'; '.join(summary.unmeasured)}")
        if summary.lost:
            notes.append(summary.lost)
        console.print("\n".join([*notes, ""]), style="dim", highlight=False)
        if summary.verdicts:
            console.print(_verdicts(summary))
    console.print(f"{_RULE_IN_SHORT}\n", style="dim", highlight=False)
