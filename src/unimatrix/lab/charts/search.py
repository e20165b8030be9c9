"""A search of settings: every run of every contestant; and models by quality over what a token costs them."""

from collections.abc import Mapping, Sequence

import altair as alt

from unimatrix.lab.charts import theme
from unimatrix.lab.charts.records import spread
from unimatrix.lab.charts.theme import WIDTH, Drawing
from unimatrix.lab.results import Result, Samples
from unimatrix.lab.study import Study

_MARGIN = 176  # left of the axis, for the names
_STEP = 30
_DRAWN, _NEAR = "drawn at random", "near the best of these"


def draw_search(
    rows: Mapping[str, Sequence[Result]], *, drawn: int, labels: Mapping[str, str], metric: str = "bpb"
) -> Drawing | None:
    """A line for each contestant, its best first; a point for each run that measured something.

    Args:
        rows: contestant -> its runs in order, of which the first `drawn` were drawn at random.
    """
    shown = [
        {
            "label": labels[name],
            "value": row.metrics[metric],
            "how": _DRAWN if number < drawn else _NEAR,
            "run": row.experiment,
            "lr": row.config["optim"]["lr"],
            "context": row.config["loop"]["seq_len"],
            "steps": row.steps,
        }
        for name, runs in rows.items()
        for number, row in enumerate(runs)
        if metric in row.metrics
    ]
    if not shown:
        return None
    best = {
        label: min(one["value"] for one in shown if one["label"] == label)
        for label in labels.values()
        if any(one["label"] == label for one in shown)
    }
    order, hows = sorted(best, key=lambda label: best[label]), [_DRAWN, _NEAR]
    x = alt.X("value:Q", title="bits per byte", scale=alt.Scale(zero=False, padding=10))
    y = alt.Y("label:N", sort=order, title=None, axis=alt.Axis(domain=False, ticks=False, grid=True))
    colours = alt.Scale(domain=hows, range=[theme.SERIES[0], theme.OURS])
    shapes = alt.Scale(domain=hows, range=["circle", "triangle-up"])
    told = [
        alt.Tooltip("run:N"),
        alt.Tooltip("value:Q", title="bits per byte", format=".4f"),
        alt.Tooltip("lr:Q", title="learning rate"),
        "context:Q",
        "steps:Q",
    ]
    points = (
        alt.Chart()
        .mark_point(size=60, opacity=0.9)
        .encode(
            x=x,
            y=y,
            color=alt.Color("how:N", scale=colours, legend=theme.legend(hows)),
            shape=alt.Shape("how:N", scale=shapes, legend=theme.legend(hows)),
            tooltip=told,
        )
    )
    return alt.layer(points, data=theme.data(shown)).properties(
        width=WIDTH - _MARGIN, height=alt.Step(_STEP), usermeta={"margin": _MARGIN}
    )


def draw_over_cost(
    study: Study, samples: Samples, *, key: str, costs: Mapping[str, float], label: str
) -> Drawing | None:
    """A point for each row: a column's mean and 95 % interval over a number of the model.

    Args:
        costs: experiment -> the number, for the rows that are drawn. label: of its axis.
    """
    column = study.column(key)
    shown = []
    for row in study.trained:
        values = list(column.by_seed(row, samples).values())
        if values and row.experiment.name in costs:
            at = {"label": row.label, "cost": costs[row.experiment.name], "value": spread(values).pop("mean")}
            shown.append(at | spread(values))
    if not shown:
        return None
    x = alt.X("cost:Q", title=label, scale=alt.Scale(type="log", nice=False, padding=24))
    y = alt.Y("value:Q", title=theme.wrapped(column.axis, 30), scale=alt.Scale(zero=False, padding=14))
    bounds = [alt.Tooltip(f"{end}:Q", title=f"95 % interval, {end}", format=".4f") for end in ("low", "high")]
    told = [
        alt.Tooltip("label:N", title="model"),
        alt.Tooltip("cost:Q", title=label, format=","),
        alt.Tooltip("value:Q", title="mean", format=".4f"),
        *bounds,
    ]
    names = [one["label"] for one in shown]
    colours = [theme.SERIES[number % len(theme.SERIES)] for number in range(len(names))]
    marks = [theme.SHAPES[number % len(theme.SHAPES)] for number in range(len(names))]
    base = alt.Chart().encode(
        x=x,
        color=alt.Color("label:N", scale=alt.Scale(domain=names, range=colours), legend=theme.legend(names)),
    )
    shape = alt.Shape("label:N", scale=alt.Scale(domain=names, range=marks), legend=theme.legend(names))
    layers = [
        base.transform_filter("isValid(datum.low)")
        .mark_rule(strokeWidth=2.5)
        .encode(y=alt.Y("low:Q", title=y["title"]), y2="high:Q"),
        base.mark_point(filled=True, opacity=1, size=90).encode(y=y, shape=shape, tooltip=told),
    ]
    return alt.layer(*layers, data=theme.data(shown)).properties(
        width=WIDTH - 76, height=320, usermeta={"margin": 76}
    )
