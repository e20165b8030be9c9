"""The speed ratios on a terminal: a table for each model that the others are compared with."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table


def throughput_tables(result: Mapping[str, Any]) -> Group:
    """Tokens/s over the Transformer's, then over each peer's, from the JSON of unimatrix.bench.throughput."""
    over = {"transformer": result["ratios"]}
    for ratio in result.get("peer_ratios", ()):  # older results know no peers
        over.setdefault(ratio["peer"], []).append(ratio)
    return Group(*(_table(reference, ratios) for reference, ratios in over.items() if ratios))


def _table(reference: str, ratios: Sequence[Mapping[str, Any]]) -> Table:
    """A row per pass and model, a column per length."""
    lengths = list(dict.fromkeys(ratio["length"] for ratio in ratios))
    table = Table(
        title=f"tokens/s over {reference}'s, each at its better mode",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("model", no_wrap=True)
    for length in lengths:
        table.add_column(f"T {length:,}", justify="right", no_wrap=True)
    for what in dict.fromkeys(ratio["what"] for ratio in ratios):
        mine = {
            (ratio["model"], ratio["length"]): ratio["ratio"] for ratio in ratios if ratio["what"] == what
        }
        table.add_row(what, style="bold")
        for model in dict.fromkeys(model for model, _ in mine):
            table.add_row(f"  {model}", *(f"{mine[model, length]:.2f}x" for length in lengths))
    return table
