"""What figures are made of stands in the page short, and page.js makes the same of it again."""

import json

import pytest
from drawn import rows_of, whole

from unimatrix.lab.page import packed


def test_records_come_back_from_their_columns() -> None:
    records = [
        {"kind": "name", "label": "Core", "n": 5, "value": None},
        {"kind": "ours", "label": "Core", "n": 5, "value": 5.1225, "fits": True},
        {"kind": "ours", "label": "ROSA", "n": 5, "value": 7.0, "fits": False},
        {"kind": "ours", "label": "ROSA", "n": 5, "value": -0.25},
    ] * 4
    found = packed.columns(records)
    assert found["columns"]["n"] == {"of": [5]}
    assert set(found["columns"]["kind"]) == {"of", "at"}
    assert rows_of(found) == [
        {name: value for name, value in record.items() if value is not None} for record in records
    ]
    assert rows_of(packed.columns([])) == []


@pytest.mark.parametrize("value", [36_901.577689295635, 5.122229004, 482_123.456, 1 / 3, -1e-9, 3.5e12, 0.0])
def test_a_number_keeps_more_digits_than_any_reader_is_told(value) -> None:
    (row,) = rows_of(packed.columns([{"value": value}]))
    assert row["value"] == pytest.approx(value, rel=1e-6, abs=0.0)
    assert len(json.dumps(row["value"])) <= 13


def test_ones_and_true_are_told_apart() -> None:
    assert [row["a"] for row in rows_of(packed.columns([{"a": True}, {"a": 1}, {"a": "1"}]))] == [
        True,
        1,
        "1",
    ]


def test_what_stands_twice_is_kept_once_and_comes_back() -> None:
    name = "table1.unimatrix-core-seed7-dce68134"
    layer = {"mark": {"type": "point", "filled": True}, "encoding": {"x": {"field": name}}}
    part = {"a": [layer, layer, 1, None, "x"], "b": {"layer": layer, "run": name}, "c": [[name] * 3] * 2}
    found = packed.shared(part)
    assert whole(found["whole"], found["shared"]) == part
    assert json.dumps(found).count(name) == 1
    assert json.dumps(found).count("filled") == 1
    assert packed.shared({"a": 1}) == {"shared": [], "whole": {"a": 1}}
