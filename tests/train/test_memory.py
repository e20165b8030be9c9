"""Sizes that no machine has room for: told with an estimate before anything is allocated, and in time."""

import dataclasses
import io
import sys
import time

import pytest
from rich.console import Console

from unimatrix.data import random_windows
from unimatrix.data.tasks import TASKS, MQARConfig, RecallConfig, TripleInteractionConfig
from unimatrix.errors import UserError
from unimatrix.evals import bits_per_byte, task_score
from unimatrix.models import build
from unimatrix.studies.catalogue import EXPERIMENTS
from unimatrix.train import Experiment, LoopConfig, ModelChoice, train
from unimatrix.train.memory import check_memory
from unimatrix.train.progress import reporting


def huge(preset="unimatrix-core", *, task=None, batch_size=16, seq_len=128, **model):
    choice = {"preset": preset, "max_positions": model.pop("max_positions", None), "changes": model}
    loop = LoopConfig(batch_size=batch_size, seq_len=seq_len, device="cpu", tracker="none")
    return Experiment(model=ModelChoice(**choice), loop=loop, task=task)


@pytest.mark.parametrize(
    "experiment",
    [
        huge(batch_size=10**9),
        huge(seq_len=10**12),
        huge(depth=10**8),
        huge("transformer", depth=10**8),
        huge("recurrent-ffn", depth=10**8),
        huge(state_dim=10**6),
        huge("triple-latent", state_dim=10**6),
        huge(d_model=10**7),
        huge(max_positions=10**12),
        huge(num_heads=10**9),
        huge("unimatrix-sparse-pointer", slots=10**9),
        huge(task=RecallConfig(length=10**12), seq_len=10**12),
        huge(task=RecallConfig(vocab_size=10**12)),
        huge(task=RecallConfig(), batch_size=10**9),
    ],
)
def test_what_cannot_fit_is_refused_at_once_with_an_estimate(experiment, tmp_path, text):
    began = time.perf_counter()
    # or beyond what any config takes
    words = (
        r"needs at least [\d,.]+ [GTPE]iB of memory, there are|expected a whole number of at most [\d,]+, got"
    )
    with pytest.raises(UserError, match=words) as caught:
        train(experiment, out=tmp_path / "run", corpus=None if experiment.task else text)
    assert time.perf_counter() - began < 1.0
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_the_papers_experiments_fit_into_a_gibibyte(monkeypatch):
    monkeypatch.setattr("unimatrix.train.memory.memory_of", lambda device: 2**30)
    for recipe in EXPERIMENTS.values():
        check_memory(recipe)


def test_less_is_needed_by_pieces_and_processes(monkeypatch):
    whole = huge(batch_size=64, seq_len=4096)
    monkeypatch.setattr("unimatrix.train.memory.memory_of", lambda device: 2**28)
    with pytest.raises(UserError, match="a batch"):
        check_memory(whole)
    check_memory(dataclasses.replace(whole, optim=dataclasses.replace(whole.optim, accumulation=16)))
    monkeypatch.setenv("WORLD_SIZE", "16")
    check_memory(whole)


@pytest.mark.parametrize("kind", TASKS)
def test_a_draw_that_cannot_fit_is_refused(kind):
    task = TASKS[kind]
    with pytest.raises(UserError, match=r"1,000,000,000,000 sequences of .* draws each: needs at least"):
        task.make(task.config(), seed=0, step=0, batch_size=10**12)
    with pytest.raises(UserError, match=r"32 sequences of .* draws each: needs at least"):
        task.fingerprint(dataclasses.replace(task.config(), length=10**12))


def test_logits_that_are_not_computed_are_not_counted(monkeypatch):
    monkeypatch.setattr("unimatrix.train.memory.memory_of", lambda device: 2**28)
    check_memory(huge(task=MQARConfig(length=1024), seq_len=1024, batch_size=64))
    with pytest.raises(UserError, match=r"a batch 4\.0 GiB"):
        check_memory(huge(task=RecallConfig(length=1024, vocab_size=8192), seq_len=1024, batch_size=64))


def test_what_is_evaluated_at_the_end_is_looked_at_before_the_start(tmp_path):
    task = MQARConfig(eval_cells=((128, 4), (10**11, 4)))
    words = r"^evaluation: 256 sequences of length 100,000,000,000: needs at least .* memory"
    with pytest.raises(UserError, match=words):
        train(huge(task=task, seq_len=task.length), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_table_that_cannot_fit_is_refused():
    with pytest.raises(UserError, match=r"num_values 1,000,000: .* triples of values: needs at least .* EiB"):
        TripleInteractionConfig(num_values=10**6, vocab_size=10**7)


def test_windows_that_cannot_fit_are_refused(text):
    with pytest.raises(UserError, match=r"batch_size .* needs at least"):
        random_windows(text.train, seed=0, step=0, batch_size=10**12, seq_len=16)


def test_an_evaluation_takes_a_batch_at_a_time(monkeypatch, text):
    model = build("unimatrix-core", max_positions=None)
    # beyond the text's end there is nothing to hold
    few = bits_per_byte(model, text.valid[:100], window=10, batch_size=10**12)
    assert few.num_bytes == 100
    assert bits_per_byte(model, text.valid[:100], window=10**12) == bits_per_byte(
        model, text.valid[:100], window=100
    )
    module = sys.modules["unimatrix.evals.bits_per_byte"]
    monkeypatch.setattr(module, "memory_of", lambda device: 2**20)
    with pytest.raises(UserError, match=r"1,000 bytes of text at a time: needs at least 2.0 MiB of memory"):
        bits_per_byte(model, text.valid, window=10, batch_size=10**12)


def test_any_number_of_sequences_is_only_slow():
    looked_at = []

    def progress(number):
        looked_at.append(number)
        if len(looked_at) == 3:
            raise KeyboardInterrupt

    model = build("unimatrix-core", vocab_size=64, d_model=8, num_heads=1, state_dim=4, depth=1)
    with pytest.raises(KeyboardInterrupt):
        task_score(model, RecallConfig(), num_sequences=10**15, seed=0, batch_size=64, progress=progress)
    assert looked_at == [64, 64, 64]
    # the sum of what it is told is the whole
    looked_at[:] = [0] * 3
    task_score(model, RecallConfig(), num_sequences=300, seed=0, batch_size=10**9, progress=looked_at.append)
    assert sum(looked_at) == 300


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("steps", [10**14, 2**63 - 1])
def test_a_run_without_end_shows_its_progress(terminal, steps):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=120)
    with reporting(console, name="long", start=0, steps=steps) as reporter:
        reporter.advance(1)
        reporter.measure(1, loss="1.0 nats", lr=0.1, tokens_per_second=1.0, seconds_left=float(steps) * 1e9)
    assert "tokens/s" in console.file.getvalue()
