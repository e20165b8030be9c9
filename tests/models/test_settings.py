"""Every setting of every part by one path: Python, an experiment, the Hugging Face config, a command line."""

import dataclasses
import json
import re

import pytest

import unimatrix
from unimatrix import UserError
from unimatrix.cli.model_options import SHORT, ModelOptions, changed, of_changes
from unimatrix.codec import encode
from unimatrix.hf import UniMatrixConfig
from unimatrix.mixers import AttentionConfig, MatrixStateConfig, SlotMemoryConfig
from unimatrix.mixers.registry import parts
from unimatrix.models import ModelConfig, edit, preset_config, presets, setting, settings_of
from unimatrix.train import Experiment, ModelChoice

OTHER = {bool: lambda x: not x, int: lambda x: x + 1, float: lambda x: x / 2 + 0.015}
BY_NAME = {"backend": "reference", "qkv_init": "xavier", "top_k": 2, "max_positions": 17}
BY_NAME |= {"width": 24, "num_heads": 2, "d_model": 32}


def other(path: str, value: object) -> object:
    """Another value that the setting at this path may have."""
    name = path.split(".")[-1]
    return BY_NAME[name] if name in BY_NAME else OTHER[type(value)](value)


def doors(preset: str, changes: dict) -> dict[str, ModelConfig]:
    """The config that each way of changing a model makes of the same changes."""
    text = json.loads(json.dumps(changes))
    assignments = [f"{path}={json.dumps(value)}" for path, value in text.items()]
    own = {"preset": preset, "dropout": 0.0, "max_positions": preset_config(preset).max_positions}
    choice = ModelChoice(**own, changes=changes)
    stored = Experiment.from_dict(json.loads(json.dumps(Experiment(model=choice).to_dict())))
    typed = ModelChoice(**own, changes=changed({}, ModelOptions(), assignments))
    return {
        "python": preset_config(preset, **changes),
        "build": unimatrix.build(preset, **changes).config,
        "experiment": choice.resolved(259),
        "experiment of JSON": stored.model.resolved(259),
        "hf": UniMatrixConfig.from_preset(preset, **changes).to_model_config(),
        "command line": typed.resolved(259),
    }


@pytest.mark.parametrize("preset", presets())
def test_every_setting_is_changed_by_its_path_through_every_door(preset):
    before = settings_of(preset_config(preset))
    for path, value in before.items():
        besides = path in ("max_positions", "dropout", "order", "vocab_size")  # said by data and experiment
        if besides or (isinstance(value, str | None) and path.split(".")[-1] not in BY_NAME):
            continue
        if path == "depth" and len({*preset_config(preset).layers}) > 1 and "layers.*.mixer" not in before:
            continue  # of layers that differ it is said by layers and order
        if path.endswith("local_width") or (path.endswith(".num_slots") and value is None):
            continue
        wanted = other(path, value)
        changes = {path: wanted}
        expansion = path.removesuffix("width") + "expansion"
        if path.endswith(".width") and before.get(expansion) is not None:
            changes[expansion] = None  # a width is said in one of two ways
        made = doors(preset, changes)
        assert len(set(made.values())) == 1, path
        after = settings_of(made["python"])
        changed_paths = {name for name in after if after[name] != before.get(name)} - {"order"}
        assert changed_paths == changes.keys()
        assert after[path] == wanted


@pytest.mark.parametrize("preset", presets())
def test_the_end_of_a_path_is_enough_where_it_leaves_no_doubt(preset):
    config = preset_config(preset)
    for path, value in settings_of(config).items():
        name = path.split(".")[-1]
        if name not in ("num_heads", "state_dim", "num_slots", "rank", "kernel_size", "temperature", "query"):
            continue
        if value is not None:
            # of several layers' everywhere
            wanted = other(path, value)
            paths = [one for one in settings_of(config) if one.split(".")[-1] == name]
            assert edit(config, {name: wanted}) == edit(config, dict.fromkeys(paths, wanted))


def test_parts_as_a_whole_are_settings_too():
    core = preset_config("unimatrix-core")
    slots = edit(core, {"parts.memory": SlotMemoryConfig(num_slots=8)})
    assert slots == edit(core, {"parts.memory": {"kind": "slots", "num_slots": 8}})
    assert slots == edit(core, {"parts.memory": "slots", "parts.memory.num_slots": 8})
    assert edit(slots, {"parts.memory": None}) == core
    hybrid = edit(core, {"order": (0, 1, 0), "layers.1.mixer": AttentionConfig(num_heads=2)})
    assert [layer["mixer"].kind for layer in hybrid.layers] == ["matrix_state", "attention"]
    assert hybrid.order == (0, 1, 0)
    assert not hybrid.recurrent
    assert edit(hybrid, {"order": [0, 0]}) == edit(core, {"depth": 2})
    assert edit(hybrid, {"num_heads": 1}).layers[1]["mixer"] == AttentionConfig(num_heads=1)
    whole = edit(core, {"layers": [{"mixer": {"kind": "attention"}}]})
    assert whole.layers[0] == {"mixer": AttentionConfig()} or list(whole.layers[0]) == ["mixer"]


def test_depth_shares_or_stacks_as_the_model_does():
    assert preset_config("unimatrix-core", depth=5).order == (0,) * 5
    assert preset_config("transformer", depth=5).order == (0, 1, 2, 3, 4)
    with pytest.raises(UserError, match="depth: expected a model whose layers are alike, got 2 that are not"):
        edit(
            preset_config("unimatrix-core", **{"order": (0, 1), "layers.1.mixer": "attention"}), {"depth": 4}
        )


def test_depth_beside_layers_is_that_of_the_new_layers():
    core, alone = preset_config("unimatrix-core"), [{"mixer": "attention"}]
    with pytest.raises(
        UserError, match=r"^preset unimatrix-core: depth: one layer alone|^depth: one layer alone"
    ):
        edit(core, {"layers": alone, "depth": 3})
    stacked = edit(core, {"layers": alone * 2, "depth": 3})
    assert (len(stacked.layers), stacked.order) == (3, (0, 1, 2))
    cycle = edit(preset_config("transformer"), {"order": (0, 1, 0, 1)})
    with pytest.raises(
        UserError, match=r"depth: expected layers .* once each, .* got \(0, 1, 0, 1\); change"
    ):
        edit(cycle, {"depth": 6})
    assert edit(cycle, {"depth": 4}) == cycle


def test_one_layer_alone_does_not_tell_whether_more_steps_would_share_it():
    one = edit(preset_config("transformer"), {"depth": 1})
    with pytest.raises(
        UserError, match=r"depth: one layer alone .* order, as \(0, 0, 0\) to share them, \(0, 1, 2\)"
    ):
        edit(one, {"depth": 3})
    assert edit(one, {"order": (0, 1, 2)}).order == preset_config("transformer").order
    assert edit(one, {"depth": 1}) == one


def test_relative_widths_follow_the_model():
    wide = preset_config("recurrent-ffn-hybrid", d_model=96).resolved()
    assert (wide.layers[0]["feed_forward"].width, wide.layers[0]["feed_forward"].local_width) == (96, 96)
    assert preset_config("recurrent-ffn", d_model=96).resolved().layers[0]["feed_forward"].width == 192


@pytest.mark.parametrize(
    ("preset", "changes", "message"),
    [
        (
            "unimatrix-core",
            {"num_head": 2},
            "preset unimatrix-core: unknown setting 'num_head'; .* num_heads",
        ),
        (
            "unimatrix-core",
            {"parts.memory.num_slots": 2},
            "'parts.memory.num_slots'; this model has no part with num_slots; one comes by parts.slots=slots",
        ),
        (
            "unimatrix",
            {"slots": 2},
            "'slots'; this model has no part with num_slots; one comes by parts.slots=slots or",
        ),
        ("unimatrix-core", {"scale": 2.0}, "no part with scale; one comes by head=scaled$"),
        ("unimatrix-core", {"slot": 2}, "unknown setting 'slot'; known: "),
        ("unimatrix", {"feed_forward": "mlp"}, r"did you mean layers\.\*\.feed_forward\?$"),
        ("unimatrix", {"suffix": None}, r"did you mean parts\.suffix\?$"),
        ("unimatrix", {"memory": "slots"}, "unknown setting 'memory'; known: "),
        ("unimatrix-sparse-pointer", {"parts.memory.num_slot": 2}, "did you mean parts.memory.num_slots"),
        ("unimatrix-core", {"layers.1.mixer": "attention"}, "expected a layer from 0 to 0, or \\*, got '1'"),
        (
            "unimatrix-core",
            {"layers.0.mixer": "attentoin"},
            "unknown kind 'attentoin'; did you mean attention",
        ),
        ("unimatrix-core", {"layers.0.mixer.num_heads": "4"}, "expected a whole number, got '4'"),
        ("unimatrix-core", {"parts.memroy": None}, "there is no parts.memroy to leave out"),
        ("unimatrix-sparse-pointer", {"layers.*.memory": None}, "there is no layers.*.memory to leave out"),
        (
            "unimatrix-sparse-pointer",
            {"slots": 4, "num_slots": 8},
            "expected one value of .*num_slots, got two",
        ),
        ("unimatrix-core", {"depth": 10**5000}, "depth: expected .* got a number of 16610 bits"),
        ("unimatrix-core", {"layer.0.mixer": "attention"}, "did you mean layers.0.mixer"),
        ("unimatrix-core", {"depth": 2, "order": (0, 1)}, "expected depth or order, .* got both"),
        ("unimatrix-core", {"depth": 0}, "depth: expected a whole number of at least 1, got 0"),
        ("unimatrix-core", {"depth": 10**9}, "depth: expected a whole number of at most 4,096, got"),
        ("unimatrix-core", {"order": []}, "order: expected the number of a layer for each depth step"),
        ("unimatrix-core", {"order": [0, -1]}, "order: expected the number of a layer for each depth step"),
        ("unimatrix-core", {"layers": []}, "layers: expected a list of layers"),
        ("unimatrix-core", {"norm": "slots"}, "norm: expected a part of role norm, got slots"),
        (
            "recurrent-ffn",
            {"parts.memory": "slots", "width": 3},
            "width could be layers.0.feed_forward.width or .* or parts.memory.width",
        ),
        ("mamba2", {"num_slots": 3}, "preset mamba2: unknown setting 'num_slots'"),
    ],
)
def test_what_cannot_be_changed_is_named(preset, changes, message):
    with pytest.raises(UserError, match=message) as caught:
        preset_config(preset, **changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("turn", [1, -1])
def test_what_is_said_of_one_layer_goes_before_what_is_said_of_all(turn):
    """In whatever order the paths are written, of whole parts and of settings."""
    wholes = {"layers.*.mixer": "attention", "layers.1.mixer": "triple_latent"}
    found = preset_config("transformer-modern", **dict([*wholes.items()][::turn]))
    kinds = [encode(layer["mixer"])["kind"] for layer in found.layers]
    assert kinds == ["attention", "triple_latent", *["attention"] * (len(kinds) - 2)]
    for general in ("layers.*.mixer.num_heads", "mixer.num_heads", "num_heads"):
        changes = {general: 1, "layers.1.mixer.num_heads": 2}
        found = preset_config("transformer-modern", **dict([*changes.items()][::turn]))
        heads = [layer["mixer"].num_heads for layer in found.layers]
        assert heads == [1, 2, *[1] * (len(heads) - 2)]
    with pytest.raises(UserError, match=r"expected one value of layers\.0\.mixer\.num_heads, got two"):
        edit(found, dict([("num_heads", 1), ("layers.*.mixer.num_heads", 2)][::turn]))


def test_a_layers_part_and_the_models_own_of_one_name_are_two():
    config = preset_config("unimatrix-sparse-pointer", **{"layers.0.memory": "surprise_store"})
    with pytest.raises(UserError, match=r"top_k could be layers\.0\.memory\.top_k or parts\.memory\.top_k"):
        edit(config, {"top_k": 1})
    changed = edit(config, {"layers.0.memory.top_k": 1})
    assert changed.layers[0]["memory"].top_k == 1
    assert changed.parts["memory"] == config.parts["memory"]


def test_what_a_complaint_says_of_a_missing_part_is_so():
    """Each path that it names, added, makes the setting known; of every setting of every kind."""
    core, told = preset_config("unimatrix-core"), {}
    for name in {name for part in parts().values() for name in part.settings}:
        with pytest.raises(UserError) as caught:
            edit(core, {name: object()})
        if "no part with" in str(caught.value):
            told[name] = re.findall(r"(\S+)=(\w+)(?: or|$)", str(caught.value))
    assert told["write_gate"] == [("parts.slots", "slots")]
    assert told["scale"] == [("head", "scaled")]
    for name, paths in told.items():
        assert paths
        for path, kind in paths:
            assert any(known.endswith(f".{name}") for known in settings_of(edit(core, {path: kind})))


def test_the_first_value_of_a_name():
    assert setting(preset_config("unimatrix-core"), "num_heads") == 4
    assert setting(preset_config("mamba2"), "num_heads") == 2
    assert setting(preset_config("unimatrix-core"), "num_slots") is None


def test_short_options_are_settings():
    """Each is one that some preset has, and says what the long path says."""
    known = {name for preset in presets() for name in _names(preset_config(preset))}
    assert {{"slots": "num_slots"}.get(name, name) for name in SHORT} <= known
    options = ModelOptions(slots=4, pointer=False)
    assert changed({"top_k": 2, "parts.memory.width": 8}, options, ["top_k=None"]) == {
        "parts.memory.width": 8,
        "slots": 4,
        "pointer": False,
        "top_k": None,
    }
    assert of_changes({"slots": 4, "order": [0]}) == ModelOptions(slots=4)


@pytest.mark.parametrize("assignment", ["", "=", "=3", "slots", "parts.memory={", 'layers=[{"a"}]'])
def test_a_bad_assignment_is_one_line(assignment):
    with pytest.raises(UserError, match=r"^--set"):
        changed({}, ModelOptions(), [assignment])


def test_values_of_assignments():
    given = [
        "a=1",
        "b=1.5",
        "c=true",
        "d=True",
        "e=None",
        "f=null",
        "g=chunked",
        'h={"kind":"slots"}',
        "i=[0,1]",
    ]
    assert list(changed({}, ModelOptions(), given).values()) == [
        *(1, 1.5, True, True, None, None, "chunked", {"kind": "slots"}, [0, 1])
    ]


def test_an_experiment_of_ones_own_config():
    config = edit(preset_config("unimatrix-core"), {"layers.0.mixer": MatrixStateConfig(num_heads=2)})
    experiment = Experiment(model=ModelChoice(config=config))
    assert experiment.model.preset == "custom"
    assert Experiment.from_dict(json.loads(json.dumps(experiment.to_dict()))) == experiment
    assert experiment.model.resolved(64) == dataclasses.replace(config, vocab_size=64)
    assert "config" not in Experiment().to_dict()["model"]
    assert hash(experiment) == hash(Experiment(model=ModelChoice(config=config)))
    plain = edit(config, {"dropout": 0.25, "max_positions": None})
    assert ModelChoice(config=plain).resolved(259) == plain
    with pytest.raises(UserError, match=r"dropout: expected 0.25, as in the config beside it, got 0.3"):
        ModelChoice(config=plain, dropout=0.3)


@pytest.mark.parametrize("value", [{1, 2}, object(), float("nan"), b"x"])
def test_changes_are_values_as_json_has_them(value):
    with pytest.raises(UserError, match="changes: expected values as JSON has them"):
        ModelChoice(changes={"a": value})


def _names(config: ModelConfig) -> set[str]:
    return {path.split(".")[-1] for path in settings_of(config)}
