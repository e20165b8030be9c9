"""A heat map: a score for each task at each length."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from unimatrix.lab.charts import theme
from unimatrix.lab.charts.theme import FAINT, OURS, PAGE, SOFT, Drawing

_WIDTH, _HEIGHT = 84, 34  # of a cell
_OPACITY = 0.5  # of the colours: so faint that numbers are read on all of them, on light and on dark ground


def draw_heat_map(cells: Sequence[Mapping[str, Any]], *, title: str) -> Drawing:
    """Tasks below each other, lengths side by side, in the order of the cells.

    Args:
        cells: each a task, a length, a score (percent, or None) and, where there is none, a `note`.
        title: above it.
    """
    records = [
        {
            **cell,
            "text": cell.get("note", "") if cell["score"] is None else f"{cell['score']:.1f}",
            "at": f"{cell['length']:,}",
        }
        for cell in cells
    ]
    lengths = list(dict.fromkeys(record["at"] for record in records))
    tasks = list(dict.fromkeys(record["task"] for record in records))
    axis = {"domain": False, "ticks": False, "grid": False, "labelAngle": 0}
    base = alt.Chart(theme.data(records)).encode(
        x=alt.X("at:N", title="length (tokens)", sort=lengths, axis=alt.Axis(**axis)),
        y=alt.Y("task:N", title=None, sort=tasks, axis=alt.Axis(**axis)),
        tooltip=[
            alt.Tooltip("task:N"),
            alt.Tooltip("at:N", title="length"),
            alt.Tooltip("text:N", title="score"),
        ],
    )
    measured = base.transform_filter("isValid(datum.score)")
    colour = alt.Color(
        "score:Q",
        title="score",
        scale=alt.Scale(domain=[0, 100], range=[PAGE, OURS], interpolate="rgb"),
        legend=alt.Legend(gradientLength=120, gradientOpacity=_OPACITY, tickCount=2),
    )
    return alt.layer(
        base.mark_rect(stroke=FAINT, strokeWidth=1, fillOpacity=0),
        measured.mark_rect(stroke=FAINT, strokeWidth=1, fillOpacity=_OPACITY).encode(color=colour),
        measured.mark_text().encode(text="text:N"),
        base.transform_filter("!isValid(datum.score)")
        .mark_text(fontSize=10, color=SOFT)
        .encode(text="text:N"),
        title=title,
    ).properties(width=_WIDTH * len(lengths), height=_HEIGHT * len(tasks))
