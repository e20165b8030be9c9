"""The difference of two models seed by seed, in two columns: who is ahead first, and who then."""

import altair as alt

from unimatrix.lab.charts import theme
from unimatrix.lab.charts.records import Record, spread
from unimatrix.lab.charts.theme import WIDTH, Drawing
from unimatrix.lab.results import Samples
from unimatrix.lab.study import Column, Row, Study

_MEAN = "mean, 95 % interval"
_MARGIN = 140  # left of the axes, for the names of the seeds


def draw_gap(
    study: Study, samples: Samples, *, left: str, right: str, keys: tuple[str, str]
) -> Drawing | None:
    """left - right in two columns, a line for each seed, and below them the means with 95 % intervals.

    The paper's differences stand where a column of one seed holds its value of both models.

    Args:
        left, right: experiments of the study's rows.
        keys: of two columns over all seeds, first and then.
    """
    pair = tuple(next(row for row in study.trained if row.experiment.name == name) for name in (left, right))
    columns = [study.column(key) for key in keys]
    found = [_differences(column, pair, samples) for column in columns]
    seeds = sorted(found[0].keys() & found[1].keys())
    if not seeds:
        return None
    shown = [
        {"place": f"seed {seed}", "kind": column.title, "value": values[seed], "seed": seed}
        for column, values in zip(columns, found, strict=True)
        for seed in seeds
    ]
    for column, values in zip(columns, found, strict=True):
        mean = spread(values[seed] for seed in seeds)
        shown.append({"place": _MEAN, "kind": column.title, "value": mean.pop("mean"), **mean})
    printed = [
        {"place": f"seed {seed}", "kind": "paper", "value": value}
        for seed, value in _printed(study, pair).items()
        if seed in seeds
    ]
    return _drawn(
        shown + printed,
        places=[*(f"seed {seed}" for seed in seeds), _MEAN],
        kinds=[column.title for column in columns] + (["paper"] if printed else []),
        title=f"{pair[0].label} minus {pair[1].label}, {columns[1].axis.partition(' after ')[0]}",
    )


def _drawn(shown: list[Record], *, places: list[str], kinds: list[str], title: str) -> Drawing:
    """Squares first, circles then, diamonds for the paper's; a line joins what belongs to one seed."""
    axis = alt.Axis(titleAnchor="end")
    x = alt.X("value:Q", title=theme.wrapped(title, 40), scale=alt.Scale(padding=14), axis=axis)
    base = alt.Chart().encode(
        y=alt.Y("place:N", sort=places, title=None, axis=alt.Axis(domain=False, ticks=False))
    )
    looks = [(theme.SERIES[3], "square"), (theme.OURS, "circle"), (theme.PAPER, "diamond")][: len(kinds)]
    color = alt.Color(
        "kind:N",
        scale=alt.Scale(domain=kinds, range=[look[0] for look in looks]),
        legend=theme.legend(kinds),
    )
    shape = alt.Shape("kind:N", scale=alt.Scale(domain=kinds, range=[look[1] for look in looks]))
    ours = base.transform_filter("datum.kind !== 'paper'")
    told = ["kind:N", alt.Tooltip("value:Q", format="+.4f"), "place:N"]
    bounds = [alt.Tooltip("low:Q", format="+.4f"), alt.Tooltip("high:Q", format="+.4f"), "n:Q"]
    points = {"filled": True, "opacity": 1, "size": 90}
    layers = [
        alt.Chart(theme.data([{"zero": 0}])).mark_rule().encode(x="zero:Q"),
        ours.transform_filter("isValid(datum.seed)")
        .mark_line(color=theme.SOFT, strokeWidth=1.2)
        .encode(x=x, detail="place:N"),
        ours.transform_filter("isValid(datum.low)")
        .mark_rule(strokeWidth=3, strokeCap="round")
        .encode(x=alt.X("low:Q", title=theme.wrapped(title, 40)), x2="high:Q", color=color),
        ours.transform_filter("isValid(datum.seed)")
        .mark_point(**points)
        .encode(x=x, color=color, shape=shape, tooltip=told),
        ours.transform_filter("!isValid(datum.seed)")
        .mark_point(**points)
        .encode(x=x, color=color, shape=shape, tooltip=[*told, *bounds]),
        base.transform_filter("datum.kind === 'paper'")
        .mark_point(yOffset=-9, **points)
        .encode(x=x, color=color, shape=shape, tooltip=told),
    ]
    return alt.layer(*layers, data=theme.data(shown)).properties(
        width=WIDTH - _MARGIN, height=alt.Step(36), usermeta={"margin": _MARGIN}
    )


def _differences(column: Column, pair: tuple[Row, ...], samples: Samples) -> dict[int, float]:
    left, right = (column.by_seed(row, samples) for row in pair)
    return {seed: left[seed] - right[seed] for seed in left if seed in right}


def _printed(study: Study, pair: tuple[Row, ...]) -> dict[int, float]:
    """Seed -> the paper's difference."""
    left, right = (row.paper for row in pair)
    return {
        column.seed: left[column.key] - right[column.key]
        for column in study.columns
        if column.seed is not None and column.key in left and column.key in right
    }
