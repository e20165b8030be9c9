"""Lines over a number: columns over slots, rows over steps or seconds, runs while they train."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import altair as alt

from unimatrix.lab.charts import theme
from unimatrix.lab.charts.records import (
    EXACT,
    OURS,
    PAPER,
    Record,
    curves,
    records,
    spread,
    summarised,
)
from unimatrix.lab.charts.theme import WIDTH, Drawing, Layers
from unimatrix.lab.protocol import evaluated
from unimatrix.lab.results import Samples, metric_by_seed
from unimatrix.lab.study import Study

_HEIGHT = 300
_MANY = 8  # lines, from which on a figure needs the whole width
_MOST = 20  # beyond which nobody finds one
_MARGIN = 76  # beside the axes, for the vertical one's numbers and title


def draw_over(
    study: Study,
    samples: Samples,
    *,
    positions: Mapping[str, float],
    keys: Sequence[str],
    labels: tuple[str, str],
) -> Drawing | None:
    """Several columns over a number that rows have, an axis of powers of two; a line for each column.

    Means with 95 % intervals, the paper's values as hollow diamonds, the baselines as horizontal lines.

    Args:
        positions: experiment -> the number, for the rows that are drawn.
        keys: of the columns.
        labels: of the two axes.
    """
    places = {row: positions[found.experiment.name] for row, found in _placed(study, positions)}
    titles = {key: study.column(key).title for key in keys}
    shown = [
        record
        | {"series": titles[record["column"]]}
        | (
            {"at": places[record["row"]], "x": places[record["row"]] * _aside(record["column"], keys)}
            if record["row"] in places
            else {}
        )
        for record in records(study, samples)
        if record["column"] in titles and (record["row"] in places or record["kind"] == EXACT)
    ]
    if not any(record["kind"] == OURS for record in shown):
        return None
    x = alt.X(
        "x:Q",
        title=labels[0],
        scale=alt.Scale(type="log", base=2, nice=False, padding=16),
        axis=alt.Axis(values=sorted(set(places.values())), grid=False),
    )
    base = alt.Chart().encode(color=_colour(list(titles.values()), first=1))
    means = base.transform_filter(_kind(OURS))
    layers = _means(means, x=x, label=labels[1], series=list(titles.values()), noun=study.noun)
    y = alt.Y("value:Q", title=labels[1])
    told = [alt.Tooltip("series:N"), alt.Tooltip("at:Q", title=labels[0])]
    layers += [
        base.transform_filter(_kind(PAPER))
        .mark_point(shape="diamond", size=110, strokeWidth=1.8)
        .encode(x=x, y=y, tooltip=[*told, alt.Tooltip("value:Q", title="paper")]),
        base.transform_filter(_kind(EXACT))
        .mark_rule(strokeDash=[2, 3])
        .encode(y=y, tooltip=["series:N", "label:N", alt.Tooltip("value:Q", format=".2f")]),
    ]
    return alt.layer(*layers, data=theme.data(shown)).properties(
        width=WIDTH - _MARGIN, height=_HEIGHT, usermeta={"margin": _MARGIN}
    )


def _placed(study: Study, positions: Mapping[str, float]) -> list[tuple[int, Any]]:
    return [
        (place, row)
        for place, row in enumerate(study.rows)
        if row in study.trained and row.experiment.name in positions
    ]


def _aside(key: str, keys: Sequence[str]) -> float:
    """Side by side, so that no interval hides another."""
    return 2.0 ** (0.08 * (list(keys).index(key) - (len(keys) - 1) / 2))


def _kind(kind: str) -> alt.FieldEqualPredicate:
    return alt.FieldEqualPredicate(field="kind", equal=kind)


def _legend(names: Sequence[str], lines: bool) -> alt.Legend | None:
    return theme.legend(names, lines=lines, filled=not lines)


def _colour(names: Sequence[str], *, first: int = 0, lines: bool = False) -> alt.Color:
    """The series in the order of their names, from that colour on."""
    colours = [theme.SERIES[(first + number) % len(theme.SERIES)] for number in range(len(names))]
    scale = alt.Scale(domain=list(names), range=colours)
    return alt.Color("series:N", scale=scale, legend=_legend(names, lines))


def _dash(names: Sequence[str], *, lines: bool = False) -> alt.StrokeDash:
    dashes = [theme.DASHES[number % len(theme.DASHES)] for number in range(len(names))]
    scale = alt.Scale(domain=list(names), range=dashes)
    return alt.StrokeDash("series:N", scale=scale, legend=_legend(names, lines))


def _means(base: alt.Chart, *, x: alt.X, label: str, series: Sequence[str], noun: str) -> list[alt.Chart]:
    """Line, points and intervals of records with `series`, `value`, `low` and `high`."""
    y = alt.Y("value:Q", title=label, scale=alt.Scale(zero=False))
    marks = [theme.SHAPES[number % len(theme.SHAPES)] for number in range(len(series))]
    scale = alt.Scale(domain=list(series), range=marks)
    shape = alt.Shape("series:N", scale=scale, legend=_legend(series, lines=False))
    bounds = [
        alt.Tooltip(f"{end}:Q", title=f"95 % interval, {end}", format=",.4~f") for end in ("low", "high")
    ]
    told = [
        "series:N",
        alt.Tooltip("at:Q", title=x["title"], format=",.4~f"),
        alt.Tooltip("value:Q", title="mean", format=",.4~f"),
        *bounds,
        alt.Tooltip("n:Q", title=f"{noun}s"),
    ]
    return [
        base.mark_line(strokeWidth=1.6).encode(x=x, y=y, strokeDash=_dash(series)),
        base.transform_filter("isValid(datum.low)")
        .mark_rule(strokeWidth=2.5, strokeCap="round")
        .encode(x=x, y=alt.Y("low:Q", title=label), y2="high:Q"),
        base.mark_point(filled=True, opacity=1, size=70).encode(x=x, y=y, shape=shape, tooltip=told),
    ]


def draw_training_length(
    study: Study, samples: Samples, *, steps: Sequence[int], over: Literal["steps", "seconds"]
) -> Drawing | None:
    """Mean bits per byte after each of `steps`, with 95 % intervals, on an axis of logarithms.

    Over seconds a point stands at the mean of the seeds' training seconds, with their interval.
    """
    shown = [
        record for place in range(len(study.trained)) for record in _lengths(study, samples, place, steps)
    ]
    if not shown:
        return None
    shown = [record | {"at": record["step"] if over == "steps" else record["seconds"]} for record in shown]
    title = "training steps" if over == "steps" else "seconds of training on this machine"
    ticks = alt.Axis(values=list(steps)) if over == "steps" else alt.Axis(format=",~g", labelOverlap=True)
    x = alt.X("at:Q", title=title, scale=alt.Scale(type="log", nice=False, padding=16), axis=ticks)
    names = list(dict.fromkeys(record["series"] for record in shown))
    base = alt.Chart().encode(color=_colour(names))
    layers = _means(base, x=x, label="validation bits per byte", series=names, noun=study.noun)
    if over == "seconds":
        layers.insert(
            0,
            base.transform_filter("isValid(datum.seconds_low)")
            .mark_rule(strokeWidth=1.2)
            .encode(x=alt.X("seconds_low:Q", title=title), x2="seconds_high:Q", y=alt.Y("value:Q")),
        )
    return alt.layer(*layers, data=theme.data(shown)).properties(
        width=WIDTH - _MARGIN, height=_HEIGHT, usermeta={"margin": _MARGIN}
    )


def _lengths(study: Study, samples: Samples, place: int, steps: Sequence[int]) -> list[Record]:
    """A record for each of the steps that this row's runs were evaluated at."""
    row = study.trained[place]
    found = []
    for step in steps:
        seconds, bpb = (
            list(metric_by_seed(samples, row.experiment.name, f"{name}_{step}_steps").values())
            for name in ("seconds", "bpb")
        )
        if not seconds or not bpb:
            continue
        quality, time = spread(bpb), spread(seconds)
        low = time["low"]
        found.append(
            {"series": row.label, "step": step, "value": quality.pop("mean"), **quality}
            | {
                "seconds": time["mean"],
                # an axis of logarithms has no place for what a wide interval may reach down to
                "seconds_low": None if low is None else max(low, 0.1 * (time["mean"] or 0.0)),
                "seconds_high": time["high"],
            }
        )
    return found


def draw_curves(study: Study, samples: Samples) -> Drawing | None:
    """What runs measured while they trained: above the means, below each model's difference to the first.

    The curves of a study often lie in one band; in the differences, seed by seed, they can be told apart.
    None if no run measured on its way, and of more models than anyone can tell apart.
    """
    points = curves(study, samples)
    names = list(dict.fromkeys(point["series"] for point in points))
    if not 0 < len(names) <= _MOST:
        return None
    first = next(row for row in study.trained if row.name == names[0]).experiment
    label = f"{evaluated(first)} bits per byte" if first.task is None else "accuracy, percent"
    single, picked = theme.data(points), theme.picking(names)
    about = {"margin": _MARGIN} | ({"wide": True} if len(names) > _MANY else {})
    upper = _banded(
        summarised(points, "value"), single, names, picked, field="value", label=label, height=230
    )
    if picked is not None:
        upper.layer[0] = upper.layer[0].add_params(picked)
    gaps = summarised(points, "difference")
    if not gaps:
        return alt.vconcat(upper).properties(usermeta=about)
    label = f"difference to {names[0]}"
    lower = _banded(gaps, single, names, picked, field="difference", label=label, height=200)
    return alt.vconcat(upper, lower, spacing=16).properties(usermeta=about)


def _banded(
    means: Sequence[Record],
    points: alt.InlineData,
    names: Sequence[str],
    picked: alt.Parameter | None,
    *,
    field: str,
    label: str,
    height: int,
) -> Layers:
    """Mean lines with their intervals as bands, and every seed's points to be pointed at."""
    title = theme.wrapped(label, 30)
    x = alt.X("step:Q", title="training step", axis=alt.Axis(grid=False), scale=alt.Scale(padding=8))
    y = alt.Y("mean:Q", title=title, scale=alt.Scale(zero=False))
    color, dash = _colour(names, lines=True), _dash(names, lines=True)
    base = alt.Chart(theme.data(means)).encode(x=x, color=color)
    number = ".4~f"
    told = [
        "series:N",
        "step:Q",
        *(alt.Tooltip(f"{name}:Q", format=number) for name in ("mean", "low", "high")),
        alt.Tooltip("n:Q", title="seeds"),
    ]
    seeds = ["series:N", "step:Q", alt.Tooltip(f"{field}:Q", format=number), "seed:N", "run:N"]
    zero = alt.Chart(theme.data([{"level": 0}])).mark_rule(color=theme.SERIES[0]).encode(y="level:Q")
    return alt.layer(
        *([zero] if field == "difference" else []),
        base.transform_filter("isValid(datum.low)")
        .mark_area()
        .encode(y=alt.Y("low:Q", title=title), y2="high:Q", opacity=theme.opacity(picked, 0.16)),
        base.mark_line(strokeWidth=1.8).encode(y=y, strokeDash=dash, opacity=theme.opacity(picked)),
        alt.Chart(points)
        .transform_filter(f"isValid(datum.{field})")
        .mark_point(filled=True, size=16)
        .encode(
            x=x,
            color=color,
            y=alt.Y(f"{field}:Q", title=title),
            tooltip=seeds,
            opacity=theme.opacity(picked, 0.55),
        ),
        base.mark_point(filled=True, size=44).encode(y=y, tooltip=told, opacity=theme.opacity(picked)),
        width=WIDTH - _MARGIN,
        height=height,
    )
