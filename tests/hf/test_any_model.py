"""A causal model by its folder, ours or another's, with errors one can act on."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_llama import save_tiny_llama

from unimatrix.errors import UserError
from unimatrix.hf import ByteTokenizer, UniMatrixForCausalLM
from unimatrix.hf.any_model import load_causal


@pytest.fixture
def ours(make_model, tmp_path):
    make_model("unimatrix-core", max_positions=64).save_pretrained(tmp_path / "ours")
    ByteTokenizer(prepend_bos=True).save_pretrained(tmp_path / "ours")
    return tmp_path / "ours"


@pytest.fixture
def llama(tmp_path):
    return save_tiny_llama(tmp_path / "llama")


def test_a_model_of_ours(ours) -> None:
    found = load_causal(ours, device="cpu")
    assert isinstance(found.model, UniMatrixForCausalLM)
    assert isinstance(found.tokenizer, ByteTokenizer)
    assert (found.max_positions, found.folder, found.model.training) == (64, ours, False)


def test_a_model_of_ours_with_words_for_tokens(ours, llama) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (ours / name).write_bytes((llama / name).read_bytes())
    found = load_causal(ours)
    assert isinstance(found.model, UniMatrixForCausalLM)
    assert type(found.tokenizer) is type(load_causal(llama).tokenizer)
    assert found.tokenizer("ab").input_ids == load_causal(llama).tokenizer("ab").input_ids


def test_another_model_in_the_numbers_it_was_saved_in(llama, capfd) -> None:
    capfd.readouterr()
    found = load_causal(str(llama))
    assert capfd.readouterr().err == ""
    assert (type(found.model).__name__, found.max_positions, found.model.training) == (
        "LlamaForCausalLM",
        2000,
        False,
    )
    assert found.tokenizer("ab").input_ids[0] == 0
    found.model.to(torch.bfloat16).save_pretrained(llama)
    assert load_causal(llama).model.dtype == torch.bfloat16


def test_the_files_that_answers_hang_on_are_in_the_sum(llama) -> None:
    before = load_causal(llama).sha256()
    (llama / "README.md").write_text("nothing that is read")
    assert load_causal(llama).sha256() == before
    settings = json.loads((llama / "generation_config.json").read_text())
    (llama / "generation_config.json").write_text(json.dumps(settings | {"eos_token_id": 7}))
    other = load_causal(llama).sha256()
    weights = load_file(llama / "model.safetensors")
    weights["model.norm.weight"] += 1.0
    save_file(weights, llama / "model.safetensors", metadata={"format": "pt"})
    assert len({before, other, load_causal(llama).sha256()}) == 3


def test_what_cannot_be_loaded_is_told(llama, tmp_path) -> None:
    def told(expected: str) -> None:
        with pytest.raises(UserError, match=expected) as refused:
            load_causal(llama)
        assert "\n" not in str(refused.value)

    weights = load_file(llama / "model.safetensors")
    without = {name: weight for name, weight in weights.items() if name != "model.norm.weight"}
    save_file(without, llama / "model.safetensors", metadata={"format": "pt"})
    told("no weights for model.norm.weight")
    nan = weights | {"model.norm.weight": torch.full((16,), torch.nan)}
    save_file(nan, llama / "model.safetensors", metadata={"format": "pt"})
    told("the weights hold NaN or infinities, in model.norm.weight")
    (llama / "model.safetensors").write_bytes(b"\x08\x00")
    told("the weights are cut short or corrupt")
    config = json.loads((llama / "config.json").read_text())
    # its own code would be run, were it asked for
    (llama / "config.json").write_text(
        json.dumps(config | {"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}})
    )
    told("cannot be loaded")
    (llama / "config.json").write_text("[]")
    told("expected an object with fields")
    (llama / "config.json").unlink()
    told("no model in this folder")
    with pytest.raises(UserError, match="no such folder"):
        load_causal(tmp_path / "nowhere")


def test_a_model_without_a_tokenizer_is_told(llama) -> None:
    for path in llama.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(UserError, match=r"llama: cannot be loaded \("):
        load_causal(llama)
