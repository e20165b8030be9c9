"""What a study measures instead of training it: speed and memory, of all its rows at once, in turns.

A row's experiment says which model it is; nothing of it is trained. A repeat stands where a seed stands: the
numbers of one repeat were taken together, and are compared with each other.
"""

import hashlib
import json
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
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


def seconds_to_measure(
    studies: Iterable[Study], rows: Sequence[Result], others: Iterable[Result], *, device: Device
) -> float:
    """How long `measure_missing` will take, by the newest repeat of each measurement here or elsewhere.

    What was never measured anywhere counts as nothing.
    """
    kind = device_kind(device)
    usual = {row.experiment: row.seconds for row in (*others, *rows) if row.was_measured}
    known = _known(rows)
    seconds = {}
    for study, how in _measured(studies):
        mine = _identities(study, how, kind)
        missing = sum(not _is_whole(mine, repeat, known) for repeat in range(how.repeats))
        # of studies that share it the one with most rows left
        long = missing * max((usual.get(name, 0.0) for name in mine), default=0.0)
        seconds[how.name] = max(long, seconds.get(how.name, 0.0))
    return sum(seconds.values())


def measure_missing(
    studies: Iterable[Study],
    rows: Iterable[Result],
    *,
    device: Device,
    append: Callable[[Result], None],
    say: Callable[[str], None],
) -> dict[str, str]:
    """Take every repeat that no row of this commit holds; the identities of all the studies' measured rows.

    Nothing else should run meanwhile.

    Raises:
        Stopped: Ctrl-C or SIGTERM came; whole repeats are kept.
    """
    known = _known(rows)
    kind = device_kind(device)
    identities: dict[str, str] = {}
    with _stoppable() as look:
        for study, how in _measured(studies):
            about = _here(how, kind)
            models = {row.experiment.name: row.experiment for row in study.trained}
            mine = _identities(study, how, kind)
            identities |= mine
            for repeat in range(how.repeats):
                if _is_whole(mine, repeat, known):
                    continue
                say(f"Measuring {study.short}, {repeat + 1} of {how.repeats}")
                began = time.monotonic()
                taken = how.take(kind)
                look()
                seconds = time.monotonic() - began
                for name, found in models.items():
                    append(_result(found, taken[name], about, kind=kind, repeat=repeat, seconds=seconds))
                    known.add((name, mine[name], repeat))
                say(f"  after {seconds:.1f} s")
    return identities


def _known(rows: Iterable[Result]) -> set[tuple[str, str, int]]:
    """The repeats that need not be taken again: other code has another speed."""
    here = git_commit()
    return {(row.experiment, row.identity, row.seed) for row in rows if row.git_commit == here}


def _measured(studies: Iterable[Study]) -> Iterator[tuple[Study, Measurement]]:
    return ((study, study.measurement) for study in studies if study.measurement is not None)


def _identities(study: Study, how: Measurement, kind: str) -> dict[str, str]:
    about = _here(how, kind)
    return {row.experiment.name: _identity(row.experiment, about, kind) for row in study.trained}


def _is_whole(mine: Mapping[str, str], repeat: int, known: Collection[tuple[str, str, int]]) -> bool:
    return all((name, identity, repeat) in known for name, identity in mine.items())


class Stopped(KeyboardInterrupt):
    """Ctrl-C or SIGTERM; `signal` says which."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = number


@contextmanager
def _stoppable() -> Iterator[Callable[[], None]]:
    """Within the block Ctrl-C and SIGTERM raise `Stopped`: a number taken halfway is none, nothing is saved.

    What is raised in a callback of compiled code is lost there. So the signal is remembered, and what the
    block is given raises `Stopped` if one came, as does the block's end. Signals reach Python's main thread
    only; in another thread the block changes nothing.
    """
    came: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        came.append(number)
        raise Stopped(number)

    def look() -> None:
        if came:
            raise Stopped(came[0])

    before: dict[int, Any] = {}
    try:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                before[number] = signal.signal(number, stop)
        yield look
        look()
    finally:
        for number, handler in before.items():
            # None: the handler before ours was not set by Python
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def was_replaced(row: Result, studies: Iterable[Study]) -> bool:
    """Whether a study now measures in another way what the row holds; another machine is no other way."""
    ways = {how.name: how for _, how in _measured(studies)}
    how = ways.get(row.data["name"]) if row.was_measured else None
    if how is None:
        return False
    today = _described(how, row.machine, row.threads, row.versions)
    return row.data["train"]["sha256"] != today["train"]["sha256"]


def _here(how: Measurement, kind: str) -> dict[str, Any]:
    return _described(how, machine(kind), torch.get_num_threads(), versions())


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
