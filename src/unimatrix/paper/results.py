"""results.jsonl: one line per finished run, only ever appended to, and the choice of the lines a table uses.

A run's *identity* is what its numbers depend on apart from the seed: the experiment's settings and the data.
Two lines with one identity and one seed are the same run; a changed setting or another text is another
identity, is trained anew, and both lines stay in the file.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unimatrix.errors import UserError

# settings that change what is written or shown during a run and none of its final numbers; the seed, which is
# kept beside the identity; and the source of the text, which is known by its sha256 instead
BESIDES_THE_NUMBERS = frozenset(
    {
        "name",
        "seed",
        "data",
        "tracker",
        "log_every",
        "save_every",
        "keep_checkpoints",
        "eval_every",
        "eval_bytes",
    }
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """One finished run: a line of results.jsonl. Times are training alone, without evaluation.

    `metrics` holds what was evaluated, by name: "bpb" and "ppl" of a text, "loss" and "accuracy" (in percent)
    of a task. `data` holds kind ("text" or "task"), name, notes, is_paper_corpus, and train and valid with a
    sha256 each; `config` the experiment as its own to_dict() gives it; `curve` pairs of (step, bits per byte
    or accuracy), perhaps none.
    """

    experiment: str
    model: str
    seed: int
    steps: int
    parameters: int
    metrics: dict[str, float]
    seconds: float
    tokens_per_second: float
    data: dict[str, Any]
    git_commit: str
    versions: dict[str, str]
    machine: str
    threads: int
    device: str
    backend: str
    date_utc: str
    config: dict[str, Any]
    curve: list[list[float]] = field(default_factory=list)

    @property
    def identity(self) -> str:
        """What the numbers depend on, the seed apart; see `run_identity`."""
        return run_identity(self.config, self.data)

    @property
    def on_text(self) -> bool:
        """Trained on a text, not on sequences that a task draws; rows of version 0.1.0 all are."""
        return self.data.get("kind", "text") == "text"

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> "Result":
        """The result that `dataclasses.asdict` wrote; rows of version 0.1.0 (bpb, ppl) are read too.

        Raises:
            UserError: a field is missing or unknown.
        """
        if "metrics" not in row and {"bpb", "ppl"} <= row.keys():
            row = dict(row)
            row["metrics"] = {name: row.pop(name) for name in ("bpb", "ppl")}
        known = {item.name: item for item in dataclasses.fields(cls)}
        unknown = sorted(row.keys() - known.keys())
        missing = sorted(name for name in known.keys() - row.keys() if name != "curve")
        if unknown or missing:
            raise UserError(f"result row: unknown fields {unknown}, missing fields {missing}")
        return cls(**row)


# experiment -> seed -> result: what claims, figures and reports are given
Samples = Mapping[str, Mapping[int, Result]]


def _numbers_only(config: Any) -> Any:
    if not isinstance(config, Mapping):
        return config
    # None is "not set": a setting that a later version adds as optional leaves older runs what they were
    return {
        key: _numbers_only(value)
        for key, value in config.items()
        if key not in BESIDES_THE_NUMBERS and value is not None
    }


def run_identity(config: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    """16 hex digits over the settings that count and the sha256 of train and valid."""
    parts = {
        "config": _numbers_only(config),
        "train": data["train"]["sha256"],
        "valid": data["valid"]["sha256"],
    }
    # through JSON once, so that a tuple and the list it is read back as are the same
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def read_results(path: Path) -> list[Result]:
    """All rows of a results file, oldest first; none if there is no file.

    A last line without its line break was cut short by a kill or a full disk: it is left out, because the run
    that wrote it did not finish writing.

    Raises:
        UserError: a whole line is not a result (names the file and the line).
    """
    if not path.exists():
        return []
    *lines, _torn = path.read_bytes().split(b"\n")
    results = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise UserError(f"expected an object, got {type(row).__name__}")
            results.append(Result.from_dict(row))
        except (json.JSONDecodeError, UnicodeDecodeError, UserError) as error:
            raise UserError(f"{path}, line {number}: not a result row ({error})") from error
    return results


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """An OSError that leaves the block says which file it is about: a full disk's own does not."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def append_result(path: Path, result: Result) -> None:
    """Append one row and wait until it is on the disk; a torn last line of an earlier kill is cut off first.

    Raises:
        OSError: the folder cannot be written, or the disk is full; the rows before stay whole.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(dataclasses.asdict(result), sort_keys=True, allow_nan=False).encode() + b"\n"
    with naming(path), open(path, "a+b") as file:
        file.seek(0)
        whole = file.read().rfind(b"\n") + 1
        file.truncate(whole)
        try:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            # a half-written row would be dropped at the next reading anyway; leave none behind
            file.truncate(whole)
            raise


def latest_identities(results: Iterable[Result], experiments: Iterable[str]) -> dict[str, str]:
    """For each experiment, the identity of its newest row; rows on a text count on the newest text only."""
    wanted = set(experiments)
    rows = [result for result in results if result.experiment in wanted]
    texts = [_sha256s(row) for row in rows if row.on_text]
    return {row.experiment: row.identity for row in rows if not row.on_text or _sha256s(row) == texts[-1]}


def _sha256s(result: Result) -> tuple[str, str]:
    return result.data["train"]["sha256"], result.data["valid"]["sha256"]


def select(results: Iterable[Result], identities: Mapping[str, str]) -> dict[str, dict[int, Result]]:
    """Experiment -> seed -> row, of the rows with the wanted identities; of equal runs the newest."""
    samples: dict[str, dict[int, Result]] = {experiment: {} for experiment in identities}
    for result in results:
        if identities.get(result.experiment) == result.identity:
            samples[result.experiment][result.seed] = result
    return samples


def metric_by_seed(samples: Samples, experiment: str, metric: str) -> dict[int, float]:
    """Seed -> the metric, for one experiment; empty if it has not run, or measures something else."""
    runs = samples.get(experiment, {})
    return {seed: run.metrics[metric] for seed, run in runs.items() if metric in run.metrics}
