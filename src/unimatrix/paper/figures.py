"""Figures from samples, light or dark, PNG and SVG: matplotlib's object interface, no global state.

Colours are Okabe and Ito's, told apart with any colour vision; series differ in marker or line as well.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from unimatrix.paper.results import Samples, metric_by_seed, naming
from unimatrix.paper.statistics import mean_interval
from unimatrix.paper.table import Figure, Table

FORMATS = ("png", "svg")
PNG_DOTS_PER_INCH = 200

# fixed salt, no date and text as outlines: the same results give the same bytes, and look alike everywhere
_DRAWING_SETTINGS: Mapping[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10.5,
    "svg.fonttype": "path",
    "svg.hashsalt": "unimatrix",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Style:
    """The colours of a page. `series` are told apart in the order of a table's rows."""

    ink: str
    faint: str
    page: str
    ours: str
    paper: str
    series: tuple[str, ...]


LIGHT = Style(
    ink="#1f2328",
    faint="#c9ced6",
    page="#ffffff",
    ours="#0072b2",
    paper="#c04f00",
    series=("#555b64", "#0072b2", "#009e73", "#d55e00", "#cc79a7", "#a67c00", "#56b4e9"),
)
DARK = Style(
    ink="#e6e8eb",
    faint="#454b54",
    page="#16191d",
    ours="#56b4e9",
    paper="#f0a04b",
    series=("#aeb4bd", "#56b4e9", "#2fc79a", "#f0803c", "#e29cc4", "#e0c24a", "#8fb8ff"),
)
_LINES = ("solid", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))


def _bare_axes(style: Style, *, width: float, height: float) -> tuple[Drawing, Axes]:
    drawing = Drawing(figsize=(width, height), layout="constrained", facecolor=style.page)
    axes = drawing.add_subplot(facecolor=style.page)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(style.faint)
    axes.tick_params(colors=style.ink, length=3, color=style.faint)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(style.ink)
    return drawing, axes


def _legend(drawing: Drawing, axes: Axes, style: Style, *, columns: int) -> None:
    handles, labels = axes.get_legend_handles_labels()
    drawing.legend(
        handles,
        labels,
        loc="outside upper left",
        ncols=columns,
        frameon=False,
        labelcolor=style.ink,
        handletextpad=0.6,
        columnspacing=1.6,
    )


def _points(axes: Axes, points: Sequence[tuple[float, float]], *, marker: str, **looks: Any) -> None:
    if points:
        x, y = zip(*points, strict=True)
        axes.plot(x, y, linestyle="none", marker=marker, **looks)


def draw_metric(table: Table, samples: Samples, style: Style) -> Drawing | None:
    """The table's first column, a row per model: mean, 95 % interval, single seeds, the paper's value."""
    column = table.columns[0]
    measured = [tuple(metric_by_seed(samples, row.experiment, column.key).values()) for row in table.rows]
    if not any(measured):
        return None
    drawing, axes = _bare_axes(style, width=7.2, height=1.3 + 0.62 * len(table.rows))
    means = [(mean_interval(values), position) for position, values in enumerate(measured) if values]
    for interval, position in means:
        if interval.n > 1:
            axes.hlines(position, interval.low, interval.high, color=style.ours, linewidth=2.2, zorder=2)
    # the paper's value above the line, the single seeds below it: nothing covers anything
    ours = [(interval.mean, position) for interval, position in means]
    seeds = [(value, position + 0.2) for position, values in enumerate(measured) for value in values]
    paper = [
        (row.paper[column.key], position - 0.22)
        for position, row in enumerate(table.rows)
        if column.key in row.paper
    ]
    looks = {"markersize": 8, "color": style.ours, "zorder": 3, "label": "ours: mean, 95 % interval"}
    _points(axes, ours, marker="o", **looks)
    _points(axes, seeds, marker="o", markersize=3.2, color=style.ours, alpha=0.75, label="single seeds")
    _points(axes, paper, marker="D", markersize=6, color=style.paper, label="paper")
    axes.set_yticks(range(len(table.rows)), [row.label for row in table.rows])
    axes.set_ylim(len(table.rows) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=style.faint, linewidth=0.6, alpha=0.6)
    axes.set_axisbelow(True)
    axes.margins(x=0.06)
    axes.set_xlabel("validation bits per byte" if column.key == "bpb" else column.title)
    _legend(drawing, axes, style, columns=3)
    return drawing


def draw_curves(table: Table, samples: Samples, style: Style) -> Drawing | None:
    """Bits per byte against steps, a line per seed; None if no run measured more than one point."""
    curves = {
        row.experiment: [run.curve for run in samples.get(row.experiment, {}).values() if len(run.curve) > 1]
        for row in table.rows
    }
    if not any(curves.values()):
        return None
    drawing, axes = _bare_axes(style, width=7.2, height=4.0)
    for position, row in enumerate(table.rows):
        for number, curve in enumerate(curves[row.experiment]):
            steps, values = zip(*curve, strict=True)
            axes.plot(
                steps,
                values,
                color=style.series[position % len(style.series)],
                linestyle=_LINES[position % len(_LINES)],
                linewidth=1.2,
                label=row.label if number == 0 else None,
            )
    axes.set_xlabel("training step")
    axes.set_ylabel("validation bits per byte")
    axes.grid(axis="y", color=style.faint, linewidth=0.6, alpha=0.6)
    _legend(drawing, axes, style, columns=2)
    return drawing


def render(figure: Figure, table: Table, samples: Samples, *, style: Style, form: str) -> bytes | None:
    """The bytes of one picture as "png" or "svg"; None where there is nothing to draw."""
    with matplotlib.rc_context(dict(_DRAWING_SETTINGS)):
        drawing = figure.draw(table, samples, style)
        if drawing is None:
            return None
        picture = BytesIO()
        metadata = {"Date": None} if form == "svg" else {"Software": None}
        drawing.savefig(picture, format=form, dpi=PNG_DOTS_PER_INCH, metadata=metadata)
    return picture.getvalue()


def save_figures(table: Table, samples: Samples, folder: Path) -> Mapping[str, tuple[Path, ...]]:
    """Write every figure of a table as PNG and SVG, light, and return the paths by the figure's name.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    saved: dict[str, tuple[Path, ...]] = {}
    for figure in table.figures:
        paths = []
        for form in FORMATS:
            picture = render(figure, table, samples, style=LIGHT, form=form)
            if picture is not None:
                path = folder / f"{figure.name}.{form}"
                with naming(path):
                    path.write_bytes(picture)
                paths.append(path)
        if paths:
            saved[figure.name] = tuple(paths)
    return saved
