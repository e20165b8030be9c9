"""Two processes on the CPU through torchrun: one batch, shared; one checkpoint, written once."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import accelerate
import numpy as np
import pytest
import safetensors.torch
import torch
from ragged import ragged

from unimatrix.data.tasks import RecallConfig
from unimatrix.errors import UserError
from unimatrix.train import latest_checkpoint, train
from unimatrix.train.launch import processes_started, start_accelerator
from unimatrix.train.sources import TaskSource

SCRIPT = """
import io, json, sys
from pathlib import Path
import numpy as np, torch
from rich.console import Console
from unimatrix.data import Corpus
from unimatrix.errors import UserError
from unimatrix.train import Experiment, train
from unimatrix.train.run import LossModule
from unimatrix.train.sources import TaskSource
sys.path.append(sys.argv[2])
from ragged import ragged

out = Path(sys.argv[1])
corpus_bytes = np.frombuffer((out / "text").read_bytes(), dtype=np.uint8)
begins = {name: np.array([0, 3, 4, *range(20, 1000, 33)]) for name in ("train", "valid")}
corpus = Corpus(
    name="short", train=corpus_bytes, valid=corpus_bytes[:1000], test=corpus_bytes[:1000], begins=begins
)
console = Console(file=io.StringIO())
TaskSource.batch = ragged()
for name in ("recall", "parts", "packed", "whole"):
    experiment = Experiment.from_dict(json.loads((out / f"{name}.json").read_text()))
    resume = (out / name / "run.json").exists()
    text = corpus if experiment.task is None else None
    result = train(experiment, out=out / name, corpus=text, resume=resume, console=console)
    if name == "recall":
        answered = result.metrics | {"train": result.final_loss}
    if name == "packed":
        packed = result.metrics | {"train": result.final_loss}
try:
    bad = Experiment.from_dict(json.loads((out / "uneven.json").read_text()))
    train(bad, out=out / "uneven", corpus=corpus, console=console)
except UserError as error:
    refused = str(error)
rank = torch.distributed.get_rank()
# one process alone comes to numbers that its model refuses
whole, calls = LossModule._loss, []
def lost(self, *batch):
    calls.append(1)
    if rank == 1 and len(calls) == 3:
        raise UserError("log_retention: expected numbers at most 0, got nan")
    return whole(self, *batch)
LossModule._loss = lost
try:
    experiment = Experiment.from_dict(json.loads((out / "lost.json").read_text()))
    train(experiment, out=out / "lost", corpus=corpus, console=console)
except UserError as error:
    stopped = str(error)
shown = len(console.file.getvalue())
report = {"bpb": result.bpb, "loss": result.final_loss, "refused": refused, "shown": shown}
report["stopped"] = stopped
report |= {"recall": answered, "packed": packed}
(out / f"rank{rank}.json").write_text(json.dumps(report))
torch.distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    return tmp_path_factory.mktemp("launched")


def test_two_processes_equal_one(launched, tiny, text, console, monkeypatch):
    (launched / "text").write_bytes(text.train.tobytes())
    (launched / "script.py").write_text(SCRIPT)
    settings = {"steps": 4, "dropout": 0.0, "accumulation": 2, "clip": 1.0, "eps": 1e-5}
    experiments = {"whole": tiny(**settings), "uneven": tiny(batch_size=5)}
    experiments["packed"] = tiny(**settings, pack=True)
    experiments["lost"] = tiny(steps=4, dropout=0.0)
    experiments["parts"] = tiny(**(settings | {"dropout": 0.1, "steps": 2}))
    task = RecallConfig(
        num_pairs=2, num_keys=3, num_values=3, num_fillers=4, length=16, vocab_size=16, eval_sequences=70,
        eval_num_pairs=(3,),
    )  # fmt: skip
    experiments["recall"] = dataclasses.replace(tiny(**settings), task=task)
    for name, experiment in experiments.items():
        (launched / f"{name}.json").write_text(json.dumps(experiment.to_dict()))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [str(launched / "script.py"), str(launched), str(Path(__file__).parents[1])]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=150)
    assert done.returncode == 0, done.stderr
    begins = {name: np.array([0, 3, 4, *range(20, 1000, 33)]) for name in ("train", "valid")}
    short = text.train[:1000]
    corpus = type(text)(name="short", train=text.train, valid=short, test=short, begins=begins)
    alone = train(experiments["whole"], out=launched / "alone", corpus=corpus, console=console)
    packed = train(experiments["packed"], out=launched / "alone-packed", corpus=corpus, console=console)
    monkeypatch.setattr(TaskSource, "batch", ragged())
    recall = train(experiments["recall"], out=launched / "alone-recall", console=console)
    reports = [json.loads((launched / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    for report in reports:
        assert report["bpb"] == pytest.approx(alone.bpb, abs=1e-5)
        assert report["loss"] == pytest.approx(alone.final_loss, abs=1e-5)
        assert report["packed"] == pytest.approx(packed.metrics | {"train": packed.final_loss}, abs=1e-4)
        # accuracies to the answer: every sequence is counted once, by one of the two
        assert report["recall"] == pytest.approx(recall.metrics | {"train": recall.final_loss}, abs=1e-5)
        assert (
            "batch_size: expected a multiple of 2 (2 processes x 1 accumulation), got 5" in report["refused"]
        )
        # neither waits for the other
        assert "no longer a finite number at step 3" in report["stopped"]
    # only the main process speaks
    assert reports[0]["shown"] > 0
    assert reports[1]["shown"] == 0
    shared = safetensors.torch.load_file(latest_checkpoint(launched / "whole") / "model.safetensors")
    single = safetensors.torch.load_file(alone.checkpoint / "model.safetensors")
    for name, tensor in single.items():
        torch.testing.assert_close(shared[name], tensor, rtol=1e-4, atol=1e-6)
    # the dropout of each process draws from its own generator, and the checkpoint holds both
    rng = safetensors.torch.load_file(latest_checkpoint(launched / "parts") / "rng.safetensors")
    assert rng["cpu"].shape[0] == 2
    assert not torch.equal(rng["cpu"][0], rng["cpu"][1])


def test_the_command_in_two_processes_on_a_cpu_is_one_run(tmp_path):
    """Nothing but the launcher tells it of the other: with the device left to it, each once trained alone."""
    (tmp_path / "text").write_bytes(b"Once upon a time there was a text of one's own. " * 100)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "unimatrix", "train", str(tmp_path / "text"), "--out", str(tmp_path / "run")]
    command += ["--steps", "2", "--d-model", "16", "--set", "layers.*.mixer.num_heads=2", "--tracker", "none"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=150)
    assert done.returncode == 0, done.stderr
    rng = safetensors.torch.load_file(tmp_path / "run" / "checkpoint-000002" / "rng.safetensors")
    assert rng["cpu"].shape[0] == 2
    assert done.stdout.count("Saved:") == 1
    command[command.index("--steps") + 1] = "3"
    command += ["--resume"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=150)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "checkpoint-000003").is_dir()


def test_processes_that_do_not_find_each_other_are_refused(tiny, monkeypatch):
    monkeypatch.setattr(accelerate.Accelerator, "num_processes", 2)
    with pytest.raises(UserError, match=r"^accelerate: 1 processes were started \(WORLD_SIZE\), and 2 found"):
        start_accelerator(tiny())


@pytest.mark.parametrize(("started", "expected"), [("", 1), ("0", 1), ("x", 1), ("3", 3)])
def test_how_many_processes_were_started(started, expected, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", started)
    assert processes_started() == expected


def test_a_half_launch_is_told_and_leaves_nothing_behind(tiny, monkeypatch):
    with monkeypatch.context() as inside:
        # accelerate sets these itself; so they go back to what they were
        for name in ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT", "MASTER_ADDR"):
            inside.setenv(name, "")
            inside.delenv(name)
        inside.setenv("WORLD_SIZE", "2")
        inside.setenv("ACCELERATE_USE_CPU", "true")
        with pytest.raises(UserError, match=r"^accelerate: processes that are to work together cannot: "):
            start_accelerator(tiny())
    assert start_accelerator(tiny()).num_processes == 1
