"""`unimatrix inspect` on trained checkpoints: a task's and a text's; and its complaints."""

import dataclasses
import json

import pytest

from unimatrix.cli import main
from unimatrix.data.tasks import task_of
from unimatrix.lab import look

TINY = ["--d-model", "16", "--num-heads", "2", "--depth", "1", "--state-dim", "4", "--slots", "6"]
LOOP = ["--steps", "2", "--batch-size", "2", "--tracker", "none", "--device", "cpu"]


@pytest.fixture(scope="module")
def recall_run(tmp_path_factory):
    out = tmp_path_factory.mktemp("inspect") / "recall"
    task = ["--length", "24", "--eval-sequences", "8", "--eval-num-pairs", "4"]
    arguments = ["train", "--experiment", "recall-no-dropout.no-gate", *TINY, *LOOP, *task, "--out", str(out)]
    assert main(arguments) == 0
    return out


@pytest.fixture(scope="module")
def text_run(tmp_path_factory, small_run):
    out = tmp_path_factory.mktemp("inspect") / "text"
    text = small_run.parent / "sea.txt"
    preset = ["--preset", "unimatrix-sparse-pointer"]
    assert main(["train", str(text), *preset, *TINY, *LOOP, "--seq-len", "16", "--out", str(out)]) == 0
    return out


def test_a_task_is_read_without_a_prompt(call, recall_run, tmp_path):
    figure = tmp_path / "slots.png"
    code, out, err = call("inspect", recall_run, "--figure", figure)
    assert (code, err) == (0, "")
    assert "QUERY" in out
    assert "The slots at the end" in out
    assert "expected v" in out
    assert figure.stat().st_size > 10_000


def test_json_tells_every_position(call, recall_run):
    code, out, _ = call("inspect", recall_run, "--sample", "3", "--json")
    assert code == 0
    traced = json.loads(out)
    assert len(traced["history"]["steps"]) == 24
    assert traced["expected"].startswith("v")
    _, other, _ = call("inspect", recall_run, "--json")
    assert json.loads(other) != traced


def test_a_sample_is_the_sequence_that_was_evaluated(recall_run):
    _, experiment = look._open(recall_run)
    task = dataclasses.replace(experiment.task, eval_sequences=300)
    for sample in (3, 255, 256, 299):
        ids, _ = look._task_sequence(task, seed=7, sample=sample)
        step, row = divmod(sample, 256)
        drawn = task_of(task).make(
            task, seed=7, step=step, batch_size=min(256, 300 - 256 * step), stream="eval"
        )
        assert drawn.input_ids[row, : len(ids)].tolist() == ids


def test_a_prompt_of_symbols(call, refused, recall_run):
    code, out, _ = call("inspect", recall_run, "--prompt", "BOS k1 v3 k2 v5 f1 QUERY k2", "--rows", "0")
    assert code == 0
    assert "k2→v5" in out
    assert "expected symbols among BOS, QUERY, k1 to k8" in refused(
        "inspect", recall_run, "--prompt", "k1 v99"
    )


def test_a_prompt_of_bytes(call, text_run):
    code, out, _ = call("inspect", text_run, "--prompt", "the sea\n")
    assert code == 0
    assert "␣" in out
    assert "\\n" in out


def test_complaints_are_one_line(refused, recall_run, text_run, small_run, tmp_path):
    assert "slot memory" in refused("inspect", small_run, "--prompt", "the")
    assert "slot memory" in refused("inspect", small_run)  # no prompt would help
    assert "expected a prompt (--prompt)" in refused("inspect", text_run)
    assert "sample: expected 0 to 7, got 8" in refused("inspect", recall_run, "--sample", "8")
    assert "one of a prompt and a sample" in refused("inspect", recall_run, "--sample", "1", "--prompt", "k1")
    assert "expected a file ending in" in refused("inspect", recall_run, "--figure", tmp_path / "slots.doc")
    assert "rows: expected at least 0" in refused("inspect", recall_run, "--rows", "-1")
    assert "at least one token" in refused("inspect", recall_run, "--prompt", "")
    assert "nowhere" in refused("inspect", tmp_path / "nowhere", "--prompt", "x")
    missing = tmp_path / "no" / "folder.png"
    assert "folder.png" in refused("inspect", recall_run, "--figure", missing)
