"""The README keeps its word: its Python runs, its files exist, its counts are those of the built models."""

import re
from pathlib import Path

import pytest

import unimatrix
from unimatrix.cli import main
from unimatrix.models import parameter_count, peer_presets

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def run(block: str) -> None:
    exec(compile(block, "README.md", "exec"), {})


def test_the_quickstart_runs(capsys):
    assert len(BLOCKS[0].strip().splitlines()) <= 12
    run(BLOCKS[0])
    printed = capsys.readouterr().out
    assert printed.startswith("12296 bytes, now and after a million tokens\nHello")


@pytest.mark.filterwarnings("ignore:.*pin_memory:UserWarning")  # torch's, of a machine without an accelerator
def test_the_other_blocks_run_on_the_run_that_they_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = tmp_path / "mytext.txt"
    text.write_text("Once upon a time there was a text of one's own. " * 100)
    assert main(["train", "mytext.txt", "--steps", "2", "--batch-size", "2", "--tracker", "none"]) == 0
    assert len(BLOCKS) > 1
    for block in BLOCKS[1:]:
        run(block)
    assert "Once upon" in capsys.readouterr().out


def test_linked_files_exist():
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


@pytest.mark.parametrize("name", unimatrix.presets() | peer_presets())
def test_the_table_of_presets_is_true(name):
    (row,) = re.findall(rf"^\| `{name}`[^|]* \| ([\d,]+) \| ([\d,]+) \|", README, flags=re.MULTILINE)
    for printed, vocab_size in zip(row, (259, 64), strict=True):
        model = unimatrix.build(name, vocab_size=vocab_size)
        assert int(printed.replace(",", "")) == parameter_count(model)


def test_every_command_named_is_a_command():
    from unimatrix.cli import COMMANDS

    named = set(re.findall(r"\bunimatrix (\w+) ", README))
    assert named - {"COMMAND"} <= set(COMMANDS)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"make (\w+)", README):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
