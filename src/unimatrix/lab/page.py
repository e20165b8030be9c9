"""report.html: one self-contained page per results file, and the figures beside it.

Everything is inside the page (style, pictures as data), so that it can be mailed, archived and read offline.
The pictures are there twice, for light and for dark pages; the browser takes the one that fits.
"""

import base64
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import jinja2

from unimatrix.lab.charts import DARK, LIGHT, Picture, pictures, render, save_figures
from unimatrix.lab.paper import Paper
from unimatrix.lab.results import naming
from unimatrix.lab.words import RULE, SCOPE, Summary


@dataclass(frozen=True, kw_only=True, slots=True)
class Embedded:
    """One picture of the page, as data addresses for light and dark, with the words beside it."""

    title: str
    caption: str
    light: str
    dark: str


def _data_address(svg: bytes) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode('ascii')}"


def _pictures(summary: Summary) -> tuple[Picture, ...]:
    return pictures(summary.table, summary.samples, traced=summary.traced)


def _embedded(summary: Summary) -> tuple[Embedded, ...]:
    """The table's pictures that have something to show."""
    found = []
    for picture in _pictures(summary):
        drawing = picture.draw()
        if drawing is not None:
            light, dark = (render(drawing, palette=palette, form="svg") for palette in (LIGHT, DARK))
            found.append(
                Embedded(
                    title=picture.title,
                    caption=picture.caption,
                    light=_data_address(light),
                    dark=_data_address(dark),
                )
            )
    return tuple(found)


def shared_cautions(summaries: Sequence[Summary]) -> tuple[str, ...]:
    """The cautions of all tables, each once; those that are not everyone's name their tables."""
    said: dict[str, list[str]] = {}
    for summary in summaries:
        for caution in summary.cautions:
            said.setdefault(caution, []).append(summary.table.short)
    return tuple(
        caution if len(names) == len(summaries) else f"{', '.join(names)}: {caution}"
        for caution, names in said.items()
    )


def render_report(summaries: Sequence[Summary], paper: Paper) -> str:
    """The whole page as text. All values are escaped; pictures are the only markup that is let through."""
    source = resources.files("unimatrix.lab").joinpath("page.html.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(source).render(
        paper=paper,
        summaries=[(summary, _embedded(summary)) for summary in summaries],
        cautions=shared_cautions(summaries),
        rule=RULE,
        scope=SCOPE,
    )


def write_report(summaries: Iterable[Summary], paper: Paper, out: Path) -> Path:
    """Write OUT/figures/ and OUT/report.html, and return the page's path. An older page is replaced whole.

    Raises:
        OSError: the folder cannot be written.
    """
    summaries = tuple(summaries)
    for summary in summaries:
        save_figures(_pictures(summary), out / "figures")
    page = out / "report.html"
    unfinished = out / "report.html.unfinished"
    with naming(page):
        unfinished.write_text(render_report(summaries, paper), encoding="utf-8")
        os.replace(unfinished, page)
    return page
