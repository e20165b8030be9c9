"""This version against another: both are really run, compared before they are timed, named where missing."""

import io
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

import unimatrix
from unimatrix.bench import against
from unimatrix.errors import UserError

SOURCES = Path(unimatrix.__file__).resolve().parents[1]


@pytest.mark.timeout(600)
def test_another_version_is_run_and_its_other_logits_are_told(tmp_path):
    other = tmp_path / "src"
    shutil.copytree(SOURCES / "unimatrix", other / "unimatrix", ignore=shutil.ignore_patterns("__pycache__"))
    presets = other / "unimatrix" / "mixers" / "feed_forward.py"
    presets.write_text(presets.read_text().replace("F.gelu(", "F.relu("), encoding="utf-8")
    said: list[str] = []
    path = against.run(
        tmp_path / "out",
        version=str(other),
        models=["transformer"],
        lengths=[16],
        passes=["forward"],
        seconds=0.1,
        say=said.append,
    )
    result = json.loads(path.read_text())
    (row,) = result["rows"]
    assert row["turns"] >= 15
    assert row["ms"] > 0
    assert result["differences"]["transformer"] > against.EQUALITY_TOLERANCE
    assert "NOT equal" in said[0]


@pytest.mark.parametrize("other", ["no-such-revision", "/nowhere", ""])
def test_a_version_that_is_not_there_is_named(other, tmp_path):
    with pytest.raises(UserError, match="expected a git revision or a folder with the package"):
        against.run(tmp_path / "out", version=other, models=["transformer"])
    assert not [*tmp_path.iterdir()]


def test_nothing_to_measure_is_refused(tmp_path):
    with pytest.raises(UserError, match="expected a model"):
        against.run(tmp_path, version="HEAD", models=[])


def test_a_version_that_is_gone_before_it_is_asked_is_named():
    """As one that fails at its import: what is written to it then fails too."""

    class Closed(io.StringIO):
        def flush(self):
            raise BrokenPipeError

    version = object.__new__(against._Version)
    version._process = SimpleNamespace(stdin=Closed(), stdout=io.StringIO())
    with pytest.raises(UserError, match=r"^transformer: this version or the other fails on it"):
        version.ask(model="transformer", length=300)
