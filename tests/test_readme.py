"""The README keeps its word: its Python runs, its files exist, its counts are those of the built models."""

import re
from pathlib import Path

import pytest

import unimatrix
from unimatrix.models import parameter_count, peer_presets

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_quickstart_runs(capsys):
    (block,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(block.strip().splitlines()) <= 12
    exec(compile(block, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert printed.startswith("12296 bytes, now and after a million tokens\nHello")


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
