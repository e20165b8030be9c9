"""Settings: JSON and back, and one clear line for everything that is no setting."""

import dataclasses
import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unimatrix.data.tasks import TASKS, MQARConfig, RecallConfig, SignalNoiseConfig, TripleInteractionConfig
from unimatrix.errors import UserError
from unimatrix.models import preset_config
from unimatrix.train.config import (
    FREE_AT_RESUME,
    Experiment,
    LoopConfig,
    ModelChoice,
    OptimConfig,
    first_difference,
)


def replaced(experiment, **changes):
    """The experiment with settings changed by their flat names."""
    for name, value in changes.items():
        for part in ("model", "optim", "loop"):
            config = getattr(experiment, part)
            if name in type(config).__dataclass_fields__:
                value = dataclasses.replace(config, **{name: value})
                name = part
                break
        experiment = dataclasses.replace(experiment, **{name: value})
    return experiment


def test_the_defaults_are_the_papers_recipe():
    experiment = Experiment()
    assert (experiment.loop.steps, experiment.loop.batch_size, experiment.loop.seq_len) == (80, 16, 128)
    assert (experiment.optim.lr, experiment.optim.schedule, experiment.optim.warmup_steps) == (
        3e-4,
        "constant",
        0,
    )
    assert experiment.optim.clip is None
    assert (experiment.model.dropout, experiment.model.max_positions) == (0.1, 128)
    assert (experiment.optim.weight_decay, experiment.optim.betas) == (0.01, (0.9, 0.999))
    assert experiment.optim.precision == "fp32"


@given(
    steps=st.integers(1, 10**9),
    seed=st.integers(0, 2**63 - 1),
    lr=st.floats(1e-9, 10.0),
    clip=st.none() | st.floats(0.1, 10.0),
    schedule=st.sampled_from(["constant", "cosine", "linear"]),
    width=st.none() | st.integers(1, 4096),
)
def test_json_round_trip(steps, seed, lr, clip, schedule, width):
    experiment = Experiment(
        name="x",
        model=ModelChoice(preset="transformer", max_positions=None, changes={"d_model": width}),
        data="some/folder",
        optim=OptimConfig(lr=lr, clip=clip, schedule=schedule, betas=(0.8, 0.95)),
        loop=LoopConfig(steps=steps, seed=seed, eval_every=3, eval_at=(1,), compile=True),
    )
    assert Experiment.from_dict(json.loads(json.dumps(experiment.to_dict()))) == experiment


def test_a_task_goes_to_json_with_its_kind_and_back():
    experiment = Experiment(task=RecallConfig(num_pairs=6, eval_num_pairs=(4, 8)))
    values = json.loads(json.dumps(experiment.to_dict()))
    assert (values["task"]["kind"], values["task"]["eval_num_pairs"]) == ("recall", [4, 8])
    assert Experiment.from_dict(values) == experiment
    assert Experiment.from_dict({"task": {"kind": "recall"}}).task == RecallConfig()


@pytest.mark.parametrize(
    ("preset", "depths", "message"),
    [
        ("unimatrix-core", (3, 1), "eval_depths: expected ascending depths from 1"),
        ("unimatrix-core", (0, 1), "eval_depths: expected ascending depths from 1"),
        ("transformer", (1, 2), "eval_depths: expected a model of one layer .*got transformer with 3"),
        ("mamba2", (1, 2), "eval_depths: expected a model of one layer .*got mamba2 with none"),
    ],
)
def test_only_a_shared_layer_is_evaluated_at_other_depths(preset, depths, message):
    with pytest.raises(UserError, match=message):
        Experiment(model=ModelChoice(preset=preset), loop=LoopConfig(eval_depths=depths))


def test_tasks_of_every_kind_go_to_json_and_back():
    task = TripleInteractionConfig(rules=("copy", "lookup"), task_token=False, phase_steps=None)
    experiment = Experiment(task=task, loop=LoopConfig(seq_len=49))
    values = json.loads(json.dumps(experiment.to_dict()))
    assert (values["task"]["kind"], values["task"]["rules"]) == ("triple-interaction", ["copy", "lookup"])
    assert Experiment.from_dict(values) == experiment
    bare = {"task": {"kind": "triple-interaction"}, "loop": {"seq_len": 49}}
    assert Experiment.from_dict(bare).task == TripleInteractionConfig()
    with pytest.raises(UserError, match=r"experiment: task: unknown field 'num_pairs'"):
        Experiment.from_dict({"task": {"kind": "triple-interaction", "num_pairs": 4}})
    signal = Experiment(task=SignalNoiseConfig(eval_num_distractors=(0, 15)), loop=LoopConfig(seq_len=64))
    assert Experiment.from_dict(json.loads(json.dumps(signal.to_dict()))) == signal
    cells = Experiment(task=MQARConfig(eval_cells=((128, 8), (64, 2))), loop=LoopConfig(seq_len=64))
    assert Experiment.from_dict(json.loads(json.dumps(cells.to_dict()))) == cells


def test_what_is_evaluated_after_training_fits_into_the_positions():
    task, loop = MQARConfig(eval_cells=((64, 2), (256, 8))), LoopConfig(seq_len=64)
    with pytest.raises(
        UserError,
        match=r"^evaluation on 256 tokens .* length of at most max_positions 128, got 256",
    ):
        Experiment(task=task, loop=loop)
    for positions in (256, None):
        Experiment(task=task, loop=loop, model=ModelChoice(max_positions=positions))


def test_without_a_task_there_is_none_to_read():
    # so that what was written before there were tasks is equal to what is written now
    assert "task" not in Experiment().to_dict()
    assert Experiment.from_dict({"task": None}) == Experiment()


def test_what_a_saved_experiment_does_not_mention_keeps_its_default():
    assert Experiment.from_dict({"loop": {"steps": 5}}) == Experiment(loop=LoopConfig(steps=5))


def test_option_names_are_unique_so_that_a_command_line_can_be_flat():
    names = ["name", "data"]
    parts = (ModelChoice, OptimConfig, LoopConfig)
    names += [field.name for part in parts for field in dataclasses.fields(part)]
    # an experiment has one task, whose kinds may share names
    tasks = [[field.name for field in dataclasses.fields(task.config)] for task in TASKS.values()]
    for of_task in tasks:
        assert len(names + of_task) == len({*names, *of_task})
    assert {*names, *itertools.chain(*tasks)} >= FREE_AT_RESUME


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"modle": {}}, "experiment: unknown field 'modle'; did you mean model"),
        ({"loop": {"step": 3}}, r"experiment: loop: unknown field 'step'; did you mean steps"),
        ({"loop": {"zzz": 3}}, "known: steps, batch_size"),
        ({"loop": 3}, "experiment: loop: expected an object with fields, got 3"),
        ({"loop": {"steps": "80"}}, "steps: expected a whole number, got '80'"),
        ({"loop": {"steps": 80.0}}, "steps: expected a whole number, got 80.0"),
        ({"loop": {"steps": True}}, "steps: expected a whole number, got True"),
        ({"loop": {"compile": 1}}, "compile: expected true or false, got 1"),
        ({"loop": {"eval_every": "no"}}, "eval_every: expected a whole number, got 'no'"),
        ({"loop": {"eval_at": [80, "200"]}}, "eval_at.1.: expected a whole number, got '200'"),
        ({"loop": {"eval_at": [200, 80]}}, r"eval_at: expected ascending steps above 0, got \(200, 80\)"),
        ({"loop": {"eval_at": [80, 80]}}, "eval_at: expected ascending steps above 0"),
        ({"loop": {"eval_at": [0, 80]}}, "eval_at: expected ascending steps above 0"),
        ({"loop": {"eval_at": [81]}}, "eval_at: expected no step after the last one, 80, got 81"),
        ({"loop": {"device": "gpu"}}, "device: expected one of auto, cpu, cuda, mps, got 'gpu'"),
        ({"optim": {"betas": [0.9]}}, "betas: expected 2 numbers"),
        ({"optim": {"lr": float("nan")}}, "lr: expected a number, got nan"),
        ({"name": 7}, "name: expected a text, got 7"),
        (
            {"task": 3},
            "an object with a kind among recall, triple-interaction, signal-noise, mqar or None, got 3",
        ),
        (
            {"task": {"num_pairs": 3}},
            "an object with a kind among recall, triple-interaction, signal-noise, mqar or None, got None",
        ),
        ({"task": {"kind": "sorting"}}, "with a kind among recall"),
        ({"task": {"kind": "recall", "pairs": 3}}, "experiment: task: unknown field 'pairs'; did you mean"),
        ({"task": {"kind": "recall", "num_pairs": 9}}, "num_pairs: expected at most num_keys 8, got 9"),
        ({"task": {"kind": "recall", "eval_num_pairs": 4}}, "eval_num_pairs: expected whole numbers, got 4"),
        ({"model": {"changes": 3}}, "changes: expected an object with fields, got 3"),
        ({"model": {"config": 3}}, "config: expected an object with (fields|settings), got 3"),
        ({"model": {"pionter": True}}, "experiment: model: unknown field 'pionter'; known: preset, config"),
    ],
)
def test_unknown_fields_and_wrong_types_are_named(values, message):
    with pytest.raises(UserError, match=message):
        Experiment.from_dict(values)


@pytest.mark.parametrize(
    ("config", "field", "value"),
    [
        (LoopConfig, name, value)
        for name in ("steps", "batch_size", "seq_len", "eval_every")
        for value in (0, -3)
    ]
    + [(LoopConfig, name, 0) for name in ("eval_bytes", "save_every", "keep_checkpoints", "log_every")]
    + [(LoopConfig, name, 0) for name in ("stream_bytes", "stream_window", "eval_window")]
    + [(LoopConfig, "seed", -1), (LoopConfig, "seed", 2**63)]
    + [(LoopConfig, "bos_share", value) for value in (0.0, -0.1, 1.1)]
    + [(ModelChoice, "max_positions", 0), (ModelChoice, "dropout", 1.0), (ModelChoice, "dropout", -0.1)]
    + [(OptimConfig, name, 0) for name in ("lr", "eps", "clip", "accumulation")]
    + [
        (OptimConfig, "warmup_steps", -1),
        (OptimConfig, "weight_decay", -0.1),
        (OptimConfig, "betas", (0.9, 1.0)),
    ]
    + [(OptimConfig, "final_lr_share", 1.1)],
)
def test_sizes_out_of_range_are_named(config, field, value):
    with pytest.raises(UserError, match=f"^{field}: expected") as caught:
        config(**{field: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["v2 [/final]", "[bold]", "a/b", "é☃", "x" * 200, " "])
def test_a_name_is_a_line_of_text(name):
    assert Experiment.from_dict(json.loads(json.dumps(Experiment(name=name).to_dict()))).name == name


@pytest.mark.parametrize(
    "name", ["", "a\nb", "a\tb", "n\0l", "x" * 201, "\ud800s", "\x1b[31mred", "\u202eabc", "\u2028"]
)
def test_a_name_that_no_line_can_show_is_refused(name):
    with pytest.raises(UserError, match=r"^name: expected 1 to 200 printable characters, got ") as caught:
        Experiment(name=name)
    assert str(caught.value).isprintable()


def test_a_text_that_json_cannot_name_is_refused():
    with pytest.raises(UserError, match=r"^data: expected a path in UTF-8, got 'bad\\udcff.txt'$"):
        Experiment(data="bad\udcff.txt")


def test_settings_that_do_not_fit_together_are_named():
    with pytest.raises(UserError, match="seq_len: expected at most max_positions 128, got 256"):
        Experiment(loop=LoopConfig(seq_len=256))
    assert Experiment(loop=LoopConfig(seq_len=256), model=ModelChoice(max_positions=None)).loop.seq_len == 256
    with pytest.raises(UserError, match="accumulation: expected a divisor of batch_size 16, got 3"):
        Experiment(optim=OptimConfig(accumulation=3))
    with pytest.raises(UserError, match="seq_len: expected the task's length 64, got 128; change length and"):
        Experiment(task=RecallConfig(length=64))
    with pytest.raises(UserError, match="eval_window: expected at most max_positions 128, got 129"):
        Experiment(loop=LoopConfig(eval_window=129))
    of_texts = (("eval_bytes", 10), ("bos_share", 0.1), ("stream_bytes", 10), ("eval_window", 10))
    for field, value in of_texts:
        with pytest.raises(UserError, match=f"{field}: a task has no text; expected None, got {value}"):
            Experiment(
                task=RecallConfig(), loop=LoopConfig(**{field: value}), model=ModelChoice(max_positions=None)
            )
    with pytest.raises(
        UserError, match=r"stream_bytes: a stream has no end; expected max_positions None .* 128"
    ):
        Experiment(loop=LoopConfig(stream_bytes=10))
    with pytest.raises(UserError, match="stream_window: expected None without stream_bytes, got 10"):
        LoopConfig(stream_window=10)
    with pytest.raises(UserError, match="stream_stride: expected None without stream_window, got 10"):
        LoopConfig(stream_bytes=100, stream_stride=10)
    with pytest.raises(UserError, match="stream_stride: expected a divisor of the window, 20, got 8"):
        LoopConfig(stream_bytes=100, stream_window=20, stream_stride=8)
    with pytest.raises(UserError, match="eval_split: a task has no text; expected valid, got test"):
        Experiment(task=RecallConfig(), loop=LoopConfig(eval_split="test"))
    with pytest.raises(UserError, match="pack: a task has no text; expected False, got True"):
        Experiment(task=RecallConfig(), loop=LoopConfig(pack=True))
    with pytest.raises(UserError, match="bos_share: with pack every document begins with BOS; expected None"):
        LoopConfig(pack=True, bos_share=0.1)
    with pytest.raises(UserError, match="seq_len: with pack expected at least 2"):
        LoopConfig(pack=True, seq_len=1)
    with pytest.raises(UserError, match="task: expected an object with fields or None, got 'recall'"):
        Experiment(task="recall")


@pytest.mark.parametrize("preset", ["typed-latent", "transformer-triple"])
def test_a_model_made_for_one_task_is_trained_on_nothing_else(preset):
    model, loop = ModelChoice(preset=preset, max_positions=49), LoopConfig(seq_len=49)
    task = TripleInteractionConfig(num_tags=2, vocab_size=60)
    assert Experiment(model=model, loop=loop, task=task).task == task
    message = (
        f"preset: {preset} is made for the task triple-interaction with num_values 16 and .* 8, got {{}}$"
    )
    with pytest.raises(UserError, match=message.format("a text")):
        Experiment(model=model, loop=loop)
    with pytest.raises(UserError, match=message.format("recall")):
        Experiment(model=model, loop=loop, task=RecallConfig(length=49))
    with pytest.raises(UserError, match=message.format("num_values 8, num_tag_symbols 8")):
        Experiment(model=model, loop=loop, task=TripleInteractionConfig(num_values=8))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("lr", 1.0),
        ("preset", "transformer"),
        ("seed", 8),
        ("batch_size", 8),
        ("dropout", 0.0),
        ("precision", "bf16"),
        ("eval_at", (80,)),
    ],
)
def test_a_resumed_run_must_keep_what_its_numbers_depend_on(field, value):
    saved = Experiment()
    difference = first_difference(saved, replaced(saved, **{field: value}))
    assert difference is not None
    # as JSON has it
    assert (difference[0], difference[2]) == (field, list(value) if isinstance(value, tuple) else value)


@pytest.mark.parametrize(
    ("saved", "asked", "difference"),
    [
        ({}, {"d_model": 32}, ("d_model", 64, 32)),
        ({"d_model": 32}, {}, ("d_model", 32, 64)),
        ({"num_heads": 2}, {"layers.*.mixer.num_heads": 1}, ("layers.*.mixer.num_heads", 2, 1)),
        ({}, {"parts.memory": "slots"}, ("parts.memory", None, "slots")),
        ({"depth": 2}, {"depth": 4}, ("depth", 2, 4)),
        # the same model in other words
        ({"num_heads": 2}, {"layers.0.mixer.num_heads": 2}, None),
        ({"depth": 2}, {"order": [0, 0]}, None),
        ({"num_heads": 4}, {}, None),
    ],
)
def test_a_resumed_run_must_keep_its_model(saved, asked, difference):
    first, second = (Experiment(model=ModelChoice(changes=changes)) for changes in (saved, asked))
    assert first_difference(first, second) == difference


def test_more_steps_may_be_evaluated_at_more_of_them():
    saved = replaced(Experiment(), eval_at=(40, 80))
    more = replaced(saved, steps=200)
    assert first_difference(saved, replaced(more, eval_at=(40, 80, 120, 200))) is None
    for asked in ((40, 120), (40, 60, 80, 120), (120,), None):
        difference = first_difference(saved, replaced(more, eval_at=asked))
        assert difference is not None
        assert difference[:2] == ("eval_at", [40, 80])


def test_what_was_measured_on_the_way_is_not_mixed_with_what_is_measured_otherwise():
    mqar = MQARConfig(length=128)
    text, task = Experiment(), Experiment(task=mqar)
    more = dataclasses.replace(mqar, eval_sequences=65)
    for saved, asked, field in (
        (text, replaced(text, eval_window=65), "eval_window"),
        (task, dataclasses.replace(task, task=more), "eval_sequences"),
    ):
        assert first_difference(saved, asked) is None
        difference = first_difference(replaced(saved, eval_at=(40, 80)), replaced(asked, eval_at=(40, 80)))
        assert difference is not None
        assert difference[0] == field


def test_a_resumed_run_may_change_the_rest():
    changed = replaced(
        Experiment(), steps=200, eval_every=5, save_every=3, keep_checkpoints=9, device="cpu", tracker="none"
    )
    assert first_difference(Experiment(), changed) is None


def test_a_resumed_run_must_keep_its_task_but_may_be_measured_with_another():
    recall = Experiment(task=RecallConfig())
    assert first_difference(recall, Experiment()) == ("task", "recall", None)
    assert first_difference(Experiment(), recall) == ("task", None, "recall")
    triple = Experiment(task=TripleInteractionConfig(), loop=LoopConfig(seq_len=49))
    assert first_difference(recall, triple) == ("task", "recall", "triple-interaction")
    six = dataclasses.replace(recall, task=RecallConfig(num_pairs=6))
    assert first_difference(recall, six) == ("num_pairs", 4, 6)
    measured = RecallConfig(eval_num_pairs=(4, 6), eval_sequences=64)
    assert first_difference(recall, dataclasses.replace(recall, task=measured)) is None


def test_a_choice_is_a_preset_and_what_differs_from_it():
    memory = {"slots": 4, "top_k": 2, "pointer": False, "write_gate": False}
    choice = ModelChoice(preset="unimatrix-sparse-pointer", dropout=0.0, changes=memory)
    assert choice.resolved(64) == preset_config("unimatrix-sparse-pointer", vocab_size=64, **memory)
    with pytest.raises(UserError, match="changes: expected dropout beside them, got it among them"):
        ModelChoice(changes={"dropout": 0.5})
    with pytest.raises(UserError, match="preset unimatrix-core: unknown setting 'pointer'"):
        ModelChoice(changes=memory).resolved(64)


def test_a_choice_of_an_earlier_version_is_the_same_one():
    """Until 0.1 settings of a model were fields, None where they were the preset's own."""
    then = {"preset": "unimatrix-sparse-pointer", "d_model": 32, "num_heads": None, "slots": 4}
    then |= {"pointer": False, "top_k": None, "dropout": 0.2, "max_positions": None}
    choice = Experiment.from_dict({"model": then}).model
    assert choice.changes == {"d_model": 32, "slots": 4, "pointer": False}
    assert (choice.dropout, choice.max_positions) == (0.2, None)
    again = Experiment.from_dict({"model": then | {"changes": {"slots": 8}}}).model
    assert again.changes["slots"] == 8
