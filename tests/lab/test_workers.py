"""Runs side by side in processes of their own: the same numbers, and what happens where one is stopped."""

import dataclasses
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_studies import SHORT, counting, tiny

from unimatrix.errors import TrainingStopped, UserError
from unimatrix.lab import workers as module
from unimatrix.lab.training import THREADS, Book, Trained, train_in_turn
from unimatrix.lab.workers import train_side_by_side
from unimatrix.train import latest_checkpoint
from unimatrix.train.progress import PlainConsole
from unimatrix.train.run import Run

SHORT_RUNS = SHORT.experiments
# minutes, if nobody stops them
LONG_RUNS = tiny(SHORT, steps=1_000_000, eval_every=None, save_every=200).experiments


class Noted:
    """What a book was told."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.results: dict[str, Trained] = {}
        self.gave_up: dict[str, str] = {}
        self.book = Book(
            begun=lambda run: self.begun.append(run.name), finished=self._finished, gave_up=self._gave_up
        )

    def _finished(self, run, trained) -> None:
        self.results[run.name] = trained

    def _gave_up(self, run, why) -> None:
        self.gave_up[run.name] = str(why)


def when_all_have_a_checkpoint(out: Path, act: Callable[[], None], *, runs: int) -> threading.Thread:
    def wait() -> None:
        for _ in range(6000):
            time.sleep(0.05)
            folders = list((out / "runs").iterdir()) if (out / "runs").exists() else []
            if len(folders) == runs and all(map(latest_checkpoint, folders)):
                break
        act()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def test_side_by_side_gives_the_numbers_of_one_after_another_and_ctrl_c_stops_and_saves_all(tmp_path) -> None:
    turn, side, sent, out = Noted(), Noted(), [], tmp_path / "side"
    quiet = PlainConsole(quiet=True)
    train_in_turn(SHORT_RUNS, corpus=counting(), out=tmp_path / "turn", console=quiet, book=turn.book)

    def interrupt() -> None:
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    runs = (*SHORT_RUNS, *LONG_RUNS)
    thread = when_all_have_a_checkpoint(out, interrupt, runs=len(runs))
    stopped = train_side_by_side(runs, jobs=2, corpus=counting(), out=out, book=side.book)
    thread.join()
    assert (stopped, side.begun) == (signal.SIGINT, [run.name for run in runs])
    assert time.monotonic() - sent[0] < 30
    assert not multiprocessing.active_children()
    assert side.results.keys() == turn.results.keys() == {run.name for run in SHORT_RUNS}
    for name, there in side.results.items():
        one, other = turn.results[name].result, there.result
        assert one is not None
        assert other is not None
        assert (one.metrics, one.curve, one.threads) == (other.metrics, other.curve, THREADS)
        assert one.identity == other.identity
        assert there.headline == turn.results[name].headline
    # the long ones go on from where they were
    saved = [latest_checkpoint(folder) for folder in (out / "runs").iterdir()]
    steps = [int(path.name.rpartition("-")[2]) for path in saved if path is not None]
    assert sorted(steps)[:2] == [2, 2]
    assert min(sorted(steps)[2:]) >= 200
    assert any(step % 200 for step in sorted(steps)[2:]), "saved on the way out, not only on the way"


def test_ctrl_c_in_a_run_that_then_cannot_go_on_stops_those_behind_it(tmp_path, monkeypatch) -> None:
    def lost(run) -> None:
        signal.raise_signal(signal.SIGINT)
        raise TrainingStopped("training stopped: the loss (nan)")

    monkeypatch.setattr(Run, "train_step", lost)
    noted, quiet = Noted(), PlainConsole(quiet=True)
    stopped = train_in_turn(SHORT_RUNS, corpus=counting(), out=tmp_path, console=quiet, book=noted.book)
    assert stopped == signal.SIGINT
    assert noted.begun == [SHORT_RUNS[0].name]
    assert noted.gave_up.keys() == {SHORT_RUNS[0].name}


def test_a_run_that_cannot_go_on_is_told_and_those_behind_it_are_trained(tmp_path) -> None:
    """In turn and side by side: of one seed it would stop there whenever it was started again."""
    first, last = SHORT_RUNS
    lost = dataclasses.replace(first, name="lost", optim=dataclasses.replace(first.optim, lr=1e30))
    quiet, runs, why = PlainConsole(quiet=True), (lost, first, last), set()
    for how in ("turn", "side"):
        noted, out = Noted(), tmp_path / how
        given = {"corpus": counting(), "out": out, "book": noted.book}
        if how == "turn":
            stopped = train_in_turn(runs, console=quiet, **given)
        else:
            stopped = train_side_by_side(runs, jobs=2, **given)
        assert stopped is None
        assert noted.begun == [run.name for run in runs]
        assert noted.results.keys() == {first.name, last.name}
        assert noted.gave_up.keys() == {"lost"}
        why |= {noted.gave_up["lost"].partition(";")[0]}
    assert len(why) == 1
    assert why.pop().startswith("training stopped")
    assert not multiprocessing.active_children()


def test_a_process_that_ends_is_told_by_its_runs_name_and_the_other_saves(tmp_path) -> None:
    noted = Noted()

    def kill() -> None:
        first = min(multiprocessing.active_children(), key=lambda child: child.pid or 0)
        assert first.pid is not None
        os.kill(first.pid, signal.SIGKILL)

    thread = when_all_have_a_checkpoint(tmp_path, kill, runs=len(LONG_RUNS))
    expected = rf"({'|'.join(run.name for run in LONG_RUNS)}), seed 7: its process was ended by signal 9"
    with pytest.raises(UserError, match=expected):
        train_side_by_side(LONG_RUNS, jobs=2, corpus=counting(), out=tmp_path, book=noted.book)
    thread.join()
    assert noted.results == {}
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("how", ["its sentinel", "its number"])
def test_a_worker_without_parent_stops_itself_until_it_hears_it_and_at_last_ends(monkeypatch, how) -> None:
    ours, theirs = multiprocessing.Pipe()
    if how == "its sentinel":
        theirs.close()  # what is waited for is there at once
    sent: list[tuple[int, int]] = []

    def end(code: int) -> None:
        raise SystemExit(code)

    pid = os.getppid() if how == "its sentinel" else -1
    parent = type("Parent", (), {"sentinel": ours, "pid": pid})
    monkeypatch.setattr(module, "parent_process", lambda: parent)
    monkeypatch.setattr(module.os, "kill", lambda *call: sent.append(call))
    monkeypatch.setattr(module.os, "_exit", end)
    monkeypatch.setattr(module, "_POLL_S", 0.01)
    monkeypatch.setattr(module, "_PATIENCE_S", 0.1)
    with pytest.raises(SystemExit) as ended:
        module._end_with_parent()
    assert ended.value.code == 1
    assert len(sent) > 2
    assert set(sent) == {(os.getpid(), signal.SIGTERM)}
    ours.close(), theirs.close()


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (TrainingStopped("training stopped: the loss"), "training stopped: the loss"),
        (UserError("steps: expected 3"), "table1.transformer, seed 7: steps: expected 3"),
        (OSError(28, "No space left on device", "a/file"), "No space left on device"),
        ("Traceback: a fault", "table1.transformer, seed 7:\nTraceback: a fault"),
    ],
)
def test_what_was_raised_there_is_raised_here_with_the_runs_name(sent, expected) -> None:
    ours, theirs = multiprocessing.Pipe()
    worker = module._Worker(process=None, pipe=ours, at=SHORT_RUNS[0])  # pyright: ignore
    theirs.send(sent)
    with pytest.raises((UserError, OSError, RuntimeError)) as raised:
        worker.answer()
    assert expected in str(raised.value)
    assert worker.at is None
