"""Figures from samples, light or dark, PNG and SVG: matplotlib's object interface, no global state.

Colours are Okabe and Ito's, told apart with any colour vision; series differ in marker or line as well.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.layout_engine import ConstrainedLayoutEngine

from unimatrix.lab.intervals import mean_interval
from unimatrix.lab.results import Samples, naming
from unimatrix.lab.study import Baseline, Column, Row, Study

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
LINES = ("solid", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
MARKERS = ("o", "s", "^", "v")


def bare_axes(style: Style, *, width: float, height: float) -> tuple[Drawing, Axes]:
    """A drawing of that size in inches, with one pair of axes."""
    drawing = Drawing(figsize=(width, height), layout="constrained", facecolor=style.page)
    axes = drawing.add_subplot()
    _bare(axes, style)
    return drawing, axes


def _bare(axes: Axes, style: Style) -> None:
    axes.set_facecolor(style.page)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(style.faint)
    axes.tick_params(colors=style.ink, length=3, color=style.faint)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(style.ink)


def legend(drawing: Drawing, axes: Axes, style: Style, *, columns: int) -> None:
    """Name what the axes show, above them, in so many columns."""
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


def _places(rows: Sequence[Row | Baseline]) -> tuple[list[float], dict[float, str]]:
    """Where each row stands, from the top down, and the headings of the groups between them."""
    places: list[float] = []
    headings: dict[float, str] = {}
    place, group = 0.0, ""
    for row in rows:
        if row.group and row.group != group:
            headings[place] = row.group
            place += 0.8
        group = row.group
        places.append(place)
        place += 1.0
    return places, headings


def _name_places(axes: Axes, labels: Mapping[float, str], headings: Mapping[float, str]) -> None:
    everything = sorted((dict(labels) | dict(headings)).items())
    axes.set_yticks([place for place, _ in everything], [text for _, text in everything])
    for text, (place, _) in zip(axes.get_yticklabels(), everything, strict=True):
        if place in headings:
            text.set(fontweight="bold", fontsize=9.5)
    axes.set_ylim(everything[-1][0] + 0.5, -0.5)
    axes.tick_params(axis="y", length=0)


def draw_metric(table: Study, samples: Samples, style: Style, *, key: str) -> Drawing | None:
    """One column of a table, a row per model: mean, 95 % interval, single seeds, the paper's value.

    Rows that have nothing in this column, neither ours nor the paper's, are left out.
    """
    if not _is_measured(table, samples, key):
        return None
    shown = [row for row in table.rows if _has(row, samples, table.column(key))]
    places, headings = _places(shown)
    rows = list(zip(shown, places, strict=True))
    height = 1.3 + 0.62 * len(rows) + 0.5 * len(headings)
    drawing, axes = bare_axes(style, width=7.2, height=height)
    _draw_rows(axes, rows, samples, style, column=table.column(key))
    _name_places(axes, {place: row.label for row, place in rows}, headings)
    axes.margins(x=0.06)
    axes.set_xlabel(table.column(key).axis)
    legend(drawing, axes, style, columns=4 if any(isinstance(row, Baseline) for row in shown) else 3)
    return drawing


def draw_panels(
    table: Study, samples: Samples, style: Style, *, keys: Sequence[str], label: str
) -> Drawing | None:
    """Several columns side by side, each as in `draw_metric`, from 0 to 100 percent.

    Args:
        label: of the common axis of all.
    """
    if not any(_is_measured(table, samples, key) for key in keys):
        return None
    places, headings = _places(table.rows)
    rows = list(zip(table.rows, places, strict=True))
    drawing = Drawing(
        figsize=(9.0, 1.3 + 0.5 * len(rows) + 0.4 * len(headings)),
        layout=ConstrainedLayoutEngine(wspace=0.06),  # room between one panel's 100 and the next one's 0
        facecolor=style.page,
    )
    panels = drawing.subplots(1, len(keys), sharex=True, sharey=True)
    for axes, key in zip(panels, keys, strict=True):
        _bare(axes, style)
        _draw_rows(axes, rows, samples, style, column=table.column(key))
        axes.set_title(table.column(key).title, color=style.ink, fontsize=10.5)
        axes.tick_params(axis="y", length=0)
    _name_places(panels[0], {place: row.label for row, place in rows}, headings)
    panels[0].set_xlim(-8.0, 108.0)
    panels[0].set_xticks([0, 50, 100])
    drawing.supxlabel(label, color=style.ink, fontsize=10.5)
    legend(drawing, panels[0], style, columns=4)
    return drawing


def _is_measured(table: Study, samples: Samples, key: str) -> bool:
    return any(table.column(key).values(row, samples) for row in table.trained)


def _has(row: Row | Baseline, samples: Samples, column: Column) -> bool:
    if isinstance(row, Baseline):
        return column.key in row.values
    return column.key in row.paper or bool(column.values(row, samples))


def _draw_rows(
    axes: Axes,
    rows: Sequence[tuple[Row | Baseline, float]],
    samples: Samples,
    style: Style,
    *,
    column: Column,
) -> None:
    """A column's points, the rows at their places from the top down."""
    key = column.key
    measured = [(place, column.values(row, samples)) for row, place in rows if isinstance(row, Row)]
    means = [(mean_interval(values), place) for place, values in measured if values]
    for interval, place in means:
        if interval.n > 1:
            axes.hlines(place, interval.low, interval.high, color=style.ours, linewidth=2.2, zorder=2)
    # the paper's value above the line, the single seeds below it: nothing covers anything
    ours = [(interval.mean, place) for interval, place in means]
    seeds = [(value, place + 0.2) for place, values in measured for value in values]
    paper = [
        (row.paper[key], place - 0.22) for row, place in rows if isinstance(row, Row) and key in row.paper
    ]
    known = [
        (row.values[key], place) for row, place in rows if isinstance(row, Baseline) and key in row.values
    ]
    looks = {"markersize": 8, "color": style.ours, "zorder": 3, "label": "ours: mean, 95 % interval"}
    _points(axes, ours, marker="o", **looks)
    _points(axes, seeds, marker="o", markersize=3.2, color=style.ours, alpha=0.75, label="single seeds")
    _points(axes, paper, marker="D", markersize=6, color=style.paper, label="paper")
    _points(axes, known, marker="|", markersize=14, markeredgewidth=2.2, color=style.ink, label="exact")
    axes.grid(axis="x", color=style.faint, linewidth=0.6, alpha=0.6)
    axes.set_axisbelow(True)


def draw_over(
    table: Study,
    samples: Samples,
    style: Style,
    *,
    positions: Mapping[str, float],
    keys: Sequence[str],
    labels: tuple[str, str],
) -> Drawing | None:
    """Several columns over a number that rows have, an axis of powers of two; a line for each column.

    Means with 95 % intervals, the paper's values as diamonds, the baselines as horizontal lines.

    Args:
        positions: experiment -> the number, for the rows that are drawn.
        keys: of the columns.
        labels: of the two axes.
    """
    rows = [row for row in table.trained if row.experiment.name in positions]
    if not any(samples.get(row.experiment.name) for row in rows):
        return None
    drawing, axes = bare_axes(style, width=7.2, height=4.6)
    for index, key in enumerate(keys):
        color = style.series[1 + index % (len(style.series) - 1)]
        column = table.column(key)
        title = column.title
        # side by side, so that no interval hides another
        places = {name: x * 2.0 ** (0.08 * (index - (len(keys) - 1) / 2)) for name, x in positions.items()}
        values = {row.experiment.name: column.values(row, samples) for row in rows}
        ours = [(places[name], mean_interval(found)) for name, found in values.items() if found]
        for place, interval in ours:
            if interval.n > 1:
                axes.vlines(place, interval.low, interval.high, color=color, linewidth=2.2)
        x, means = [place for place, _ in ours], [interval.mean for _, interval in ours]
        looks: dict[str, Any] = {"color": color, "linewidth": 1.3, "markersize": 5.5}
        axes.plot(x, means, marker=MARKERS[index % len(MARKERS)], label=f"{title}: ours", **looks)
        paper = [(places[row.experiment.name], row.paper[key]) for row in rows if key in row.paper]
        looks = {"color": color, "markerfacecolor": "none", "markersize": 8}
        _points(axes, paper, marker="D", label=f"{title}: paper", **looks)
        for baseline in (row for row in table.rows if isinstance(row, Baseline)):
            text = f"{title}: {baseline.short}"
            axes.axhline(baseline.values[key], color=color, linestyle=":", linewidth=1.2, label=text)
    axes.set_xscale("log", base=2)
    ticks = sorted(set(positions.values()))
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    axes.grid(axis="y", color=style.faint, linewidth=0.6, alpha=0.6)
    legend(drawing, axes, style, columns=len(keys))
    return drawing


def draw_curves(table: Study, samples: Samples, style: Style, *, key: str) -> Drawing | None:
    """A column against steps, a line per seed; None if no run measured more than one point."""
    curves = {
        row.experiment.name: [
            run.curve for run in samples.get(row.experiment.name, {}).values() if len(run.curve) > 1
        ]
        for row in table.trained
    }
    if not any(curves.values()):
        return None
    drawing, axes = bare_axes(style, width=7.2, height=4.0)
    for position, row in enumerate(table.trained):
        for number, curve in enumerate(curves[row.experiment.name]):
            steps, values = zip(*curve, strict=True)
            axes.plot(
                steps,
                values,
                color=style.series[position % len(style.series)],
                linestyle=LINES[position % len(LINES)],
                linewidth=1.2,
                label=row.name if number == 0 else None,
            )
    axes.set_xlabel("training step")
    axes.set_ylabel(table.column(key).axis)
    axes.grid(axis="y", color=style.faint, linewidth=0.6, alpha=0.6)
    legend(drawing, axes, style, columns=2)
    return drawing


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """A figure with what it draws at hand: only the style is left to choose. None is nothing to draw."""

    name: str
    title: str
    caption: str
    draw: Callable[[Style], Drawing | None]


def pictures(table: Study, samples: Samples, *, traced: Any = None) -> tuple[Picture, ...]:
    """The pictures of a table: its figures, and its look into a model where one was `traced`."""
    found = [
        Picture(
            name=figure.name,
            title=figure.title,
            caption=figure.caption,
            draw=partial(figure.draw, table, samples),
        )
        for figure in table.figures
    ]
    if table.inspection is not None and traced is not None:
        look = table.inspection
        draw = partial(look.draw, traced)
        found.append(Picture(name=look.name, title=look.title, caption=look.caption, draw=draw))
    return tuple(found)


def render(picture: Picture, *, style: Style, form: str) -> bytes | None:
    """The bytes of one picture as "png" or "svg"; None where there is nothing to draw."""
    with matplotlib.rc_context(dict(_DRAWING_SETTINGS)):
        drawing = picture.draw(style)
        if drawing is None:
            return None
        buffer = BytesIO()
        metadata = {"Date": None} if form == "svg" else {"Software": None}
        drawing.savefig(buffer, format=form, dpi=PNG_DOTS_PER_INCH, metadata=metadata)
    return buffer.getvalue()


def save_figures(chosen: Iterable[Picture], folder: Path) -> Mapping[str, tuple[Path, ...]]:
    """Write each picture as PNG and SVG, light, and return the paths by the picture's name.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    saved: dict[str, tuple[Path, ...]] = {}
    for picture in chosen:
        paths = []
        for form in FORMATS:
            rendered = render(picture, style=LIGHT, form=form)
            if rendered is not None:
                path = folder / f"{picture.name}.{form}"
                with naming(path):
                    path.write_bytes(rendered)
                paths.append(path)
        if paths:
            saved[picture.name] = tuple(paths)
    return saved
