"""results.jsonl: one line per finished run, only ever appended to, and the choice of the lines a study uses.

Two lines with one identity (see unimatrix.lab.identity) and one seed are the same run; a changed setting, a
changed default or another text is another identity, is trained anew, and both lines stay in the file.
gave_up.jsonl beside it has a line per run whose training stopped for good: no number counts it, and a report
says why there are fewer seeds.
"""

import dataclasses
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from unimatrix.atomic import append_lines, replace_file
from unimatrix.codec import decode, read_json_lines
from unimatrix.errors import UserError
from unimatrix.lab.identity import resolve, resolve_then, run_identity, stamp_then
from unimatrix.train.config import Experiment

RESULTS = "results.jsonl"
GAVE_UP = "gave_up.jsonl"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRow:
    """What a line knows of a run, whatever came of it.

    `data` holds kind ("text", "task" or "measurement"), name, notes, is_paper_corpus, and train and valid
    with a sha256 each; `config` the experiment as its own to_dict() gives it, a text by its name; `resolved`
    what the experiment's names stood for (unimatrix.lab.identity); `stamp` the identity when it ran, by which
    its folder is named. Rows of version 0.1.0 have neither of the two.
    """

    experiment: str
    seed: int
    data: dict[str, Any]
    git_commit: str
    device: str
    date_utc: str
    config: dict[str, Any]
    resolved: dict[str, Any] | None = None
    stamp: str | None = None

    @property
    def identity(self) -> str:
        """What the numbers depend on, the seed apart; see unimatrix.lab.identity."""
        resolved = resolve_then(self.config) if self.resolved is None else self.resolved
        return run_identity(self.config, resolved, self.data, device=self.device)

    @property
    def is_current(self) -> bool:
        """Whether its settings still stand for what was run: no default and no version number has changed."""
        try:
            now = resolve(Experiment.from_dict(self.config))
        except UserError:
            return False
        return self.identity == run_identity(self.config, now, self.data, device=self.device)

    @property
    def stamp_on_disk(self) -> str:
        """What the run's folder, and a look into its model, are known by."""
        return self.stamp or stamp_then(self.config, self.data)

    @property
    def folder(self) -> str:
        """The name of the run's own folder."""
        return folder_name(self.experiment, self.seed, self.stamp_on_disk)

    @property
    def on_text(self) -> bool:
        """Trained on a text, not on sequences that a task draws."""
        return self.data["kind"] == "text"

    @property
    def device_kind(self) -> str:
        """ "cuda" of "cuda:0"."""
        return self.device.partition(":")[0]

    @property
    def was_measured(self) -> bool:
        """Of a model that was timed or weighed, and not trained (unimatrix.lab.measured)."""
        return self.data["kind"] == "measurement"

    def __post_init__(self) -> None:
        """Raise a UserError unless the parts that are kept as JSON hold what they should."""
        data = decode(_Data, self.data, where="data")
        task = decode(Experiment, self.config, where="config").task
        if not self.was_measured and (task is None) != self.on_text:
            raise UserError(f"config.task: expected {'none' if self.on_text else 'one'} beside such data")
        if self.on_text and None in (data.train.bytes, data.valid.bytes):
            raise UserError("data: expected the number of bytes of train and valid")
        if self.resolved is not None:
            decode(_Resolved, self.resolved, where="resolved")
        if self.seed < 0:
            raise UserError(f"seed: expected at least 0, got {self.seed}")


AnyRow = TypeVar("AnyRow", bound=RunRow)


@dataclass(frozen=True, kw_only=True, slots=True)
class Result(RunRow):
    """One finished run: a line of results.jsonl. Times are training alone, without evaluation.

    `metrics` holds what was evaluated, by name: "bpb" and "ppl" of a text, "loss" and "accuracy" (in percent)
    of a task; `curve` pairs of (step, bits per byte or accuracy), perhaps none.
    """

    model: str
    steps: int
    parameters: int
    metrics: dict[str, float]
    seconds: float
    tokens_per_second: float
    versions: dict[str, str]
    machine: str
    threads: int
    backend: str
    curve: list[list[float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Raise a UserError for a number that cannot be, besides what any row refuses."""
        RunRow.__post_init__(self)
        for name in ("steps", "parameters", "seconds", "tokens_per_second", "threads"):
            if getattr(self, name) < 0:
                raise UserError(f"{name}: expected at least 0, got {getattr(self, name)}")
        if not all(len(point) == 2 for point in self.curve):
            raise UserError("curve: expected pairs of a step and a number")

    @classmethod
    def from_dict(cls, row: Any, *, where: object) -> "Result":
        """The result that `dataclasses.asdict` wrote; rows of version 0.1.0 (bpb, ppl) are read too.

        Raises:
            UserError: a field is missing, unknown or of another type; it begins with `where`.
        """
        if isinstance(row, dict) and "metrics" not in row and {"bpb", "ppl"} <= row.keys():
            row = dict(row)
            row["metrics"] = {name: row.pop(name) for name in ("bpb", "ppl")}
            if isinstance(row.get("data"), dict):
                row["data"] = {"kind": "text"} | row["data"]
        return decode(cls, row, where=where)


@dataclass(frozen=True, kw_only=True, slots=True)
class GaveUp(RunRow):
    """A run that could not go on: numbers that it came to are no longer finite.

    why: in training's words.
    """

    why: str

    @property
    def reason(self) -> str:
        """Why, without what is left of it on this machine."""
        return self.why.partition(";")[0]

    def __str__(self) -> str:
        return f"{self.experiment}, seed {self.seed} ({self.why})"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Split:
    """bytes: of a text's. sequences: of a task's, None where they do not end."""

    sha256: str
    bytes: int | None = None
    sequences: int | None = None


# without slots: `kind` is a field of the file here, not the mark of a class
@dataclass(frozen=True, kw_only=True)
class _Data:
    """What a row says of its data: see unimatrix.train.sources.describe."""

    kind: Literal["text", "task", "measurement"]
    name: str
    train: _Split
    valid: _Split
    is_paper_corpus: bool
    notes: list[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Resolved:
    model: dict[str, Any]
    versions: dict[str, int]


def folder_name(experiment: str, seed: int, stamp: str) -> str:
    """What the folder of a run is called: no two identities share one."""
    return f"{experiment}-seed{seed}-{stamp[:8]}"


# experiment -> seed -> result: what claims, figures and reports are given
Samples = Mapping[str, Mapping[int, Result]]


class WithLost(dict[str, Mapping[int, Result]]):
    """Samples that know which runs are not among them as they could not go on: their seeds, by experiment."""

    def __init__(self, samples: Samples, lost: Iterable[GaveUp] = ()) -> None:
        super().__init__(samples)
        self._lost: dict[str, set[int]] = {}
        for run in lost:
            self._lost.setdefault(run.experiment, set()).add(run.seed)

    def lost(self, experiment: str) -> Collection[int]:
        """The seeds of an experiment's runs that could not go on, and for which no row stands."""
        return self._lost.get(experiment, ())

    def without(self, experiments: Collection[str]) -> "WithLost":
        """The same without these experiments' rows."""
        left = WithLost({name: runs for name, runs in self.items() if name not in experiments})
        left._lost = self._lost
        return left


def lost_seeds(samples: Samples, experiment: str) -> Collection[int]:
    """The same of samples of either kind."""
    return samples.lost(experiment) if isinstance(samples, WithLost) else ()


def read_results(path: Path) -> list[Result]:
    """All rows of a results file but one that was cut short, oldest first; none if there is no file.

    Raises:
        UserError: a whole line is not a result (names the file, the line and the field).
    """
    return [Result.from_dict(row, where=where) for where, row in read_json_lines(path)]


def read_gave_up(path: Path) -> list[GaveUp]:
    """The same of a file of runs that could not go on."""
    return [decode(GaveUp, row, where=where) for where, row in read_json_lines(path)]


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """An OSError that leaves the block says which file it is about: a full disk's own does not."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def write_results(path: Path, results: Iterable[Result]) -> None:
    """A file of these rows alone, in place of an older one; without rows there is none.

    Raises:
        OSError: the folder cannot be written.
    """
    lines = [_line(result) for result in results]
    if lines:
        with naming(path):
            replace_file(path, b"".join(lines))
    else:
        path.unlink(missing_ok=True)


def _line(result: RunRow) -> bytes:
    return json.dumps(dataclasses.asdict(result), sort_keys=True, allow_nan=False).encode() + b"\n"


def append_result(path: Path, result: RunRow) -> None:
    """Append one row and wait until it is on the disk; a torn last line of an earlier kill is cut off first.

    Raises:
        OSError: the folder cannot be written, or the disk is full; the rows before stay whole.
    """
    with naming(path):
        append_lines(path, _line(result))


def latest_identities(results: Iterable[RunRow], experiments: Iterable[str]) -> dict[str, str]:
    """For each experiment, the identity of its newest current row: of rows that can be held side by side.

    All are of the newest row's kind of device; on a text, of the newest text; what was measured, of the
    newest machine, threads and versions.
    """
    wanted = set(experiments)
    rows = [result for result in results if result.experiment in wanted and result.is_current]
    rows = [row for row in rows if row.device_kind == rows[-1].device_kind]
    # a task's sequences are drawn for each experiment, texts and machines are shared by all
    newest = {row.data["kind"]: _sha256s(row) for row in rows}
    return {
        row.experiment: row.identity
        for row in rows
        if row.data["kind"] == "task" or _sha256s(row) == newest[row.data["kind"]]
    }


def _sha256s(result: RunRow) -> tuple[str, str]:
    return result.data["train"]["sha256"], result.data["valid"]["sha256"]


def select(results: Iterable[AnyRow], identities: Mapping[str, str]) -> dict[str, dict[int, AnyRow]]:
    """Experiment -> seed -> row, of the rows with the wanted identities; of equal runs the newest."""
    samples: dict[str, dict[int, AnyRow]] = {experiment: {} for experiment in identities}
    for result in results:
        if identities.get(result.experiment) == result.identity:
            samples[result.experiment][result.seed] = result
    return samples


# what a row knows beside its metrics, for columns that show it
_BESIDE: dict[str, Callable[[Result], float]] = {
    "seconds": lambda run: run.seconds,
    "steps": lambda run: run.steps,
}


def metric_by_seed(samples: Samples, experiment: str, metric: str) -> dict[int, float]:
    """Seed -> the metric, for one experiment; empty if it has not run, or measures something else.

    A row's seconds of training and its steps are metrics too.
    """
    runs = samples.get(experiment, {})
    if metric in _BESIDE:
        return {seed: _BESIDE[metric](run) for seed, run in runs.items() if not run.was_measured}
    return {seed: run.metrics[metric] for seed, run in runs.items() if metric in run.metrics}
