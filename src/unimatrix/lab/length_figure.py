"""Bits per byte over the length of training, in steps or in seconds: a line for each model."""

from collections.abc import Sequence
from typing import Literal

from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from unimatrix.lab.charts import LINES, MARKERS, Style, bare_axes, legend
from unimatrix.lab.intervals import Interval, mean_interval
from unimatrix.lab.results import Samples, metric_by_seed
from unimatrix.lab.study import Row, Study


def draw_training_length(
    table: Study, samples: Samples, style: Style, *, steps: Sequence[int], over: Literal["steps", "seconds"]
) -> Drawing | None:
    """Mean bits per byte after each of `steps`, with 95 % intervals, on an axis of logarithms.

    Over seconds a point stands at the mean of the seeds' training seconds, with their interval.
    """
    lines = {row.label: _points(row, samples, steps) for row in table.trained}
    if not any(lines.values()):
        return None
    drawing, axes = bare_axes(style, width=7.2, height=4.6)
    for index, (label, points) in enumerate(lines.items()):
        if not points:
            continue
        color = style.series[index % len(style.series)]
        x = [step if over == "steps" else seconds.mean for step, seconds, _ in points]
        for place, (_, seconds, bpb) in zip(x, points, strict=True):
            if bpb.n > 1:
                axes.vlines(place, bpb.low, bpb.high, color=color, linewidth=2.2)
            if over == "seconds" and seconds.n > 1:
                axes.hlines(bpb.mean, max(seconds.low, 0.1 * seconds.mean), seconds.high, color=color)
        axes.plot(
            x,
            [bpb.mean for _, _, bpb in points],
            color=color,
            linestyle=LINES[index % len(LINES)],
            marker=MARKERS[index % len(MARKERS)],
            linewidth=1.3,
            markersize=5.5,
            label=label,
        )
    axes.set_xscale("log")
    if over == "steps":
        axes.set_xticks(list(steps))
    else:
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("training steps" if over == "steps" else "seconds of training on this machine")
    axes.set_ylabel("validation bits per byte")
    axes.grid(color=style.faint, linewidth=0.6, alpha=0.6)
    legend(drawing, axes, style, columns=len(lines))
    return drawing


def _points(row: Row, samples: Samples, steps: Sequence[int]) -> list[tuple[int, Interval, Interval]]:
    """(step, its seconds, its bits per byte), of the steps that were measured."""
    found = []
    for step in steps:
        seconds, bpb = (
            tuple(metric_by_seed(samples, row.experiment.name, f"{name}_{step}_steps").values())
            for name in ("seconds", "bpb")
        )
        if seconds and bpb:
            found.append((step, mean_interval(seconds), mean_interval(bpb)))
    return found
