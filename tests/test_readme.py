"""The README keeps its word: its Python runs, its files exist, its commands are there, it is short."""

import re
from pathlib import Path

import torch

import unimatrix
from unimatrix.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def run(block: str) -> None:
    exec(compile(block, "README.md", "exec"), {})


def test_the_quickstart_runs(capsys):
    assert len(BLOCKS[0].strip().splitlines()) <= 12
    run(BLOCKS[0])
    printed = capsys.readouterr().out
    found = re.match(r"(\d+) bytes: 12808 that stay, and at most 70 for each token of text\nHello", printed)
    assert found is not None
    without = unimatrix.build("unimatrix", **{"parts.suffix": None})
    assert unimatrix.state_bytes(without(torch.zeros(1, 62, dtype=torch.long))[1]) == 12808
    assert 12808 < int(found[1]) <= 12808 + 70 * 62


def test_the_other_blocks_run():
    assert len(BLOCKS) > 1
    for block in BLOCKS[1:]:
        run(block)


def test_it_is_short():
    lines = README.splitlines()
    assert len(lines) < 150
    assert max(map(len, lines)) <= 120


def test_linked_files_exist():
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_every_command_named_is_a_command():
    named = set(re.findall(r"\bunimatrix (\w+) ", README))
    assert named - {"COMMAND"} <= set(COMMANDS)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"make (\w+)", README):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
