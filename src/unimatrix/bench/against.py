"""This version's speed over another's: two processes, each with its own sources, take turns call by call.

The other version is a git revision of this repository, checked out beside it for the time being, or a folder
with sources. What both give is compared first, on weights of trained size. How a process happens to lie in
memory changes its speed by some hundredths for as long as it lives, so every case is measured in several
pairs of fresh processes; within a pair the lower quartile of a version's turns counts, which a neighbour's
burst of work on the same machine does not reach.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import unimatrix
from unimatrix.bench import worker
from unimatrix.bench.equality import EQUALITY_TOLERANCE
from unimatrix.errors import UserError
from unimatrix.evals.provenance import provenance
from unimatrix.memory import KEPT_BY_ENVIRONMENT

PASSES = tuple(worker.PASSES)
BATCH = 8
TURN_SECONDS = 0.03
PAIRS = 5
MIN_TURNS = 8  # of each version within a pair
_HERE = Path(unimatrix.__file__).resolve().parents[1]  # the folder that holds the package


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One model, length, pass and mode, measured.

    ms, other_ms: medians over the pairs of processes of the lower quartile of a call's time. ratio: this
    version's speed over the other's, the median over the pairs; low, high: the pairs' least and greatest.
    turns: of each version, all pairs together.
    """

    model: str
    length: int
    batch: int
    what: str
    mode: str
    ms: float
    other_ms: float
    ratio: float
    low: float
    high: float
    turns: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _Case:
    """What one row times, as the worker is asked for it."""

    model: str
    length: int
    batch: int
    what: str
    mode: str


class _Measured(NamedTuple):
    """One case in one pair of processes: seconds of a call, the lower quartiles."""

    mine: float
    theirs: float
    turns: int


class _Version:
    """A process with one version's sources."""

    def __init__(self, sources: Path) -> None:
        # freed memory is kept, as it is by a command of today; another version may not do so by itself
        environment = os.environ | KEPT_BY_ENVIRONMENT | {"PYTHONPATH": str(sources)}
        command = [sys.executable, "-P", worker.__file__, str(torch.get_num_threads())]
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, **question: Any) -> dict[str, Any]:
        """One line there, one back."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(OSError):  # it may be gone, and then there is no answer
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise UserError(
                f"{question['model']}: this version or the other fails on it (its words are above)"
            )
        return json.loads(answer)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def run(
    out: Path,
    *,
    version: str,
    models: Sequence[str],
    lengths: Sequence[int] = (128,),
    passes: Sequence[worker.Pass] = PASSES,
    modes: Sequence[str] = ("eager",),
    seconds: float = 6.0,
    device: str = "cpu",
    say: Callable[[str], None] = print,
) -> Path:
    """Compare, measure, print a line per row, write OUT/against.json; returns its path.

    Args:
        version: the other one: a git revision, or a folder that holds the package `unimatrix`.
        lengths: tokens per sequence; in decoding, tokens before the one that is timed.
        seconds: time spent on one model, length, pass and mode, shared by both versions and all pairs of
            processes.
    Raises:
        UserError: no such version, or nothing to measure.
    """
    if not (models and lengths and passes and modes) or seconds <= 0:
        raise UserError("bench against: expected a model, a length, a pass, a mode and a positive time")
    if device != "cpu":
        raise UserError(f"device: bench against measures on the cpu, got {device}")
    cases = [
        _Case(model=model, length=length, batch=1 if what == "decoding" else BATCH, what=what, mode=mode)
        for model in models
        for length in lengths
        for what in passes
        for mode in modes
    ]
    differences: dict[str, float] = {}
    measured: dict[_Case, list[_Measured]] = {case: [] for case in cases}
    with ExitStack() as held:
        sources = held.enter_context(_sources(version))
        out.mkdir(parents=True, exist_ok=True)
        for pair in range(PAIRS):
            with ExitStack() as alive:
                mine, theirs = _Version(_HERE), _Version(sources)
                for process in (mine, theirs):
                    alive.callback(process.close)
                for model in models if pair == 0 else ():
                    differences[model] = _difference(mine, theirs, model)
                    same = "equal" if differences[model] <= EQUALITY_TOLERANCE else "NOT equal"
                    say(f"{model}: {same}, largest difference of logits {differences[model]:.1e}")
                for case in cases:
                    measured[case].append(_measure(mine, theirs, case, seconds=seconds / PAIRS))
            say(f"{pair + 1} of {PAIRS} pairs of processes measured")
    rows = [_row(case, pairs) for case, pairs in measured.items()]
    for row in rows:
        say(
            f"{row.model}  T {row.length}  {row.what}  {row.mode}: {row.ms:.2f} ms, other {row.other_ms:.2f}"
            f" ms, speed ratio {row.ratio:.3f} ({row.low:.3f} to {row.high:.3f})"
        )
    result = {
        "benchmark": "against",
        **provenance(device),
        "other": version,
        "differences": differences,
        "rows": [asdict(row) for row in rows],
    }
    path = out / "against.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return path


def _measure(mine: _Version, theirs: _Version, case: _Case, *, seconds: float) -> _Measured:
    asked = asdict(case)
    # built, warmed, and called as often at a time as makes a turn long enough to read off a clock
    once = max(version.ask(**asked, calls=1)["seconds"] for version in (mine, theirs))
    asked["calls"] = max(1, round(TURN_SECONDS / once))
    spent: dict[_Version, list[float]] = {mine: [], theirs: []}
    begin = time.perf_counter()
    while len(spent[mine]) < MIN_TURNS or time.perf_counter() - begin < seconds:
        # who goes first changes: the second finds the machine as the first has left it
        for version in (mine, theirs) if len(spent[mine]) % 2 == 0 else (theirs, mine):
            spent[version].append(version.ask(**asked)["seconds"])
    here, there = (float(np.quantile(spent[version], 0.25)) for version in (mine, theirs))
    return _Measured(here, there, len(spent[mine]))


def _row(case: _Case, pairs: Sequence[_Measured]) -> Row:
    ratios = [pair.theirs / pair.mine for pair in pairs]
    return Row(
        **asdict(case),
        ms=1e3 * statistics.median(pair.mine for pair in pairs),
        other_ms=1e3 * statistics.median(pair.theirs for pair in pairs),
        ratio=statistics.median(ratios),
        low=min(ratios),
        high=max(ratios),
        turns=sum(pair.turns for pair in pairs),
    )


def _difference(mine: _Version, theirs: _Version, model: str) -> float:
    """Largest difference of the logits that both versions give for the same seed."""
    with tempfile.TemporaryDirectory(prefix="unimatrix-against-") as folder:
        paths = [Path(folder) / f"{place}.npy" for place in range(2)]
        for version, path in zip((mine, theirs), paths, strict=True):
            version.ask(model=model, length=300, batch=2, numbers=str(path))
        here, there = (np.load(path, allow_pickle=False) for path in paths)
    return float(np.abs(here - there).max())


@contextmanager
def _sources(version: str) -> Iterator[Path]:
    """The folder that holds the other version's package."""
    folder = Path(version)
    if (folder / "unimatrix" / "__init__.py").is_file():
        yield folder.resolve()
        return
    repository = _HERE.parent
    with tempfile.TemporaryDirectory(prefix="unimatrix-other-") as place:
        archive = ["git", "-C", str(repository), "archive", "--format=tar", version, "src"]
        found = subprocess.run(archive, check=False, capture_output=True)
        if found.returncode:
            raise UserError(f"version: expected a git revision or a folder with the package, got {version!r}")
        subprocess.run(["tar", "-x", "-C", place], check=True, input=found.stdout)
        yield Path(place) / "src"
