"""Sentences on how experiments train and measure say what their settings say."""

from dataclasses import replace

import pytest

from unimatrix.data.tasks import MQARConfig, RecallConfig, SignalNoiseConfig, TripleInteractionConfig
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
        (
            replace(ON_TEXT, loop=LoopConfig(eval_at=(20, 80))),
            "20 and 80 steps; the learning rate is constant",
        ),
        (
            replace(ON_TEXT, loop=LoopConfig(eval_at=(20,)), optim=OptimConfig(schedule="cosine")),
            "evaluated after 20 steps; a shorter run's learning rate would have fallen further",
        ),
        (replace(ON_TEXT, loop=LoopConfig(seq_len=64, eval_window=32)), "(windows of 32 side by side"),
        (replace(ON_TEXT, loop=LoopConfig(eval_split="test")), "over the whole test text; every byte"),
        (replace(ON_TEXT, model=ModelChoice(changes={"d_model": 32})), "d = 32; 3 layers"),
        (replace(ON_TEXT, model=ModelChoice(dropout=0.3)), "dropout 0.3"),
        (
            replace(ON_TEXT, model=ModelChoice(preset="transformer", changes={"qkv_init": "xavier"})),
            "Multihead",
        ),
        (on(RecallConfig(num_pairs=3)), "After BOS 3 key-value pairs"),
        (on(RecallConfig(eval_num_pairs=(4, 6))), "is then evaluated on 4 and 6, each number"),
        (on(SignalNoiseConfig(num_distractors=5)), "5 values without a mark"),
        (
            on(MQARConfig(num_pairs=8, length=128)),
            "8 key-value pairs in 128 tokens. The pairs come first, and",
        ),
        (on(MQARConfig(num_queries=3, num_passes=2)), "first, 2 times, and behind them 3 of the keys"),
        (on(MQARConfig(num_rebound=2, filler="clean")), "Of the keys 2 are bound again among the pairs"),
        (on(MQARConfig(filler="clean")), "else stand any tokens but keys and values of theirs."),
        (on(MQARConfig(power=0.5, vocab_size=100)), "power law of exponent 0.5 - 1"),
        (
            on(MQARConfig(eval_cells=((64, 2), (32, 4)))),
            "evaluated on 2 pairs in 64 tokens and 4 pairs in 32",
        ),
        (on(MQARConfig(eval_cells=((64, 2),), eval_tokens=4096)), "as many as hold 4,096 tokens at most."),
        (on(MQARConfig(eval_rebound=3)), "Once more with 3 of the keys bound again"),
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
    (cells, *_) = protocol_of(on(MQARConfig()), on(MQARConfig(length=128, num_pairs=8, filler="random")))
    assert "4 key-value pairs in 64 tokens or 8 key-value pairs in 128 tokens" in cells
    assert "4 or 8 of the keys" in cells
    assert "blanks or any tokens." in cells
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
