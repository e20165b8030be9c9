"""The pages of docs/ keep their word: their code runs, their tables are the rows', their links lead."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import nbclient
import nbformat
import pytest

from unimatrix.cli import COMMANDS, main
from unimatrix.lab.page import render_report
from unimatrix.lab.words import summarise
from unimatrix.studies.catalogue import ALL
from unimatrix.studies.paper.claims import PAPER

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = {page.stem: page.read_text(encoding="utf-8") for page in sorted(DOCS.glob("*.md"))}
BLOCKS = {
    name: blocks
    for name, text in PAGES.items()
    if (blocks := re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
}
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))


# TRL and PEFT use names that transformers has replaced; torch tells of a machine without an accelerator
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*torch.ao.quantization is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*quantized:UserWarning")
@pytest.mark.filterwarnings("ignore:.*You are using packing, but the attention implementation:UserWarning")
@pytest.mark.filterwarnings("ignore:.*pin_memory:UserWarning")
@pytest.mark.parametrize("page", BLOCKS)
def test_every_block_of_the_page_runs(page, tmp_path, monkeypatch, capsys):
    """One after another, in a folder of their own; a page that names a run finds it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code = "".join(BLOCKS[page])
    if "mytext" in code:
        Path("mytext.txt").write_text("Once upon a time there was a text of one's own. " * 100)
    if "runs/mytext-unimatrix" in code:
        assert main(["train", "mytext.txt", "--steps", "2", "--batch-size", "2", "--tracker", "none"]) == 0
    names: dict[str, object] = {"__name__": "page", "folder": str(tmp_path / "model")}
    for block in BLOCKS[page]:
        exec(compile(block, f"{page}: {block.splitlines()[0]}", "exec"), names)
    capsys.readouterr()


def test_pages_that_show_how_have_code():
    adding = {"add-a-part", "add-a-study", "add-a-task", "add-an-op"}
    assert adding | {"concepts", "getting-started", "huggingface", "long-texts", "training"} <= set(BLOCKS)


def test_tables_are_what_the_committed_rows_say():
    done = subprocess.run(
        [sys.executable, ROOT / ".ci" / "pages.py", "--check"], capture_output=True, text=True, check=False
    )
    # else: python .ci/pages.py
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_score_is_that_of_the_report(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / ".ci"))
    import pages

    page = render_report(pages.summaries(), PAPER)
    said = re.search(
        r"for (\d+) claims: (\d+) reproduced, (\d+) not reproduced, (\d+) undecided, (\d+) open", page
    )
    assert said is not None
    assert list(said.groups()) == re.findall(r"\d+", pages.score())
    further = {found.study.name for found in pages.summaries()} - ALL.keys()
    assert len(pages.summaries()) == len(ALL) + len(further)
    assert all(name.startswith("streaming-") for name in further), "a study's other texts"


def test_studies_of_which_nothing_has_run_stand_in_one_line(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / ".ci"))
    import pages

    study = dataclasses.replace(next(study for study in ALL.values() if study.trained), title="New: one")
    monkeypatch.setattr(pages, "_summaries", [summarise(study, {})])
    line = "Studies of which nothing has run yet: New: one."
    assert pages.studies().split("\n\n") == ["## Not measured yet", f"{line}\n"]


def test_a_table_that_was_changed_by_hand_is_found(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / ".ci"))
    import pages

    page = tmp_path / "page.md"
    monkeypatch.setattr(pages, "PAGES", (page,))
    page.write_text("before\n<!-- made: presets -->\n<!-- /made -->\nafter\n")
    for arguments, code, printed in (
        ([], 0, "written"),
        (["--check"], 0, ""),
    ):
        monkeypatch.setattr(sys, "argv", ["pages.py", *arguments])
        assert pages.main() == code
        assert printed in capsys.readouterr().out
    whole = page.read_text()
    assert whole.startswith("before\n")
    assert whole.endswith("<!-- /made -->\nafter\n")
    page.write_text(whole.replace("83,140", "83,141"))
    assert pages.main() == 1
    assert capsys.readouterr().out == f"{page.name}: is not what the rows say\n"


@pytest.mark.parametrize("page", PAGES)
def test_lines_of_prose_are_short(page):
    assert [line for line in PAGES[page].splitlines() if len(line) > 120 and not line.startswith("|")] == []


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_files_that_a_page_names_are_there(page):
    shell = "".join(re.findall(r"^```sh\n(.*?)^```", PAGES[page], re.MULTILINE | re.DOTALL))
    assert set(re.findall(r"\bunimatrix (\w+) ", shell)) <= set(COMMANDS)
    prose = re.sub(r"^```.*?^```", "", PAGES[page], flags=re.MULTILINE | re.DOTALL)
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", prose)
    assert [target for target in targets if not (DOCS / target).exists()] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path):
    """As it stands, but for a training of a few steps; it is committed with what its cells gave."""
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    assert not [output for cell in code for output in cell.outputs if output.output_type == "error"]
    for cell in code:
        cell.source = cell.source.replace("STEPS = 200", "STEPS = 4")
    nbclient.NotebookClient(
        notebook, timeout=150, resources={"metadata": {"path": str(path.parent)}}
    ).execute()


def test_there_are_notebooks():
    assert {path.stem for path in NOTEBOOKS} == {"own-model", "state"}
