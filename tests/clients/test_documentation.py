"""Each Python block of the pages that show code runs, one after another, with a folder of its own."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


# TRL and PEFT use names that transformers has replaced
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*torch.ao.quantization is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*quantized:UserWarning")
@pytest.mark.filterwarnings("ignore:.*You are using packing, but the attention implementation:UserWarning")
@pytest.mark.parametrize("page", ["huggingface.md", "architecture.md"])
def test_every_block_of_the_page_runs(page, tmp_path, monkeypatch, capsys):
    text = (DOCS / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    names: dict[str, object] = {"__name__": "page", "folder": str(tmp_path / "model")}
    assert blocks
    for block in blocks:
        exec(compile(block, f"{page}: {block.splitlines()[0]}", "exec"), names)
    capsys.readouterr()
