"""What a study measures instead of training it: speed and memory, of all its rows at once, in turns.

A row's experiment says which model it is; nothing of it is trained. A repeat stands where a seed stands: the
numbers of one repeat were taken together, and are compared with each other.
"""

import hashlib
import json
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch

from unimatrix.evals.provenance import git_commit, machine, now_utc, versions
from unimatrix.lab.identity import resolve, run_identity
from unimatrix.lab.results import Result
from unimatrix.lab.study import Measurement, Study, Taken
from unimatrix.train.config import Device, Experiment
from unimatrix.train.launch import device_kind


def measure_missing(
    studies: Iterable[Study],
    rows: Iterable[Result],
    *,
    device: Device,
    append: Callable[[Result], None],
    say: Callable[[str], None],
) -> dict[str, str]:
    """Take every repeat that no row holds, and append it; the identities of all the studies' measured rows.

    Nothing else should run meanwhile.
    """
    known = {(row.experiment, row.identity, row.seed) for row in rows}
    kind = device_kind(device)
    identities: dict[str, str] = {}
    for study, how in ((study, study.measurement) for study in studies):
        if how is None:
            continue
        about = _described(how, machine(kind), torch.get_num_threads(), versions())
        models = {row.experiment.name: row.experiment for row in study.trained}
        mine = {name: _identity(found, about, kind) for name, found in models.items()}
        identities |= mine
        for repeat in range(how.repeats):
            if all((name, identity, repeat) in known for name, identity in mine.items()):
                continue
            say(f"Measuring {study.short}, {repeat + 1} of {how.repeats}")
            began = time.monotonic()
            taken = how.take(kind)
            seconds = time.monotonic() - began
            for name, found in models.items():
                append(_result(found, taken[name], about, kind=kind, repeat=repeat, seconds=seconds))
                known.add((name, mine[name], repeat))
            say(f"  after {seconds:.1f} s")
    return identities


class Stopped(KeyboardInterrupt):
    """Ctrl-C or SIGTERM; `signal` says which."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = number


@contextmanager
def stoppable() -> Iterator[None]:
    """Within the block Ctrl-C and SIGTERM raise `Stopped`: a number taken halfway is none, nothing is saved.

    Signals reach Python's main thread only; in another thread the block changes nothing.
    """

    def stop(number: int, _frame: FrameType | None) -> None:
        raise Stopped(number)

    before: dict[int, Any] = {}
    try:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                before[number] = signal.signal(number, stop)
        yield
    finally:
        for number, handler in before.items():
            # None: the handler before ours was not set by Python
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def was_taken_so(how: Measurement, row: Result) -> bool:
    """Whether the row was measured as `how` measures today, on whatever machine, with whatever versions."""
    there = _described(how, row.machine, row.threads, row.versions)
    return row.data["train"]["sha256"] == there["train"]["sha256"]


def _described(how: Measurement, where: str, threads: int, versions: Mapping[str, str]) -> dict[str, Any]:
    """What stands where a trained row says what it learned from: a speed is known by its machine and by the
    versions of all that took part."""
    what = json.dumps([how.name, how.version, where, threads, versions], sort_keys=True)
    digest = {"sha256": hashlib.sha256(what.encode()).hexdigest()}
    return {
        "kind": "measurement",
        "name": how.name,
        "notes": [],
        "is_paper_corpus": False,
        "train": digest,
        "valid": digest,
    }


def _identity(experiment: Experiment, about: Mapping[str, object], kind: str) -> str:
    return run_identity(experiment.to_dict(), resolve(experiment), about, device=kind)


def _result(
    experiment: Experiment,
    taken: Taken,
    about: dict[str, Any],
    *,
    kind: str,
    repeat: int,
    seconds: float,
) -> Result:
    return Result(
        experiment=experiment.name,
        model=experiment.model.preset,
        seed=repeat,
        steps=0,
        parameters=taken.parameters,
        metrics=dict(taken.metrics),
        seconds=seconds,
        tokens_per_second=0.0,
        data=about,
        git_commit=git_commit(),
        versions=versions(),
        machine=machine(kind),
        threads=torch.get_num_threads(),
        device=kind,
        backend="",
        date_utc=now_utc(),
        config=experiment.to_dict(),
        resolved=resolve(experiment),
        stamp=_identity(experiment, about, kind),
    )
