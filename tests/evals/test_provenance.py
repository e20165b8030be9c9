"""Where a number comes from is recorded truly, or said to be unknown."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

from unimatrix.evals import provenance


def test_versions_name_what_runs() -> None:
    found = provenance.versions()
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found.keys() == {"python", "torch", "numpy", "numba", "unimatrix"}
    assert all(found.values())


def test_machine_and_date_are_readable() -> None:
    assert "CPU threads" in provenance.machine("cpu")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", provenance.now_utc())


def run_git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_commit_is_that_of_the_checkout_that_tracks_us(tmp_path, monkeypatch) -> None:
    copy = tmp_path / "provenance.py"
    shutil.copy(provenance.__file__, copy)
    monkeypatch.setattr(provenance, "__file__", str(copy))
    assert provenance.git_commit() == "unknown"
    run_git(tmp_path, "init", "--quiet")
    # a checkout, but not one that tracks this file
    assert provenance.git_commit() == "unknown"
    run_git(tmp_path, "add", ".")
    run_git(tmp_path, "commit", "--quiet", "-m", "one")
    head = run_git(tmp_path, "rev-parse", "HEAD")
    assert provenance.git_commit() == head
    copy.write_text(copy.read_text() + "\n")
    assert provenance.git_commit() == head + "-dirty"


def test_without_git_the_commit_is_unknown(monkeypatch) -> None:
    def missing(*_arguments, **_options):
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", missing)
    assert provenance.git_commit() == "unknown"
