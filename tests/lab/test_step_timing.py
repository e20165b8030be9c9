"""Steps of several models, each timed in a process of its own: in turns, whatever happens to one of them."""

import dataclasses
import re
import signal
from multiprocessing import Pipe, active_children

import pytest
import torch
from tiny_studies import SHORT, counting

from unimatrix.errors import TrainingStopped, UserError
from unimatrix.lab import step_timing
from unimatrix.lab.measured import Stopped
from unimatrix.lab.step_timing import seconds_here, seconds_in_turns
from unimatrix.train.interrupts import Interrupts
from unimatrix.train.run import Run

MODELS = {
    run.name: dataclasses.replace(run, loop=dataclasses.replace(run.loop, device="cpu"))
    for run in SHORT.experiments
}


def test_every_model_has_its_turns_and_its_process_and_none_is_left_behind(monkeypatch) -> None:
    answers, alive = [], []
    real = step_timing._answer

    def noted(name, pipe, interrupts):
        alive.append(len(active_children()))
        found = real(name, pipe, interrupts)
        answers.append((name, *found))
        return found

    monkeypatch.setattr(step_timing, "_answer", noted)
    found = seconds_in_turns(MODELS, counting(), threads=1, seconds=0.6)
    assert found.keys() == MODELS.keys()
    # one that tells that each has started, then turn by turn
    first, second = MODELS
    timed = answers[2:]
    assert [name for name, *_ in answers][:8] == [first, second] * 4
    assert max(alive) == 2
    assert not active_children()
    for name, step in found.items():
        turns = [(steps, seconds) for of, steps, seconds in timed if of == name]
        assert step == sum(seconds for _, seconds in turns) / sum(steps for steps, _ in turns)
        assert all(seconds >= 0.1 for _, seconds in turns)


def test_what_training_refuses_and_a_process_that_ends_name_the_model() -> None:
    name, experiment = next(iter(MODELS.items()))
    long = dataclasses.replace(
        experiment,
        model=dataclasses.replace(experiment.model, max_positions=None),
        loop=dataclasses.replace(experiment.loop, seq_len=100_000),
    )
    with pytest.raises(UserError, match=rf"^{name}: counting \(train\): expected at least 100,?001 bytes"):
        seconds_in_turns({name: long}, counting(), threads=1, seconds=0.1)
    assert not active_children()
    for sent, kind, words in (
        (None, UserError, "a name: the process that timed its steps ended"),
        (TrainingStopped("the loss (nan) is none"), TrainingStopped, r"a name: the loss \(nan\) is none"),
    ):
        ours, theirs = Pipe()
        if sent is not None:
            theirs.send(sent)
        theirs.close()
        with pytest.raises(kind, match=f"^{words}$"):
            step_timing._answer("a name", ours, Interrupts())


def test_ctrl_c_ends_it_and_every_process(monkeypatch) -> None:
    real = step_timing._answer

    def interrupted(name, pipe, interrupts):
        signal.raise_signal(signal.SIGINT)
        return real(name, pipe, interrupts)

    monkeypatch.setattr(step_timing, "_answer", interrupted)
    with pytest.raises(Stopped):
        seconds_in_turns(MODELS, counting(), threads=1, seconds=0.1)
    assert not active_children()


ONE = next(iter(MODELS.values()))


def test_nothing_is_learned_while_steps_are_timed(monkeypatch) -> None:
    step, rates = Run.train_step, []

    def noted(run):
        rates.append(run.experiment.optim.lr)
        step(run)

    monkeypatch.setattr(Run, "train_step", noted)
    fast = dataclasses.replace(ONE, optim=dataclasses.replace(ONE.optim, lr=1e30))
    seconds_here(fast, counting(), threads=1, seconds=0.01)
    assert max(rates) < 1e-9


def test_of_one_model_here_the_mean_counts_after_untimed_steps(monkeypatch) -> None:
    """Steps of 1 s by a clock of its own; every fourth takes 5 s."""
    clock, made = [0.0], []

    def step(_run):
        made.append(5.0 if len(made) % 4 == 3 else 1.0)
        clock[0] += made[-1]

    monkeypatch.setattr(Run, "train_step", step)
    monkeypatch.setattr(step_timing.time, "perf_counter", lambda: clock[0])
    assert seconds_here(ONE, counting(), threads=1, seconds=16.0) == 2.0
    # 4 s untimed are three steps of 1 s and one of 5
    assert len(made) == 4 + 8


def test_of_one_model_here_random_numbers_and_threads_go_on() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    before = torch.get_num_threads()
    assert 0.0 < seconds_here(ONE, counting(), threads=2, seconds=0.01) < 10.0
    assert torch.equal(torch.rand(2), expected)
    assert torch.get_num_threads() == before


def test_a_loss_that_is_no_number_and_ctrl_c_end_it_here_too(monkeypatch) -> None:
    def fail(_run):
        raise TrainingStopped("training stopped: the loss (nan)")

    monkeypatch.setattr(Run, "train_step", fail)
    with pytest.raises(TrainingStopped, match=rf"^{re.escape(ONE.name)}: training stopped: the loss"):
        seconds_here(ONE, counting(), threads=1, seconds=0.01)
    monkeypatch.setattr(Run, "train_step", lambda _run: signal.raise_signal(signal.SIGINT))
    with pytest.raises(Stopped):
        seconds_here(ONE, counting(), threads=1, seconds=0.01)


def test_it_says_how_far_it_is() -> None:
    said: list[str] = []
    seconds_in_turns({ONE.name: ONE}, counting(), threads=1, seconds=0.1, say=said.append)
    assert said[0] == "1 of 1 models have started"
    assert said[-1] == f"{len(said) - 1} rounds of turns done, about 0 min left"
    assert len(said) >= 4
