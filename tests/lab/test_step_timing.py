"""Steps of several models, each timed in a process of its own: in turns, whatever happens to one of them."""

import dataclasses
import signal
from multiprocessing import Pipe, active_children

import pytest
from tiny_studies import SHORT, counting

from unimatrix.errors import TrainingStopped, UserError
from unimatrix.lab import step_timing
from unimatrix.lab.measured import Stopped
from unimatrix.lab.step_timing import seconds_in_turns
from unimatrix.train.interrupts import Interrupts

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
