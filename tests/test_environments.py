"""`make test-range`: rows are kept, one at a time too, as long as what they tested is what there is."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

FILE = Path(__file__).resolve().parents[1] / ".ci" / "environments.py"
PYPROJECT = """
[project]
dependencies = ["torch>=2.8"]
[project.optional-dependencies]
train = ["accelerate>=1.13,<3"]
paper = ["unimatrix-lm[train]", "vl-convert-python>=1.8"]
eval = ["lm-eval>=0.4.9"]
dev = ["unimatrix-lm[train,paper,eval]", "pytest>=8.3"]
"""
OUTCOMES = {"lower": (1, "2 failed, 8 passed, 1 error"), "lock": (0, "10 passed, 3 deselected")}


@pytest.fixture
def environments(tmp_path, monkeypatch):
    """The module for a repository of its own, in which no environment is made and no test run."""
    spec = importlib.util.spec_from_file_location("environments", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    root = tmp_path / "repository"
    (root / "src").mkdir(parents=True)
    (root / "src" / "code.py").write_text("dependencies = []\n")
    (root / "pyproject.toml").write_text(PYPROJECT)
    (root / "lock.txt").write_text("# pins\ntorch==2.13.0\n")
    (root / "CONTRIBUTING.md").write_text("before\n" + "\nold\n".join(module.MARKS) + "\nafter\n")
    for name, path in (("ROOT", root), ("LOCK", root / "lock.txt"), ("TABLE", root / "CONTRIBUTING.md")):
        monkeypatch.setattr(module, name, path)
    git(root, "init", "--quiet")
    commit(root)
    module.ran = []

    def install(folder, *, constraints, **_):
        folder.mkdir(parents=True, exist_ok=True)
        return folder / "python"

    def run_tests(interpreter):
        module.ran.append(interpreter.parent.name)
        return OUTCOMES.get(interpreter.parent.name, OUTCOMES["lock"])

    monkeypatch.setattr(module, "install", install)
    monkeypatch.setattr(module, "run_tests", run_tests)
    monkeypatch.setattr(module, "installed", lambda _: {"torch": "2.13.0", "numpy": "2.0.0"})
    monkeypatch.setattr(
        module, "python_version", lambda one: "3.13.0" if "newest-python" in str(one) else "3.11.7"
    )
    return module


def git(root, *arguments):
    subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b.c", *arguments], cwd=root, check=True)


def commit(root):
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "some")


def run_range(module, tmp_path, monkeypatch, *arguments):
    """The exit code, the environments in which tests ran, and the table in CONTRIBUTING.md."""
    module.ran.clear()
    asked = ["--newest-python", "a/newest-python", "--folder", str(tmp_path / "kept"), *arguments]
    monkeypatch.setattr("sys.argv", ["environments.py", "range", *asked])
    code = module.main()
    text = module.TABLE.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    return code, module.ran[:], text


def test_rows_one_at_a_time_make_the_table_once_all_are_there(environments, tmp_path, monkeypatch):
    def go(*arguments):
        return run_range(environments, tmp_path, monkeypatch, *arguments)

    code, ran, text = go("--only", "lower")
    assert (code, ran) == (1, ["lower"])
    assert "\nold\n" in text
    code, ran, text = go()
    assert (code, ran) == (1, ["lock", "newest", "newest-python"])
    assert "\nold\n" not in text
    rows = [line for line in text.splitlines() if line.startswith("| the ")]
    of = environments.commit().removesuffix("+")
    assert rows[0].startswith("| the declared lower bounds | 3.11.7 | 2.13.0 |  |  | 2.0.0 |  |  | 8 | 3 |")
    assert [row.rpartition(f" | {of} |")[2] for row in rows] == [""] * 4
    assert [row.split(" | ")[8:10] for row in rows[1:]] == [["10", "0"]] * 3
    assert [row.split(" | ")[1] for row in rows] == ["3.11.7"] * 3 + ["3.13.0"]
    assert go()[1] == []
    assert go("--only", "lock", "newest")[1] == ["lock", "newest"]


def test_the_oldest_python_is_not_tried_as_the_newest(environments, monkeypatch):
    monkeypatch.setattr("sys.argv", ["environments.py", "range", "--newest-python", "python3.11"])
    with pytest.raises(
        SystemExit, match=r"no Python newer than 3.11.7 answers here; name one with --newest-python"
    ):
        environments.main()
    assert not environments.ran
    # the other rows need none
    monkeypatch.setattr("sys.argv", [*sys.argv, "--only", "lock"])
    assert environments.main() == 0
    assert environments.ran == ["lock"]


@pytest.mark.parametrize("name", ["src/code.py", "pyproject.toml", "lock.txt"])
def test_a_row_of_other_code_is_run_anew(environments, tmp_path, monkeypatch, name):
    def go():
        return run_range(environments, tmp_path, monkeypatch)[1]

    assert len(go()) == 4
    commit(environments.ROOT)  # the table
    assert go() == []
    changed = environments.ROOT / name
    changed.write_text(changed.read_text() + "\n")
    assert len(go()) == 4
    assert len(go()) == 4  # what no commit holds is never the same
    commit(environments.ROOT)
    assert len(go()) == 4
    assert go() == []


@pytest.mark.parametrize(
    "outcome", [(1, "10 passed"), (0, "1 failed, 9 passed"), (5, "no tests ran"), (2, "")]
)
def test_what_does_not_fit_together_is_no_row_without_failures(environments, monkeypatch, tmp_path, outcome):
    monkeypatch.setattr(environments, "run_tests", lambda _: outcome)
    assert environments.test_row(tmp_path)["failed"] not in ("0", "")


def test_lower_bounds_are_those_of_the_library_and_of_what_it_is_used_with(environments):
    bounds = ["torch==2.8", "accelerate==1.13", "vl-convert-python==1.8", "lm-eval==0.4.9"]
    assert environments.lower_bounds() == bounds
