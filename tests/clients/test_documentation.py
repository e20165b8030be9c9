"""Each Python block of docs/huggingface.md runs, one after another, with a folder of its own."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "huggingface.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


# TRL and PEFT use names that transformers has replaced
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*torch.ao.quantization is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*quantized:UserWarning")
def test_every_block_of_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    names: dict[str, object] = {"folder": str(tmp_path / "model")}
    assert BLOCKS
    for block in BLOCKS:
        exec(compile(block, f"{PAGE.name}: {block.splitlines()[0]}", "exec"), names)
    capsys.readouterr()
