"""What 0.1.0 wrote is read as what it was: configs, weights, runs, rows of results.

tests/older was written by the last version whose config had a field for each thing that a model could have
(81eacd1): configs.json the presets' configs; models.json small models, whose weights are those of `formula`,
with their logits; runs/ three runs of two steps, and in runs.json how they go on; results.jsonl rows.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tolerances import assert_close

from unimatrix.cli import main
from unimatrix.data import Corpus
from unimatrix.data.tasks import RecallConfig
from unimatrix.hf import UniMatrixConfig, load
from unimatrix.lab.identity import resolve, run_identity
from unimatrix.lab.results import read_results
from unimatrix.models import ModelConfig, build, config_from_dict, preset_config
from unimatrix.studies.catalogue import experiment
from unimatrix.train import Experiment, LoopConfig, ModelChoice, OptimConfig, load_checkpoint, train
from unimatrix.train.checkpoint import latest_checkpoint

OLDER = Path(__file__).parent / "older"
CONFIGS, MODELS, RUNS = (
    json.loads((OLDER / f"{name}.json").read_text()) for name in ("configs", "models", "runs")
)
IDS = torch.tensor([[1, 5, 9, 5, 1, 5, 2, 9], [3, 3, 4, 1, 2, 7, 5, 9]])
TASK = RecallConfig(
    num_pairs=2, num_keys=2, num_values=4, num_fillers=4, length=16, vocab_size=16, eval_sequences=8
)


@pytest.fixture(autouse=True)
def one_thread():
    """As the numbers were written."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def formula(name: str, shape: list[int]) -> torch.Tensor:
    """Weights that are the same on every machine."""
    i = torch.arange(int(np.prod(shape)))
    return (((i * 7919 + 31 * len(name) + 17) % 1009 - 504).double() / 504).float().reshape(shape)


def the_same(one, other) -> bool:
    """Whether two configs make the same model: what its size decides may be spelled out in one alone."""
    return one == other or one.resolved() == other.resolved()


@pytest.mark.parametrize("then", CONFIGS, ids=lambda then: f"{then['preset']} {then['changes'] or ''}")
def test_a_config_is_that_of_the_preset_and_its_changes(then):
    read = config_from_dict(then["config"])
    assert the_same(read, preset_config(then["preset"], **then["changes"]))
    assert config_from_dict(json.loads(json.dumps(read.to_dict()))) == read
    # without what has its default, as files from before a setting was there
    bare = {
        name: value
        for name, value in then["config"].items()
        if value not in (None, False) or name == "max_positions"
    }
    assert config_from_dict(bare) == read


@pytest.mark.parametrize("then", MODELS, ids=lambda then: then["preset"])
def test_weights_stand_under_their_names_and_give_their_logits(then):
    weights = {name: formula(name, shape) for name, shape in then["weights"].items()}
    models = build(config_from_dict(then["config"])), build(then["preset"], **then["changes"])
    logits = []
    for model in models:
        model.eval().load_state_dict(weights)  # neither more nor fewer
        with torch.no_grad():
            _, state = model(IDS[:, :5])
            logits.append(model(IDS[:, 5:], state)[0][:, -2:])
    assert torch.equal(*logits)
    expected = torch.tensor(then["logits"])
    assert_close(torch.nan_to_num(logits[0], neginf=0.0), expected, "logits")


def an_experiment(name: str, steps: int) -> Experiment:
    """That of a stored run, in today's words."""
    sizes = {"num_heads": 2, "depth": 2, "state_dim": 4}
    preset, changes = {
        "text": ("unimatrix-core", {"d_model": 4}),
        "discovery": ("unimatrix-discovery", {"d_model": 8}),
        "slots": (
            "unimatrix-sparse-pointer",
            {"d_model": 8, "slots": 4, "top_k": 2, "write_gate_bias": 0.0},
        ),
    }[name]
    return Experiment(
        name="sea" if name == "text" else "recall",
        model=ModelChoice(preset=preset, max_positions=16, changes=sizes | changes),
        task=None if name == "text" else TASK,
        optim=OptimConfig(lr=1e-2),
        loop=LoopConfig(steps=steps, batch_size=2, seq_len=16, tracker="none", device="cpu"),
    )


def corpus_of(name: str) -> Corpus | None:
    if name != "text":
        return None
    text = np.frombuffer(b"the sea and the sky and the sea and the sky\n" * 12, dtype=np.uint8)
    return Corpus(name="sea", train=text, valid=text[:200], test=text[:200])


@pytest.fixture
def run(tmp_path):
    """run(name): a copy of a stored run."""
    return lambda name: Path(shutil.copytree(OLDER / "runs" / name, tmp_path / name))


def logits_of(model) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS)[0][:, -1]


@pytest.mark.parametrize("name", RUNS)
def test_a_checkpoint_is_the_model_that_it_was(run, name):
    checkpoint = load_checkpoint(latest_checkpoint(run(name)))
    assert checkpoint.trainer.experiment == an_experiment(name, 2)
    model = checkpoint.build_model()
    assert model.config == an_experiment(name, 2).model.resolved(259 if name == "text" else 16)
    again = build(model.config).eval()
    again.load_state_dict(checkpoint.weights)
    assert torch.equal(logits_of(model), logits_of(again))
    assert_close(logits_of(model)[:, :16], torch.tensor(RUNS[name]["logits"]), "logits")


@pytest.mark.parametrize("name", RUNS)
def test_a_run_goes_on_as_it_would_have(run, name):
    folder = run(name)
    result = train(an_experiment(name, 4), out=folder, resume=True, corpus=corpus_of(name))
    assert result.steps == 4
    assert result.final_loss == pytest.approx(RUNS[name]["loss"], rel=1e-5)
    assert result.metrics == pytest.approx(RUNS[name]["metrics"], rel=1e-5)
    assert_close(logits_of(result.model)[:, :16], torch.tensor(RUNS[name]["logits_on"]), "logits")
    # what is written from now on is today's form
    written = json.loads((result.checkpoint / "config.json").read_text())["model"]
    assert written == result.model.config.to_dict()


def test_the_command_goes_on_with_a_run(run, capsys):
    assert main(["train", "--resume", "--out", str(run("slots")), "--steps", "3"]) == 0
    assert "accuracy" in capsys.readouterr().out


def test_a_folder_loads_in_transformers(run):
    folder = run("text")
    config = UniMatrixConfig.from_pretrained(folder)
    assert config.to_model_config() == an_experiment("text", 2).model.resolved(259)
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (4, 2, 2)
    model, _ = load(folder)
    assert_close(logits_of(model.language_model)[:, :16], torch.tensor(RUNS["text"]["logits"]), "logits")
    model.save_pretrained(folder.parent / "again")
    again, _ = load(latest_checkpoint(folder))
    assert torch.equal(logits_of(model.language_model), logits_of(again.language_model))


def test_rows_of_results_are_those_of_todays_recipes():
    rows = read_results(OLDER / "results.jsonl")
    assert len(rows) == 11
    assert any(row.resolved is not None and "mixer" in row.resolved["model"] for row in rows)
    for row in rows:
        recipe = experiment(row.experiment)
        assert row.is_current, row.experiment
        assert row.identity == run_identity(recipe.to_dict(), resolve(recipe), row.data, device="cpu")
        assert isinstance(Experiment.from_dict(row.config).model.resolved(64), ModelConfig) or (
            row.model in ("mamba2", "typed-latent")
        )


def test_a_config_of_both_forms_is_refused():
    """What would be left out silently is an unknown setting."""
    now = preset_config("transformer").to_dict()
    for name, value in {"depth": 5, "shared_depth": True, "mixer": {"kind": "attention"}}.items():
        with pytest.raises(ValueError, match=f"model config: unknown setting '{name}'"):
            config_from_dict(now | {name: value})
    then = CONFIGS[0]["config"]
    for name in ("layers", "order", "parts", "norm"):
        with pytest.raises(ValueError, match="model config: unknown setting"):
            config_from_dict(then | {name: now[name]})
