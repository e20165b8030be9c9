"""Results as data frames: nothing lost, nothing counted twice, and the same numbers as in the tables."""

import dataclasses
import math

import pandas
import pytest

from unimatrix.lab.frames import CURVES, FRAME, STUDY_FRAME, curves, frame, study_frame, unit_of, written
from unimatrix.studies.catalogue import STUDIES

CORE, RECALL = "table1.unimatrix-core", "recall-no-dropout.unimatrix-sparse-pointer"


def test_every_number_of_every_run_has_one_line(result) -> None:
    rows = [result(CORE, 7, 5.1), result(CORE, 11, 5.2), result(RECALL, 7, [99.0, 98.0, 97.0])]
    found = frame(rows)
    assert tuple(found.columns) == FRAME
    assert len(found) == sum(len(row.metrics) for row in rows)
    keyed = found.set_index(["experiment", "seed", "metric"])
    assert keyed.index.is_unique
    for row in rows:
        for metric, value in row.metrics.items():
            line = keyed.loc[(row.experiment, row.seed, metric)]
            assert (line.value, line.identity, line.git_commit) == (value, row.identity, row.git_commit)
    samples = {CORE: {7: rows[0], 11: rows[1]}, RECALL: {7: rows[2]}}
    pandas.testing.assert_frame_equal(frame(samples), found)


def test_what_is_written_says_where_it_comes_from_and_leaves_out_what_has_changed(result) -> None:
    own, shown = result(CORE, 7, 5.1), result(RECALL, 7, [99.0, 98.0, 97.0])
    then = dict(own.resolved, versions=own.resolved["versions"] | {"training": 99})
    old = dataclasses.replace(own, seed=11, resolved=then)
    found = written([own, old], [shown, dataclasses.replace(old, seed=1)])
    assert tuple(found.columns) == ("origin", *FRAME)
    assert [*zip(found.origin, found.seed, found.experiment, strict=True)] == [
        (origin, 7, row.experiment) for origin, row in (("shown", shown), ("own", own)) for _ in row.metrics
    ]
    assert [*written([], []).columns] == ["origin", *FRAME]


def test_every_metric_of_the_studies_has_a_unit(result) -> None:
    names = {name for study in STUDIES.values() for name in study.names}
    metrics = {metric for name in names for metric in result(name, 7, 5.0).metrics}
    assert not [metric for metric in metrics if not unit_of(metric)]
    assert [unit_of(name) for name in ("bpb_80_steps", "accuracy", "mood")] == ["bits/byte", "%", ""]


def test_curves_are_points_of_a_run(result) -> None:
    rows = [result(CORE, 7, 5.1, curve=[[10, 6.0], [80, 5.1]]), result(RECALL, 7, 99.0, curve=[[200, 99.0]])]
    found = curves(rows)
    assert tuple(found.columns) == CURVES
    columns = ["experiment", "step", "value", "unit"]
    assert found[columns].to_numpy().tolist() == [
        [CORE, 10, 6.0, "bits/byte"],
        [CORE, 80, 5.1, "bits/byte"],
        [RECALL, 200, 99.0, "%"],
    ]


@pytest.mark.parametrize("name", STUDIES)
def test_a_studys_frame_holds_the_numbers_of_its_table(name, samples) -> None:
    study = STUDIES[name]
    values = {one: {seed: 5.0 + 0.01 * seed for seed in (7, 11, 1)} for one in study.names}
    filled = samples(values)
    found = study_frame(study, filled)
    assert tuple(found.columns) == STUDY_FRAME
    for row in study.trained:
        for column in study.columns:
            mine = found[(found.row == row.label) & (found.group == row.group) & (found.column == column.key)]
            assert sorted(mine.value) == sorted(column.values(row, filled))
            printed = row.paper.get(column.key, math.nan)
            assert all(one == printed or (math.isnan(one) and math.isnan(printed)) for one in mine.paper)


def test_nothing_run_is_an_empty_frame_with_its_columns(result) -> None:
    study = STUDIES["table1"]
    for found, names in (
        (frame([]), FRAME),
        (curves([]), CURVES),
        (study_frame(study, {}), STUDY_FRAME),
    ):
        assert (len(found), tuple(found.columns)) == (0, names)
