"""A row for each model: its name, and below it mean, interval, seeds and the paper's value on one scale."""

from collections.abc import Sequence

import altair as alt

from unimatrix.lab.charts import theme
from unimatrix.lab.charts.records import EXACT, NAME, OURS, PAPER, SEED, Record, records
from unimatrix.lab.charts.theme import WIDTH, Drawing
from unimatrix.lab.results import Samples
from unimatrix.lab.study import Study

_STEP = 54  # from row to row: the name, the paper's value, the mean, the seeds below each other
_ABOVE = {"name": -21, "heading": -36, PAPER: -8, OURS: 1, SEED: 10, EXACT: 1}
# of one size, so that a legend shows them as they are drawn: a seed is a small circle, what is exact a bar
_LOOKS = {
    OURS: (theme.OURS, "circle"),
    SEED: (theme.OURS, "M0,-.5A.5,.5,0,1,1,0,.5A.5,.5,0,1,1,0,-.5Z"),
    PAPER: (theme.PAPER, "diamond"),
    EXACT: (theme.INK, "M-.2,-1.2H.2V1.2H-.2Z"),
}


def draw_metric(study: Study, samples: Samples, *, key: str) -> Drawing | None:
    """One column of a study, a row per model: mean, 95 % interval, single seeds, the paper's value.

    Rows that have nothing in this column, neither ours nor the paper's, are left out.
    """
    found = records(study, samples)
    if not _is_measured(found, (key,)):
        return None
    column = study.column(key)
    shown = [record for record in found if record["column"] == key]
    scale = alt.Scale(zero=False, padding=14)
    if "percent" in column.axis and _highest(shown) > 90:
        # an interval, or the next round number, may lie further: no accuracy does
        scale.domainMax, scale.clamp, scale.nice = 100, True, False
    x = alt.X("value:Q", title=theme.wrapped(column.axis), scale=scale)
    layers = _layers(_kinds(shown), x=x, digits=column.digits)
    chart = alt.layer(*layers, data=theme.data(found)).transform_filter(
        alt.FieldOneOfPredicate(field="column", oneOf=[key])
    )
    return chart.properties(
        width=WIDTH - 40, height=alt.Step(_STEP + 14 * _has_groups(shown)), usermeta={"margin": 40}
    )


def draw_panels(study: Study, samples: Samples, *, keys: Sequence[str], label: str) -> Drawing | None:
    """Several columns side by side, each as in `draw_metric`, from 0 to 100 percent.

    Args:
        label: of the axis of all.
    """
    found = records(study, samples)
    if not _is_measured(found, keys):
        return None
    titles = {key: study.column(key).title for key in keys}
    shown = [record | {"panel": titles[record["column"]]} for record in found if record["column"] in titles]
    x = alt.X(
        "value:Q",
        title=label,
        scale=alt.Scale(domain=[0, 100], padding=8),
        axis=alt.Axis(values=[0, 50, 100]),
    )
    layers = _layers(_kinds(shown), x=x, digits=study.column(keys[0]).digits)
    chart = alt.layer(*layers, data=theme.data(shown)).properties(
        width=WIDTH // 2 - 12, height=alt.Step(_STEP + 14 * _has_groups(shown))
    )
    panel = alt.Facet("panel:N", title=None, sort=list(titles.values()))
    return chart.facet(panel, columns=2, spacing=24).properties(usermeta={"panel": 290})


def _is_measured(found: Sequence[Record], keys: Sequence[str]) -> bool:
    return any(record["kind"] == OURS and record["column"] in keys for record in found)


def _highest(found: Sequence[Record]) -> float:
    return max(record.get("high") or record.get("value") or 0.0 for record in found)


def _has_groups(found: Sequence[Record]) -> bool:
    return any(record.get("heading") for record in found)


def _kinds(found: Sequence[Record]) -> list[str]:
    there = {record["kind"] for record in found}
    return [kind for kind in _LOOKS if kind in there]


def _layers(kinds: Sequence[str], *, x: alt.X, digits: int) -> list[alt.Chart]:
    base = alt.Chart().encode(y=alt.Y("row:O", axis=None))
    names = base.transform_filter(_is(NAME)).encode(x=alt.value(0))
    layers = [
        names.mark_rule(color=theme.FAINT).encode(x2=alt.value("width")),
        names.mark_text(align="left", yOffset=_ABOVE["name"]).encode(text="label:N"),
        names.mark_text(align="left", yOffset=_ABOVE["heading"], color=theme.SOFT, fontWeight="bold").encode(
            text="heading:N"
        ),
        base.transform_filter("isValid(datum.low)")
        .mark_rule(color=theme.OURS, strokeWidth=3, strokeCap="round", yOffset=_ABOVE[OURS])
        .encode(x=alt.X("low:Q", title=x["title"]), x2="high:Q"),
    ]
    colours, shapes = zip(*(_LOOKS[kind] for kind in kinds), strict=True)
    color = alt.Color("kind:N", scale=_scale(kinds, colours), legend=theme.legend(kinds))
    shape = alt.Shape("kind:N", scale=_scale(kinds, shapes))
    points = [
        base.transform_filter(_is(kind))
        .mark_point(filled=True, opacity=1, size=95, yOffset=_ABOVE[kind])
        .encode(x=x, color=color, shape=shape, tooltip=_tooltip(kind, digits))
        for kind in kinds
    ]
    return [*layers, *points]


def _is(kind: str) -> alt.FieldEqualPredicate:
    return alt.FieldEqualPredicate(field="kind", equal=kind)


def _scale(kinds: Sequence[str], looks: Sequence[str]) -> alt.Scale:
    return alt.Scale(domain=list(kinds), range=list(looks))


def _tooltip(kind: str, digits: int) -> list[alt.Tooltip]:
    number = f",.{digits}f"
    shown = [alt.Tooltip("label:N", title="model"), alt.Tooltip("value:Q", title=kind, format=number)]
    if kind == SEED:
        return [
            shown[0],
            alt.Tooltip("value:Q", title="value", format=f".{digits + 1}f"),
            alt.Tooltip("seed:N"),
            alt.Tooltip("run:N"),
        ]
    if kind == OURS:
        shown[1] = alt.Tooltip("value:Q", title="mean", format=number)
        bounds = [
            alt.Tooltip(f"{end}:Q", title=f"95 % interval, {end}", format=number) for end in ("low", "high")
        ]
        shown += [*bounds, alt.Tooltip("n:Q", title="seeds")]
    return shown
