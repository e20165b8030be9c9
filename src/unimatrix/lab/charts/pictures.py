"""The figures of a study with what they draw at hand; as specifications for the page, and as files."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import altair as alt
import vl_convert

from unimatrix.lab.charts.over import draw_curves
from unimatrix.lab.charts.theme import FILE_FONT, LIGHT, Drawing, Palette, config
from unimatrix.lab.results import Samples, naming
from unimatrix.lab.study import Study

FORMATS = ("png", "svg")
VEGA_LITE = ".".join(alt.SCHEMA_VERSION.split(".")[:2])  # the version that altair writes
_PNG_SCALE = 2.0


_CURVES = (
    "Above: the mean over the seeds, its 95 % interval as a band, each seed as a small point. Below: the "
    "same as a difference to the first model, seed by seed. The points before the last may be of a first "
    "part of the text that is evaluated; the last one is of all of it."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """A figure with what it draws at hand. draw gives None where that is nothing."""

    name: str
    title: str
    caption: str
    draw: Callable[[], Drawing | None]


def pictures(study: Study, samples: Samples, *, traced: Any = None) -> tuple[Picture, ...]:
    """A study's pictures: figures, the look into a model where one was `traced`, learning curves."""
    found = [
        Picture(
            name=figure.name,
            title=figure.title,
            caption=figure.caption,
            draw=partial(figure.draw, study, samples),
        )
        for figure in study.figures
    ]
    look = study.inspection
    if look is not None and traced is not None:
        draw = partial(look.draw, traced)
        found.append(Picture(name=look.name, title=look.title, caption=look.caption, draw=draw))
    curves = partial(draw_curves, study, samples)
    return (
        *found,
        Picture(name=f"{study.name}-curves", title="Learning curves", caption=_CURVES, draw=curves),
    )


def specification(drawing: Drawing) -> dict[str, Any]:
    """In Vega-Lite, without the settings that all figures share; the data stand under `datasets`."""
    spec = drawing.to_dict()
    spec.pop("config", None)
    return spec


def render(drawing: Drawing, *, palette: Palette = LIGHT, form: str) -> bytes:
    """The bytes of one drawing as "png", "svg" or "pdf"."""
    spec = specification(drawing) | {"config": config(FILE_FONT), "padding": 12}
    painted = cast(dict[str, Any], json.loads(palette.paint(json.dumps(spec))))
    if form == "png":
        return vl_convert.vegalite_to_png(painted, vl_version=VEGA_LITE, scale=_PNG_SCALE)
    if form == "pdf":
        return vl_convert.vegalite_to_pdf(painted, vl_version=VEGA_LITE)
    return vl_convert.vegalite_to_svg(painted, vl_version=VEGA_LITE).encode()


def save_drawing(drawing: Drawing, path: Path) -> None:
    """Write a drawing into a file, light, in the format of its ending.

    Raises:
        OSError: the file cannot be written.
    """
    rendered = render(drawing, form=path.suffix.removeprefix("."))
    with naming(path):
        path.write_bytes(rendered)


def save_figures(chosen: Iterable[Picture], folder: Path) -> Mapping[str, tuple[Path, ...]]:
    """Write each picture as PNG and SVG, light, and return the paths by the picture's name.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    saved: dict[str, tuple[Path, ...]] = {}
    for picture in chosen:
        drawing = picture.draw()
        if drawing is None:
            continue
        saved[picture.name] = tuple(folder / f"{picture.name}.{form}" for form in FORMATS)
        for path in saved[picture.name]:
            save_drawing(drawing, path)
    return saved
