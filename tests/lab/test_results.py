"""results.jsonl: what is appended is read back, kills lose nothing, and identities tell runs apart."""

import dataclasses
import json
import os
from pathlib import Path

import pytest

from unimatrix.errors import UserError
from unimatrix.lab.results import (
    append_result,
    latest_identities,
    metric_by_seed,
    read_results,
    select,
)

CORE, RECALL = "table1.unimatrix-core", "recall.unimatrix-core"


def changed_config(result, **loop):
    return result.config | {"loop": result.config["loop"] | loop}


def test_rows_come_back_as_they_were_written(tmp_path, result) -> None:
    rows = [result(CORE, 7, 5.08), result(CORE, 11, 5.09, curve=[[10, 6.0], [80, 5.09]])]
    for row in rows:
        append_result(tmp_path / "deep" / "results.jsonl", row)
    assert read_results(tmp_path / "deep" / "results.jsonl") == rows


def test_a_row_is_one_flat_line_of_json(tmp_path, result) -> None:
    append_result(tmp_path / "r", result(CORE, 7, 5.08))
    (line,) = (tmp_path / "r").read_text().splitlines()
    row = json.loads(line)
    assert {"model", "experiment", "seed", "steps", "parameters", "metrics", "seconds"} <= row.keys()
    assert row["metrics"] == {"bpb": 5.08, "ppl": 2**5.08}
    assert {"tokens_per_second", "data", "git_commit", "versions", "threads", "backend"} <= row.keys()
    assert row["data"]["train"].keys() == {"sha256", "bytes"}


def test_no_file_is_no_result(tmp_path) -> None:
    assert read_results(tmp_path / "none.jsonl") == []


def test_a_last_row_that_has_lost_its_line_break_alone_is_one(tmp_path, result) -> None:
    path = tmp_path / "results.jsonl"
    rows = [result(CORE, seed, 5.1) for seed in (7, 11, 13)]
    append_result(path, rows[0])
    append_result(path, rows[1])
    os.truncate(path, path.stat().st_size - 1)
    assert read_results(path) == rows[:2]
    append_result(path, rows[2])
    assert read_results(path) == rows


@pytest.mark.parametrize("cut", [2, 20, 400])
def test_a_torn_last_line_is_left_out_and_cut_off_by_the_next_row(tmp_path, result, cut) -> None:
    path = tmp_path / "results.jsonl"
    whole, torn, after = result(CORE, 7, 5.1), result(CORE, 11, 5.2), result(CORE, 13, 5.3)
    append_result(path, whole)
    append_result(path, torn)
    os.truncate(path, path.stat().st_size - cut)
    assert read_results(path) == [whole]
    append_result(path, after)
    assert read_results(path) == [whole, after]


def test_a_damaged_line_in_the_middle_is_named(tmp_path, result) -> None:
    path = tmp_path / "results.jsonl"
    append_result(path, result(CORE, 7, 5.1))
    with path.open("a") as file:
        file.write("{half a row\n")
    append_result(path, result(CORE, 11, 5.1))
    with pytest.raises(UserError, match=r"results.jsonl, line 2: expected JSON"):
        read_results(path)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("[1, 2]", "expected an object with fields"),
        ('{"bpb": 5.0}', "unknown field 'bpb'"),
        ('"text"', "expected an object with fields"),
        ("[" * 100_000, "nested at most"),
        ('{"seed": NaN}', "finite"),
    ],
)
def test_json_that_is_no_row_is_named(tmp_path, line, problem) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(UserError, match=rf"results.jsonl, line 1: .*{problem}") as raised:
        read_results(path)
    assert len(str(raised.value).splitlines()) == 1


WRONG = {
    "seed": ([1], "7", -1, 7.0, True, None),
    "parameters": ("x", -5),
    "curve": (None, [1], [[1]], [[1, "x"]]),
    "config": (None, [], {"model": {"preset": 3}}, {"nested": 1}),
    "metrics": (None, {"bpb": "5"}, {"bpb": None}, []),
    "data": (None, {}, {"kind": "text"}, {"kind": ["text"]}),
    "versions": ({"torch": 2}, "2.13"),
    "resolved": ([], {"model": {}}, {"model": {}, "versions": {"mlp": "1"}}),
    "seconds": ("1", -0.5),
    "device": (None, 3),
}


@pytest.mark.parametrize(("field", "value"), [(name, one) for name, all_ in WRONG.items() for one in all_])
def test_a_wrong_field_is_named_with_its_line(tmp_path, result, field, value) -> None:
    path = tmp_path / "results.jsonl"
    append_result(path, result(CORE, 7, 5.1))
    row = json.loads(path.read_text()) | {field: value}
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")
    with pytest.raises(UserError, match=rf"results.jsonl, line 2: {field}") as raised:
        read_results(path)
    assert len(str(raised.value)) < 300 + len(str(path))


@pytest.mark.parametrize(("kind", "task"), [("text", RECALL), ("task", CORE)])
def test_data_of_another_kind_than_the_settings_is_refused(result, kind, task) -> None:
    row = result(task, 7, 5.1)
    with pytest.raises(UserError, match=r"config\.task|data"):
        dataclasses.replace(row, data=row.data | {"kind": kind})


def test_what_is_not_a_file_or_not_text_is_named(tmp_path, result) -> None:
    path = tmp_path / "results.jsonl"
    path.write_bytes(b"\xff\xfe\n")
    with pytest.raises(UserError, match="line 1: expected UTF-8"):
        read_results(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match="got a FIFO"):
        read_results(path)
    path.unlink()
    path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"a link to .*nowhere"):
        read_results(path)


def test_a_full_disk_keeps_the_rows_before(tmp_path, result, monkeypatch) -> None:
    path = tmp_path / "results.jsonl"
    append_result(path, result(CORE, 7, 5.1))
    before = path.read_bytes()

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space") as raised:
        append_result(path, result(CORE, 11, 5.2))
    assert raised.value.filename == str(path)
    monkeypatch.undo()
    assert path.read_bytes() == before


def test_a_value_that_json_has_no_word_for_is_never_written(tmp_path, result) -> None:
    with pytest.raises(ValueError, match="JSON"):
        append_result(tmp_path / "r", result(CORE, 7, float("nan")))
    assert not (tmp_path / "r").exists()


def test_select_takes_the_wanted_identity_and_the_newest_of_equals(result) -> None:
    old, new = result(CORE, 7, 5.3), result(CORE, 7, 5.1)
    longer = result(CORE, 7, 4.0, config=changed_config(old, steps=500))
    rows = [old, longer, new, result(CORE, 11, 5.2)]
    chosen = select(rows, {CORE: old.identity, "table1.transformer": "none"})
    assert chosen == {CORE: {7: new, 11: rows[3]}, "table1.transformer": {}}
    assert metric_by_seed(chosen, CORE, "bpb") == {7: 5.1, 11: 5.2}
    assert metric_by_seed(chosen, "table1.none", "bpb") == {}
    assert metric_by_seed(chosen, CORE, "accuracy") == {}
    for beside in ("seconds", "steps"):
        assert metric_by_seed(chosen, CORE, beside) == {
            seed: getattr(run, beside) for seed, run in chosen[CORE].items()
        }


def test_the_latest_identities_are_those_on_the_newest_text(result) -> None:
    other = {"train": {"sha256": "e" * 64, "bytes": 3}, "valid": {"sha256": "d" * 64, "bytes": 3}}
    base = result(CORE, 7, 5.1)
    elsewhere = dataclasses.replace(base, data=base.data | other)
    transformer = result("table1.transformer", 7, 5.1)
    names = (CORE, "table1.transformer")
    assert latest_identities([elsewhere, transformer, base], names) == {
        CORE: base.identity,
        "table1.transformer": transformer.identity,
    }
    assert latest_identities([transformer, base, elsewhere], names) == {CORE: elsewhere.identity}
    longer = dataclasses.replace(base, config=changed_config(base, steps=500))
    assert latest_identities([base, longer], names) == {CORE: longer.identity}
    assert latest_identities([], names) == {}


def test_no_verdict_pairs_kinds_of_device(result) -> None:
    names = (CORE, "table1.transformer", RECALL)
    on_cpu = [result(name, 7, 5.1) for name in names]
    on_cuda = [dataclasses.replace(row, device="cuda:0") for row in on_cpu]
    # an interrupted reproduction on another device: one experiment has been trained there
    assert latest_identities([*on_cpu, on_cuda[0]], names) == {CORE: on_cuda[0].identity}
    other = dataclasses.replace(on_cuda[1], device="cuda:1")
    assert latest_identities([on_cuda[0], other, on_cpu[2], on_cuda[2]], names).keys() == {*names}


def test_tasks_do_not_move_the_newest_text_and_texts_not_the_tasks(result) -> None:
    other = {"train": {"sha256": "e" * 64, "bytes": 3}, "valid": {"sha256": "d" * 64, "bytes": 3}}
    text, recall = result(CORE, 7, 5.1), result(RECALL, 7, 13.0)
    elsewhere = dataclasses.replace(text, data=text.data | other)
    names = (CORE, RECALL)
    for rows in ([elsewhere, text, recall], [recall, elsewhere, text], [elsewhere, recall, text]):
        assert latest_identities(rows, names) == {CORE: text.identity, RECALL: recall.identity}
    fewer = dict(recall.config["task"], num_fillers=5)
    changed = dataclasses.replace(recall, config=recall.config | {"task": fewer})
    assert changed.identity != recall.identity
    assert latest_identities([recall, text, changed], names)[RECALL] == changed.identity


def test_rows_of_version_0_1_are_read_and_count_as_the_same_run(tmp_path, result) -> None:
    new = result(CORE, 7, 5.1)
    row = dataclasses.asdict(new)
    row |= row.pop("metrics")
    row["data"] = {key: value for key, value in row["data"].items() if key != "kind"}
    # a setting that came later, unset, was not there
    row["config"]["model"] = {k: v for k, v in row["config"]["model"].items() if k != "slots"}
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps(row) + "\n")
    (old,) = read_results(path)
    assert (old.metrics, old.identity, old.on_text) == (new.metrics, new.identity, True)
    archive = Path(__file__).parents[2] / "docs" / "results" / "archive"
    kept = read_results(archive / "tables-2026-11" / "results.jsonl")
    texts = [run for run in kept if run.on_text]
    assert len(texts) >= 20
    assert all({"bpb", "ppl"} <= run.metrics.keys() for run in texts)
    assert {tuple(run.metrics) for run in texts if run.experiment.startswith("table1.")} == {("bpb", "ppl")}
