"""The difference of two models seed by seed, in two columns: who is ahead first, and who then."""

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from unimatrix.lab.charts import Style, bare_axes, legend
from unimatrix.lab.intervals import mean_interval
from unimatrix.lab.results import Samples
from unimatrix.lab.study import Column, Row, Study


def draw_gap(
    table: Study, samples: Samples, style: Style, *, left: str, right: str, keys: tuple[str, str]
) -> Drawing | None:
    """left - right in two columns, a line for each seed, and below them the means with 95 % intervals.

    The paper's differences stand where a column of one seed holds its value of both models.

    Args:
        left, right: experiments of the table's rows.
        keys: of two columns over all seeds, first and then.
    """
    pair = tuple(next(row for row in table.trained if row.experiment.name == name) for name in (left, right))
    columns = [table.column(key) for key in keys]
    found = [_differences(column, pair, samples) for column in columns]
    seeds = sorted(found[0].keys() & found[1].keys())
    if not seeds:
        return None
    drawing, axes = bare_axes(style, width=7.2, height=1.8 + 0.45 * len(seeds))
    axes.axvline(0.0, color=style.ink, linewidth=1.0)
    place_of = {seed: float(place) for place, seed in enumerate(seeds)}
    mean_place = len(seeds) + 0.2
    for seed, place in place_of.items():
        axes.plot([values[seed] for values in found], [place] * 2, color=style.faint, linewidth=1.4)
    for column, values, looks in zip(columns, found, _looks(style), strict=True):
        shown = {place: values[seed] for seed, place in place_of.items()}
        _draw_column(axes, shown, mean_place, color=style.ours, label=column.title, **looks)
    _draw_printed(axes, _printed(table, pair), place_of, style)
    axes.set_yticks(
        [*place_of.values(), mean_place], [*(f"seed {seed}" for seed in seeds), "mean, 95 % interval"]
    )
    axes.set_ylim(mean_place + 0.5, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.margins(x=0.06)
    axes.set_xlabel(f"{pair[0].label} - {pair[1].label}, validation bits per byte")
    axes.grid(axis="x", color=style.faint, linewidth=0.6, alpha=0.6)
    axes.set_axisbelow(True)
    legend(drawing, axes, style, columns=3)
    return drawing


def _looks(style: Style) -> tuple[dict[str, Any], dict[str, Any]]:
    """Hollow squares first, then full circles."""
    return {"marker": "s", "markerfacecolor": style.page}, {"marker": "o", "markerfacecolor": style.ours}


def _draw_column(axes: Axes, shown: Mapping[float, float], mean_place: float, **looks: Any) -> None:
    """One column's difference at each seed's place, and their mean at its own."""
    interval = mean_interval(list(shown.values()))
    if interval.n > 1:
        axes.hlines(mean_place, interval.low, interval.high, color=looks["color"], linewidth=2.2)
    x, y = [*shown.values(), interval.mean], [*shown, mean_place]
    axes.plot(x, y, linestyle="none", markersize=7, **looks)


def _draw_printed(
    axes: Axes, printed: Mapping[int, float], place_of: Mapping[int, float], style: Style
) -> None:
    """The paper's differences, a little above the seeds that they are of."""
    shown = [(value, place_of[seed] - 0.25) for seed, value in printed.items() if seed in place_of]
    if shown:
        x, y = zip(*shown, strict=True)
        axes.plot(x, y, linestyle="none", marker="D", markersize=6, color=style.paper, label="paper")


def _differences(column: Column, pair: tuple[Row, ...], samples: Samples) -> dict[int, float]:
    left, right = (column.by_seed(row, samples) for row in pair)
    return {seed: left[seed] - right[seed] for seed in left if seed in right}


def _printed(table: Study, pair: tuple[Row, ...]) -> dict[int, float]:
    """Seed -> the paper's difference."""
    left, right = (row.paper for row in pair)
    return {
        column.seed: left[column.key] - right[column.key]
        for column in table.columns
        if column.seed is not None and column.key in left and column.key in right
    }
