"""A line for each row over what its columns stand for: speed over the length, time over the position."""

from collections.abc import Mapping
from typing import Literal

import altair as alt

from unimatrix.lab.charts import theme
from unimatrix.lab.charts.records import OURS, PAPER, Record, records
from unimatrix.lab.charts.theme import DASHES, SERIES, WIDTH, Drawing
from unimatrix.lab.results import Samples
from unimatrix.lab.study import Study

_HEIGHT = 260
_MARGIN = 90  # beside the axes, for the vertical one's numbers and title


def draw_over_columns(
    study: Study,
    samples: Samples,
    *,
    positions: Mapping[str, float],
    labels: tuple[str, str],
    log: Literal["xy", "x", ""] = "xy",
    within: tuple[float, float] | None = None,
) -> Drawing | None:
    """Several columns, each a place on the x axis; a line for each row, a panel for each group of rows.

    Rows of different groups that have one label are drawn alike. Means with 95 % intervals, the paper's
    values as hollow diamonds. None where nothing has been measured.

    Args:
        positions: column key -> the number that the column stands for.
        labels: of the two axes. log: which of them are of logarithms.
        within: where the vertical axis begins and ends; what of an interval lies beyond is cut off.
    """
    # in lines that a phone is wide enough for
    groups = ["\n".join(theme.wrapped(row.group, 34)) for row in study.rows]
    shown: list[Record] = [
        record
        | {"series": record["label"], "at": positions[record["column"]], "panel": groups[record["row"]]}
        | {end: _above_zero(record, end) if log == "xy" else record.get(end) for end in ("low", "high")}
        for record in records(study, samples)
        if record["column"] in positions and record["kind"] in (OURS, PAPER)
    ]
    if not any(record["kind"] == OURS for record in shown):
        return None
    names = list(dict.fromkeys(record["series"] for record in shown))
    colours = [SERIES[number % len(SERIES)] for number in range(len(names))]
    # when the colours are used up, the next dashes
    dashes = [DASHES[number // len(SERIES) % len(DASHES)] for number in range(len(names))]
    legend, picked = theme.legend(names, lines=True), theme.picking(names)
    x = alt.X(
        "at:Q",
        title=labels[0],
        scale=alt.Scale(type="log", base=2, nice=False, padding=16)
        if log
        else alt.Scale(zero=False, nice=False, padding=16),
        axis=alt.Axis(values=sorted(set(positions.values())), grid=False),
    )
    if within is not None:
        scale = alt.Scale(type="log" if log == "xy" else "linear", domain=list(within), clamp=True)
    elif log == "xy":
        scale = alt.Scale(type="log", nice=False, padding=8)
    else:
        scale = alt.Scale(zero=False)
    y = alt.Y("value:Q", title=labels[1], scale=scale)
    base = alt.Chart().encode(
        color=alt.Color("series:N", scale=alt.Scale(domain=names, range=colours), legend=legend),
        strokeDash=alt.StrokeDash("series:N", scale=alt.Scale(domain=names, range=dashes), legend=legend),
        opacity=theme.opacity(picked),
    )
    told = ["series:N", alt.Tooltip("at:Q", title=labels[0])]
    bounds = [
        alt.Tooltip(f"{end}:Q", title=f"95 % interval, {end}", format=",.4~r") for end in ("low", "high")
    ]
    mean = alt.Tooltip("value:Q", title="mean", format=",.4~r")
    ours = base.transform_filter(alt.FieldEqualPredicate(field="kind", equal=OURS))
    layers = [
        ours.mark_line(strokeWidth=1.6).encode(x=x, y=y),
        ours.transform_filter("isValid(datum.low)")
        .mark_rule(strokeWidth=2.5, strokeCap="round", strokeDash=[1, 0])
        .encode(x=x, y=alt.Y("low:Q", title=labels[1]), y2="high:Q", strokeDash=alt.value([1, 0])),
        ours.mark_point(filled=True, size=50).encode(
            x=x,
            y=y,
            strokeDash=alt.value([1, 0]),
            tooltip=[*told, mean, *bounds, alt.Tooltip("n:Q", title=f"{study.noun}s")],
        ),
        base.transform_filter(alt.FieldEqualPredicate(field="kind", equal=PAPER))
        .mark_point(shape="diamond", size=110, strokeWidth=1.8)
        .encode(
            x=x,
            y=y,
            strokeDash=alt.value([1, 0]),
            tooltip=[*told, alt.Tooltip("value:Q", title="paper", format=",.4~r")],
        ),
    ]
    if picked is not None:
        layers[0] = layers[0].add_params(picked)
    chart = alt.layer(*layers, data=theme.data(shown)).properties(width=WIDTH - _MARGIN, height=_HEIGHT)
    panels = list(dict.fromkeys(str(record["panel"]) for record in shown))
    if len(panels) > 1:
        header = alt.Header(labelExpr="split(datum.label, '\\n')", labelLineHeight=15)
        chart = chart.facet(alt.Facet("panel:N", title=None, sort=panels, header=header), columns=1)
    return chart.properties(usermeta={"margin": _MARGIN})


def _above_zero(record: Mapping[str, object], end: str) -> object:
    """An axis of logarithms has no place for an interval that reaches down to 0."""
    bound = record.get(end)
    return None if not isinstance(bound, float) or bound <= 0.0 else bound
