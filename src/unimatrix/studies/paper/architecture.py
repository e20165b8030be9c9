"""Section 3.3: which part each preset has (Figure 1), read from the presets' configs; nothing is trained."""

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from unimatrix.lab.protocol import listed
from unimatrix.lab.results import Samples
from unimatrix.lab.study import Figure, Study
from unimatrix.mixers import PartConfig
from unimatrix.models import ModelConfig
from unimatrix.models.presets import PRESETS

if TYPE_CHECKING:
    from unimatrix.lab.charts import Drawing

STACKED, SOME, SHARED = "in each layer", "in some of the layers", "in a layer shared over depth"
ONCE, ON = "once a model", "setting that is on"
PLACES = (STACKED, SOME, SHARED, ONCE, ON)
_IDLE = "idle_diag"  # a weight that is counted, and does nothing
# parts in the order in which a token meets them
_ROLES = ("mix", "feed", "model")


def parts_of(config: ModelConfig) -> dict[str, str]:
    """Part, or setting of one that is on -> its place, of a model."""
    whole = SHARED if len(config.layers) < len(config.order) else STACKED
    found: dict[str, tuple[str, str]] = {}
    settings: dict[str, str] = {}
    for layer in (*config.layers, config.parts):
        for part in layer.values():
            everywhere = all(part.kind in {one.kind for one in each.values()} for each in config.layers)
            place = ONCE if layer is config.parts else whole if everywhere else SOME
            found[part.kind] = (part.role, place)
            settings |= dict.fromkeys(_on(part), ON)
    ordered = sorted(found.items(), key=lambda item: _ROLES.index(item[1][0]))
    return {kind: place for kind, (_, place) in ordered} | settings


def _on(part: PartConfig) -> Iterator[str]:
    """The settings of a part that are on: true, or a number where the default is none."""
    for field in dataclasses.fields(part):  # pyright: ignore[reportArgumentType]
        value = getattr(part, field.name)
        if field.name == _IDLE:
            continue
        if value is True or (field.default in (None, 0) and value not in (None, 0, False)):
            yield field.name


def parts_by_preset() -> list[dict[str, str]]:
    """One record for each part of each preset: {"preset", "part", "place"}; underscores as spaces."""

    def records() -> Iterator[dict[str, str]]:
        for name, preset in PRESETS.items():
            assert isinstance(preset.config, ModelConfig)
            for part, place in parts_of(preset.config).items():
                yield {"preset": name, "part": part.replace("_", " "), "place": place}

    return list(records())


def draw_parts(_study: Study, _samples: Samples) -> "Drawing":
    """Presets over parts, a mark where a preset has one; its colour and shape say where it stands."""
    import altair as alt

    from unimatrix.lab.charts import theme

    records = parts_by_preset()
    presets, parts = (list(dict.fromkeys(record[name] for record in records)) for name in ("preset", "part"))
    # what stands in the layers first, settings last
    places = {record["part"]: record["place"] for record in records}
    parts.sort(key=lambda part: max(0, PLACES.index(places[part]) - PLACES.index(SHARED)))
    axes: dict[str, Any] = {"title": None, "grid": True, "domain": False, "ticks": False}
    kinds = [place for place in PLACES if place in {record["place"] for record in records}]
    marks = alt.Chart(theme.data(records)).mark_point(filled=True, size=130, opacity=1)
    return alt.layer(
        marks.encode(
            x=alt.X(
                "part:N", sort=parts, axis=alt.Axis(labelAngle=-90, orient="top", labelLimit=200, **axes)
            ),
            y=alt.Y("preset:N", sort=presets, axis=alt.Axis(labelLimit=220, **axes)),
            color=alt.Color(
                "place:N",
                scale=alt.Scale(domain=kinds, range=list(theme.SERIES[1 : 1 + len(kinds)])),
                legend=theme.legend(kinds),
            ),
            shape=alt.Shape(
                "place:N", scale=alt.Scale(domain=kinds, range=[*theme.SHAPES, "cross"][: len(kinds)])
            ),
            tooltip=[alt.Tooltip(f"{name}:N") for name in ("preset", "part", "place")],
        )
    )


def _added_to_core(_samples: Samples) -> str:
    models: dict[str, dict[str, str]] = {}
    for record in parts_by_preset():
        models.setdefault(record["preset"], {})[record["part"]] = record["place"]
    core = models["unimatrix-core"]

    def added(name: str) -> str:
        return listed(part for part in models[name] if part not in core)

    return (
        f"Core is {listed(core)} {listed(core.values())}; ROSA adds {added('unimatrix-rosa')}, Discovery "
        f"{added('unimatrix-discovery')}, Assoc {added('unimatrix-assoc')}, SparsePointer "
        f"{added('unimatrix-sparse-pointer')}."
    )


FIGURE1 = Study(
    name="figure1",
    title="Figure 1: which part each preset has",
    paper="Section 3.3, Figure 1",
    question="What are the models made of?",
    answer=_added_to_core,
    rows=(),
    columns=(),
    claims=(),
    figures=(
        Figure(
            name="figure1",
            title="Parts of the presets",
            caption="A mark where a preset has the part, or where a setting of one of its parts is on. Drawn "
            "from the presets' configs; the paper's Figure 1 shows UniMatrix-Discovery alone.",
            draw=draw_parts,
        ),
    ),
    protocol=(),
)
