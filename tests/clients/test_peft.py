"""PEFT: adapters on every preset train, count, merge to the same logits and survive the disk."""

import pytest
import torch
from peft import LoraConfig, PeftModel, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from tolerances import assert_close

import unimatrix
from unimatrix.errors import UserError
from unimatrix.hf import ByteTokenizer, UniMatrixForCausalLM

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

# few ids, so that some occur again, which an exact routing path waits for
IDS = torch.randint(0, 5, (2, 9), generator=torch.Generator().manual_seed(0))
# presets of which a part reads the ids themselves: no embeddings can stand in for them
READ_IDS = tuple(
    name
    for name, config in unimatrix.presets().items()
    if any("ids" in part.reads for part in config.all_parts.values())
)


def lora(model, targets="all-linear", **settings) -> PeftModel:
    torch.manual_seed(1)
    config = LoraConfig(target_modules=targets, r=4, task_type="CAUSAL_LM", **settings)
    return get_peft_model(model, config).eval()


def train(model, texts: list[str], steps: int = 8) -> tuple[float, float]:
    """The loss before and after a few steps."""
    batch = ByteTokenizer()(texts, padding=True, return_tensors="pt")
    batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-2)
    losses = []
    for _ in range(steps + 1):
        loss = model.train()(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    model.eval()
    return losses[0], losses[-1]


def adapted(model: PeftModel) -> dict[str, torch.nn.Module]:
    """The modules with an adapter, by their names in the language model."""
    return {
        name.split("language_model.")[1]: module
        for name, module in model.named_modules()
        if hasattr(module, "lora_A")
    }


def test_lora_trains_counts_merges_and_survives_the_disk(preset, make_model, texts, tmp_path):
    model = make_model(preset)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tuned = lora(model)
    assert "head" not in adapted(tuned)
    first, last = train(tuned, texts)
    assert last < 0.95 * first
    base = {
        name.replace(".base_layer", "").removeprefix("base_model.model."): tensor
        for name, tensor in tuned.state_dict().items()
        if "lora_" not in name
    }
    for name, tensor in before.items():
        if not name.endswith((".u", ".v")):  # spectral norm follows its matrix in training
            assert torch.equal(base[name], tensor), name
    with torch.no_grad():
        expected = tuned(IDS).logits
        assert not torch.allclose(expected, tuned.get_base_model().language_model.head.weight.new_zeros(1))
        for name, module in adapted(tuned).items():
            weight = module.lora_B["default"].weight
            kept, _ = weight.clone(), weight.zero_()
            without = tuned(IDS).logits
            weight.copy_(kept)
            # d has no part in what these models compute (the paper counts it nevertheless)
            assert torch.equal(without, expected) == name.endswith("mixer.d"), name

        tuned.save_pretrained(tmp_path / "adapter")
        again = make_model(preset)
        again.load_state_dict(before | {n: t for n, t in base.items() if n.endswith((".u", ".v"))})
        again = PeftModel.from_pretrained(again, str(tmp_path / "adapter")).eval()
        assert torch.equal(again(IDS).logits, expected)

        merged = tuned.merge_and_unload()
        assert type(merged) is UniMatrixForCausalLM
        assert_close(merged(IDS).logits, expected, "output")
        merged.save_pretrained(tmp_path / "merged")
        loaded = UniMatrixForCausalLM.from_pretrained(tmp_path / "merged")
        assert torch.equal(loaded(IDS).logits, merged(IDS).logits)


@pytest.mark.parametrize("targets", [["qkv", "readout"], r".*feed_forward\.(up|down)", ["gates"]])
def test_lora_on_named_modules(make_model, texts, targets):
    tuned = lora(make_model("unimatrix-core"), targets)
    first, last = train(tuned, texts)
    assert last < first
    with torch.no_grad():
        expected = tuned(IDS).logits
        assert_close(tuned.merge_and_unload()(IDS).logits, expected, "output")


def test_lora_generates_with_the_state(preset, make_model):
    tuned = lora(make_model(preset), init_lora_weights=False)
    batch = ByteTokenizer()(["one", "and two"], padding=True, return_tensors="pt")
    settings = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    tokens = tuned.generate(**batch, **settings)
    assert torch.equal(tokens, tuned.generate(**batch, **settings, use_cache=False))
    with torch.no_grad():
        changed = tuned(**batch).logits - make_model(preset)(**batch).logits
    assert changed.abs().max() > 1e-3  # six tokens may be the same all the same


@pytest.mark.parametrize("target", ["dqkv", "readout"])
def test_a_spectrally_normalised_matrix_takes_no_adapter(make_model, target):
    with pytest.raises(ValueError, match=r"Target module SpectralLinear\(.* is not supported"):
        lora(make_model("unimatrix-discovery"), [target])


def test_prompt_tuning(preset, make_model, texts):
    config = PromptTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM")
    tuned = get_peft_model(make_model(preset), config)
    assert tuned.active_peft_config.token_dim == 16
    if preset in READ_IDS:
        with pytest.raises(UserError, match=r"inputs_embeds: expected input_ids, which parts\..* reads"):
            tuned(IDS)
        return
    first, last = train(tuned, texts)
    assert last < first
    assert [name for name, p in tuned.named_parameters() if p.requires_grad] == [
        "prompt_encoder.default.embedding.weight"
    ]
    settings = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None}
    prompt = tuned.get_prompt(batch_size=2)
    embedded = torch.cat([prompt, tuned.get_base_model().get_input_embeddings()(IDS)], dim=1)
    expected = tuned.get_base_model().generate(inputs_embeds=embedded, **settings)
    for use_cache in (False, True):
        tokens = tuned.generate(input_ids=IDS, **settings, use_cache=use_cache)
        assert torch.equal(tokens[:, IDS.shape[1] :], expected)


def test_prefix_tuning_is_refused(make_model):
    """It makes keys and values, which is not what a state is made of."""
    config = PrefixTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM")
    with pytest.raises((UserError, KeyError), match=r"UniMatrixCache|num_key_value_heads"):
        get_peft_model(make_model("unimatrix-core"), config)(IDS)


@pytest.mark.parametrize("target", ["head", "embedding"])
def test_the_matrix_that_is_embedding_and_head_takes_no_adapter(make_model, target):
    """Merged into one of the two it would be merged into both."""
    for config in (
        LoraConfig(target_modules=[target], task_type="CAUSAL_LM"),
        LoraConfig(target_modules=["up", target], task_type="CAUSAL_LM"),
    ):
        with pytest.raises(UserError, match=f"{target}: expected no adapter"):
            get_peft_model(make_model("unimatrix-core"), config)


@pytest.mark.filterwarnings("ignore:Input and output embeddings are no longer tied:UserWarning")
@pytest.mark.parametrize("module", ["head", "embedding"])
def test_a_head_of_its_own_is_not_saved_as_if_it_were_the_embedding(make_model, tmp_path, module):
    config = LoraConfig(target_modules=["up"], modules_to_save=[module], task_type="CAUSAL_LM")
    tuned = get_peft_model(make_model("unimatrix-core"), config).eval()
    with torch.no_grad():
        tuned.get_base_model().get_submodule(f"language_model.{module}.modules_to_save.default").weight.mul_(
            2
        )
        expected = tuned(IDS).logits
        assert not torch.allclose(expected, make_model("unimatrix-core")(IDS).logits)
        tuned.save_pretrained(tmp_path / "adapter")
        again = PeftModel.from_pretrained(make_model("unimatrix-core"), str(tmp_path / "adapter")).eval()
        assert torch.equal(again(IDS).logits, expected)
        merged = tuned.merge_and_unload()
        assert_close(merged(IDS).logits, expected, "output")
    with pytest.raises(UserError, match="save_pretrained: expected the embedding's weights in the head"):
        merged.save_pretrained(tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_lora_on_the_peer():
    torch.manual_seed(0)
    model = unimatrix.build("mamba2", d_model=16, num_heads=2, depth=2, state_dim=8).eval()
    tuned = lora(UniMatrixForCausalLM.from_language_model(model), init_lora_weights=False)
    assert set(tuned.targeted_module_names) == {
        f"language_model.backbone.layers.{layer}.mixer.{name}"
        for layer in (0, 1)
        for name in ("in_proj", "out_proj")
    }
    with torch.no_grad():
        expected = tuned(IDS).logits
        assert_close(tuned.merge_and_unload()(IDS).logits, expected, "output")
