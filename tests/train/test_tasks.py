"""Training on a task: it learns, it goes on bit for bit, and it says what it measured."""

import dataclasses
import json
import re

import pytest
import torch
from ragged import ragged

from unimatrix.data.tasks import IGNORE, TASKS, MQARConfig, RecallConfig, mqar, recall
from unimatrix.errors import NotFinite, TrainingStopped, UserError
from unimatrix.evals import task_score
from unimatrix.hf import load
from unimatrix.hf.checksums import write_checksums
from unimatrix.models import LanguageModel, build, config_from_dict, edit
from unimatrix.train import describe, run, sources, train
from unimatrix.train.run import LossModule
from unimatrix.train.sources import TaskSource

TASK = RecallConfig(
    num_pairs=2, num_keys=3, num_values=3, num_fillers=4, length=16, vocab_size=16, eval_sequences=96
)


@pytest.fixture
def tiny_recall(tiny):
    """tiny_recall(steps=..., task=..., ...): an experiment on a task from settings by their flat names."""

    def make(task=TASK, **settings):
        return dataclasses.replace(tiny(**settings), task=task)

    return make


@pytest.fixture
def fit(tmp_path, console):
    """fit(experiment, name="run", ...): train into tmp_path/name, quietly."""

    def run(experiment, *, name="run", **arguments):
        return train(experiment, **({"out": tmp_path / name, "console": console} | arguments))

    return run


def weights(result):
    return (result.checkpoint / "model.safetensors").read_bytes()


def test_it_learns_to_find_the_only_value(fit, tiny_recall):
    task = dataclasses.replace(TASK, num_pairs=1, length=8)
    settings = {"seq_len": 8, "steps": 100, "batch_size": 16, "lr": 3e-3, "d_model": 32}
    result = fit(tiny_recall(task=task, dropout=0.0, **settings))
    # a third of them by chance
    assert result.metrics["accuracy"] > 95.0
    assert result.metrics["loss"] < 0.3


def test_the_first_loss_is_that_of_the_initial_model_on_the_first_batch(fit, tiny_recall):
    experiment = tiny_recall(steps=1, dropout=0.0)
    result = fit(experiment)
    torch.manual_seed(experiment.loop.seed)
    model = build(experiment.model.resolved(16))
    batch = recall.make(TASK, seed=experiment.loop.seed, step=0, batch_size=4)
    with torch.no_grad():
        expected = float(LossModule(model)(*batch))
        alone = torch.nn.functional.cross_entropy(model(batch.input_ids)[0][:, -1], batch.labels[:, -1])
    assert result.final_loss == pytest.approx(expected, rel=1e-6)
    assert expected == pytest.approx(float(alone), rel=1e-6)


@pytest.mark.parametrize("preset", ["transformer", "unimatrix-sparse-pointer", "mamba2"])
def test_logits_at_the_questions_alone_give_the_same_loss_and_gradients(preset, monkeypatch):
    batch = mqar.make(MQARConfig(num_queries=3, vocab_size=32), seed=1, step=0, batch_size=5)
    torch.manual_seed(0)
    model = build(preset, vocab_size=32)
    everywhere, asked = LossModule(model), LossModule(model, at_labels=True)
    found = {}
    for module in (everywhere, asked):
        loss = module(*batch)
        loss.backward()
        found[module] = [loss.detach(), *(one.grad.clone() for one in model.parameters())]
        model.zero_grad()
    for exactly, few in zip(*found.values(), strict=True):
        torch.testing.assert_close(few, exactly, rtol=1e-4, atol=1e-6)
    rows = []
    real = LanguageModel._head
    monkeypatch.setattr(
        LanguageModel, "_head", lambda self, x: rows.append(x.shape[:-1].numel()) or real(self, x)
    )
    asked(*batch)
    assert rows == ([] if preset == "mamba2" else [15])
    # nothing asked is no gradient
    nothing = asked(batch.input_ids, torch.full_like(batch.labels, IGNORE))
    nothing.backward()
    assert float(nothing.detach()) == 0.0
    assert all((one.grad == 0).all() for one in model.parameters())


@pytest.mark.parametrize("preset", ["unimatrix-sparse-pointer", "mamba2"])
def test_a_task_of_many_questions_trains_and_goes_on_bit_for_bit(fit, tiny_recall, preset, monkeypatch):
    task = MQARConfig(num_pairs=2, num_rebound=1, length=16, vocab_size=16, filler="clean", eval_sequences=8)
    rows = []
    real = LanguageModel._head
    monkeypatch.setattr(
        LanguageModel, "_head", lambda self, x: rows.append(x.shape[:-1].numel()) or real(self, x)
    )
    whole = fit(tiny_recall(task=task, steps=3, preset=preset, accumulation=2), name="whole")
    # four sequences in two pieces; eight at the end
    assert rows == ([] if preset == "mamba2" else [*[4] * 6, 16])
    fit(tiny_recall(task=task, steps=1, preset=preset, accumulation=2))
    resumed = fit(tiny_recall(task=task, steps=3, preset=preset, accumulation=2), resume=True)
    assert (resumed.metrics, weights(resumed)) == (whole.metrics, weights(whole))


def test_what_is_reported_is_what_was_measured(fit, tiny_recall):
    task = dataclasses.replace(TASK, eval_num_pairs=(1, 2, 3))
    result = fit(tiny_recall(task=task, steps=4, eval_every=2))
    assert list(result.metrics) == [
        *("loss", "accuracy", "loss_1_pairs", "accuracy_1_pairs"),
        *("loss_2_pairs", "accuracy_2_pairs", "loss_3_pairs", "accuracy_3_pairs"),
    ]
    for suffix, pairs in {"": 2, "_1_pairs": 1, "_2_pairs": 2, "_3_pairs": 3}.items():
        # the run's own seed: an interval over seeds covers the choice of sequences
        score = task_score(
            result.model, dataclasses.replace(TASK, num_pairs=pairs), num_sequences=96, seed=7, batch_size=32
        )
        assert result.metrics[f"loss{suffix}"] == pytest.approx(score.loss, rel=1e-6)
        assert result.metrics[f"accuracy{suffix}"] == score.accuracy
    assert (result.bpb, result.perplexity) == (None, None)
    assert [step for step, _ in result.curve] == [2, 4]
    assert result.curve[-1][1] == result.metrics["accuracy"]
    assert result.model.config.vocab_size == 16
    assert result.tokens_per_second == pytest.approx(4 * 4 * 16 / result.seconds)


def test_a_variant_without_a_finite_loss_takes_nothing_else_with_it(fit, tiny_recall, monkeypatch):
    real = sources.task_sums

    def sums(model, task, **settings):
        found = real(model, task, **settings)
        return torch.full_like(found, torch.nan) if task.num_pairs == wrong else found

    monkeypatch.setattr(sources, "task_sums", sums)
    task, wrong = dataclasses.replace(TASK, eval_num_pairs=(1, 3)), 3
    result = fit(tiny_recall(task=task, steps=1))
    assert result.metrics.keys() == {"loss", "accuracy", "loss_1_pairs", "accuracy_1_pairs"}
    # the task that it was trained on is what a run is judged by
    wrong = TASK.num_pairs
    with pytest.raises(TrainingStopped, match="expected a finite loss, got nan nats per answer"):
        fit(tiny_recall(task=task, steps=1), name="other")


def test_what_training_is_refused_besides_is_no_end_of_the_run(fit, tiny_recall, monkeypatch):
    """Memory may be there the next time, and a number that is not finite is not finite again."""
    for kind, ends in ((UserError, False), (NotFinite, True)):

        def refuse(*_, kind=kind, **__):
            raise kind("it is too much")

        monkeypatch.setattr(sources, "task_sums", refuse)
        with pytest.raises(
            UserError, match=r"^training stopped at step 1: it is too much; the last"
        ) as raised:
            fit(tiny_recall(steps=1), name=kind.__name__)
        assert isinstance(raised.value, TrainingStopped) == ends


def test_a_depth_without_a_finite_loss_takes_nothing_else_with_it(fit, tiny_recall, monkeypatch):
    real = run.at_depth

    def deeper(model, depth):
        found = real(model, depth)
        if depth == 3:
            torch.nn.init.constant_(found.embedding.weight, torch.nan)
        return found

    monkeypatch.setattr(run, "at_depth", deeper)
    result = fit(tiny_recall(steps=1, preset="unimatrix-core", eval_depths=(1, 3)))
    assert result.metrics.keys() == {"loss", "accuracy", "loss_1_deep", "accuracy_1_deep"}


def test_asked_steps_are_measured_without_the_variants(fit, tiny_recall):
    task = dataclasses.replace(TASK, eval_num_pairs=(1,))
    result = fit(tiny_recall(task=task, steps=3, eval_at=(2, 3)))
    variants = {"loss_1_pairs", "accuracy_1_pairs"}
    asked = {f"{name}_{step}_steps" for name in ("accuracy", "seconds") for step in (2, 3)}
    assert result.metrics.keys() == {"loss", "accuracy"} | variants | asked
    assert result.metrics["accuracy_3_steps"] == result.metrics["accuracy"]


def test_the_record_of_its_data_is_the_fingerprint_of_both_streams(fit, tiny_recall):
    result = fit(tiny_recall(steps=1))
    assert result.data == describe(TASK)
    assert (result.data["name"], result.data["kind"], result.data["is_paper_corpus"]) == (
        *("recall", "task"),
        False,
    )
    train_stream, valid_stream = result.data["train"], result.data["valid"]
    assert train_stream == {"sha256": recall.fingerprint(TASK), "sequences": None}
    assert valid_stream == {"sha256": recall.fingerprint(TASK, stream="eval"), "sequences": 96}
    assert train_stream["sha256"] != valid_stream["sha256"]


def test_lines_say_the_accuracy(fit, tiny_recall, console):
    fit(tiny_recall(steps=4, log_every=2, eval_every=2))
    lines = console.file.getvalue().splitlines()
    assert [
        line
        for line in lines
        if re.fullmatch(r"step 2/4  valid accuracy \d+\.\d %, loss \d\.\d{4} nats per answer", line)
    ]
    assert len(lines) == 3


def test_curves_have_every_metric(fit, tiny_recall, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    task = dataclasses.replace(TASK, eval_num_pairs=(3,))
    fit(tiny_recall(task=task, steps=4, log_every=2, eval_every=2, tracker="tensorboard"))
    events = EventAccumulator(str(tmp_path / "run" / "logs")).Reload()
    assert [point.step for point in events.Scalars("valid/accuracy")] == [2, 4]
    # the variants are looked at in the end only
    assert [point.step for point in events.Scalars("valid/loss_3_pairs")] == [4]


# ---- going on


@pytest.mark.parametrize("preset", ["transformer", "unimatrix-core"])
def test_a_resumed_run_ends_with_the_same_bytes(fit, tiny_recall, preset):
    settings = {"preset": preset, "clip": 0.5, "accumulation": 2}
    whole = fit(tiny_recall(steps=5, **settings), name="whole")
    fit(tiny_recall(steps=2, **settings), name="parts")
    torch.rand(17)
    more = dataclasses.replace(TASK, eval_num_pairs=(1,))
    parts = fit(
        tiny_recall(task=more, steps=5, eval_every=1, save_every=2, **settings), name="parts", resume=True
    )
    assert weights(parts) == weights(whole)
    assert parts.metrics["loss"] == whole.metrics["loss"]
    assert [step for step, _ in parts.curve] == [3, 4, 5]


def test_an_interrupted_run_has_no_metrics_yet(fit, tiny_recall, monkeypatch):
    import signal

    from unimatrix.train.run import Run

    real = Run.train_step

    def stop_after_two(self):
        real(self)
        if self.step == 2:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Run, "train_step", stop_after_two)
    result = fit(tiny_recall(steps=4))
    assert (result.interrupted, result.steps, result.metrics) == (True, 2, None)
    assert (result.bpb, result.perplexity) == (None, None)
    monkeypatch.undo()
    resumed = fit(tiny_recall(steps=4), resume=True)
    assert (resumed.interrupted, resumed.steps) == (False, 4)
    assert resumed.metrics == fit(tiny_recall(steps=4), name="whole").metrics


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (dataclasses.replace(TASK, num_pairs=3), "has num_pairs 2, got 3"),
        (dataclasses.replace(TASK, placement="spread"), "has placement 'start', got 'spread'"),
        (None, "has task 'recall', got None"),
    ],
)
def test_a_resume_with_another_task_is_refused(fit, tiny_recall, text, task, message):
    fit(tiny_recall(steps=1))
    with pytest.raises(UserError, match=message):
        fit(tiny_recall(task=task, steps=2), resume=True, corpus=text if task is None else None)


def test_a_resume_is_refused_where_the_task_draws_other_sequences_now(fit, tiny_recall, monkeypatch):
    fit(tiny_recall(steps=1))
    changed = dataclasses.replace(TASKS["recall"], fingerprint=lambda config, *, stream: f"{stream:f<64}")
    monkeypatch.setitem(TASKS, "recall", changed)
    with pytest.raises(UserError, match=r"other train sequences of recall: sha256 .*; got sha256 trainfff"):
        fit(tiny_recall(steps=2), resume=True)


def test_a_checkpoint_from_before_there_were_tasks_goes_on(fit, tiny, text):
    whole = fit(tiny(steps=4), name="whole", corpus=text)
    first = fit(tiny(steps=2), corpus=text)
    # as it was written then: no kind of data, a field for each setting, and none that came later
    trainer = json.loads((first.checkpoint / "trainer.json").read_text())
    del trainer["data"]["kind"]
    sizes = {"d_model": 16, "num_heads": 2, "depth": 2}
    choice = {"preset": "transformer", "dropout": 0.1, "max_positions": 16, "state_dim": None}
    trainer["experiment"]["model"] = choice | sizes
    (first.checkpoint / "trainer.json").write_text(json.dumps(trainer))
    config = json.loads((first.checkpoint / "config.json").read_text())
    model = {"vocab_size": 259, "max_positions": 16, "d_model": 16, "depth": 2, "dropout": 0.1}
    model |= {"shared_depth": False, "init_std": 0.02, "step_embeddings": False}
    config["model"] = model | {
        "mixer": {"kind": "attention", "num_heads": 2},
        "feed_forward": {"kind": "mlp", "expansion": 4},
    }
    (first.checkpoint / "config.json").write_text(json.dumps(config))
    (first.checkpoint / "checksums.json").unlink()
    write_checksums(first.checkpoint)
    assert weights(fit(tiny(steps=4), corpus=text, resume=True)) == weights(whole)


# ---- arithmetic, checkpoints, bad input


@pytest.mark.parametrize("accumulation", [1, 2, 4])
def test_every_label_counts_alike_in_whatever_piece_it_falls(fit, tiny_recall, monkeypatch, accumulation):
    monkeypatch.setattr(TaskSource, "batch", ragged())
    experiment = tiny_recall(dropout=0.0, steps=3, eps=1e-4, accumulation=accumulation)
    result = fit(experiment)
    torch.manual_seed(experiment.loop.seed)
    model = build(experiment.model.resolved(16))
    optimizer = torch.optim.AdamW(model.parameters(), lr=experiment.optim.lr, eps=1e-4)
    source = TaskSource(TASK)
    for step in range(3):
        batch = source.batch(seed=experiment.loop.seed, step=step, batch_size=4)
        asked = batch.labels != IGNORE
        loss = torch.nn.functional.cross_entropy(model(batch.input_ids)[0][asked], batch.labels[asked])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert result.final_loss == pytest.approx(float(loss.detach()), rel=1e-5)
    for name, tensor in result.model.state_dict().items():
        torch.testing.assert_close(tensor, model.state_dict()[name], rtol=1e-5, atol=1e-7, msg=name)


def test_a_piece_without_labels_has_loss_and_gradient_zero():
    torch.manual_seed(0)
    model = build("transformer", vocab_size=16, d_model=8, num_heads=2, depth=1)
    ids = torch.zeros(2, 8, dtype=torch.int64)
    loss = LossModule(model)(ids, torch.full_like(ids, IGNORE))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert all((parameter.grad == 0).all() for parameter in model.parameters())


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("stream", ["train", "eval"])
def test_nothing_is_asked_at_padding(kind, stream):
    # PAD is 0 in every task
    batch = TASKS[kind].make(TASKS[kind].config(), seed=1, step=2, batch_size=64, stream=stream)
    assert not ((batch.input_ids == 0) & (batch.labels != IGNORE)).any()
    assert (batch.labels != IGNORE).any()


def test_accumulation_gives_the_gradient_of_the_whole_batch(fit, tiny_recall):
    whole = fit(tiny_recall(dropout=0.0, steps=3), name="whole")
    pieces = fit(tiny_recall(dropout=0.0, steps=3, accumulation=4), name="pieces")
    assert pieces.final_loss == pytest.approx(whole.final_loss, rel=1e-5)
    assert pieces.metrics["loss"] == pytest.approx(whole.metrics["loss"], rel=1e-5)


def test_a_checkpoint_of_a_task_has_no_tokenizer_and_gives_its_model_back(fit, tiny_recall):
    from unimatrix.train import load_checkpoint

    result = fit(tiny_recall(steps=2))
    assert not list(result.checkpoint.glob("*token*"))
    before = torch.get_rng_state()
    model = load_checkpoint(result.checkpoint).build_model()
    assert torch.equal(torch.get_rng_state(), before)
    assert not model.training
    batch = recall.make(TASK, seed=1, step=0, batch_size=3)
    assert torch.equal(model(batch.input_ids)[0], result.model(batch.input_ids)[0])
    with pytest.raises(UserError, match="a vocabulary of 16 tokens is no text"):
        load(result.checkpoint)


def test_a_task_of_more_tokens_than_bytes_is_no_text_either(fit, tiny_recall):
    experiment = tiny_recall(steps=1)
    large = dataclasses.replace(experiment.task, vocab_size=1000)
    result = fit(dataclasses.replace(experiment, task=large))
    assert not list(result.checkpoint.glob("*token*"))
    with pytest.raises(UserError, match="a vocabulary of 1000 tokens is no text, expected 259"):
        load(result.checkpoint)


def test_weights_of_another_model_are_named(fit, tiny_recall):
    from unimatrix.train import load_checkpoint

    checkpoint = load_checkpoint(fit(tiny_recall(steps=1)).checkpoint)
    deeper = edit(config_from_dict(checkpoint.model_config), {"depth": 3}).to_dict()
    other = dataclasses.replace(checkpoint, model_config=deeper)
    with pytest.raises(UserError, match=r"model.safetensors: .*Missing key") as caught:
        other.build_model()
    assert "\n" not in str(caught.value)


def test_a_text_beside_a_task_is_refused_before_anything_is_written(fit, tiny_recall, text, tmp_path):
    with pytest.raises(UserError, match="tiny: the task recall has no text, got short"):
        fit(tiny_recall(), corpus=text)
    experiment = tiny_recall()
    with_slots = dataclasses.replace(
        experiment, model=dataclasses.replace(experiment.model, changes={"slots": 4})
    )
    with pytest.raises(UserError, match="preset transformer: unknown setting 'slots'"):
        fit(with_slots)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("preset", "forms"),
    [
        ("transformer", "torch"),
        ("unimatrix-core", "compiled"),
        ("unimatrix-sparse-pointer", "compiled"),
        ("recurrent-ffn-hybrid", "compiled"),
    ],
)
def test_the_forms_that_ran_are_recorded(fit, tiny_recall, preset, forms):
    assert fit(tiny_recall(steps=1, preset=preset)).backend == forms
