"""The measurement of many slots: what is compared, written and refused; no speeds."""

import json

import pytest

from unimatrix import UserError
from unimatrix.bench import slots as bench
from unimatrix.ops import slot_memory


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    def inline(function, calls, *, weighed):
        assert weighed
        return [function(**arguments) for arguments in calls]

    monkeypatch.setattr(bench, "in_fresh_processes", inline)


def test_every_number_of_slots_is_compared_and_measured(tmp_path):
    said = []
    path = bench.run(tmp_path, slots=(12, 300), top_k=4, length=70, seconds=0.01, say=said.append)
    result = json.loads(path.read_text())
    assert {"commit", "date", "machine", "threads", "versions"} <= result.keys()
    assert (result["length"], result["top_k"]) == (70, 4)
    assert [(row["slots"], row["equal"]) for row in result["rows"]] == [(12, 70), (300, 70)]
    first, last = result["rows"]
    assert first["over_first"] == {"forward": 1.0, "training": 1.0}
    ratio = last["us_per_token"]["training"] / first["us_per_token"]["training"]
    assert last["over_first"]["training"] == pytest.approx(ratio)
    assert all(row["peak_bytes"] >= row["before_bytes"] for row in result["rows"])
    assert len(said) == 4


def test_all_slots_are_full_and_every_token_writes():
    inputs, state = bench.full_memory(40, 30)
    assert (state.ages >= 0).all()
    assert (inputs["write_strength"] > 0.5).all()
    assert (inputs["key"][0, 0] == state.keys[0]).all(-1).any()


@pytest.mark.parametrize("name", ["slots", "weights"])
def test_nothing_is_timed_that_differs(tmp_path, monkeypatch, name):
    def wrong(*args, backend, **options):
        reads, last = slot_memory(*args, backend=backend, **options)
        return (reads._replace(**{name: getattr(reads, name) + 1}) if backend == "compiled" else reads), last

    monkeypatch.setattr(bench, "slot_memory", wrong)
    with pytest.raises(UserError, match=r"^20 slots: .* not the reference's; nothing is timed$"):
        bench.run(tmp_path, slots=(20,), top_k=4, length=10, seconds=0.01)


def test_more_slots_than_are_read(tmp_path):
    for slots in ((64, 8), ()):
        with pytest.raises(UserError, match=r"^slots: expected numbers above top_k = 8, got "):
            bench.run(tmp_path, slots=slots, length=10)
