"""Training Mamba-2 as any other model: it goes on bit for bit, and its checkpoints open everywhere."""

import dataclasses

import pytest
import torch

from unimatrix.data.tasks import RecallConfig
from unimatrix.errors import UserError
from unimatrix.evals import bits_per_byte
from unimatrix.hf import UniMatrixForCausalLM, load, stream
from unimatrix.models import Mamba2
from unimatrix.train import load_checkpoint, train

TASK = RecallConfig(num_pairs=2, num_keys=4, num_values=4, num_fillers=2, length=16, eval_sequences=16)


@pytest.fixture
def fit(tmp_path, console, tiny, text):
    """fit(steps=..., task=..., name="run", ...): train a tiny Mamba-2 into tmp_path/name, quietly."""

    def run(*, steps, task=None, name="run", resume=False, **settings):
        experiment = tiny(preset="mamba2", steps=steps, **settings)
        experiment = dataclasses.replace(experiment, task=task)
        corpus = text if task is None else None
        return train(experiment, out=tmp_path / name, console=console, corpus=corpus, resume=resume)

    return run


@pytest.mark.parametrize("task", [None, TASK], ids=["text", "recall"])
def test_a_resumed_run_ends_with_the_same_bytes(fit, task):
    whole = fit(steps=5, task=task, name="whole")
    fit(steps=3, task=task, name="parts")
    torch.rand(17)
    parts = fit(steps=5, task=task, name="parts", resume=True)
    weights = [(one.checkpoint / "model.safetensors").read_bytes() for one in (whole, parts)]
    assert weights[0] == weights[1]
    assert parts.metrics == whole.metrics
    assert parts.backend == whole.backend == "transformers"


def test_a_checkpoint_gives_its_model_back_and_reads_on(fit, text):
    result = fit(steps=2)
    again = load_checkpoint(result.checkpoint).build_model()
    assert isinstance(again, Mamba2)
    assert again.config == result.model.config
    for name, tensor in result.model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    wrapped, tokenizer = load(result.checkpoint)
    ids = torch.randint(0, 256, (2, 9))
    with torch.no_grad():
        assert torch.equal(wrapped(ids).logits, again(ids)[0])
    measured = bits_per_byte(wrapped.language_model, text.valid, window=16)
    assert measured.bpb == pytest.approx(result.bpb, rel=1e-6)
    written = [list(stream(wrapped, tokenizer, "The", max_new_tokens=8, seed=1)) for _ in range(2)]
    assert written[0] == written[1]


def test_a_resume_as_another_model_is_refused(fit, tiny, text):
    result = fit(steps=1)
    with pytest.raises(UserError, match="has preset 'mamba2', got 'transformer'"):
        train(tiny(preset="transformer", steps=2), out=result.out, corpus=text, resume=True)


def test_generate_reads_its_prompts_once_padded_or_not(fit):
    model, tokenizer = load(fit(steps=1).checkpoint)
    texts = ["four", "nine byte"]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    for how in ({"do_sample": False}, {"do_sample": False, "num_beams": 2}):
        together = model.generate(**batch, max_new_tokens=4, eos_token_id=None, **how)
        for row, words in enumerate(texts):
            alone = model.generate(
                **tokenizer(words, return_tensors="pt"), max_new_tokens=4, eos_token_id=None, **how
            )
            assert together[row, -4:].tolist() == alone[0, -4:].tolist()


def test_the_wrapper_says_that_training_keeps_no_state(fit):
    model = UniMatrixForCausalLM.from_pretrained(fit(steps=1).checkpoint).train()
    ids = torch.randint(0, 256, (2, 9))
    model(ids, labels=ids).loss.backward()
    assert model.get_input_embeddings().weight.grad.abs().sum() > 0
    with pytest.raises(UserError, match="use_cache: Mamba-2 keeps no state in training mode"):
        model(ids, use_cache=True)


@pytest.mark.parametrize("setting", [{"qkv_init": "xavier"}, {"slots": 4}])
def test_settings_that_it_does_not_have_are_named(tiny, text, tmp_path, setting):
    experiment = tiny(preset="mamba2", steps=1)
    model = dataclasses.replace(experiment.model, changes={**experiment.model.changes, **setting})
    experiment = dataclasses.replace(experiment, model=model)
    with pytest.raises(UserError, match=f"preset mamba2: unknown setting '{next(iter(setting))}'"):
        train(experiment, out=tmp_path / "run", corpus=text)
