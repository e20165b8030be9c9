"""One's own numbers beside the project's: what is judged is no part of what it is judged by."""

import dataclasses

import pytest

from unimatrix.lab.committed import agreements, committed_rows, seconds_by_experiment
from unimatrix.lab.results import append_result
from unimatrix.studies.catalogue import STUDIES

TABLE1, LENGTH = STUDIES["table1"], STUDIES["training-length"]
CORE = "table1.unimatrix-core"
SEEDS = {7: 5.2, 11: 5.1, 1: 5.12, 2: 5.08, 3: 5.1}


def bpb(result, value, *, seed=7, theirs=SEEDS):
    """The agreement of one value of Core's bits per byte, if there is one."""
    rows = [result(CORE, number, found) for number, found in theirs.items()]
    found = agreements(TABLE1, {CORE: {seed: result(CORE, seed, value)}}, rows)
    return next((one for one in found if one.column == "BPB"), None)


def test_a_number_is_judged_by_the_seeds_other_than_its_own(result) -> None:
    found = bpb(result, 5.13)
    assert (found.ours.n, found.one_more.n) == (5, 4)
    # 5.1, 5.12, 5.08, 5.1: mean 5.1, s = 0.01633, t_3 = 3.182446, times sqrt(1 + 1/4)
    assert found.one_more.low == pytest.approx(5.1 - 0.0581033, abs=1e-6)
    assert found.inside
    assert found.text == "yours 5.130, ours 5.120 ± 0.058; one more seed: 5.042 to 5.158"
    assert not bpb(result, 5.1592).inside
    assert bpb(result, 5.20, seed=13).one_more.n == 5


def test_it_is_judged_in_the_digits_that_are_shown(result) -> None:
    equal = dict.fromkeys((11, 1, 2), 5.1)
    assert bpb(result, 5.1004, theirs=equal).inside
    assert not bpb(result, 5.1006, theirs=equal).inside


def test_without_two_other_seeds_nothing_is_said(result) -> None:
    assert bpb(result, 5.1, theirs={7: 5.1, 11: 5.1}) is None
    assert bpb(result, 5.1, theirs={}) is None


def test_other_settings_and_other_texts_are_not_compared(result) -> None:
    mine = {CORE: {7: result(CORE, 7, 5.1)}}
    rows = [result(CORE, seed, value) for seed, value in SEEDS.items()]
    split = {"sha256": "f" * 64, "bytes": 5}
    for changes in ({"device": "cuda:0"}, {"data": rows[0].data | {"valid": split}}):
        others = [result(CORE, row.seed, 5.1, **changes) for row in rows]
        assert agreements(TABLE1, mine, others) == ()
    assert agreements(TABLE1, mine, rows)


def test_seconds_are_the_machines_and_not_judged(result) -> None:
    rows = [result(name, seed, [9.0, 8.0, 7.0, 6.0]) for name in LENGTH.names for seed in SEEDS]
    found = agreements(LENGTH, {row.experiment: {7: row} for row in rows if row.seed == 7}, rows)
    columns = {column.title for column in LENGTH.columns}
    assert {one.column for one in found} == columns - {"Seconds"} != columns


def test_committed_rows_are_those_of_the_folder_or_none(tmp_path, result) -> None:
    assert committed_rows(tmp_path) == []
    rows = [result(CORE, 7, 5.1, seconds=10.0), result(CORE, 11, 5.2, seconds=20.0)]
    for row in rows:
        append_result(tmp_path / "results.jsonl", row)
    assert committed_rows(tmp_path) == rows
    timed = {"kind": "measurement"}
    measured = dataclasses.replace(rows[0], experiment="speed", data=rows[0].data | timed)
    assert seconds_by_experiment([*rows, measured]) == {CORE: 15.0}
    # one run of a machine that was asleep says nothing of how long the next one takes
    asleep = result(CORE, 13, 5.1, seconds=2_400.0)
    assert seconds_by_experiment([*rows, asleep]) == {CORE: 20.0}
