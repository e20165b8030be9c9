"""How a fuzz target is run: cases drawn by hypothesis from a fixed seed, and what has to hold in each.

Whatever comes, from a file, on a command line or as an argument: it works, or it is refused in one line that
says where, within seconds, and nothing on the disk is lost. A target says what to draw and how to try it.
"""

import contextlib
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy

from unimatrix.cli import main
from unimatrix.errors import UserError

SECONDS = 5.0
STARTED_SECONDS = 120.0  # of commands in processes of their own, which import everything anew
COUNTED = "fuzz cases"  # the property of a test's report that holds (kind, target, number of cases)
LONGEST = 320
# Python's own words for what went wrong: none of them tells a user what to do
FOREIGN = (
    *("Traceback", "NoneType", "<class", "invalid literal", "could not convert", "object is not"),
    *("not subscriptable", "object has no", "not supported between", "unexpected keyword", "positional arg"),
    *("must be real number", "list index", "out of bounds for", "not iterable", "unhashable", "not callable"),
    *("codec can't", "surrogates not allowed", "maximum recursion", "Expecting value", "KeyError"),
)


class Accepted(BaseException):
    """Raised by the tests in the place of what a command would do next: the input was taken."""


@dataclass(frozen=True)
class Target:
    """A reader of a file, an option of a command, or an argument of a function.

    kind: "file", "option" or "argument". values: what is drawn. check: tries one value in a world (see
    conftest), and raises unless all that has to hold does.
    """

    kind: str
    name: str
    values: SearchStrategy[Any]
    check: Callable[[Any, Any], None]

    @property
    def label(self) -> str:
        """A name for reports and for -k."""
        return f"{self.kind}: {self.name}"


def run(target: Target, world: Any, cases: int, *, seconds: float = SECONDS) -> int:
    """Try so many cases; returns how many were tried. The first that does not hold is raised."""
    tried = 0

    @seed(zlib.crc32(target.label.encode()))
    @settings(
        max_examples=cases,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
        report_multiple_bugs=False,
    )
    @given(target.values)
    def one(value: Any) -> None:
        nonlocal tried
        tried += 1
        took = _seconds(target, world, value)
        if took >= seconds:
            # what is imported and compiled once, or what else the machine did: not so a second time
            took = _seconds(target, world, value)
        assert took < seconds, f"{target.label}: {value!r:.200} took {took:.1f} s, and more before"

    one()
    return tried


def _seconds(target: Target, world: Any, value: Any) -> float:
    began = time.monotonic()
    target.check(world, value)
    return time.monotonic() - began


# in Python its users know them
NAMES_OF_TYPES = ("NoneType", "<class")


def check_words(words: str, names: tuple[str, ...], *, in_python: bool = False) -> None:
    """One line, not too long, none of Python's own words, and one of the names in it."""
    assert "\n" not in words, words
    assert len(words) < (3 if in_python else 1) * LONGEST, words
    wrong = [foreign for foreign in FOREIGN if not (in_python and foreign in NAMES_OF_TYPES)]
    # what the user wrote is told as it is
    found = [foreign for foreign in wrong if foreign in words and f"got '{foreign}" not in words]
    assert not found, f"{found} in: {words}"
    assert not names or any(name in words for name in names), f"none of {names} in: {words}"


@contextlib.contextmanager
def works_or_is_refused(*names: str) -> Iterator[None]:
    """The block works, or raises a UserError whose words hold one of the names; anything else is a fault."""
    try:
        yield
    except UserError as error:
        check_words(str(error), names, in_python=True)


def command(*arguments: str) -> tuple[int, str]:
    """(exit code, stderr) of a command, in this process but where `in_processes` says otherwise."""
    return _command(list(arguments))


def _in_this_process(arguments: list[str]) -> tuple[int, str]:
    """0 too where the tests stopped what was accepted."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(arguments)
        except Accepted:
            code = 0
        except SystemExit as stop:  # after --help
            code = int(stop.code or 0)
    return code, err.getvalue()


_command: Callable[[list[str]], tuple[int, str]] = _in_this_process


def _in_a_child(arguments: list[str]) -> tuple[int, str]:
    """The command in a forked process with streams and an exit code of its own; a crash's is negative."""
    with tempfile.TemporaryFile() as err, open(os.devnull, "w") as nowhere, warnings.catch_warnings():
        # Python 3.12 on warns of forks beside threads; nothing but the command runs in the child
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
        if child == 0:
            code = 70  # a bug stays loud
            try:
                os.dup2(nowhere.fileno(), 1)
                os.dup2(err.fileno(), 2)
                with open(1, "w", closefd=False) as sys.stdout, open(2, "w", closefd=False) as sys.stderr:
                    code = main(arguments)
            except Accepted:
                code = 0
            except BaseException:
                os.write(2, traceback.format_exc().encode())
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        err.seek(0)
        return os.waitstatus_to_exitcode(status), err.read().decode("utf-8", "replace")


def _by_the_system(arguments: list[str]) -> tuple[int, str]:
    """The command as a shell runs it."""
    command = [sys.executable, "-m", "unimatrix", *arguments]
    done = subprocess.run(command, capture_output=True, timeout=STARTED_SECONDS, check=False)
    return done.returncode, done.stderr.decode("utf-8", "replace")


@contextlib.contextmanager
def in_processes(*, executed: bool) -> Iterator[None]:
    """Commands run in processes of their own: forked from this one, or started anew."""
    global _command
    _command = _by_the_system if executed else _in_a_child
    try:
        yield
    finally:
        _command = _in_this_process


def check_command(arguments: list[str], *names: str, folder: Path) -> None:
    """The command works or says in one line what is wrong; refused, it leaves the folder's files alone."""
    before = snapshot(folder)
    code, err = command(*arguments)
    check_outcome(code, err, *names)
    # what was accepted may write
    if code == 2 and "training stopped" not in err:
        after = snapshot(folder)
        lost = [name for name in before if after.get(name) != before[name]]
        assert not lost, f"lost or changed: {lost} ({err})"


def check_outcome(code: int, err: str, *names: str) -> None:
    """Exit code 0 and nothing on stderr, or 2 and one line."""
    assert code in (0, 2), f"exit code {code}: {err[-500:]}"
    if code == 0:
        assert err == "", err
        return
    assert err.count("\n") == 1, err
    if re.fullmatch(r"unimatrix \w+: needs [\w-]+; pip install \S+\n", err):
        return  # a tracker that is not installed here
    assert err.startswith("unimatrix: error: "), err
    check_words(err.removesuffix("\n"), names)


def snapshot(folder: Path) -> dict[str, str]:
    """Every file below a folder by its sha256."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


@contextlib.contextmanager
def scratch(source: Path | None = None) -> Iterator[Path]:
    """A folder for one case, a copy of `source`, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        folder = Path(name) / "case"
        if source is None:
            folder.mkdir()
        else:
            shutil.copytree(source, folder)
        yield folder
