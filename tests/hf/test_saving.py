"""From memory to disk and back through the Auto classes, to the bit, and nothing but the saved weights."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer

from unimatrix.errors import UserError
from unimatrix.hf import ByteTokenizer, UniMatrixConfig, UniMatrixForCausalLM, UniMatrixModel, load
from unimatrix.hf.config import CODE
from unimatrix.mixers import (
    AttentionConfig,
    ClassHeadConfig,
    DeepEmbedConfig,
    LSTMConfig,
    SlotMemoryConfig,
    SpectralLinear,
    SuffixVotesConfig,
)
from unimatrix.models import ModelConfig, preset_config

IDS = torch.tensor([list(b"the same to the last bit"), [*b"whatever text there may", 0]])


def edit_weights(folder, change):
    """Apply `change` to the saved tensors."""
    path = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def test_the_auto_classes_give_back_the_same_logits(preset, make_model, tmp_path, capfd):
    model = make_model(preset)
    model.save_pretrained(tmp_path)
    ByteTokenizer().save_pretrained(tmp_path)
    before = torch.get_rng_state()
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    assert type(loaded) is UniMatrixForCausalLM
    assert not loaded.training
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    with torch.no_grad():
        assert torch.equal(loaded(IDS).logits, model(IDS).logits)
    generated = loaded.generate(IDS, max_new_tokens=6, do_sample=False)
    assert torch.equal(generated, model.generate(IDS, max_new_tokens=6, do_sample=False))
    assert type(AutoTokenizer.from_pretrained(tmp_path)) is ByteTokenizer
    assert AutoConfig.from_pretrained(tmp_path).to_model_config() == model.language_model.config
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors", ".py"}
    assert [path.read_text() for path in tmp_path.glob("*.py")] == [CODE]
    assert capfd.readouterr() == ("", "")


def test_a_model_in_training_mode_saves_the_same_weights(make_model, tmp_path):
    model = make_model("unimatrix-discovery").train()
    model(IDS)  # spectral normalisation moves its vectors in training
    model.save_pretrained(tmp_path)
    loaded = UniMatrixForCausalLM.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded(IDS).logits, model.eval()(IDS).logits)


def test_loading_reads_the_file(preset, make_model, tmp_path):
    model = make_model(preset)
    model.save_pretrained(tmp_path)
    edit_weights(tmp_path, lambda tensors: [tensor.mul_(1.5) for tensor in tensors.values()])
    loaded = UniMatrixForCausalLM.from_pretrained(tmp_path)
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor * 1.5), name


def test_the_loaded_weights_are_no_views_of_the_file(make_model, tmp_path):
    model = make_model("unimatrix-core")
    model.save_pretrained(tmp_path)
    loaded = UniMatrixForCausalLM.from_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2)
        file.write(b"\xff" * (size - size // 2))
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert all(tensor.data_ptr() % 64 == 0 for tensor in loaded.state_dict().values())


def test_what_half_a_checkpoint_lacks_is_told_and_drawn_as_in_a_fresh_model(preset, make_model, tmp_path):
    make_model(preset, dropout=0.0).save_pretrained(tmp_path)
    names = list(load_file(tmp_path / "model.safetensors"))
    buffers = [name for name in names if name.endswith(".u")]
    assert bool(buffers) == preset.startswith("unimatrix-discovery")
    for name in ["language_model.embedding.weight", names[0], names[-1], *buffers[:1]]:
        folder = tmp_path / "half"
        shutil.copytree(tmp_path, folder)
        edit_weights(folder, lambda tensors, name=name: tensors.pop(name))
        with pytest.raises(UserError, match=f"no weights, or of the wrong shape, for {name}"):
            load(folder)
        loaded, info = UniMatrixForCausalLM.from_pretrained(folder, output_loading_info=True)
        assert set(info["missing_keys"]) == {name}
        whole = load_file(tmp_path / "model.safetensors")
        for other, tensor in loaded.state_dict().items():
            redrawn = other == name or (
                name.endswith(".u") and other == name[:-1] + "v"
            )  # they belong together
            assert torch.equal(tensor, whole[other]) != redrawn, other
        drawn = loaded.state_dict()[name]
        assert torch.isfinite(drawn).all()
        assert drawn.std() < 1.5 * loaded.config.to_model_config().init_std or name.endswith(
            ("addresses", ".u", "norm.weight", "mixture.weights")
        )
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("preset", "changes"),
    [
        ("unimatrix-core", {"parts.memory": SlotMemoryConfig()}),
        ("transformer", {"layers.*.recurrence": LSTMConfig()}),
        ("unimatrix-core", {"layers.0.attention": AttentionConfig(qkv_init="xavier")}),
        ("unimatrix-core", {"parts.deep_embed": DeepEmbedConfig(), "parts.suffix": SuffixVotesConfig()}),
        ("unimatrix-core", {"spectral_norm": True}),
    ],
    ids=["memory", "lstm", "xavier", "tables", "spectral"],
)
def test_what_a_config_adds_starts_as_in_a_fresh_model(make_model, tmp_path, preset, changes):
    model = make_model(preset)
    model.save_pretrained(tmp_path)
    config = UniMatrixConfig.from_preset(model.language_model.config, **changes)
    loaded, info = UniMatrixForCausalLM.from_pretrained(tmp_path, config=config, output_loading_info=True)
    fresh, file = UniMatrixForCausalLM(config).state_dict(), load_file(tmp_path / "model.safetensors")
    assert info["missing_keys"]
    for name, tensor in loaded.state_dict().items():
        if name in file.keys() - info["missing_keys"]:
            assert torch.equal(tensor, file[name]), name
        elif tensor.numel() < 2 or fresh[name].std() == 0:
            assert torch.equal(tensor, fresh[name]), name
        else:
            expected = float(fresh[name].std())
            assert float(tensor.std()) == pytest.approx(expected, rel=6 * tensor.numel() ** -0.5), name
    for module in loaded.modules():
        if isinstance(module, SpectralLinear):
            u, v = module.u.clone(), module.v.clone()
            module.settle()
            assert torch.equal(module.u, u)
            assert torch.equal(module.v, v)
    assert torch.isfinite(loaded(IDS).logits).all()


def test_memory_without_weights_gets_those_of_a_fresh_model(preset, make_model):
    config = make_model(preset).config
    with torch.device("meta"):
        empty = UniMatrixForCausalLM(config)
    empty.to_empty(device="cpu")
    empty.init_weights()
    fresh = UniMatrixForCausalLM(config)
    for name, tensor in fresh.state_dict().items():
        got = empty.state_dict()[name]
        if tensor.numel() > 1 and tensor.std() > 0:
            assert float(got.std()) == pytest.approx(float(tensor.std()), rel=5 * tensor.numel() ** -0.5), (
                name
            )
        else:
            assert torch.equal(got, tensor), name
    assert torch.isfinite(empty(IDS).logits).all()


def test_weights_of_another_shape_are_refused(make_model, tmp_path):
    make_model("unimatrix-core").save_pretrained(tmp_path)
    edit_weights(tmp_path, lambda t: t.update({"language_model.norm.weight": torch.ones(17)}))
    with pytest.raises(UserError, match=r"wrong shape, for language_model\.norm\.weight$"):
        load(tmp_path)
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        UniMatrixForCausalLM.from_pretrained(tmp_path)


@pytest.mark.parametrize("cls", [UniMatrixForCausalLM, UniMatrixModel, AutoModel, AutoModelForCausalLM])
def test_a_folder_loads_with_and_without_the_head(preset, make_model, tmp_path, cls):
    model = make_model(preset)
    model.save_pretrained(tmp_path / "with")
    model.base_model.save_pretrained(tmp_path / "without")
    with torch.no_grad():
        expected = model.base_model(IDS).last_hidden_state
        for folder in ("with", "without"):
            loaded, info = cls.from_pretrained(tmp_path / folder, output_loading_info=True)
            assert not info["missing_keys"] | info["unexpected_keys"]
            assert torch.equal(loaded.base_model(IDS).last_hidden_state, expected)


BEFORE = "language_model.blocks.0.mixer."


def older(tensors):
    """Under the name that these had until 0.1."""
    parts = [tensors.pop(BEFORE + f"{x}.weight") for x in ("d", "qkv")]
    tensors[BEFORE + "dqkv.weight"] = torch.cat(parts)


def test_the_files_of_earlier_versions_load(make_model, tmp_path):
    model = make_model("unimatrix-core")
    model.save_pretrained(tmp_path)
    edit_weights(tmp_path, older)
    for loaded in (AutoModelForCausalLM.from_pretrained(tmp_path), load(tmp_path)[0]):
        assert torch.equal(loaded(IDS).logits, model(IDS).logits)
        assert loaded.name_or_path == str(tmp_path)


def in_two_files(folder):
    """One file as two and their index, what belongs together apart."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    where = {}
    for number in (1, 2):
        file = f"model-0000{number}-of-00002.safetensors"
        some = {name: tensors[name] for name in sorted(tensors)[number - 1 :: 2]}
        save_file(some, folder / file, metadata={"format": "pt"})
        where |= dict.fromkeys(some, file)
    index = {"metadata": {"total_size": 0}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_an_earlier_versions_several_files_and_subfolders_load(make_model, tmp_path):
    model = make_model("unimatrix-core")
    folder = tmp_path / "sub" / "folder"
    for upgrade in (False, True):
        model.save_pretrained(folder)
        if upgrade:
            edit_weights(folder, older)
        for several in (False, True):
            if several:
                in_two_files(folder)
            for loaded in (
                UniMatrixForCausalLM.from_pretrained(tmp_path, subfolder="sub/folder"),
                AutoModelForCausalLM.from_pretrained(folder),
                load(folder)[0],
            ):
                assert torch.equal(loaded(IDS).logits, model(IDS).logits)
        shutil.rmtree(folder)


def test_an_earlier_versions_weights_are_not_drawn_anew(make_model, tmp_path):
    """In a file that is not looked into: transformers would draw them, and say so in its report alone."""
    model = make_model("unimatrix-core")
    model.save_pretrained(tmp_path)
    edit_weights(tmp_path, older)
    (tmp_path / "model.safetensors").rename(tmp_path / "model.fp16.safetensors")
    with pytest.raises(UserError, match=r"expected this version's weights.*, got .*dqkv\.weight") as caught:
        UniMatrixForCausalLM.from_pretrained(tmp_path, variant="fp16")
    assert "\n" not in str(caught.value)


def test_a_mixer_that_mixes_rules_keeps_what_an_earlier_version_would_have_named_so(make_model):
    model, other = (make_model("unimatrix-core", rule_mixing=True, seed=n).language_model for n in (0, 1))
    name = "blocks.0.mixer.dqkv.weight"
    weight = model.state_dict()[name]
    missing, unexpected = other.load_state_dict({name: weight}, strict=False)
    assert name not in missing
    assert not unexpected
    assert torch.equal(other.state_dict()[name], weight)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_loading_in_another_dtype(preset, make_model, tmp_path, dtype):
    model = make_model(preset)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype)
    assert {tensor.dtype for tensor in loaded.parameters()} == {dtype}
    for name, tensor in model.named_parameters():
        assert torch.equal(loaded.get_parameter(name), tensor.to(dtype)), name
    assert torch.isfinite(loaded(IDS).logits).all()
    loaded.save_pretrained(tmp_path / "again")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    assert again.dtype == dtype
    assert torch.equal(again(IDS).logits, loaded(IDS).logits)


def test_config_holds_the_whole_model_config(preset, tmp_path):
    model_config = preset_config(preset, d_model=32, vocab_size=64, dropout=0.25, max_positions=None)
    config = UniMatrixConfig.from_model_config(model_config)
    assert (config.vocab_size, config.hidden_size, config.num_hidden_layers) == (64, 32, model_config.depth)
    assert config.num_attention_heads == 4
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (None, None, None)
    config.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert ModelConfig.from_dict(stored["model"]) == model_config
    assert UniMatrixConfig.from_pretrained(tmp_path).to_model_config() == model_config


def test_default_config_is_written_out_in_full(tmp_path):
    UniMatrixConfig().save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored["model"] == preset_config("unimatrix-core").to_dict()
    assert (stored["bos_token_id"], stored["eos_token_id"], stored["pad_token_id"]) == (256, 257, 258)


@pytest.mark.parametrize("vocab_size", [64, 258, 300, 50_000])
def test_special_ids_are_those_of_bytes_in_their_vocabulary_alone(vocab_size, tmp_path):
    """Elsewhere 256 to 258 are tokens like others: a text would end at one of them, without a word."""
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    of_preset = UniMatrixConfig.from_preset("unimatrix-core", vocab_size=vocab_size)
    changed = UniMatrixConfig()
    changed.vocab_size = vocab_size
    for config in (of_preset, changed, UniMatrixConfig(vocab_size=vocab_size)):
        assert [getattr(config, name) for name in names] == [None] * 3
        assert config.to_dict()["eos_token_id"] is None
        config.eos_token_id = 57
        config.vocab_size = vocab_size  # as resizing to the same size does
        config.save_pretrained(tmp_path)
        loaded = UniMatrixConfig.from_pretrained(tmp_path)
        assert [getattr(loaded, name) for name in names] == [None, 57, None]
    own = UniMatrixConfig(eos_token_id=7, pad_token_id=0)
    with pytest.raises(UserError):
        own.vocab_size = -1
    assert [getattr(own, name) for name in names] == [256, 7, 0]
    own.vocab_size = vocab_size
    assert [getattr(own, name) for name in names] == [None, 7, 0]
    UniMatrixConfig().save_pretrained(tmp_path)
    asked = UniMatrixConfig.from_pretrained(tmp_path, eos_token_id=7, vocab_size=vocab_size)
    assert [getattr(asked, name) for name in names] == [None, 7, None]
    given = UniMatrixConfig(model=of_preset.model, bos_token_id=1, eos_token_id=[2, 3], pad_token_id=0)
    assert [getattr(given, name) for name in names] == [1, [2, 3], 0]
    assert [type(getattr(UniMatrixConfig(), name)) for name in names] == [int] * 3


def test_config_with_an_unknown_model_setting_raises():
    with pytest.raises(UserError, match="unknown setting 'd_modle'"):
        UniMatrixConfig(model={"d_modle": 64})


def test_a_wrapped_model_is_saved_under_the_names_it_loads_from(make_model, tmp_path):
    expected = make_model("transformer")
    inside = make_model("transformer").language_model
    compiled = UniMatrixForCausalLM.from_language_model(torch.compile(inside, backend="eager"))
    assert compiled.language_model is inside
    parts = make_model("transformer")
    blocks = parts.language_model.blocks
    blocks[0], blocks[1] = torch.compile(blocks[0], backend="eager"), checkpoint_wrapper(blocks[1])
    parts.language_model = torch.compile(parts.language_model, backend="eager")
    for number, model in enumerate(
        (compiled, torch.compile(make_model("transformer"), backend="eager"), parts)
    ):
        for arguments in ({}, {"state_dict": model.state_dict()}):
            if number == 1 and arguments:
                continue  # whose state dict has a name before all of them, as in any PreTrainedModel
            folder = tmp_path / f"{number}{len(arguments)}"
            model.save_pretrained(folder, **arguments)
            loaded, info = UniMatrixForCausalLM.from_pretrained(folder, output_loading_info=True)
            assert not info["missing_keys"]
            assert not info["unexpected_keys"]
            for name, tensor in expected.state_dict().items():
                assert torch.equal(loaded.state_dict()[name], tensor), name


def test_what_is_no_language_model_is_not_wrapped():
    with pytest.raises(TypeError, match="language_model: expected a LanguageModel or a Mamba2, got a Linear"):
        UniMatrixForCausalLM.from_language_model(torch.nn.Linear(2, 2))


def test_the_names_of_transformers_change_the_settings(preset):
    config = UniMatrixConfig.from_model_config(preset_config(preset))
    depth = 3 if preset == "unimatrix-hybrid" else 2  # its layers are not alike: as many as it has
    config.vocab_size, config.hidden_size, config.num_hidden_layers = 300, 32, depth
    config.num_attention_heads, config.max_position_embeddings = 2, None
    settings = config.to_model_config()
    assert (settings.vocab_size, settings.d_model, settings.depth) == (300, 32, depth)
    assert config.num_attention_heads == 2
    assert settings.max_positions is None
    assert UniMatrixForCausalLM(config)(IDS).logits.shape == (2, 24, 300)
    with pytest.raises(UserError, match="vocab_size"):
        config.vocab_size = -1
    assert config.vocab_size == 300
    assert UniMatrixConfig(vocab_size=64, hidden_size=32).to_model_config().vocab_size == 64
    with pytest.raises(UserError, match="vocab_size: expected 300 as in the model's own settings, got 4"):
        UniMatrixConfig(model=config.model, vocab_size=4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": [1]}, "model config: expected an object"),
        ({"model": 3}, "model config"),
        ({"use_cache": "yes"}, "use_cache: expected true or false, got 'yes'"),
        ({"eos_token_id": "x"}, "eos_token_id: expected a token id or None, got 'x'"),
        ({"eos_token_id": [1, 2.5]}, "eos_token_id: expected a token id or None, got 2.5"),
        ({"pad_token_id": True}, "pad_token_id: expected a token id or None, got True"),
        ({"hidden_size": "wide"}, "d_model"),
        (
            {"tie_word_embeddings": False},
            "tie_word_embeddings: expected true, as .* its embedding, got False",
        ),
        (
            {"model": preset_config("mamba2").to_dict(), "tie_word_embeddings": False},
            "tie_word_embeddings: expected true",
        ),
    ],
)
def test_a_wrong_argument_of_the_config_is_named(settings, message):
    with pytest.raises(UserError, match=message) as caught:
        UniMatrixConfig(**settings)
    assert "\n" not in str(caught.value)


def test_a_head_of_its_own_may_be_said_to_be_none_of_the_embedding():
    model = preset_config("unimatrix-core", head=ClassHeadConfig(num_classes=4, first_token=0)).to_dict()
    assert not UniMatrixConfig(model=model, tie_word_embeddings=False).tie_word_embeddings
