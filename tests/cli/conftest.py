"""A text, a run trained on it, and the real entry point."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from unimatrix.cli import main

SMALL = [
    *("--d-model", "8", "--num-heads", "2", "--depth", "1", "--state-dim", "4"),
    *("--batch-size", "2", "--seq-len", "16", "--tracker", "none"),
]


def write_text(path: Path) -> Path:
    words = random.Random(0).choices(["the ", "sea ", "and ", "sky\n"], k=400)
    path.write_text("".join(words))
    return path


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of four steps; tests only read it."""
    folder = tmp_path_factory.mktemp("cli")
    text = write_text(folder / "sea.txt")
    code = main(["train", str(text), *SMALL, "--steps", "4", "--out", str(folder / "run")])
    assert code == 0
    return folder / "run"


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """call("train", "x.txt") -> (exit code, stdout, stderr), through the real entry point."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def refused(call) -> Callable[..., str]:
    """The one line that a wrong command is answered with; asserts exit code 2 and that it is one line."""

    def run(*arguments: object) -> str:
        code, _, complaint = call(*arguments)
        assert code == 2, complaint
        assert complaint.startswith("unimatrix: error: ")
        assert complaint.count("\n") == 1
        return complaint

    return run
