"""What figures look like: colours by name, two palettes that give them, and the common settings.

A specification names its colours `var(--ours)`, as a stylesheet does: in the page the stylesheet decides, so
that one drawing is light and dark; in a file that is written, a palette does. The series are Okabe and Ito's
colours, told apart with any colour vision, made darker or lighter where they would be faint on their ground.
"""

import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import altair as alt

Layers = alt.LayerChart | alt.FacetChart  # what alt.layer is declared to give
Drawing = Layers | alt.VConcatChart

WIDTH = 640  # of a figure in a file, in pixels of a screen; in the page it is as wide as its place
# vl-convert brings Liberation Sans along: a PNG looks alike everywhere. Arial is as wide, letter by letter
FILE_FONT = "Liberation Sans, Arial, Helvetica, sans-serif"
PAGE_FONT = "system-ui, -apple-system, Segoe UI, Roboto, Noto Sans, sans-serif"

INK, SOFT, FAINT, PAGE = (f"var(--{name})" for name in ("ink", "soft", "line", "page"))
OURS, PAPER = "var(--ours)", "var(--paper)"
SERIES = tuple(f"var(--series-{number})" for number in range(7))
DASHES = ([1, 0], [7, 3], [2, 2], [9, 3, 2, 3])
PICKED = "picked"  # what figures call the choice of a series
SHAPES = ("circle", "square", "triangle-up", "diamond")


@dataclass(frozen=True, kw_only=True, slots=True)
class Palette:
    """The colours of one ground. `series` are told apart in the order of a study's rows."""

    ink: str
    soft: str
    line: str
    page: str
    ours: str
    paper: str
    series: tuple[str, ...]

    @property
    def named(self) -> dict[str, str]:
        """Name -> colour, as a stylesheet's variables are called without their dashes."""
        flat = {name: value for name, value in asdict(self).items() if name != "series"}
        return flat | {f"series-{number}": colour for number, colour in enumerate(self.series)}

    def paint(self, text: str) -> str:
        """The text with the palette's colours in place of their names."""
        return re.sub(r"var\(--([a-z0-9-]+)\)", lambda match: self.named[match[1]], text)


LIGHT = Palette(
    ink="#1f2328",
    soft="#57606a",
    line="#d8dde3",
    page="#ffffff",
    ours="#0072b2",
    paper="#c04f00",
    series=("#555b64", "#0072b2", "#007d5a", "#d55e00", "#b0568a", "#8a6500", "#2b8fc4"),
)
DARK = Palette(
    ink="#e6e8eb",
    soft="#a3abb5",
    line="#3a4149",
    page="#16191d",
    ours="#56b4e9",
    paper="#f0a04b",
    series=("#aeb4bd", "#56b4e9", "#2fc79a", "#f0803c", "#e29cc4", "#e0c24a", "#8fb8ff"),
)


def config(font: str) -> dict[str, Any]:
    """The settings that all figures share."""
    words = {"labelColor": INK, "titleColor": INK, "labelFontSize": 12, "titleFontSize": 12}
    return {
        "font": font,
        "background": PAGE,
        "view": {"stroke": None},
        "axis": words
        | {
            "titleFontWeight": "normal",
            "domainColor": FAINT,
            "tickColor": FAINT,
            "gridColor": FAINT,
            "tickCount": 6,
            "labelFlush": False,
        },
        "legend": words | {"symbolStrokeWidth": 2, "labelLimit": 0, "symbolLimit": 0, "columnPadding": 16},
        "header": words | {"titleFontWeight": "normal", "labelFontWeight": "bold"},
        "title": {"color": INK, "fontSize": 12, "anchor": "start"},
        "text": {"color": INK, "fontSize": 12},
        "rule": {"color": INK},
        "bar": {"color": FAINT},
    }


def wrapped(text: str, width: int = 46) -> list[str]:
    """An axis' title in lines that a phone is wide enough for."""
    return textwrap.wrap(text, width)


def data(records: Sequence[Mapping[str, Any]]) -> alt.InlineData:
    """The records as a chart's data; equal ones are kept once, however many figures draw them."""
    return alt.InlineData(values=[dict(record) for record in records])


def legend(names: Sequence[str], *, lines: bool = False, filled: bool = False) -> alt.Legend | None:
    """One above the figure, of points (`filled`, or any) or of lines; none where there is nothing to tell."""
    if len(names) < 2:
        return None
    columns = 2 if max(map(len, names)) < 26 else 1  # on a phone there is room for no more
    looks: dict[str, Any] = {}
    if lines:
        looks = {"symbolType": "stroke", "symbolSize": 400, "symbolOpacity": 1, "symbolStrokeWidth": 2.5}
    elif filled:
        looks = {"symbolStrokeWidth": 0}  # or a point that stands for a dashed line has a dashed outline
    return alt.Legend(title=None, orient="top", columns=columns, **looks)


def picking(names: Sequence[str]) -> alt.Parameter | None:
    """Names in the legend that can be tapped: then the other lines fade. None where there is no legend."""
    if len(names) < 2:
        return None
    return alt.selection_point(name=PICKED, fields=["series"], bind="legend")


def opacity(picked: alt.Parameter | None, full: float = 1.0) -> Any:
    """That of a mark: full where its series is picked, or where none is."""
    return alt.value(full) if picked is None else alt.condition(picked, alt.value(full), alt.value(full / 9))
