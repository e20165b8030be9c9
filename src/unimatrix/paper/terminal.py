"""The table and the verdicts of one summary, on a terminal."""

from rich import box
from rich.console import Console, Group
from rich.table import Table as Grid
from rich.text import Text

from unimatrix.paper.claims import Outcome
from unimatrix.paper.summary import Summary

_RULE_IN_SHORT = (
    "A verdict follows from the 95 % t-interval of the difference seed by seed: the whole of it on one side, "
    "or undecided. It speaks of the seeds only, not of the corpus."
)
_OUTCOME_STYLE: dict[Outcome, str] = {
    "reproduced": "bold green",
    "not reproduced": "bold red",
    "undecided": "bold yellow",
}


def _numbers(summary: Summary) -> Grid:
    grid = Grid(
        title=summary.table.title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    grid.add_column("model", no_wrap=True)
    grid.add_column("parameters", justify="right")
    for column in summary.table.columns:
        grid.add_column(f"{column.title}\npaper", justify="right", no_wrap=True)
        grid.add_column(f"{column.title}\nours", justify="right", no_wrap=True)
    grid.add_column("n", justify="right", no_wrap=True, min_width=2)
    for line in summary.lines:
        cells = [text for cell in line.cells for text in (cell.paper, cell.ours)]
        grid.add_row(line.label, line.parameters_text, *cells, str(line.num_seeds))
    return grid


def _verdicts(summary: Summary) -> Grid:
    grid = Grid(title="The paper's claims", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    grid.add_column("claim", ratio=3)
    grid.add_column("verdict", ratio=1)
    for claim, verdict in summary.verdicts:
        details = Text("\n".join(verdict.details), style="dim")
        grid.add_row(
            Group(Text(claim.statement), details), Text(verdict.text, style=_OUTCOME_STYLE[verdict.outcome])
        )
    return grid


def print_summary(console: Console, summary: Summary) -> None:
    """Print a table of the paper: numbers, verdicts, the rule behind them, each in its own table."""
    console.print(_numbers(summary))
    console.print("ours: mean ± half of the 95 % t-interval over n seeds\n", style="dim", highlight=False)
    console.print(_verdicts(summary))
    console.print(f"{_RULE_IN_SHORT}\n", style="dim", highlight=False)
