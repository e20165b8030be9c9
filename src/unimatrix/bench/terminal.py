"""The speed ratios on a terminal: a table for each model that the others are compared with."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group
from rich.table import Table

from unimatrix.bench.tables import tables_that_fit
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
