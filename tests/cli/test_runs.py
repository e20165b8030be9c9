"""`unimatrix runs`: what it says of runs that are finished, stopped, going on, damaged, or no runs at all."""

import json
import os
import random
import shlex
import shutil
from pathlib import Path
from unittest.mock import patch

import pytest

from unimatrix.cli import reproduce as reproduce_module
from unimatrix.data import load_corpus
from unimatrix.hf.checksums import write_checksums
from unimatrix.lab import run as run_module
from unimatrix.lab.report import Reproduction
from unimatrix.lab.results import folder_name
from unimatrix.studies.catalogue import ONLY_IN_FULL, study
from unimatrix.studies.paper.claims import PAPER
from unimatrix.train.run_folder import sole_use

STOPPED = Reproduction(summaries=(), page=None, stop_signal=15)


@pytest.fixture
def run_folder(small_run, tmp_path) -> Path:
    """A copy of a finished run, to be changed."""
    return shutil.copytree(small_run, tmp_path / "runs" / "sea")


def change(path: Path, **values) -> None:
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | values))


def stop_at(folder: Path, *, step: int, of: int) -> Path:
    """As a run of more steps looks that was stopped; its checkpoint."""
    mark = json.loads((folder / "run.json").read_text())
    mark["experiment"]["loop"]["steps"] = of
    (folder / "run.json").write_text(json.dumps(mark | {"metrics": None}))
    (checkpoint,) = folder.glob("checkpoint-*")
    return rewrite(checkpoint, step=step, curve=[[2, 5.5], [3, 5.25], [4, 5.75]])


def rewrite(checkpoint: Path, **values) -> Path:
    change(checkpoint / "trainer.json", **values)
    sums = json.loads((checkpoint / "checksums.json").read_text())
    sums["files"]["trainer.json"]["bytes"] = (checkpoint / "trainer.json").stat().st_size
    (checkpoint / "checksums.json").write_text(json.dumps(sums))
    return checkpoint


def listed(call, *arguments) -> list[dict]:
    code, out, err = call("runs", "--json", *arguments)
    assert (code, err) == (0, "")
    return json.loads(out)


def test_a_finished_run_says_what_training_said(call, small_run):
    (seen,) = listed(call, small_run)
    assert (seen["state"], seen["step"], seen["steps"], seen["resume"]) == ("finished", 4, 4, None)
    code, out, _ = call("eval", small_run)
    assert code == 0
    assert out.startswith(f"{seen['best']:.4f} bits per byte")
    code, out, _ = call("runs", small_run)
    assert code == 0
    assert out == f"{small_run}  finished, 4 steps\n    {seen['best']:.4f} bits per byte (at the end)\n"


def test_a_stopped_run_says_how_far_it_is_and_its_command_goes_on(call, tmp_path, monkeypatch, small_run):
    monkeypatch.chdir(tmp_path)
    text = small_run.parent / "sea.txt"
    words = ["--d-model", "8", "--num-heads", "2", "--depth", "1", "--batch-size", "2", "--seq-len", "16"]
    code, *_ = call("train", text, *words, "--steps", "4", "--eval-every", "2", "--tracker", "none")
    assert code == 0
    folder = Path("runs/sea-unimatrix")
    mark = json.loads((folder / "run.json").read_text())
    mark["experiment"]["loop"]["steps"] = 6
    (folder / "run.json").write_text(json.dumps(mark))
    (seen,) = listed(call)
    assert (seen["state"], seen["step"], seen["steps"], seen["best_step"]) == ("stopped", 4, 6, 2)
    code, out, _ = call("runs")
    assert f"{folder}  stopped at step 4 of 6\n" in out
    assert "bits per byte (best, at step 2)\n" in out
    assert out.endswith(f"    {seen['resume']}\n")
    code, out, err = call(*shlex.split(seen["resume"])[1:])
    assert code == 0, err


def test_all_steps_without_their_number_are_not_finished(call, run_folder):
    """As where the evaluation at the end was stopped; older runs have no metrics, and are."""
    change(run_folder / "run.json", metrics=None)
    (seen,) = listed(call, run_folder)
    assert (seen["state"], seen["step"], seen["steps"]) == ("stopped", 4, 4)
    code, _, err = call(*shlex.split(seen["resume"])[1:])
    assert code == 0, err
    assert listed(call, run_folder)[0]["state"] == "finished"
    mark = json.loads((run_folder / "run.json").read_text())
    (run_folder / "run.json").write_text(json.dumps({name: mark[name] for name in mark if name != "metrics"}))
    assert listed(call, run_folder)[0]["state"] == "finished"


def test_without_its_mark_a_run_goes_on_by_its_checkpoint(call, run_folder):
    stop_at(run_folder, step=4, of=6)
    checkpoint = run_folder / "checkpoint-000004"
    trainer = json.loads((checkpoint / "trainer.json").read_text())
    trainer["experiment"]["loop"]["steps"] = 6
    rewrite(checkpoint, experiment=trainer["experiment"], curve=[])
    resum(checkpoint)
    (run_folder / "run.json").unlink()
    (seen,) = listed(call, run_folder)
    assert seen["state"] == "stopped"
    code, _, err = call(*shlex.split(seen["resume"])[1:])
    assert (code, err) == (0, "")
    assert listed(call, run_folder)[0]["state"] == "finished"


def resum(checkpoint: Path) -> None:
    (checkpoint / "checksums.json").unlink()
    write_checksums(checkpoint)


def test_the_best_of_a_text_is_the_lowest_and_of_a_task_the_highest(call, run_folder):
    checkpoint = stop_at(run_folder, step=5, of=10)
    checkpoint = checkpoint.rename(run_folder / "checkpoint-000005")
    (seen,) = listed(call, run_folder.parent)
    assert (seen["best"], seen["unit"], seen["best_step"]) == (5.25, "bits per byte", 3)
    rewrite(checkpoint, data={"kind": "task"}, curve=[[2, 40.0], [3, 60.0], [4, 60.0]])
    (seen,) = listed(call, run_folder.parent)
    assert (seen["best"], seen["unit"], seen["best_step"]) == (60.0, "% right", 3)


def test_a_run_of_a_reproduction_goes_on_with_it(call, run_folder, tmp_path):
    stop_at(run_folder, step=4, of=10)
    name = folder_name("table1.unimatrix-core", 7, "0123456789abcdef")
    run_folder.rename(run_folder.parent / name)
    change(run_folder.parent / name / "run.json", experiment=experiment_of("auto", seed=7))
    (seen,) = listed(call, tmp_path)
    assert seen["resume"] == shlex.join(["unimatrix", "reproduce", "--out", str(tmp_path), "--seeds", "7"])
    change(run_folder.parent / name / "run.json", experiment=experiment_of(str(tmp_path), seed=7))
    (seen,) = listed(call, tmp_path)
    assert seen["resume"].endswith(shlex.join(["--seeds", "7", "--data", str(tmp_path)]))


def test_a_run_of_a_reproduction_goes_on_with_its_own_study_and_text(call, run_folder, tmp_path):
    stop_at(run_folder, step=4, of=10)
    text = tmp_path / "sea.txt"
    text.write_bytes(b"a text by the sea " * 200)
    corpus = load_corpus(text)
    asked = {"out": tmp_path, "seeds": (7,), "paper": PAPER, "skip": ONLY_IN_FULL, "source": str(text)}
    for studies in (("table2", "table5"), ("table1",)):  # a later one leaves what was asked before
        with patch.object(run_module, "_train_all", return_value=15):
            run_module.reproduce(studies=[study(name) for name in studies], corpus=corpus, **asked)
    for name, more in (
        ("table1.unimatrix-core", ["--studies", "table1", "--data", str(text)]),
        ("recall.triple-latent", ["--studies", "table2", "--data", str(text)]),
        ("recall-no-dropout.slots4", ["--studies", "table5"]),
    ):
        shutil.rmtree(tmp_path / "runs" / "one", ignore_errors=True)
        shutil.copytree(run_folder, run := tmp_path / "runs" / folder_name(name, 7, "0123456789abcdef"))
        task = None if name.startswith("table1") else {"kind": "recall"}
        recipe = experiment_of(str(text) if task is None else "auto", seed=7, name=name) | {"task": task}
        change(run / "run.json", experiment=recipe)
        (seen,) = listed(call, run)
        begin = ["unimatrix", "reproduce", "--out", str(tmp_path), "--seeds", "7"]
        assert shlex.split(seen["resume"]) == [*begin, *more]


def experiment_of(data: str, *, seed: int, name: str = "table1.unimatrix-core", **loop) -> dict:
    return {"name": name, "data": data, "task": None, "loop": {"steps": 10, "seed": seed} | loop}


def test_what_a_reproduction_would_pass_over_is_asked_for(call, run_folder, tmp_path, monkeypatch):
    stop_at(run_folder, step=4, of=10)
    longest = sorted(ONLY_IN_FULL)[0]
    run = run_folder.rename(run_folder.parent / folder_name(longest, 7, "0123456789abcdef"))
    change(run / "run.json", experiment=experiment_of("auto", seed=7, name=longest, device="cpu"))
    expected = ["unimatrix", "reproduce", "--out", str(tmp_path), "--seeds", "7", "--full", "--device", "cpu"]
    (seen,) = listed(call, tmp_path)
    assert shlex.split(seen["resume"]) == expected
    # what the command asks for is what the run is
    asked = {}
    monkeypatch.setattr(reproduce_module, "reproduce", lambda **words: asked.update(words) or STOPPED)
    call(*expected[1:])
    assert (asked["out"], asked["seeds"], asked["device"], asked["skip"]) == (tmp_path, (7,), "cpu", ())
    # named from within, it is the same folder
    monkeypatch.chdir(run.parent)
    (seen,) = listed(call, run.name)
    assert shlex.split(seen["resume"]) == expected


def test_a_run_that_goes_on_at_the_moment_is_running(call, run_folder):
    stop_at(run_folder, step=4, of=10)
    with sole_use(run_folder):
        (seen,) = listed(call, run_folder)
    assert (seen["state"], seen["resume"]) == ("running", None)
    (seen,) = listed(call, run_folder)
    assert seen["state"] == "stopped"


def test_a_run_without_a_checkpoint_has_nothing_saved(call, run_folder):
    for checkpoint in run_folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    (seen,) = listed(call, run_folder)
    assert (seen["state"], seen["step"]) == ("nothing saved", 0)
    assert seen["resume"] == shlex.join(["unimatrix", "train", "--resume", "--out", str(run_folder)])


def test_a_damaged_checkpoint_is_named_with_the_one_before(call, run_folder):
    (checkpoint,) = run_folder.glob("checkpoint-*")
    newer = shutil.copytree(checkpoint, run_folder / "checkpoint-000009")
    with (newer / "model.safetensors").open("r+b") as file:
        file.truncate(100)
    (seen,) = listed(call, run_folder)
    assert seen["state"] == "damaged"
    assert seen["problem"].startswith("checkpoint-000009: model.safetensors has 100 bytes instead of ")
    assert seen["problem"].endswith(f"; delete checkpoint-000009 to go on from {checkpoint.name}")
    (newer / "model.safetensors").unlink()
    assert "model.safetensors is missing" in listed(call, run_folder)[0]["problem"]


@pytest.mark.parametrize(
    "contents",
    [
        "",
        "{",
        "[]",
        "null",
        "3",
        '{"kind": "x"}',
        '{"kind": "unimatrix training run"}',
        "[" * 100_000,
        "\xff",
        "{}",
    ],
)
@pytest.mark.parametrize("name", ["run.json", "trainer.json", "checksums.json"])
def test_files_that_are_not_what_they_should_be_are_told_in_words(call, run_folder, name, contents):
    (path,) = [*run_folder.glob(f"*/{name}"), *run_folder.glob(name)][:1]
    path.write_bytes(contents.encode("latin-1"))
    if name == "trainer.json":
        rewrite_size(path)
    code, out, err = call("runs", run_folder.parent)
    assert (code, err) == (0, "")
    assert "  damaged: " in out
    assert len(out.splitlines()) == 1
    assert "Error" not in out


def rewrite_size(path: Path) -> None:
    sums = json.loads((path.parent / "checksums.json").read_text())
    sums["files"][path.name]["bytes"] = path.stat().st_size
    (path.parent / "checksums.json").write_text(json.dumps(sums))


def test_any_value_anywhere_is_told_in_words(call, run_folder):
    """One field at a time, in each of the files, becomes something else."""
    rng = random.Random(0)
    odd = (None, -1, 1e300, True, "x", [], {}, [[1]], {"a": []})
    files = [
        run_folder / "run.json",
        *run_folder.glob("*/trainer.json"),
        *run_folder.glob("*/checksums.json"),
    ]
    for path in files:
        whole = path.read_text()
        for _ in range(60):
            values = json.loads(whole)
            here = values
            while True:
                key = rng.choice(list(here))
                if not isinstance(here[key], dict) or not here[key] or rng.random() < 0.4:
                    break
                here = here[key]
            here[key] = rng.choice(odd)
            path.write_text(json.dumps(values))
            if path.name == "trainer.json":
                rewrite_size(path)
            code, out, err = call("runs", run_folder)
            assert (code, err) == (0, ""), values
            assert out.startswith(f"{run_folder}  ")
        path.write_text(whole)
        if path.name == "trainer.json":
            rewrite_size(path)


def test_hostile_folders_are_looked_through(call, run_folder, tmp_path):
    (tmp_path / "runs" / "loop").symlink_to(tmp_path)
    odd = tmp_path / "runs" / "fifo"
    odd.mkdir()
    os.mkfifo(odd / "run.json")
    (tmp_path / "runs" / "link").mkdir()
    (tmp_path / "runs" / "link" / "run.json").symlink_to("nowhere")
    (tmp_path / "runs" / "checkpoint-000001").mkdir()
    deep = tmp_path / "runs" / "/".join("abcdefgh")
    deep.mkdir(parents=True)
    shutil.copytree(run_folder, tmp_path / "runs" / "a" / "b" / "named")
    found = {Path(seen["folder"]).name: seen["state"] for seen in listed(call, tmp_path)}
    assert found["sea"] == found["named"] == "finished"
    assert found["fifo"] == found["link"] == "damaged"


def test_without_runs_it_says_how_to_make_one(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = call("runs")
    assert (code, out) == (
        0,
        "No runs in runs/ and reproduction/runs/; to make one: unimatrix train mytext.txt\n",
    )
    assert listed(call) == []


def test_folders_stand_on_both_sides_of_an_option(call, small_run, run_folder):
    code, out, err = call("runs", small_run, "--json", run_folder)
    assert (code, err) == (0, "")
    assert [seen["folder"] for seen in json.loads(out)] == [str(small_run), str(run_folder)]


def test_what_is_no_folder_is_refused(refused, tmp_path):
    (tmp_path / "file").touch()
    assert "runs: expected a folder, got the file" in refused("runs", tmp_path / "file")
    assert "No such file" in refused("runs", tmp_path / "nowhere")
    assert "runs: expected a folder" in refused("runs", tmp_path / ("x" * 300))
