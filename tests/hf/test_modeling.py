"""The adapter's forward pass, its loss, its weights, and what transformers' Trainer and lm-eval ask of it."""

import subprocess
import sys
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from tolerances import assert_close
from transformers import DynamicCache, Trainer, TrainingArguments

from unimatrix.errors import UserError
from unimatrix.hf import ByteTokenizer, UniMatrixCache, UniMatrixConfig, UniMatrixForCausalLM
from unimatrix.models import LanguageModel, build, preset_config


def test_wrapping_shares_the_weights_and_draws_nothing(preset):
    torch.manual_seed(0)
    language_model = build(preset).train()
    before = torch.get_rng_state()
    model = UniMatrixForCausalLM.from_language_model(language_model)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.language_model is language_model
    assert model.training
    assert model.config.to_model_config() == language_model.config
    assert model.num_parameters() == sum(p.numel() for p in language_model.parameters())


def test_building_from_a_config_draws_the_language_models_weights(preset):
    config = preset_config(preset, d_model=16, num_heads=2)
    torch.manual_seed(4)
    expected = LanguageModel(config)
    after = torch.get_rng_state()
    torch.manual_seed(4)
    model = UniMatrixForCausalLM(UniMatrixConfig.from_model_config(config))
    assert torch.equal(torch.get_rng_state(), after)
    for name, tensor in expected.state_dict().items():
        assert torch.equal(model.state_dict()[f"language_model.{name}"], tensor)


def test_forward_gives_the_language_models_logits(preset, make_model):
    model = make_model(preset)
    ids = torch.randint(0, 256, (2, 7))
    with torch.no_grad():
        logits = model.language_model(ids)[0]
        assert torch.equal(model(ids).logits, logits)
        assert torch.equal(model(ids, return_dict=False)[0], logits)


def test_loss_is_shifted_and_ignores_minus_100(make_model):
    model = make_model("unimatrix-core")
    ids = torch.randint(0, 256, (2, 9))
    labels = ids.clone()
    labels[0, :4] = -100
    out = model(ids, labels=labels)
    kept = labels[:, 1:] != -100
    expected = F.cross_entropy(out.logits[:, :-1][kept], ids[:, 1:][kept])
    torch.testing.assert_close(out.loss, expected)
    summed = model(ids, labels=labels, num_items_in_batch=4).loss
    torch.testing.assert_close(summed, expected * kept.sum() / 4)
    out.loss.backward()
    assert model.get_input_embeddings().weight.grad.abs().sum() > 0


def test_training_returns_no_state_unless_asked(make_model):
    model = make_model("transformer").train()
    ids = torch.randint(0, 256, (2, 5))
    assert model(ids, labels=ids).cache is None
    assert model(ids, use_cache=True).cache.get_seq_length() == 5
    assert model.eval()(ids, use_cache=False).cache is None


def test_padding_on_either_side_changes_no_real_logit(preset, make_model):
    model = make_model(preset)
    texts = ["four", "eleven byte"]
    tokenizer = ByteTokenizer()
    for side in ("left", "right"):
        batch = tokenizer(texts, padding=True, padding_side=side, return_tensors="pt")
        with torch.no_grad():
            padded = model(**batch).logits
            for row, text in enumerate(texts):
                alone = model(torch.tensor([tokenizer.encode_bytes(text)])).logits[0]
                scale = getattr(model.language_model.config.head, "scale", 1.0)  # it scales rounding too
                real = padded[row][batch.attention_mask[row].bool()]
                torch.testing.assert_close(real, alone, rtol=1.3e-6, atol=1e-5 * scale)


def test_right_padding_without_a_mask_as_lm_eval_feeds_it(preset, make_model):
    model, tokenizer = make_model(preset), ByteTokenizer()
    rows = [tokenizer.encode(text, add_special_tokens=False) for text in ("short", "somewhat longer")]
    longest = max(map(len, rows))
    padded = torch.tensor([row + [tokenizer.pad_token_id] * (longest - len(row)) for row in rows])
    with torch.no_grad():
        logits = model(padded).logits
        for i, row in enumerate(rows):
            torch.testing.assert_close(logits[i, : len(row)], model(torch.tensor([row])).logits[0])
    assert logits.shape == (2, longest, tokenizer.vocab_size)
    assert getattr(model.config, "max_position_embeddings", None) == preset_config(preset).max_positions
    assert not hasattr(make_model(preset, max_positions=None).config, "max_position_embeddings")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attention_mask": torch.ones(1, 3)}, r"attention_mask: expected shape \(1, 4\)"),
        ({"attention_mask": torch.ones(1, 1, 4, 4)}, "attention_mask: expected shape"),
        # as they are added to scores: 0 keeps
        ({"attention_mask": torch.tensor([[-torch.inf, 0, 0, 0]])}, "attention_mask: expected 1 .*got -inf"),
        ({"cache": DynamicCache()}, "expected a UniMatrixCache, got a DynamicCache"),
        ({"position_embeddings": torch.zeros(4)}, "unknown argument 'position_embeddings'"),
    ],
)
def test_arguments_that_mean_nothing_here_raise(make_model, arguments, message):
    with pytest.raises(UserError, match=message):
        make_model("unimatrix-core")(torch.tensor([[1, 2, 3, 4]]), **arguments)


def test_embeddings_can_be_read_and_set_and_the_vocabulary_stays(make_model):
    model = make_model("unimatrix-rosa")
    assert model.get_input_embeddings() is model.language_model.embedding
    assert model.get_output_embeddings() is model.language_model.head
    replacement = torch.nn.Embedding(259, 16)
    model.set_input_embeddings(replacement)
    assert model.language_model.embedding is replacement
    assert model.get_output_embeddings().weight is replacement.weight
    assert model.resize_token_embeddings(259) is replacement
    with pytest.raises(UserError, match="has 259 tokens and cannot get 300"):
        model.resize_token_embeddings(300)
    for wrong in (None, torch.nn.Embedding(300, 16), torch.nn.Linear(16, 259)):
        with pytest.raises(UserError, match=r"set_input_embeddings: expected an Embedding\(259, 16\), got"):
            model.set_input_embeddings(wrong)
    others = (torch.nn.Embedding(259, 16), torch.nn.Linear(16, 300, bias=False), torch.nn.Linear(16, 259))
    for wrong in others:
        with pytest.raises(UserError, match=r"set_output_embeddings: expected a Linear\(16, 259\) without b"):
            model.set_output_embeddings(wrong)
    assert model.language_model.embedding is replacement


def test_moving_and_casting(preset, make_model):
    ids = torch.randint(0, 256, (1, 6))
    for cast in (lambda m: m.half(), lambda m: m.to(torch.bfloat16), lambda m: m.to("cpu", torch.float64)):
        model = cast(make_model(preset))
        assert model.generate(ids, max_new_tokens=3, do_sample=False, eos_token_id=None).shape == (1, 9)
        assert model(ids).logits.dtype == model.dtype


def test_trainer_trains_it(make_model, tmp_path, capsys):
    model = make_model("unimatrix-core", dropout=0.1)
    before = model.get_input_embeddings().weight.detach().clone()
    tokenizer = ByteTokenizer()
    rows = [tokenizer(text) for text in ("to be or not to be", "that is the question", "whether", "nobler")]
    rows = [{**row, "labels": row["input_ids"]} for row in rows]

    def collate(features):
        batch = tokenizer.pad([{"input_ids": f["input_ids"]} for f in features], return_tensors="pt")
        batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        return batch

    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=2,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=2,
        learning_rate=1e-2,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    trainer = Trainer(
        model=model, args=arguments, train_dataset=rows, eval_dataset=rows, data_collator=collate
    )
    result = trainer.train()
    assert result.global_step == 2
    assert result.training_loss > 0
    assert not torch.equal(model.get_input_embeddings().weight, before)
    assert trainer.evaluate()["eval_loss"] > 0
    saved = UniMatrixForCausalLM.from_pretrained(tmp_path / "checkpoint-2")
    assert torch.equal(saved.get_input_embeddings().weight, model.get_input_embeddings().weight)
    capsys.readouterr()


def test_importing_needs_neither_datasets_nor_plotting():
    code = (
        "import sys, unimatrix.hf;"
        "bad = {'datasets', 'altair', 'tensorboard', 'wandb', 'tyro'} & set(sys.modules);"
        "sys.exit(' '.join(bad) or 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_hidden_states_are_what_lies_between_the_depth_steps(preset, make_model):
    model = make_model(preset)
    ids = torch.randint(0, 256, (2, 9))
    with torch.no_grad():
        out = model(ids, output_hidden_states=True)
        base = model.base_model(ids)
        streams = model.language_model.features(ids, keep_streams=True).streams
        assert len(out.hidden_states) == model.config.num_hidden_layers + 1
        for given, expected in zip(out.hidden_states, streams, strict=True):
            assert torch.equal(given, expected)
        assert torch.equal(out.hidden_states[-1], base.last_hidden_state)
        assert torch.equal(out.logits, model(ids).logits)
        assert base.hidden_states is model(ids).hidden_states is None
        model.config.output_hidden_states = True
        assert len(model.base_model(ids).hidden_states) == len(streams)
        # a state that went back: the tokens read again are none of these
        cache = UniMatrixCache()
        cache.activate_past_recording()
        model(ids[:, :6], cache=cache)
        cache.crop(-2)
        after = model(ids[:, 4:], cache=cache).hidden_states
        for given, expected in zip(after, out.hidden_states, strict=True):
            assert_close(given, expected[:, 4:], "logits")
    assert model.base_model is not model
    assert model.base_model.language_model is model.language_model


def test_embeddings_stand_for_ids_or_are_refused_where_a_part_reads_ids(preset, make_model):
    model = make_model(preset)
    ids = torch.randint(0, 256, (2, 9))
    embeds = model.get_input_embeddings()(ids)
    if any("ids" in part.reads for part in model.language_model.config.all_parts.values()):
        for call in (model, model.base_model):
            with pytest.raises(UserError, match=r"expected input_ids, which parts\.\w+ reads"):
                call(inputs_embeds=embeds)
        return
    settings = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None}
    with torch.no_grad():
        assert torch.equal(model(inputs_embeds=embeds).logits, model(ids).logits)
        generated = model.generate(inputs_embeds=embeds, **settings)
        assert torch.equal(generated, model.generate(ids, **settings)[:, 9:])


def recompute(model, **options) -> None:
    """By transformers' own method, whose name is another one from 5.24 on."""
    if hasattr(model, "activation_checkpointing_enable"):
        kwargs = options.pop("kwargs", None)
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=kwargs, **options)
    else:
        model.gradient_checkpointing_enable(
            gradient_checkpointing_kwargs=options.pop("kwargs", None), **options
        )


def counted(model) -> list[list[int]]:
    """Of each block, how often it was called and how often computed, from now on."""
    counts = []
    for block in model.language_model.blocks:
        counts.append([0, 0])
        for place, module in enumerate((block, next(block.children()))):
            module.register_forward_pre_hook(
                lambda *_, count=counts[-1], place=place: count.__setitem__(place, count[place] + 1)
            )
    return counts


def gradients(model, ids) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(ids, labels=ids).loss.backward()
    return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("kwargs", [None, {"use_reentrant": False}, {"use_reentrant": True}], ids=str)
def test_blocks_are_computed_again_when_asked(preset, make_model, kwargs):
    ids = torch.randint(0, 256, (2, 9))
    expected = gradients(make_model(preset, dropout=0.0).train(), ids)
    model = make_model(preset, dropout=0.0).train()
    recompute(model, kwargs=kwargs)
    counts = counted(model)
    got = gradients(model, ids)
    for calls, computed in counts:  # what is hooked to a block is not run again
        assert computed == 2 * calls > 0
    assert got.keys() == expected.keys()
    for name, gradient in expected.items():
        assert_close(got[name], gradient, "gradient")


def test_what_is_asked_of_the_recomputation_is_done(make_model):
    ids = torch.randint(0, 256, (2, 9))
    model = make_model("triple-latent", depth=5).train()
    blocks = model.language_model.blocks
    contexts = []

    def contexts_of_a_block():
        contexts.append(1)
        return nullcontext(), nullcontext()

    recompute(model, kwargs={"use_reentrant": False, "context_fn": contexts_of_a_block})
    gradients(model, ids)
    assert len(contexts) == len(blocks) == 5
    if not hasattr(model, "activation_checkpointing_enable"):
        return
    expected = gradients(model, ids)
    recompute(model, every_n_layers=2)
    assert [block.gradient_checkpointing for block in blocks] == [True, False, True, False, True]
    counts = counted(model)
    for name, gradient in gradients(model, ids).items():
        assert torch.equal(gradient, expected[name])
    assert counts == [[1, 2], [1, 1], [1, 2], [1, 1], [1, 2]]
    for wrong in (0, -1, 1.5, "x"):
        with pytest.raises(UserError, match="every_n_layers: expected a whole number of at least 1"):
            recompute(model, every_n_layers=wrong)
    model.activation_checkpointing_disable()
    assert not any(block.gradient_checkpointing for block in blocks)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "input_ids: expected either it or inputs_embeds, got neither"),
        ({"input_ids": torch.tensor([[1]]), "inputs_embeds": torch.zeros(1, 1, 16)}, "got both"),
        ({"input_ids": [[1, 2]]}, "input_ids: expected a tensor .*, got a list"),
        ({"input_ids": torch.tensor([1, 2])}, r"input_ids: expected a tensor .*, got \[2\]"),
        ({"input_ids": torch.tensor([[1.0]])}, "input_ids: expected token ids of dtype int64, got float32"),
        ({"input_ids": torch.tensor([[1]], dtype=torch.int32)}, "dtype int64, got int32"),
        ({"input_ids": torch.tensor([[259]])}, "expected token ids from 0 to 258, got 259"),
        ({"inputs_embeds": torch.zeros(1, 2, 15)}, r"inputs_embeds: expected shape \[batch, time, 16\]"),
        (
            {"input_ids": torch.tensor([[1]]), "attention_mask": [[1]]},
            "attention_mask: expected a tensor, got a list",
        ),
        (
            {"input_ids": torch.tensor([[1]]), "output_attentions": True},
            "unknown argument 'output_attentions'",
        ),
        ({"input_ids": torch.tensor([[1]]), "cache": 3}, "cache: expected a UniMatrixCache, got a int"),
        ({"input_ids": torch.tensor([[1]]), "logits_to_keep": 1.5}, "logits_to_keep: expected a number"),
    ],
)
def test_wrong_arguments_are_named(make_model, arguments, message):
    for call in (make_model("unimatrix-core"), make_model("unimatrix-core").base_model):
        if "logits_to_keep" in arguments and not hasattr(call, "generate"):
            continue
        with pytest.raises(UserError, match=message) as caught:
            call(**arguments)
        assert "\n" not in str(caught.value)


def test_a_state_of_other_rows_or_of_another_model_is_refused(make_model):
    model, other = make_model("unimatrix-core"), make_model("transformer")
    ids = torch.randint(0, 256, (2, 5))
    with pytest.raises(UserError, match="cache: expected the state of 1 rows, got one of 2"):
        model(ids[:1], cache=model(ids).cache)
    with pytest.raises(
        UserError, match="cache: expected this model's state, got the state of one with another"
    ):
        model(ids, cache=other(ids).cache)
