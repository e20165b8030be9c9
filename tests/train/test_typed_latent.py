"""Training what was made for one task: it goes on bit for bit, and a checkpoint gives it back."""

import dataclasses
import json

import pytest
import torch

from unimatrix.data.tasks import TripleInteractionConfig
from unimatrix.errors import UserError
from unimatrix.evals import task_score
from unimatrix.hf import load
from unimatrix.models import LanguageModel, TypedLatent, build
from unimatrix.train import Experiment, LoopConfig, ModelChoice, OptimConfig, load_checkpoint, train

TASK = TripleInteractionConfig(phase_steps=1, eval_sequences=48)


@pytest.fixture
def experiment():
    """experiment(preset, steps=..., task=..., ...): a run of a few steps on the task."""

    def make(preset="typed-latent", *, task=TASK, model=None, dropout=0.1, **loop):
        settings = {"batch_size": 8, "seq_len": task.length, "tracker": "none", "device": "cpu"} | loop
        return Experiment(
            name=preset,
            model=ModelChoice(preset=preset, max_positions=task.length, dropout=dropout, changes=model or {}),
            task=task,
            optim=OptimConfig(lr=4e-4),
            loop=LoopConfig(**settings),
        )

    return make


@pytest.fixture
def fit(tmp_path, console):
    """fit(experiment, name="run", ...): train into tmp_path/name, quietly."""

    def run(experiment, *, name="run", **arguments):
        return train(experiment, out=tmp_path / name, console=console, **arguments)

    return run


SMALL = {"d_model": 8, "num_heads": 2, "depth": 1}
PRESETS = {"typed-latent": None, "transformer-triple": SMALL}


@pytest.mark.parametrize(("preset", "model"), PRESETS.items())
def test_a_resumed_run_ends_with_the_same_bytes(fit, experiment, preset, model):
    whole = fit(experiment(preset, model=model, steps=7), name="whole")
    fit(experiment(preset, model=model, steps=4), name="parts")
    torch.rand(17)
    parts = fit(experiment(preset, model=model, steps=7), name="parts", resume=True)
    weights = [(one.checkpoint / "model.safetensors").read_bytes() for one in (whole, parts)]
    assert weights[0] == weights[1]
    assert parts.metrics == whole.metrics
    assert (parts.backend, parts.final_loss) == ("torch", whole.final_loss)


@pytest.mark.parametrize(("preset", "model"), PRESETS.items())
def test_a_checkpoint_gives_its_model_back(fit, experiment, preset, model):
    result = fit(experiment(preset, model=model, steps=3))
    before = torch.get_rng_state()
    again = load_checkpoint(result.checkpoint).build_model()
    assert torch.equal(torch.get_rng_state(), before)
    assert not again.training
    assert isinstance(again, TypedLatent if preset == "typed-latent" else LanguageModel)
    assert again.config == result.model.config
    for key, tensor in result.model.state_dict().items():
        assert torch.equal(again.state_dict()[key], tensor), key
    score = task_score(again, TASK, num_sequences=48, seed=7, batch_size=32)
    assert result.metrics["accuracy"] == score.accuracy
    assert result.metrics["loss"] == pytest.approx(score.loss, rel=1e-6)


def test_three_rules_are_right_from_the_first_step_and_the_table_is_learned(fit, experiment):
    # one phase, as in the last of the curriculum
    task = dataclasses.replace(TASK, phase_steps=None)
    result = fit(experiment(task=task, steps=4, dropout=0.0))
    for rule in ("copy", "affine", "gate"):
        assert result.metrics[f"accuracy_{rule}"] == 100.0
        assert result.metrics[f"loss_{rule}"] < 1e-6
    assert result.metrics["loss_lookup"] > 1.0
    assert result.model.readout.abs().sum() > 0, "a few steps, but they begin to learn it"


def test_the_first_loss_is_that_of_the_initial_model(fit, experiment):
    from unimatrix.data.tasks.triple_interaction import make
    from unimatrix.train.run import LossModule

    task = dataclasses.replace(TASK, rules=("lookup",))
    result = fit(experiment(task=task, steps=1, dropout=0.0))
    torch.manual_seed(7)
    model = build("typed-latent")
    with torch.no_grad():
        expected = LossModule(model)(*make(task, seed=7, step=0, batch_size=8))
    assert result.final_loss == pytest.approx(float(expected), rel=1e-6)
    # nothing is learned yet: all 16 values are equally likely
    assert result.final_loss == pytest.approx(2.7726, rel=1e-4)


def test_its_checkpoint_is_no_language_model_for_transformers(fit, experiment):
    result = fit(experiment(steps=1))
    config = json.loads((result.checkpoint / "config.json").read_text())
    assert config == {"model_type": "typed_latent", "model": result.model.config.to_dict()}
    assert not list(result.checkpoint.glob("*token*"))
    with pytest.raises(UserError, match="expected model_type 'unimatrix', got 'typed_latent'") as caught:
        load(result.checkpoint)
    assert "\n" not in str(caught.value)


def test_a_resume_as_another_model_is_refused(fit, experiment):
    fit(experiment(steps=1))
    with pytest.raises(UserError, match="has preset 'typed-latent', got 'transformer-triple'"):
        fit(experiment("transformer-triple", steps=2), resume=True)


def test_settings_that_it_does_not_have_are_named(fit, experiment):
    for setting in ({"slots": 4}, {"d_model": 8}):
        with pytest.raises(UserError, match=f"preset typed-latent: unknown setting '{next(iter(setting))}'"):
            fit(experiment(model=setting))
