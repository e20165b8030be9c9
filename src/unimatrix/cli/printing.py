"""Tables on standard output as print writes them, with its own error where the reader went away."""

from rich.console import Console
from rich.table import Table


def print_table(table: Table) -> None:
    """As wide as the terminal, or 80 columns where there is none."""
    console = Console(markup=False, emoji=False, highlight=False)
    with console.capture() as drawn:
        console.print(table)
    print("\n".join(line.rstrip() for line in drawn.get().splitlines()))
