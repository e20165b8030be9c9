"""The speed ratios on a terminal: a table for each model that the others are compared with."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group
from rich.measure import Measurement
from rich.table import Table

from unimatrix.bench.throughput import how_run, named


def throughput_tables(result: Mapping[str, Any]) -> Group:
    """Tokens/s over the Transformer's, over each peer's, and over the length, from the JSON of `throughput`.

    Of several repeats the median, and from which to which they go.
    """
    over = {"transformer": result["ratios"]}
    for ratio in result.get("peer_ratios", ()):  # older results know no peers
        over.setdefault(ratio["peer"], []).append(ratio)
    tables = [
        _Ratios(f"tokens/s over {reference}'s, each {how_run(result)}", ratios)
        for reference, ratios in over.items()
        if ratios
    ]
    if flat := result.get("flatness"):
        tables.append(_Ratios(f"tokens/s over those at T {flat[0]['over_length']:,}", flat))
    return Group(*tables)


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


@dataclass(frozen=True, slots=True)
class _Ratios:
    """Ratios by model and length, in as many tables as the terminal asks for."""

    title: str
    ratios: Sequence[Mapping[str, Any]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        lengths = list(dict.fromkeys(ratio["length"] for ratio in self.ratios))
        return tables_that_fit(console, lengths, lambda chosen: _table(self.title, self.ratios, chosen))


def _table(title: str, ratios: Sequence[Mapping[str, Any]], lengths: Sequence[int]) -> Table:
    """A row per pass and model, a column per length."""
    table = Table(
        title=title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    names = [f"  {named(ratio)}" for ratio in ratios]
    table.add_column("model", no_wrap=True, min_width=max(map(cell_len, names)))
    for length in lengths:
        cells = [_cell(ratio) for ratio in ratios if ratio["length"] == length]
        table.add_column(f"T {length:,}", justify="right", no_wrap=True, min_width=max(map(cell_len, cells)))
    for what in dict.fromkeys(ratio["what"] for ratio in ratios):
        mine = {(named(ratio), ratio["length"]): ratio for ratio in ratios if ratio["what"] == what}
        table.add_row(what, style="bold")
        for model in dict.fromkeys(model for model, _ in mine):
            table.add_row(f"  {model}", *(_cell(mine[model, length]) for length in lengths))
    return table


def _cell(ratio: Mapping[str, Any]) -> str:
    low, high = ratio.get("ratio_low"), ratio.get("ratio_high")
    return f"{ratio['ratio']:.2f}x" + ("" if low == high else f" ({low:.2f} to {high:.2f})")
