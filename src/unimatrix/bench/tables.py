"""Tables on a terminal that is narrower than they are."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

Column = TypeVar("Column")


def tables_that_fit(
    console: Console, columns: Sequence[Column], make: Callable[[Sequence[Column]], Table]
) -> Iterator[Table]:
    """A table, or as many as it takes for none to be wider than the console: rich would cut it in silence.

    make: the table of these columns, each of which has its min_width.
    """
    unbounded = console.options.update(max_width=10_000)  # else a table is told as no wider than the console
    left = list(columns)
    while left:
        made = ((number, make(left[:number])) for number in range(len(left), 0, -1))
        number, table = next(
            (number, table)
            for number, table in made
            # the right edge is a blank, which may be cut
            if number == 1 or Measurement.get(console, unbounded, table).minimum <= console.width + 1
        )
        yield table
        left = left[number:]
