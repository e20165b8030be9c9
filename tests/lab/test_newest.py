"""Which rows a report shows: the newest of each study, and some studies once for each text."""

import dataclasses
import re

import pytest

from unimatrix.lab.newest import lost_of, newest, on_each_text
from unimatrix.lab.results import GaveUp, RunRow
from unimatrix.lab.study import Figure
from unimatrix.studies.beyond.streaming import STREAMING
from unimatrix.studies.paper.recall import TABLE4
from unimatrix.studies.paper.text import TABLE1

_, CORE, _, _ = TABLE1.names
TRANSFORMER = "table1.transformer"
EACH = dataclasses.replace(TABLE1, each_text=True)


@pytest.fixture
def on(result):
    """on("apples", 7) -> Core's row of that seed on a text of that name."""

    def make(text: str, seed: int, *, experiment: str = CORE):
        row = result(experiment, seed, 5.1)
        split = {"sha256": f"{len(text)}" * 64, "bytes": 3}
        return dataclasses.replace(row, data=row.data | {"name": text, "train": split, "valid": split})

    return make


def test_a_study_shows_its_newest_text_unless_it_shows_each(on) -> None:
    rows = [on("apples", 7), on("apples", 11), on("pear", 7)]
    assert on_each_text(TABLE1, rows) == (TABLE1,)
    assert newest(TABLE1, rows)[CORE] == {7: rows[2]}
    first, second = on_each_text(EACH, rows)
    assert newest(first, rows)[CORE] == {7: rows[2]}
    assert newest(second, rows)[CORE] == {7: rows[0], 11: rows[1]}


def test_the_first_text_keeps_the_name_and_the_others_names_and_figures_tell_theirs(on) -> None:
    rows = [on("apples", 7), on("pear", 7), on("apples", 11)]
    first, second = on_each_text(EACH, rows)
    assert (first.name, first.text, first.figures) == (EACH.name, "apples", EACH.figures)
    assert (second.name, second.text) == (f"{EACH.name}-pear", "pear")
    assert [one.name for one in second.figures] == [f"{one.name}-pear" for one in EACH.figures]
    assert (first.short, second.short) == ("Table 1, apples", "Table 1, pear")
    assert STREAMING.of("pear").short == "Texts as one stream, pear (not in the paper)"


@pytest.mark.parametrize("text", ["a\\d", "x\\1", "(brackets): and colon", "../up", "two words"])
def test_a_text_may_have_any_name(text) -> None:
    told = EACH.of(text, further=True)
    assert told.title.startswith(f"Table 1, {text}:")
    assert (told.text, told.name) == (text, f"{EACH.name}-{text}")
    assert all("/" not in figure.name for figure in told.figures)
    # nor is a figure's file that of a text whose name has the same letters
    other = EACH.of(re.sub(r"[^\w.-]+", "-", text), further=True)
    assert not {figure.name for figure in told.figures} & {figure.name for figure in other.figures}


def test_a_text_that_was_asked_for_comes_first_though_nothing_ran_on_it(on) -> None:
    rows = [on("apples", 7), on("pear", 7)]
    assert [one.text for one in on_each_text(EACH, rows, first="apples")] == ["apples", "pear"]
    assert [one.text for one in on_each_text(EACH, rows, first="plum")] == ["plum", "pear", "apples"]


def test_one_text_or_none_is_the_study_as_it_is(on, result) -> None:
    other = on("pear", 7, experiment="table2.triple-latent")
    for rows in ([], [on("apples", 7), on("apples", 11)], [on("apples", 7), other]):
        assert on_each_text(EACH, rows) == (EACH,)
    task = dataclasses.replace(TABLE4, each_text=True)
    assert on_each_text(task, [result(TABLE4.names[0], 7, 13.0)]) == (task,)


def test_a_text_of_old_settings_alone_is_not_shown(on) -> None:
    old = on("pear", 7)
    old = dataclasses.replace(old, config=old.config | {"model": {"preset": "gone"}})
    assert on_each_text(EACH, [on("apples", 7), old]) == (EACH,)


def test_no_two_studies_or_figures_have_one_name(on) -> None:
    figure = Figure(name="a", title="", caption="", draw=lambda _study, _samples: None)
    rows = [on(text, 7) for text in ("apples", "pear", "plum")]
    told = on_each_text(dataclasses.replace(EACH, figures=(figure,)), rows)
    assert len({one.name for one in told}) == len({one.figures[0].name for one in told}) == 3


def test_a_run_that_could_not_go_on_is_told_of_where_no_row_stands_for_it(on) -> None:
    def gone(row, **changes) -> GaveUp:
        about = {field.name: getattr(row, field.name) for field in dataclasses.fields(RunRow)}
        return GaveUp(**(about | changes), why="training stopped; the last good one is here")

    apples, pear = on("apples", 7), on("pear", 11)
    samples = newest(TABLE1, [apples])
    lost = [gone(on("apples", 7)), gone(on("apples", 11)), gone(on("apples", 11)), gone(pear)]
    other = on("apples", 1, experiment=TRANSFORMER)
    assert lost_of(TABLE1, samples, [*lost, gone(other)]) == (gone(other), lost[2])
    # of a text, or of settings, whose rows are not shown, nothing
    assert lost_of(TABLE1, samples, [gone(pear)]) == ()
    older = {"resolved": apples.resolved | {"versions": {"training": 0}}}
    assert lost_of(TABLE1, samples, [gone(on("apples", 11), **older)]) == ()
    assert lost_of(TABLE1, {}, [gone(other, **older)]) == ()
