"""Figure 1: what the drawing says of each preset is what its model is made of."""

from drawn import records_of

from unimatrix.models import build
from unimatrix.models.presets import PRESETS
from unimatrix.studies.paper.architecture import FIGURE1, ON, ONCE, SHARED, SOME, STACKED, parts_of


def test_the_drawing_holds_every_part_of_every_preset() -> None:
    drawn = {(one["preset"], one["part"]): one["place"] for one in records_of(FIGURE1, {}, "figure1")}
    for name in PRESETS:
        for part in build(name).config.all_parts.values():
            if part.role in ("mix", "feed", "model"):
                assert (name, part.kind.replace("_", " ")) in drawn
    assert drawn["unimatrix-core", "matrix state"] == SHARED
    assert drawn["transformer", "attention"] == STACKED
    assert drawn["unimatrix-sparse-pointer", "slots"] == ONCE
    assert drawn["unimatrix-hybrid", "matrix state"] == drawn["unimatrix-hybrid", "attention"] == SOME
    assert drawn["unimatrix-hybrid", "mlp"] == STACKED
    assert drawn["triple-slot", "num slots"] == drawn["unimatrix-sparse-pointer", "pointer"] == ON
    # no two presets look alike
    made = {name: frozenset(parts_of(preset.config).items()) for name, preset in PRESETS.items()}
    assert len(set(made.values())) == len(made)
    # what Core has not
    assert {part for preset, part in drawn if preset == "unimatrix-discovery"} - {
        part for preset, part in drawn if preset == "unimatrix-core"
    } == {"previous token", "deep embed", "step embeddings", "rule mixing", "spectral norm"}


def test_parts_come_in_the_order_of_a_token() -> None:
    assert list(parts_of(PRESETS["unimatrix-rosa"].config)) == ["matrix_state", "mlp", "previous_token"]
