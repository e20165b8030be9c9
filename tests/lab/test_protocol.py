"""Sentences on how experiments train and measure say what their settings say."""

from dataclasses import replace

import pytest

from unimatrix.data.tasks import RecallConfig, SignalNoiseConfig, TripleInteractionConfig
from unimatrix.lab.protocol import listed, protocol_of
from unimatrix.train import Experiment, LoopConfig, ModelChoice, OptimConfig

ON_TEXT = Experiment(name="text", loop=LoopConfig(steps=80))


def on(task, **loop) -> Experiment:
    model = ModelChoice(dropout=0.0, max_positions=task.length)
    return Experiment(name="task", model=model, task=task, loop=LoopConfig(seq_len=task.length, **loop))


@pytest.mark.parametrize(
    ("experiment", "said"),
    [
        (replace(ON_TEXT, loop=LoopConfig(steps=2000)), "Training: 2,000 steps of AdamW"),
        (replace(ON_TEXT, optim=OptimConfig(lr=0.002)), "learning rate of 0.002"),
        (replace(ON_TEXT, loop=LoopConfig(seq_len=32)), "(windows of 32 side by side"),
        (replace(ON_TEXT, loop=LoopConfig(eval_at=(20, 80))), "evaluated after 20 and 80 steps"),
        (replace(ON_TEXT, model=ModelChoice(changes={"d_model": 32})), "d = 32; 3 layers"),
        (replace(ON_TEXT, model=ModelChoice(dropout=0.3)), "dropout 0.3"),
        (
            replace(ON_TEXT, model=ModelChoice(preset="transformer", changes={"qkv_init": "xavier"})),
            "Multihead",
        ),
        (on(RecallConfig(num_pairs=3)), "After BOS 3 key-value pairs"),
        (on(RecallConfig(eval_num_pairs=(4, 6))), "is then evaluated on 4 and 6, each number"),
        (on(SignalNoiseConfig(num_distractors=5)), "5 values without a mark"),
        (on(TripleInteractionConfig(phase_steps=30)), "4 phases of 30 steps"),
    ],
)
def test_a_setting_is_said(experiment, said) -> None:
    assert said in " ".join(protocol_of(experiment))
    if experiment.task is None:
        assert said not in " ".join(protocol_of(ON_TEXT))


def test_what_experiments_differ_in_is_listed_and_what_they_share_said_once() -> None:
    longer = replace(ON_TEXT, loop=LoopConfig(steps=200), model=ModelChoice(dropout=0.0))
    models, training, _ = protocol_of(ON_TEXT, longer)
    assert "dropout 0.1 or 0." in models
    assert training.startswith("Training: 80 or 200 steps")
    told = protocol_of(on(RecallConfig(length=64)), on(SignalNoiseConfig()))
    (training,) = (one for one in told if one.startswith("Training"))
    assert training.startswith("Training on recall and signal versus noise: ")
    assert [one.partition(":")[0] for one in protocol_of(ON_TEXT, on(RecallConfig()))][2:] == [
        "Training on text",
        "Training on recall",
        "Evaluation on text",
        "Evaluation on recall",
    ]


def test_values_are_listed_as_people_say_them() -> None:
    assert listed([4, 6, 8]) == "4, 6 and 8"
    assert listed([200, 2000, 200], last="or") == "200 or 2,000"
    assert listed([0.1]) == "0.1"
