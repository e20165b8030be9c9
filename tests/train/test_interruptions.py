"""Killed, asked to stop, or stopped by a full disk: the run goes on to the bytes of one left in peace."""

import io
import json
import os
import random
import signal
import subprocess
import sys

import pytest
from rich.console import Console

from unimatrix.errors import UserError
from unimatrix.train import latest_checkpoint, load_checkpoint, train
from unimatrix.train import run as run_module
from unimatrix.train.interrupts import SIGNALS, Interrupts
from unimatrix.train.run_model import INDEX

# one process imports everything once and forks a child for each attempt; a child is killed from outside
# after a time, or kills itself at the n-th operation on the disk, and the next one resumes
KILLER = """
import io, json, os, random, signal, sys, time
from pathlib import Path
import numpy as np, torch
from rich.console import Console
from unimatrix.data import Corpus
from unimatrix.train import Experiment, LoopConfig, ModelChoice, OptimConfig, checkpoint, train
from unimatrix.train.run_folder import MARK
from unimatrix.train.run_model import INDEX

out, plan = Path(sys.argv[1]), json.loads(sys.argv[2])
torch.set_num_threads(1)
text = np.random.default_rng(0).integers(97, 123, 5000).astype(np.uint8)
corpus = Corpus(name="letters", train=text, valid=text[:200], test=text[:200])
experiment = Experiment(
    model=ModelChoice(
        preset="transformer", max_positions=16, changes={"d_model": 16, "num_heads": 2, "depth": 2}
    ),
    optim=OptimConfig(schedule="cosine", warmup_steps=3, clip=1.0, accumulation=2),
    loop=LoopConfig(steps=12, batch_size=8, seq_len=16, save_every=1, tracker="none", device="cpu"),
)

def die_at(operation):
    # fsync, rename and rmtree are every step that a checkpoint takes between nothing and whole
    left = [operation]
    def counted(real):
        def call(*arguments, **named):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **named)
        return call
    checkpoint.os.fsync = counted(os.fsync)
    checkpoint.os.rename = counted(os.rename)
    checkpoint.os.replace = counted(os.replace)
    checkpoint.shutil.rmtree = counted(checkpoint.shutil.rmtree)

def attempt(folder, die=None):
    child = os.fork()
    if child == 0:
        if die is not None:
            die_at(die)
        resume = (folder / MARK).exists()
        train(experiment, out=folder, corpus=corpus, resume=resume, console=Console(file=io.StringIO()))
        os._exit(0)
    return child

def wait(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

assert wait(attempt(out / "whole")) == 0
began = time.monotonic()
assert wait(attempt(out / "timed")) == 0
seconds = time.monotonic() - began
report = {"random": [], "disk": [], "led": []}
generator = random.Random(plan["seed"])
finished = 0
while len(report["random"]) < plan["random_kills"] or code != 0:
    # a run that came to its end before enough were killed is followed by another
    folder = out / f"random-{finished}"
    child = attempt(folder)
    if len(report["random"]) < plan["random_kills"]:
        time.sleep(generator.uniform(0.05, 0.6) * seconds)
        os.kill(child, signal.SIGKILL)
    code = wait(child)
    assert code in (0, -signal.SIGKILL), code
    if code == 0:
        finished += 1
    else:
        report["random"].append(sorted(path.name for path in folder.iterdir()) if folder.exists() else [])
folder = out / "disk"
for operation in plan["operations"]:
    code = wait(attempt(folder, die=operation))
    assert code in (0, -signal.SIGKILL), code
    report["disk"].append([code, sorted(path.name for path in folder.iterdir())])
    index = folder / INDEX
    if index.exists():
        # a kill never leaves the folder leading nowhere
        files = json.loads(index.read_text())["weight_map"].values()
        report["led"].append(all((folder / file).exists() for file in files))
assert wait(attempt(folder)) == 0
print(json.dumps(report))
"""


def test_sigkill_at_random_moments_and_in_the_middle_of_writing(tmp_path):
    operations = random.Random(1).sample(range(1, 70), 16)
    plan = {"seed": 2, "random_kills": 4, "operations": operations}
    command = [sys.executable, "-c", KILLER, str(tmp_path), json.dumps(plan)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    whole = latest_checkpoint(tmp_path / "whole")
    assert whole.name == "checkpoint-000012"
    finished = sorted(path.name for path in tmp_path.glob("random-*"))
    assert finished
    for name in [*finished, "disk"]:
        checkpoint = latest_checkpoint(tmp_path / name)
        assert checkpoint.name == whole.name
        for file in ("model.safetensors", "optimizer.safetensors", "rng.safetensors"):
            assert (checkpoint / file).read_bytes() == (whole / file).read_bytes(), (name, file)
        # nothing hidden is left behind
        made = json.loads((tmp_path / name / INDEX).read_text())
        assert set(made["weight_map"].values()) == {f"{whole.name}/model.safetensors"}
        assert {path.name for path in (tmp_path / name).iterdir()} == {
            *made["metadata"]["files"],
            INDEX,
            "run.json",
            "checkpoint-000011",
            "checkpoint-000012",
        }
    # the kills did strike where they were meant to
    assert len(report["random"]) == 4
    died = [names for code, names in report["disk"] if code == -signal.SIGKILL]
    assert len(died) >= 8
    assert len(report["led"]) >= 8
    assert all(report["led"])
    assert any(name.endswith(".partial") for names in died for name in names)
    assert any(name.endswith(".deleted") for names in died for name in names)


@pytest.fixture
def fit(tmp_path, text, console):
    def run(experiment, **arguments):
        return train(
            experiment, **({"out": tmp_path / "run", "corpus": text, "console": console} | arguments)
        )

    return run


def signal_after(monkeypatch, step, number):
    """The process is sent a signal while step `step` is being made."""
    real = run_module.Run.train_step

    def train_step(self):
        if self.step + 1 == step:
            os.kill(os.getpid(), number)
        real(self)

    monkeypatch.setattr(run_module.Run, "train_step", train_step)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_lets_the_step_end_saves_and_says_how_to_go_on(
    fit, tiny, console, tmp_path, monkeypatch, request, number
):
    whole = fit(tiny(steps=8), out=tmp_path / "whole")
    if signal.getsignal(number) is signal.SIG_IGN:  # as these tests themselves may run under nohup
        request.addfinalizer(lambda: signal.signal(number, signal.SIG_IGN))
        signal.signal(number, signal.SIG_DFL)
    before = signal.getsignal(number)
    with monkeypatch.context() as patched:
        signal_after(patched, 3, number)
        result = fit(tiny(steps=8), resume_command="unimatrix train --resume --out run")
    assert (result.interrupted, result.steps, result.bpb) == (True, 3, None)
    assert result.stop_signal == number
    assert result.checkpoint == tmp_path / "run" / "checkpoint-000003"
    assert signal.getsignal(number) is before
    last = console.file.getvalue().splitlines()[-1]
    assert last == (
        f"Stopped after step 3 of 8, saved {result.checkpoint}; to go on: unimatrix train --resume --out run"
    )
    rest = fit(tiny(steps=8), resume=True)
    assert (rest.checkpoint / "model.safetensors").read_bytes() == (
        whole.checkpoint / "model.safetensors"
    ).read_bytes()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_the_last_evaluation_ends_it(fit, tiny, console, tmp_path, monkeypatch, number):
    """It may take as long as training, and there is nothing left to save."""
    real, before = run_module.Run.evaluate, signal.getsignal(number)
    measured = []

    def evaluate(self, extent):
        os.kill(os.getpid(), number)
        measured.append(extent)  # not reached
        return real(self, extent)

    with monkeypatch.context() as patched:
        patched.setattr(run_module.Run, "evaluate", evaluate)
        result = fit(tiny(), resume_command="unimatrix train --resume --out run")
    assert (measured, result.metrics) == ([], None)
    assert (result.interrupted, result.steps, result.stop_signal) == (True, 6, number)
    assert signal.getsignal(number) is before
    last = console.file.getvalue().splitlines()[-1]
    assert last.startswith(f"Stopped after step 6 of 6, saved {result.checkpoint}; to go on: unimatrix train")
    rest = fit(tiny(), resume=True)
    assert (rest.interrupted, rest.steps) == (False, 6)
    assert rest.bpb == fit(tiny(), out=tmp_path / "whole").bpb


def test_a_signal_in_the_last_step_measures_nothing_more(fit, tiny, console, monkeypatch):
    with monkeypatch.context() as patched:
        signal_after(patched, 6, signal.SIGINT)
        result = fit(tiny(), resume_command="unimatrix train --resume --out run")
    assert (result.interrupted, result.steps, result.metrics) == (True, 6, None)
    last = console.file.getvalue().splitlines()[-1]
    assert last.startswith(f"Stopped after step 6 of 6, saved {result.checkpoint}; to go on: unimatrix train")
    assert fit(tiny(), resume=True).metrics


def test_under_nohup_a_closed_terminal_stops_nothing(fit, tiny, monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        signal_after(monkeypatch, 3, signal.SIGHUP)
        result = fit(tiny())
        assert (result.interrupted, result.steps, result.stop_signal) == (False, 6, None)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_terminal_that_closes_says_so_twice():
    """Its shell and the system: the second does nothing until all is saved."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        with Interrupts() as interrupts:
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGHUP)
            assert interrupts.signal == signal.SIGHUP
            with interrupts.at_once():
                signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
        # of a program that uses it for something else it stays its own
        seen = []
        signal.signal(signal.SIGHUP, lambda *_: seen.append(1))
        with Interrupts() as interrupts:
            signal.raise_signal(signal.SIGHUP)
        assert (interrupts.wanted, seen) == (False, [1])
    finally:
        signal.signal(signal.SIGHUP, before)


def test_what_a_finished_run_came_to_stays_until_it_is_measured_anew(fit, tiny, tmp_path, monkeypatch):
    first = fit(tiny(max_positions=None, preset="unimatrix-core"))
    mark = json.loads((tmp_path / "run" / "run.json").read_text())
    assert mark["metrics"] == first.metrics
    again = tiny(max_positions=None, preset="unimatrix-core", stream_bytes=200)
    real = run_module.Run.evaluate

    def evaluate(self, extent):
        os.kill(os.getpid(), signal.SIGINT)
        return real(self, extent)

    with monkeypatch.context() as patched:
        patched.setattr(run_module.Run, "evaluate", evaluate)
        assert fit(again, resume=True).interrupted
    assert json.loads((tmp_path / "run" / "run.json").read_text()) == mark
    last = fit(again, resume=True)
    now = json.loads((tmp_path / "run" / "run.json").read_text())
    assert now["metrics"] == last.metrics
    assert last.metrics.keys() > first.metrics.keys()
    assert now["experiment"]["loop"]["stream_bytes"] == 200
    assert now["id"] == mark["id"]


@pytest.mark.usefixtures("pythons_own_handler")
def test_a_second_ctrl_c_stops_at_once(fit, tiny, tmp_path, monkeypatch):
    real = run_module.Run.train_step

    def train_step(self):
        # handled one by one: two that another thread takes at once are one to Python
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        real(self)

    monkeypatch.setattr(run_module.Run, "train_step", train_step)
    with pytest.raises(KeyboardInterrupt):
        fit(tiny())
    assert not list(tmp_path.glob("run/checkpoint-*"))


def test_a_signal_before_the_first_step_loses_nothing(fit, tiny, console, tmp_path, monkeypatch):
    real = run_module.Run.__init__

    def begin(self, *arguments, **named):
        os.kill(os.getpid(), signal.SIGTERM)
        real(self, *arguments, **named)

    with monkeypatch.context() as patched:
        patched.setattr(run_module.Run, "__init__", begin)
        result = fit(tiny())
    assert (result.interrupted, result.steps, result.checkpoint, result.final_loss) == (True, 0, None, None)
    assert "Stopped after step 0 of 6, nothing to save yet" in console.file.getvalue()
    assert fit(tiny(), resume=True).steps == 6


def test_training_in_another_thread_leaves_signals_alone(fit, tiny):
    import threading

    results = []
    thread = threading.Thread(target=lambda: results.append(fit(tiny(steps=2))))
    thread.start()
    thread.join()
    assert results[0].steps == 2


def test_a_disk_that_fills_up_keeps_the_last_good_checkpoint(fit, tiny, tmp_path, monkeypatch):
    import safetensors.torch

    whole = fit(tiny(steps=6), out=tmp_path / "whole")
    real = safetensors.torch.save_file

    def save_file(tensors, path, *arguments, **named):
        if "checkpoint-000004" in str(path):
            raise OSError(28, "No space left on device")
        return real(tensors, path, *arguments, **named)

    with monkeypatch.context() as patched:
        patched.setattr(safetensors.torch, "save_file", save_file)
        with pytest.raises(
            UserError, match=r"checkpoint-000004: could not be written \(No space left on device\)"
        ):
            fit(tiny(steps=6, save_every=2))
    names = [path.name for path in (tmp_path / "run").iterdir() if "checkpoint" in path.name]
    assert names == ["checkpoint-000002"]
    load_checkpoint(tmp_path / "run" / "checkpoint-000002")
    rest = fit(tiny(steps=6, save_every=2), resume=True)
    assert rest.bpb == whole.bpb


class Closed(io.StringIO):
    """A terminal that is there for so many lines."""

    left = 3

    def write(self, text):
        if "bits per byte" in text:
            self.left -= 1
        if self.left <= 0:
            raise OSError(5, "Input/output error")
        return super().write(text)


# rich's own thread, which draws the bar, meets it too
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("terminal", [True, False])
def test_a_console_that_goes_away_costs_no_step(fit, tiny, tmp_path, terminal):
    """What was trained is saved before its error is told."""
    gone = Console(file=Closed(), force_terminal=terminal, width=100)
    with pytest.raises(OSError, match="Input/output error"):
        fit(tiny(steps=8, eval_every=1), console=gone)
    steps = latest_checkpoint(tmp_path / "run").name
    assert "checkpoint-000000" < steps < "checkpoint-000008"
    assert fit(tiny(steps=8, eval_every=1), resume=True).steps == 8
