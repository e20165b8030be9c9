"""`unimatrix runs`: which training runs there are, how far they have come, how good they are, how to go on.

Reads what runs write about themselves (unimatrix.train.records) as plain values and without torch, so that it
answers at once and can speak of a run that is damaged or of another version.
"""

import json
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from unimatrix.cli.again import command
from unimatrix.cli.arguments import parse
from unimatrix.codec import read_json
from unimatrix.errors import UserError, shown
from unimatrix.studies.longest import only_in_full

try:
    import fcntl
except ImportError:  # Windows, where nobody can see that a run is going on
    fcntl = None

ABOUT = """List training runs: how far each has come, its best number so far, and of one that
has not finished the command that goes on with it.

Without folders: the runs under runs/ and reproduction/runs/. A folder may be a
run itself or hold runs. Of a checkpoint the files' sizes are looked at; loading
it checks their contents too.

examples:
  unimatrix runs
  unimatrix runs runs/mytext-unimatrix elsewhere
  unimatrix runs --json"""

USUAL = (Path("runs"), Path("reproduction/runs"))
MARK, TRAINER, CHECKSUMS = "run.json", "trainer.json", "checksums.json"
ASKED = "asked.json"  # beside the runs of a reproduction: unimatrix.lab.run
KIND = "unimatrix training run"
_CHECKPOINT = re.compile(r"checkpoint-\d{6,}")
_OF_A_REPRODUCTION = re.compile(r"-seed\d+-[0-9a-f]{8}$")  # unimatrix.lab.results.folder_name
_DEEPEST = 4  # folders below the one that is named: a run's name may hold a few slashes
_MOST_SEEN = 100_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    folders: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[FOLDER ...]")] = ()
    """Runs, or folders that hold some."""
    json: bool = False
    """A JSON list instead of lines to read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSeen:
    """One run as its folder tells of it.

    state: "finished", "running", "stopped", "nothing saved", "damaged". problem: in words, of a damaged one.
    step: of the newest checkpoint. best: the best evaluation known, with its unit and step; whole: whether it
    is the one at the end, of all of the validation text or of the task. resume: the command that goes on, if
    there is anything to go on with.
    """

    folder: str
    name: str
    state: str
    problem: str | None = None
    step: int = 0
    steps: int | None = None
    best: float | None = None
    unit: str | None = None
    best_step: int | None = None
    whole: bool = False
    resume: str | None = None


def run(arguments: Sequence[str]) -> int:
    """The command; its exit code."""
    # folders may stand on both sides of --json
    arguments = sorted(arguments, key=lambda word: word.startswith("-"))
    options = parse(Options, arguments, command="runs", about=ABOUT)
    for folder in options.folders:
        _check_folder(folder)
    folders = options.folders or tuple(folder for folder in USUAL if folder.is_dir())
    seen = [_look(folder) for folder in dict.fromkeys(one for given in folders for one in _runs_in(given))]
    if options.json:
        print(json.dumps([asdict(one) for one in seen], indent=2))
        return 0
    if not seen:
        where = " and ".join(f"{folder}/" for folder in options.folders or USUAL)
        print(f"No runs in {where}; to make one: unimatrix train mytext.txt")
    for one in seen:
        print("\n".join(_lines(one)))
    return 0


def _check_folder(folder: Path) -> None:
    try:
        kind = os.stat(folder).st_mode
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise UserError(f"runs: expected a folder, got {shown(str(folder))} ({reason})") from error
    if not stat.S_ISDIR(kind):
        raise UserError(f"runs: expected a folder, got the file {shown(str(folder))}")
    whole = Path(os.path.abspath(folder))
    if _CHECKPOINT.fullmatch(whole.name) and os.path.lexists(whole.parent / MARK):
        raise UserError(
            f"runs: expected a run's folder, got its checkpoint {str(folder)!r}; the run is "
            f"{str(whole.parent)!r}"
        )


def _runs_in(folder: Path) -> Iterator[Path]:
    """The folder itself, or the runs in it by name; links are not followed, checkpoints not entered."""
    waiting, entered = [(folder, 0)], 0
    while waiting and entered < _MOST_SEEN:
        here, depth = waiting.pop()
        entered += 1
        if os.path.lexists(here / MARK) or any(map(_is_ours, _checkpoints(here))):
            yield here
        elif depth < _DEEPEST:
            try:
                below = [entry.path for entry in os.scandir(here) if entry.is_dir(follow_symlinks=False)]
            except OSError:  # not ours to read
                continue
            names = (Path(path) for path in below if not os.path.basename(path).startswith("."))
            waiting += [(path, depth + 1) for path in sorted(names, reverse=True)]


def _is_ours(checkpoint: Path) -> bool:
    return os.path.lexists(checkpoint / TRAINER) or os.path.lexists(checkpoint / CHECKSUMS)


def _look(folder: Path) -> RunSeen:
    """What is there; whatever is wrong with it is told, and never raised."""
    known: dict[str, Any] = {"folder": str(folder), "name": folder.name}
    try:
        return _described(folder, known)
    except (UserError, OSError, KeyError, TypeError, ValueError) as error:
        words = _missing(error) if isinstance(error, KeyError) else str(error)
        return RunSeen(**known | {"state": "damaged", "problem": _in_a_line(words), "resume": None})


def _described(folder: Path, known: dict[str, Any]) -> RunSeen:
    """Fills `known` as it goes, so that of a damaged run is told what could be read."""
    mark = _record(folder / MARK) if os.path.lexists(folder / MARK) else None
    if mark is not None and mark.get("kind") != KIND:
        raise UserError(f"{MARK}: is not the mark of a training run")
    checkpoints = _checkpoints(folder)
    if mark is not None:
        known |= _settings(mark)
    if not checkpoints:
        running = _is_used(folder)
        known["state"] = "running" if running else "nothing saved"
        known["resume"] = None if running else _resume(folder, mark)
        return RunSeen(**known)
    newest = checkpoints[-1]
    problem = _damage(newest)
    if problem is not None:
        whole = [checkpoint.name for checkpoint in checkpoints[:-1] if _damage(checkpoint) is None]
        advice = f"; delete {newest.name} to go on from {whole[-1]}" if whole else ""
        raise UserError(f"{newest.name}: {problem}{advice}")
    trainer = _record(newest / TRAINER)
    if mark is None:
        known |= _settings(trainer)
    known["step"] = int(_number(trainer, "step"))
    finished = known["step"] >= known["steps"]
    known |= _best(trainer, mark or {}, finished=finished)
    if _is_used(folder):
        return RunSeen(**known, state="running")
    # a run of before there were metrics says nothing of them; None is one that was not measured yet
    measured = mark is None or mark.get("metrics", {}) is not None
    if finished and measured:
        return RunSeen(**known, state="finished")
    return RunSeen(**known, state="stopped", resume=_resume(folder, mark or trainer))


def _settings(record: Mapping[str, Any]) -> dict[str, Any]:
    """The run's name and how many steps it is to make."""
    experiment = _object(record, "experiment")
    name = experiment["name"]
    if not isinstance(name, str):
        raise UserError(f"name: expected a text, got {shown(name)}")
    return {"name": name, "steps": int(_number(_object(experiment, "loop"), "steps"))}


def _best(trainer: Mapping[str, Any], mark: Mapping[str, Any], *, finished: bool) -> dict[str, Any]:
    """The number at the end, of the whole validation text or of the task; before that the best on the way."""
    on_text = _object(trainer, "data").get("kind", "text") == "text"
    key, unit = ("bpb", "bits per byte") if on_text else ("accuracy", "% right")
    metrics = mark.get("metrics")
    if finished and isinstance(metrics, Mapping):
        return {"best": _number(metrics, key), "unit": unit, "best_step": int(trainer["step"]), "whole": True}
    curve = trainer["curve"]
    if not isinstance(curve, list):
        raise UserError(f"curve: expected a list, got {shown(curve)}")
    points = [(_finite(value), int(_finite(step))) for step, value in curve]
    if not points:
        return {}
    value, step = min(points) if on_text else max(points, key=lambda point: (point[0], -point[1]))
    return {"best": value, "unit": unit, "best_step": step}


def _damage(checkpoint: Path) -> str | None:
    """What is wrong with its files, by their sizes; None where nothing is."""
    try:
        files = _object(_record(checkpoint / CHECKSUMS), "files")
        if TRAINER not in files:
            return f"{TRAINER} is not listed in {CHECKSUMS}"
        for name, said in files.items():
            path = checkpoint / os.path.basename(name)
            if not path.is_file():
                return f"{path.name} is missing"
            found, size = path.stat().st_size, int(_number(said, "bytes"))
            if found != size:
                return f"{path.name} has {found:,} bytes instead of {size:,}"
    except KeyError as error:
        return f"{CHECKSUMS}: {_missing(error)}"
    except (UserError, OSError, TypeError, ValueError) as error:
        return _in_a_line(str(error))
    return None


def _resume(folder: Path, record: Mapping[str, Any] | None) -> str | None:
    """The command; a run of a reproduction goes on with it, so that its row is written."""
    if record is None:
        return None
    place = folder.absolute()
    if place.parent.name != "runs" or not _OF_A_REPRODUCTION.search(place.name):
        return command("train", "--resume", "--out", str(folder))
    experiment = _object(record, "experiment")
    loop = _object(experiment, "loop")
    # a folder may have been named from within the reproduction
    out = folder.parent.parent if len(folder.parts) > 1 else place.parent.parent
    words = ["reproduce", "--out", str(out)]
    words += ["--seeds", str(int(_number(loop, "seed")))]
    asked = _asked(out, str(experiment.get("name")))
    # without a study all are trained
    words += ["--studies", str(asked["study"])] if asked.get("study") else []
    # else it may be shown from other runs, and this one never goes on
    words += ["--full"] if only_in_full(str(experiment.get("name"))) else []
    device = loop.get("device", "auto")
    words += [] if device == "auto" else ["--device", str(device)]
    data = experiment.get("data", "auto") if experiment.get("task") is None else None
    data = asked.get("data") or data or "auto"  # a task's study may have texts too
    words += [] if data == "auto" else ["--data", str(data)]  # a folder of any kind too
    return command(*words)


def _asked(out: Path, name: str) -> Mapping[str, Any]:
    """Study and text of an experiment as the reproduction was asked for it; empty where that is not known."""
    try:
        return _object(_record(out / ASKED), name)
    except (UserError, OSError, KeyError, ValueError):
        return {}


def _is_used(folder: Path) -> bool:
    """Whether a process trains in it: it holds a lock on the folder (unimatrix.train.run_folder)."""
    if fcntl is None:
        return False
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system that has no locks
        return False
    finally:
        os.close(descriptor)
    return False


def _checkpoints(folder: Path) -> list[Path]:
    """By step; none where the folder cannot be read."""
    try:
        found = [entry.name for entry in os.scandir(folder) if _CHECKPOINT.fullmatch(entry.name)]
    except OSError:
        return []
    return [folder / name for name in sorted(found, key=lambda name: int(name.partition("-")[2]))]


def _lines(seen: RunSeen) -> Iterator[str]:
    state = seen.state
    if state == "damaged":
        state = f"damaged: {seen.problem}"
    elif seen.steps is not None:
        done = f"{seen.steps:,} steps" if state == "finished" else f"step {seen.step:,} of {seen.steps:,}"
        state = f"{state}, {done}" if state == "finished" else f"{state} at {done}"
        if seen.state == "stopped" and seen.step >= seen.steps:
            state += ", not measured at the end"
    yield f"{seen.folder}  {state}"
    if seen.best is not None:
        where = "at the end" if seen.whole else f"best, at step {seen.best_step:,}"
        yield f"    {seen.best:.4f} {seen.unit} ({where})"
    if seen.resume is not None:
        yield f"    {seen.resume}"


def _record(path: Path) -> Mapping[str, Any]:
    values = read_json(path)
    if not isinstance(values, Mapping):
        raise UserError(f"{path.name}: expected an object with fields, got {shown(values)}")
    return values


def _object(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = values[key]
    if not isinstance(value, Mapping):
        raise UserError(f"{key}: expected an object with fields, got {shown(value)}")
    return value


def _number(values: Mapping[str, Any], key: str) -> float:
    try:
        return _finite(values[key])
    except UserError as error:
        raise UserError(f"{key}: {error}") from error


def _finite(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) >= 2**63:
        raise UserError(f"expected a number, got {shown(value)}")
    return value


def _missing(error: KeyError) -> str:
    return f"{error.args[0]}: expected, got none"


def _in_a_line(words: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in words).split())[:200]
