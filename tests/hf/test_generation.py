"""load() by folder, run or hub name, with errors one can act on."""

import json
import re
import shutil

import pytest
import torch

from unimatrix.errors import UserError
from unimatrix.hf import ByteTokenizer, load
from unimatrix.models import preset_config


@pytest.fixture
def folder(make_model, tmp_path):
    path = tmp_path / "saved"
    make_model("unimatrix-core").save_pretrained(path)
    ByteTokenizer(prepend_bos=True).save_pretrained(path)
    return path


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def logits(model):
    with torch.no_grad():
        return model(torch.tensor([list(b"some text")])).logits


def test_load_a_folder(folder, make_model, capfd):
    model, tokenizer = load(str(folder), device="cpu")
    assert torch.equal(logits(model), logits(make_model("unimatrix-core")))
    assert not model.training
    assert tokenizer.prepend_bos
    (folder / "tokenizer_config.json").unlink()
    assert not load(folder)[1].prepend_bos
    assert capfd.readouterr() == ("", "")


def test_load_takes_the_newest_complete_checkpoint_of_a_run(make_model, tmp_path):
    for seed, step in enumerate([5, 80, 9, 100, 120]):
        make_model("unimatrix-core", seed=seed).save_pretrained(tmp_path / f"checkpoint-{step:06d}")
    (tmp_path / "checkpoint-000120" / "model.safetensors").unlink()
    (tmp_path / "checkpoint-000100").rename(tmp_path / "checkpoint-000100.part")
    model, _ = load(tmp_path)
    assert torch.equal(logits(model), logits(make_model("unimatrix-core", seed=1)))


def test_load_by_hub_name_works_from_the_cache_without_a_network(folder, no_network, make_model):
    repository = no_network / "models--someone--small"
    shutil.copytree(folder, repository / "snapshots" / ("0" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    model, _ = load("someone/small")
    assert torch.equal(logits(model), logits(make_model("unimatrix-core")))


def cut(path, keep):
    path.write_bytes(path.read_bytes()[:keep])


def set_config(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


LARGER = preset_config("unimatrix-core", d_model=16, num_heads=2, depth=2, state_dim=9).to_dict()


@pytest.mark.parametrize(
    "name",
    ["config.json", "generation_config.json", "tokenizer_config.json", "model.safetensors.index.json"],
)
@pytest.mark.parametrize("content", [b"[" * 100_000, b"[]", b"3", b"\xff{}", b"{", b'{"a": NaN}', b""])
def test_a_file_that_is_no_settings_is_named(folder, name, content, capfd):
    (folder / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        load(folder)
    assert str(caught.value).startswith(f"{folder / name}: ")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: cut(f / "model.safetensors", 20_000), "cut short or corrupt"),
        (lambda f: cut(f / "model.safetensors", 4), "cut short or corrupt"),
        (lambda f: cut(f / "model.safetensors", 0), "cut short or corrupt"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 5000), "cut short or corrupt"),
        (lambda f: (f / "model.safetensors").unlink(), "no weights, expected model.safetensors"),
        (lambda f: (f / "config.json").unlink(), "no model in this folder"),
        (lambda f: cut(f / "config.json", 30), r"config\.json: expected JSON"),
        (lambda f: (f / "config.json").write_text("[1]"), "expected an object with fields"),
        (lambda f: (f / "config.json").write_text("{}"), "expected model_type 'unimatrix', got None"),
        (lambda f: set_config(f, model_type="llama"), "expected model_type 'unimatrix', got 'llama'"),
        (lambda f: set_config(f, model={"d_modle": 3}), "unknown setting 'd_modle'"),
        (lambda f: set_config(f, model={"d_model": -3}), "d_model: expected a whole number"),
        (lambda f: set_config(f, model=[1]), r"model config: expected an object with settings, got \[1\]"),
        (
            lambda f: set_config(f, model={}),
            "hidden_size: expected 64 as in the model's own settings, got 16",
        ),
        (lambda f: set_config(f, hidden_size="x"), "hidden_size: expected 16 .* got 'x'"),
        (lambda f: set_config(f, model=LARGER), "no weights, or of the wrong shape, for language_model"),
        (lambda f: cut(f / "tokenizer_config.json", 9), r"tokenizer_config\.json: expected JSON"),
    ],
)
def test_a_damaged_folder_is_named_in_one_line(folder, damage, message, capfd):
    damage(folder)
    with pytest.raises(UserError, match=message) as caught:
        load(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_weights_of_another_model_are_refused(folder, make_model):
    shutil.rmtree(folder)
    make_model("unimatrix-rosa").save_pretrained(folder)
    set_config(folder, model=make_model("unimatrix-core").config.model)
    with pytest.raises(
        UserError, match=r"do not belong to its config\.json; unknown: language_model\.routing"
    ):
        load(folder)


def test_a_model_without_the_byte_vocabulary_is_refused(folder, make_model):
    make_model("unimatrix-core", vocab_size=64).save_pretrained(folder)
    with pytest.raises(UserError, match="a vocabulary of 64 tokens is no text, expected 259"):
        load(folder)


def test_a_model_with_another_tokenizer_is_refused(folder, make_model):
    settings = folder / "tokenizer_config.json"
    settings.write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    with pytest.raises(UserError, match=r"expected a model that reads bytes, .* 'PreTrainedTokenizerFast'"):
        load(folder)
    settings.write_text(json.dumps({"tokenizer_class": "a\nb" * 999}))
    with pytest.raises(UserError, match=r"^.{1,400}$"):
        load(folder)
    settings.unlink()
    for name in ("tokenizer.json", "vocab.txt"):
        (folder / name).write_text("{}")
        with pytest.raises(UserError, match=rf"reads bytes, got one with a {re.escape(name)};"):
            load(folder)
        (folder / name).unlink()


def test_a_device_that_is_not_there(folder):
    for device in ("cuda:99", "no-such-device"):
        with pytest.raises(UserError, match=f"device '{device}': not available"):
            load(folder, device=device)


@pytest.mark.parametrize("wrong", [None, 3, b"x", ["x"], "x" * 5000, "~no-such-user/x", "a\0b", "\ud800"])
def test_what_is_no_path_is_named(wrong, no_network):
    with pytest.raises(UserError, match=r"path_or_hub_name: expected|no such folder") as caught:
        load(wrong)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("wrong", [3, [], True, "", "nosuch", "cpu:x", "\0"])
def test_what_is_no_device_is_named(folder, wrong):
    with pytest.raises(UserError, match=r"^device") as caught:
        load(folder, device=wrong)
    assert "\n" not in str(caught.value)


WRONG_SETTINGS = [
    *(("temperature", wrong) for wrong in ("x", -1, True, [])),
    *((name, wrong) for name in ("top_p", "min_p", "typical_p") for wrong in ("x", 5, -0.5, {})),
    *(
        (name, wrong)
        for name in ("eos_token_id", "bos_token_id", "pad_token_id")
        for wrong in ({}, "x", -2, 259, 1.5, ["x"], [[3]])
    ),
    ("bos_token_id", -1),
    *((name, wrong) for name in ("max_new_tokens", "max_length", "num_beams") for wrong in (-1, 0, 1.5, "x")),
    *((name, wrong) for name in ("top_k", "min_new_tokens") for wrong in (-1, 1.5, "x")),
    *((name, wrong) for name in ("do_sample", "use_cache", "output_scores") for wrong in ("yes", 1, [])),
    *(("repetition_penalty", wrong) for wrong in ("x", 0, -1)),
    *(("stop_strings", wrong) for wrong in (3, "", [3], {})),
    ("early_stopping", "x"),
    ("cache_implementation", "nosuch"),
    ("watermarking_config", 3),
]


@pytest.mark.parametrize(("name", "wrong"), WRONG_SETTINGS, ids=str)
def test_a_wrong_setting_of_generation_is_named(folder, name, wrong, capfd):
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: wrong}))
    with pytest.raises(UserError) as caught:
        load(folder)
    assert str(caught.value).startswith(f"{path}: ")
    assert name in str(caught.value) or name == "watermarking_config"
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_right_settings_of_generation_are_taken(folder):
    path = folder / "generation_config.json"
    settings = {"temperature": 0.7, "top_p": 1, "top_k": 0, "do_sample": True, "max_new_tokens": 3}
    settings |= {"eos_token_id": [257, 10], "repetition_penalty": 1.1, "stop_strings": ["a"], "min_p": None}
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    loaded = load(folder)[0].generation_config
    assert {name: getattr(loaded, name) for name in settings} == settings


@pytest.mark.parametrize(("name", "wrong"), [("errors", 3), ("prepend_bos", "yes"), ("padding_side", "up")])
def test_a_wrong_setting_of_the_tokenizer_is_named(folder, name, wrong):
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: wrong}))
    with pytest.raises(UserError, match=f"{name}: expected") as caught:
        load(folder)
    assert str(caught.value).startswith(f"{path}: ")


def test_names_that_lead_nowhere(tmp_path, no_network):
    with pytest.raises(UserError, match=r"no such folder$"):
        load(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"no such folder$"):
        load("./runs/a/b")
    with pytest.raises(UserError, match="got an empty text"):
        load("")
    with pytest.raises(UserError, match="no model in this folder"):
        load(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="expected a folder or a hub name, got a file"):
        load(tmp_path / "file")
    with pytest.raises(
        UserError, match=r"^some/model: no such folder, and the Hugging Face hub cannot be reached"
    ):
        load("some/model")
