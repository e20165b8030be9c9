"""Scores on a task: exact on models whose answers are known, whatever the batch and the share."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from unimatrix.data.tasks import (
    IGNORE,
    MQARConfig,
    RecallConfig,
    TripleInteractionConfig,
    mqar,
    recall,
    triple_interaction,
)
from unimatrix.errors import NotFinite, UserError
from unimatrix.evals import TaskScore, task_score, task_sums, tasks
from unimatrix.models import LanguageModel, build

CONFIG = RecallConfig(length=32)


class Knows(nn.Module):
    """Looks the answer up; elsewhere than at the last position it is sure of nonsense."""

    def forward(self, input_ids, state=None, *, mask=None):
        nonsense = torch.zeros_like(input_ids)
        nonsense[:, -1] = recall.oracle(CONFIG, input_ids)
        return 50.0 * F.one_hot(nonsense, CONFIG.vocab_size).float(), state


class Guesses(nn.Module):
    """The same probability for each value in the context, and none for anything else."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, input_ids, state=None, *, mask=None):
        assert not self.training
        self.seen.append(input_ids.clone())
        there = F.one_hot(input_ids, CONFIG.vocab_size).amax(1)  # [B, V]
        there[:, : CONFIG.first_value] = there[:, CONFIG.first_filler :] = 0
        logits = torch.where(there.bool(), 0.0, -math.inf)
        return logits[:, None].expand(*input_ids.shape, -1), state


def small():
    """A model that has learned nothing, and answers each sequence in its own way."""
    torch.manual_seed(0)
    return build("transformer", vocab_size=64, d_model=8, num_heads=2, depth=1)


def test_who_knows_the_answers_has_them_all():
    score = task_score(Knows(), CONFIG, num_sequences=1000, seed=3)
    assert (score.accuracy, score.num_sequences) == (100.0, 1000)
    assert score.loss == pytest.approx(0.0, abs=1e-6)


def test_guessing_among_the_values_costs_ln_4():
    score = task_score(Guesses(), CONFIG, num_sequences=4096, seed=3)
    assert score.loss == pytest.approx(math.log(4), rel=1e-6)
    # of equal ones the lowest is taken, right a quarter of the time: five standard deviations
    assert abs(score.accuracy - 25.0) < 500 * math.sqrt(0.25 * 0.75 / 4096)


class ReadsTriples(nn.Module):
    """Knows the rules of the triple interaction, but takes every task token for the one of copy."""

    def forward(self, input_ids, state=None, *, mask=None):
        config, as_copy = TripleInteractionConfig(), input_ids.clone()
        as_copy[:, 1] = config.symbols.first_task
        answers = triple_interaction.oracle(config, as_copy)
        logits = torch.zeros(*input_ids.shape, config.vocab_size)
        logits[:, -1] = 50.0 * F.one_hot(answers, config.vocab_size)
        return logits, state


def test_each_rule_of_a_triple_interaction_has_a_score_of_its_own():
    config, number = TripleInteractionConfig(), 1024
    accuracy = {
        rule: task_score(ReadsTriples(), variant, num_sequences=number, seed=3).accuracy
        for rule, variant in triple_interaction.variants(config).items()
    }
    assert accuracy["copy"] == 100.0
    # a sixteenth of all triples: gate where b, or c, is a; affine where 2 a + 5 b + 7 c + 1 is 0 mod 16
    for rule in ("affine", "gate"):
        assert abs(accuracy[rule] - 100 / 16) < 500 * math.sqrt(1 / 16 * 15 / 16 / number)
    whole = task_score(ReadsTriples(), config, num_sequences=4096, seed=3).accuracy
    mean = sum(accuracy.values()) / 4
    assert abs(whole - mean) < 500 * math.sqrt(0.25 / 4096 + 0.25 / number / 4)


class ReadsTheFirst(nn.Module):
    """Takes the value that a key was bound to first, wherever the key stands."""

    def forward(self, input_ids, state=None, *, mask=None):
        place = (input_ids[:, None] == input_ids[:, :, None]).int().argmax(2)  # [B, T]
        answers = input_ids.gather(1, (place + 1).clamp(max=input_ids.shape[1] - 1))
        return 50.0 * F.one_hot(answers, 64).float(), state


@pytest.mark.parametrize("filler", ["zero", "random", "clean"])
def test_every_question_of_a_sequence_counts_and_each_sequence_alike(filler):
    config = MQARConfig(num_pairs=6, num_rebound=3, num_queries=5, length=48, vocab_size=64, filler=filler)
    score = task_score(ReadsTheFirst(), config, num_sequences=200, seed=3, batch_size=64)
    ids, labels = mqar.make(config, seed=3, step=0, batch_size=200, stream="eval")
    said, asked = ReadsTheFirst()(ids)[0].argmax(-1), labels != IGNORE
    by_sequence = [
        float((guesses[where] == answers[where]).double().mean())
        for guesses, answers, where in zip(said, labels, asked, strict=True)
    ]
    # the mean of each sequence's accuracy
    assert score.accuracy == pytest.approx(100.0 * sum(by_sequence) / 200, abs=1e-9)
    # wrong on what was bound again, half of the keys
    assert abs(score.accuracy - 50.0) < 500 * math.sqrt(0.25 / 1000)
    assert 0.0 < min(by_sequence) < max(by_sequence)


@pytest.mark.parametrize("num_sequences", [1, 255, 256, 300])
def test_each_sequence_of_the_stream_is_looked_at_once(num_sequences):
    model = Guesses()
    assert task_score(model, CONFIG, num_sequences=num_sequences, seed=3, batch_size=50).num_sequences == (
        num_sequences
    )
    assert max(len(batch) for batch in model.seen) <= 50
    assert model.training
    drawn = [recall.make(CONFIG, seed=3, step=step, batch_size=256, stream="eval") for step in (0, 1)]
    expected = torch.cat([batch.input_ids for batch in drawn])[:num_sequences]
    assert torch.equal(torch.cat(model.seen), expected)


def test_the_batch_size_changes_nothing_and_the_seed_does():
    model = small()
    one = task_score(model, CONFIG, num_sequences=300, seed=3, batch_size=1)
    many = task_score(model, CONFIG, num_sequences=300, seed=3, batch_size=128)
    assert many.loss == pytest.approx(one.loss, rel=1e-6)
    assert many.accuracy == one.accuracy
    assert task_score(model, CONFIG, num_sequences=300, seed=4).loss != pytest.approx(one.loss, rel=1e-6)


@pytest.mark.parametrize("num_shares", [2, 3])
def test_shares_add_up_to_the_whole(num_shares):
    arguments = {"num_sequences": 500, "seed": 3, "batch_size": 20}
    model = small()
    parts = [task_sums(model, CONFIG, **arguments, share=(r, num_shares)) for r in range(num_shares)]
    assert all(part[2] > 0 for part in parts)
    whole = task_sums(model, CONFIG, **arguments)
    torch.testing.assert_close(sum(parts), whole, rtol=1e-12, atol=0)
    assert whole[2] == 500
    assert TaskScore.from_sums(whole, 500) == task_score(model, CONFIG, **arguments)


@pytest.mark.parametrize("preset", ["transformer", "unimatrix-core", "unimatrix-sparse-pointer", "mamba2"])
def test_logits_are_computed_only_where_something_is_asked(preset, monkeypatch):
    torch.manual_seed(0)
    model = build(preset, vocab_size=64)
    rows = []
    if preset != "mamba2":
        real = LanguageModel._head
        monkeypatch.setattr(
            LanguageModel, "_head", lambda self, x: rows.append(x.shape[:-1].numel()) or real(self, x)
        )
    sums = task_sums(model, CONFIG, num_sequences=100, seed=3, batch_size=20)
    assert sum(rows) == (0 if preset == "mamba2" else 100)
    drawn = recall.make(CONFIG, seed=3, step=0, batch_size=256, stream="eval")
    with torch.no_grad():
        logits = model.eval()(drawn.input_ids[:100])[0][:, -1]
    answers = drawn.labels[:100, -1]
    assert float(sums[0]) == pytest.approx(float(F.cross_entropy(logits, answers, reduction="sum")), rel=1e-5)
    assert int(sums[1]) == int((logits.argmax(-1) == answers).sum())


@pytest.mark.parametrize("preset", ["unimatrix-core", "mamba2"])
def test_long_sequences_go_few_at_a_time_and_in_pieces(preset, monkeypatch):
    """Answers in every piece, and their order is the labels'."""
    torch.manual_seed(0)
    model, config = (
        build(preset, vocab_size=64, max_positions=None, depth=1),
        MQARConfig(vocab_size=64, num_pairs=8, length=64, power=1.0),
    )
    whole = task_sums(model, config, num_sequences=10, seed=3, batch_size=10)
    monkeypatch.setattr(tasks, "_MOST_TOKENS", 3 * 64 + 1)
    monkeypatch.setattr(tasks, "_PIECE", 20)
    seen = []
    found = task_sums(model, config, num_sequences=10, seed=3, batch_size=10, progress=seen.append)
    assert seen == [3, 3, 3, 1]
    assert torch.allclose(found, whole, rtol=1e-5)


def test_a_model_of_nan_has_no_score():
    model = small()
    torch.nn.init.constant_(model.embedding.weight, torch.nan)
    with pytest.raises(UserError, match="expected a finite loss, got nan nats per answer"):
        task_score(model, CONFIG, num_sequences=8, seed=3)


def test_what_a_model_refuses_of_its_own_numbers_has_no_score(monkeypatch):
    def refuse(*_):
        raise NotFinite("log_retention: expected numbers at most 0, got nan")

    monkeypatch.setattr(tasks, "_logits", refuse)
    # a sum, so that processes that share the work all hear of it
    assert task_sums(small(), CONFIG, num_sequences=8, seed=3, batch_size=4).isnan().all()
    with pytest.raises(NotFinite, match="expected a finite loss, got nan nats per answer"):
        task_score(small(), CONFIG, num_sequences=8, seed=3)


def test_the_global_generator_is_left_as_it_was():
    model = build("unimatrix-core", vocab_size=64, dropout=0.5)
    before = torch.get_rng_state()
    first = task_score(model, CONFIG, num_sequences=64, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert task_score(model, CONFIG, num_sequences=64, seed=3) == first


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_sequences": 0}, "num_sequences: expected at least 1, got 0"),
        ({"num_sequences": 10**20}, "num_sequences: expected a number below 2.63, got 1000"),
        ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
        ({"config": RecallConfig(length=129)}, "length: expected at most the model's 128 positions, got 129"),
        (
            {"config": RecallConfig(vocab_size=65)},
            "vocab_size: expected at most the model's 64 tokens, got 65",
        ),
    ],
)
def test_bad_input_is_named(arguments, message):
    whole = {"model": small(), "config": CONFIG, "num_sequences": 8, "seed": 0} | arguments
    with pytest.raises(UserError, match=message):
        task_score(**whole)
