"""Figures: what they draw of what there is, and that they look alike each time and everywhere."""

import dataclasses
import re

import pytest
from drawn import records_of, spec_of
from made_results import make_result

from unimatrix.evals.inspection import Choice, SlotHistory, Step, Traced
from unimatrix.lab.charts import (
    DARK,
    LIGHT,
    draw_heat_map,
    draw_slots,
    pictures,
    render,
    save_figures,
    specification,
)
from unimatrix.lab.charts.records import OURS, SEED
from unimatrix.ops.slot_memory import EMPTY
from unimatrix.studies.paper.text import TABLE1

TRANSFORMER, CORE, ROSA, DISCOVERY = TABLE1.names
CURVE = [[10, 7.0], [40, 5.9], [80, 5.1]]


def runs(*, seeds=(7, 11, 13), curve=CURVE, step=0.125):
    """A study's runs, of binary fractions; each model's curve lies `step` above the one before."""
    return {
        name: {
            seed: make_result(
                name, seed, 5.0 + step * number, curve=[[at, value + step * number] for at, value in curve]
            )
            for seed in seeds
        }
        for number, name in enumerate((TRANSFORMER, CORE, ROSA, DISCOVERY))
    }


def test_equal_results_give_equal_files() -> None:
    drawing = pictures(TABLE1, runs())[0].draw()
    assert drawing is not None
    for form, start in (("png", b"\x89PNG"), ("svg", b"<svg"), ("pdf", b"%PDF")):
        first = render(drawing, form=form)
        assert first.startswith(start)
        if form != "pdf":  # it says when it was written
            assert render(drawing, form=form) == first


def test_one_specification_is_light_and_dark() -> None:
    drawing = pictures(TABLE1, runs())[0].draw()
    assert drawing is not None
    light, dark = (render(drawing, palette=palette, form="svg").decode() for palette in (LIGHT, DARK))
    assert light != dark
    colours = re.compile("#[0-9a-f]{6}")
    assert colours.sub("", light) == colours.sub("", dark)
    assert set(colours.findall(dark)) <= set(DARK.named.values())


def test_figures_draw_what_there_is(tmp_path) -> None:
    assert save_figures(pictures(TABLE1, {}), tmp_path) == {}
    one = {CORE: {7: make_result(CORE, 7, 5.0, curve=[[80, 5.0]])}}
    saved = save_figures(pictures(TABLE1, one), tmp_path)
    assert {path.name for paths in saved.values() for path in paths} == {"figure2.png", "figure2.svg"}
    kinds = {record["kind"] for record in records_of(TABLE1, one, "figure2")}
    assert OURS in kinds
    assert SEED not in kinds  # one seed is the mean


def test_curves_are_drawn_as_means_and_as_differences_to_the_first_model() -> None:
    records = records_of(TABLE1, runs(), "table1-curves")
    seeds = [record for record in records if "seed" in record]
    assert {record["difference"] for record in seeds if record["series"] == "UniMatrix-Core"} == {0.125}
    assert {record["difference"] for record in seeds if record["series"] == "Transformer"} == {None}
    means = [record for record in records if record.get("mean") == 0.25]
    assert [(record["series"], record["step"], record["n"]) for record in means] == [
        ("UniMatrix-ROSA", step, 3) for step in (10, 40, 80)
    ]


def test_curves_of_one_model_have_no_difference() -> None:
    spec = spec_of(TABLE1, {CORE: runs()[CORE]}, "table1-curves")
    assert len(spec["vconcat"]) == 1


def test_runs_that_measured_only_their_end_have_no_curve() -> None:
    assert [picture.draw() for picture in pictures(TABLE1, runs(curve=CURVE[-2:]))][-1] is None


def test_curves_of_more_models_than_can_be_told_apart_are_not_drawn() -> None:
    many = [dataclasses.replace(TABLE1.trained[1], label=f"model {number}") for number in range(21)]
    for rows, drawn in ((many[:20], True), (many, False)):
        study = dataclasses.replace(TABLE1, rows=tuple(rows), figures=())
        assert (pictures(study, runs())[-1].draw() is not None) == drawn


def trace(held, *, slots=2) -> Traced:
    """A history in which slot 0 holds what `held` says at each position, (key, value) or None."""
    steps = tuple(
        Step(
            token=1,
            written=0,
            replaced=None,
            strength=1.0,
            weights=(1.0, *[0.0] * (slots - 1)),
            keys=(pair[0] if pair else EMPTY, *[EMPTY] * (slots - 1)),
            values=(pair[1] if pair else EMPTY, *[EMPTY] * (slots - 1)),
            gate=None,
            choices=(Choice(token=2, word=1.0, vote=0.5),),
        )
        for pair in held
    )
    names = {"1": "k1", "2": "v2", "3": "<b>v3</b>"}
    return Traced(history=SlotHistory(steps=steps), names=names, expected="v2")


def test_every_slot_says_what_it_holds_at_the_end_however_short_it_held_it() -> None:
    spec = specification(draw_slots(trace([(1, 2)] * 60 + [(1, 3)])))
    held = [record for records in spec["datasets"].values() for record in records if "fits" in record]
    by_name = {record["holds"]: record for record in held}
    assert (by_name["k1→v2"]["start"], by_name["k1→v2"]["stop"], by_name["k1→v2"]["fits"]) == (0, 60, True)
    assert by_name["k1→<b>v3</b>"]["fits"] is False
    assert held.count(by_name["k1→<b>v3</b>"]) == 2  # its band, and its name at the right


@pytest.mark.parametrize("held", [[None], [(1, 2)], [(1, 2)] * 128])
def test_any_history_is_drawn(held) -> None:
    assert render(draw_slots(trace(held)), form="svg").startswith(b"<svg")


def test_names_of_any_kind_are_text() -> None:
    evil = '"]}<script>alert(1)</script>'
    row = dataclasses.replace(TABLE1.rows[0], label=evil)
    study = dataclasses.replace(TABLE1, rows=(row, *TABLE1.rows[1:]))
    drawing = pictures(study, runs())[0].draw()
    assert drawing is not None
    assert b"<script" not in render(drawing, form="svg")


def test_a_heat_map_shows_each_score_and_why_there_is_none() -> None:
    cells = [
        {"task": "vt", "length": 1024, "score": None, "note": "from 1,746"},
        {"task": "vt", "length": 2048, "score": 97.5},
        {"task": "fwe", "length": 1024, "score": 0.0},
        {"task": "fwe", "length": 2048, "score": 33.3},
    ]
    drawn = render(draw_heat_map(cells, title="RULER: m"), form="svg").decode()
    # in the order of the cells
    texts = re.findall(r'fill="(#\w+)"[^>]*>([^<]+)</text>', drawn)
    assert [text for _, text in texts if text in ("vt", "fwe", "1,024", "2,048")] == [
        "1,024",
        "2,048",
        "vt",
        "fwe",
    ]
    colours = {text: colour for colour, text in texts}
    assert (colours["97.5"], colours["0.0"], colours["33.3"]) == (LIGHT.ink,) * 3
    assert colours["from 1,746"] == LIGHT.soft
