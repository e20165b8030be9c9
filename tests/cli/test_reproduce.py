"""`unimatrix reproduce` and `unimatrix report` through the real entry point."""

import dataclasses
import json
from pathlib import Path

from unimatrix.cli import reproduce as command
from unimatrix.errors import TrainingStopped
from unimatrix.lab.committed import committed_rows, seconds_by_experiment
from unimatrix.lab.report import Reproduction
from unimatrix.lab.training import run_that_gave_up
from unimatrix.studies.catalogue import EXPERIMENTS, ONLY_IN_FULL, STUDIES


def tiny(full):
    """The experiment with one step of a tiny model on short sequences."""
    sizes = {"d_model": 8, "num_heads": 2, "depth": 1}
    model = dataclasses.replace(full.model, changes={**full.model.changes, **sizes})
    task = None if full.task is None else dataclasses.replace(full.task, length=16, eval_sequences=8)
    loop = dataclasses.replace(full.loop, steps=1, batch_size=2, seq_len=16, tracker="none")
    return dataclasses.replace(full, model=model, loop=loop, task=task)


def test_reproduce_takes_seeds_text_and_folder_and_report_follows(
    call, small_run, tmp_path, monkeypatch
) -> None:
    for name in ("table1", "table3"):
        monkeypatch.setitem(STUDIES, name, STUDIES[name].with_experiments(tiny))
    text, out = small_run.parent / "sea.txt", tmp_path / "out"
    chosen = ("--seeds", "3", "--data", text, "--out", out, "--device", "cpu", "--jobs", "1")
    code, printed, err = call("reproduce", *chosen, "--studies", "table1", "table3")
    assert (code, err) == (0, "")
    assert "Table 1" in printed
    assert "Note: This is not the paper's corpus" in printed
    assert "Table 3" in printed
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    # Discovery's recall is one of the longest
    assert [row["seed"] for row in rows] == [3] * 7
    assert [row["config"]["data"] for row in rows] == ["sea.txt"] * 4 + ["auto"] * 3
    assert str(tmp_path) not in (out / "results.jsonl").read_text()  # nor where anything else lay
    assert str(text.parent) not in (out / "results.jsonl").read_text()
    page = (out / "report.html").read_text()
    # one that is named twice is told once
    code, again, err = call("report", "--out", out, "--studies", "table1", "table3", "table1")
    assert (code, err) == (0, "")
    assert again.split("Table 1")[1] == printed.split("Table 1")[1]
    assert (out / "report.html").read_text() == page


def test_reproduce_and_report_refuse_what_is_not_there(refused, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(2), raising=False)
    assert "did you mean table1" in refused("reproduce", "--studies", "tabel1")
    assert "did you mean table1" in refused("report", "--studies", "tabel1")
    assert "got both" in refused("reproduce", "--seeds", "7", "--num-seeds", "2")
    assert "--num-seeds: expected 1 to 1000, got 0" in refused("reproduce", "--num-seeds", "0")
    for number in ("0", "100000"):
        assert f"--jobs: expected 1 to 16, got {number}" in refused("reproduce", "--jobs", number)
    message = refused("reproduce", "--studies", "table3", "table4", "--data", "embedded")
    assert message.endswith("--data: table3 table4: these studies read no text, they draw sequences\n")
    assert "--data-dir: table5:" in refused("reproduce", "--studies", "table5", "--data-dir", tmp_path)
    assert "no finished run" in refused("report", "--out", tmp_path)
    assert "train.txt" in refused("reproduce", "--data-dir", tmp_path)
    afile = tmp_path / "afile"
    afile.write_text("some text of no great length, but long enough\n" * 5)
    assert "afile/out: Not a directory" in refused("reproduce", "--data", afile, "--out", afile / "out")


def test_reproduce_prints_the_command_that_goes_on(call, small_run, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(
        command, "reproduce", lambda **_: Reproduction(summaries=(), page=None, stop_signal=15)
    )
    text = small_run.parent / "sea.txt"
    code, out, _ = call("reproduce", "--data", text, "--out", tmp_path / "my out")
    assert code == 143
    assert out.endswith(f"to go on: unimatrix reproduce --data {text} --out '{tmp_path}/my out'\n")


def test_reproduce_tells_last_which_runs_stopped_for_good_and_ends_with_1(
    call, small_run, tmp_path, monkeypatch
) -> None:
    why = "training stopped: the loss (nan)"
    one = next(found for found in EXPERIMENTS.values() if found.task is not None)
    one = dataclasses.replace(one, loop=dataclasses.replace(one.loop, seed=7))
    found = {
        "gave_up": tuple(
            run_that_gave_up(dataclasses.replace(one, name=name), TrainingStopped(f"{why}; kept"), None)
            for name in ("a", "b")
        )
    }
    monkeypatch.setattr(command, "reproduce", lambda **_: Reproduction(summaries=(), page=None, **found))
    chosen = ("--data", small_run.parent / "sea.txt", "--out", tmp_path)
    code, out, err = call("reproduce", *chosen)
    assert (code, err) == (1, "")
    told = f"Not trained to the end, and in no table: a, seed 7 ({why}; kept); b, seed 7 ({why}; kept)\n"
    assert out.endswith(told)
    # a signal's code goes before it
    found["stop_signal"] = 15
    code, out, _ = call("reproduce", *chosen)
    assert code == 143
    assert f"{told}Stopped; to go on: " in out


def test_reproduce_trains_one_seed_without_the_longest_unless_it_is_told_otherwise(
    call, small_run, monkeypatch
) -> None:
    asked: list[dict] = []

    def noted(**settings):
        asked.append(settings)
        return Reproduction(summaries=(), page=None)

    monkeypatch.setattr(command, "reproduce", noted)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(64), raising=False)
    text = small_run.parent / "sea.txt"
    for options in ((), ("--full", "--num-seeds", "5", "--jobs", "3"), ("--seeds", "11", "4")):
        assert call("reproduce", "--data", text, "--device", "cpu", *options)[0] == 0
    # a number: so many of each study's own
    assert [settings["seeds"] for settings in asked] == [1, 5, (11, 4)]
    assert [settings["jobs"] for settings in asked] == [8, 3, 8]
    assert [settings["skip"] for settings in asked] == [ONLY_IN_FULL, (), ONLY_IN_FULL]


def test_at_least_fifty_experiments_are_trained_without_full_and_what_is_left_out_are_long_ones() -> None:
    assert EXPERIMENTS.keys() >= ONLY_IN_FULL
    assert len(EXPERIMENTS) - len(ONLY_IN_FULL) >= 50
    # what the archived runs took says that nothing short is left out, and how long the others take one by
    # one; what goes beyond the paper is mostly younger
    archive = Path(__file__).parents[2] / "docs" / "results" / "archive" / "tables-2026-11"
    seconds = seconds_by_experiment(committed_rows(archive))
    assert min(seconds[name] for name in ONLY_IN_FULL & seconds.keys()) > 20
    live = sum(took for name, took in seconds.items() if name not in ONLY_IN_FULL)
    assert live < 13.5 * 60
