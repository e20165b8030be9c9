"""Peak memory: what was taken and given back counts, what came before does not."""

import json

import pytest
import torch

from unimatrix import UserError
from unimatrix.bench import memory
from unimatrix.models import task_presets

MIB = 2**20


def test_a_peak_that_is_over_is_seen_and_an_earlier_one_is_not():
    torch.ones(64 * MIB // 4)
    with memory.measured_peak() as found:
        torch.ones(32 * MIB // 4)
    assert found["taken_bytes"] == found["peak_bytes"] - found["before_bytes"]
    if found["method"] == "VmHWM":
        # the kernel counts pages of a thread some dozens at a time
        assert 31 * MIB < found["taken_bytes"] < 36 * MIB


def test_without_a_peak_that_can_be_reset_it_is_said_how_it_was_measured(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "none")
    with memory.measured_peak() as found:
        pass
    assert found["method"] == "ru_maxrss"
    assert found["before_bytes"] > MIB
    assert found["taken_bytes"] >= 0


def test_a_row_for_every_model_and_pass(tmp_path, monkeypatch):
    monkeypatch.setattr(
        memory, "in_fresh_processes", lambda function, calls, **_: [function(**each) for each in calls]
    )
    models = ("unimatrix-core", "typed-latent")
    said: list[str] = []
    path = memory.run(tmp_path, models=models, batch=2, length=16, say=said.append)
    result = json.loads(path.read_text())
    rows = {(row["model"], row["what"]): row for row in result["rows"]}
    assert list(rows) == [(model, what) for model in models for what in memory.PASSES]
    assert {row["method"] for row in rows.values()} <= result["methods"].keys()
    assert rows["typed-latent", "forward"]["parameters"] == 18_496
    assert said[-1] == f"Method: {memory.METHODS[result['rows'][0]['method']]}"


def test_training_takes_at_least_weights_gradients_and_the_optimisers_two_numbers():
    (row,) = memory.peaks(model="transformer", passes=("training",), batch=8, length=128, device="cpu")
    if row["method"] == "VmHWM":
        assert row["taken_bytes"] > 4 * 4 * row["parameters"]


@pytest.mark.parametrize("name", ["unimatrix-core", "mamba2", *task_presets()])
def test_every_kind_of_model_does_both_passes(name):
    rows = memory.peaks(model=name, passes=memory.PASSES, batch=2, length=16, device="cpu")
    assert [row["what"] for row in rows] == list(memory.PASSES)


def test_nothing_to_measure_is_refused():
    with pytest.raises(UserError, match="bench memory: expected at least one model and pass"):
        memory.measure(models=())
