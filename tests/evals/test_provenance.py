"""Where a number comes from is recorded truly, or said to be unknown."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from unimatrix.evals import provenance


def test_versions_name_what_runs() -> None:
    found = provenance.versions()
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found.keys() == {"python", "torch", "numpy", "numba", "unimatrix"}
    assert all(found.values())


def test_machine_and_date_are_readable() -> None:
    assert "CPU threads" in provenance.machine("cpu")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", provenance.now_utc())


@pytest.fixture(autouse=True)
def asked_anew():
    """A process asks for its commit once."""
    provenance.git_commit.cache_clear()
    yield
    provenance.git_commit.cache_clear()


def run_git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_commit_is_that_of_the_checkout_that_tracks_us(tmp_path, monkeypatch) -> None:
    copy = tmp_path / "provenance.py"
    shutil.copy(provenance.__file__, copy)
    monkeypatch.setattr(provenance, "__file__", str(copy))
    ask = provenance.git_commit.__wrapped__
    assert ask() == "unknown"
    run_git(tmp_path, "init", "--quiet")
    # a checkout, but not one that tracks this file
    assert ask() == "unknown"
    run_git(tmp_path, "add", ".")
    run_git(tmp_path, "commit", "--quiet", "-m", "one")
    head = run_git(tmp_path, "rev-parse", "HEAD")
    assert ask() == provenance.git_commit() == head
    copy.write_text(copy.read_text() + "\n")
    assert ask() == head + "-dirty"
    # what runs here is what was there when it was first asked for
    assert provenance.git_commit() == head


def test_without_git_the_commit_is_unknown(monkeypatch) -> None:
    def missing(*_arguments, **_options):
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", missing)
    assert provenance.git_commit() == "unknown"
