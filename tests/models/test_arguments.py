"""Every wrong argument from Python is a UserError that names it: inputs, masks, states, settings."""

import pytest
import torch
from trained_size import ALL_PRESETS, random_ids, trained_size

import unimatrix
from unimatrix.errors import UserError
from unimatrix.models import (
    ModelConfig,
    config_from_dict,
    estimate,
    presets,
    select_batch,
    settings_of,
    task_presets,
)
from unimatrix.models.presets import preset_config

IDS = random_ids(2, 6, below=53)
OURS = (*ALL_PRESETS, "typed-latent")


def refusal(call) -> str | None:
    """The one line that it is refused with, None if it is taken."""
    try:
        call()
    except UserError as error:
        message = str(error)
    else:
        return None
    assert "\n" not in message
    assert len(message) < 400
    return message


def model_of(name: str):
    return unimatrix.build(name).eval() if name == "typed-latent" else trained_size(name)


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (None, r"input_ids: expected a tensor of token ids \(int64\), got None"),
        ([[1, 2]], "input_ids: expected a tensor of .* got a list"),
        (IDS.numpy(), "input_ids: expected a tensor of .* got a ndarray"),
        ("text", "input_ids: expected a tensor of .* got a str"),
        (IDS.float(), "input_ids: expected token ids of dtype int64, got float32"),
        (IDS.int(), "input_ids: expected token ids of dtype int64, got int32"),
        (IDS.bool(), "input_ids: expected token ids of dtype int64, got bool"),
        (IDS[0], r"input_ids: expected shape \[batch, time\], got \[6\]"),
        (IDS[None], r"input_ids: expected shape \[batch, time\], got \[1, 2, 6\]"),
        (torch.tensor(3), r"input_ids: expected shape \[batch, time\], got \[\]"),
        (IDS + 1000, "input_ids: expected token ids from 0 to"),
        (-IDS - 1, "input_ids: expected token ids from 0 to"),
    ],
)
def test_wrong_ids_are_named(name, ids, message):
    with pytest.raises(UserError, match=message):
        model_of(name)(ids)


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(2, 6), r"mask: expected real tokens of dtype bool, got float32"),
        (torch.ones(2, 6, dtype=torch.int64), "mask: expected real tokens of dtype bool, got int64"),
        ([[True] * 6] * 2, r"mask: expected a tensor of real tokens \(bool\), got a list"),
        (True, r"mask: expected a tensor of real tokens \(bool\), got a bool"),
        (torch.ones(2, 5, dtype=torch.bool), r"mask: expected shape \[2, 6\], got \[2, 5\]"),
        (torch.ones(6, dtype=torch.bool), r"mask: expected shape \[2, 6\], got \[6\]"),
        (torch.ones(2, 6, dtype=torch.bool, device="meta"), "mask: expected it where the inputs are, cpu"),
    ],
)
def test_wrong_masks_are_named(name, mask, message):
    with pytest.raises(UserError, match=message):
        model_of(name)(IDS, mask=mask)


@pytest.mark.parametrize("name", OURS)
def test_garbage_is_no_state(name):
    model = model_of(name)
    _, state = model(IDS)
    other = model_of("unimatrix-core" if name.startswith("transformer") else "transformer")(IDS)[1]
    for garbage in ((), (1, 2, 3), tuple(state), [state], "state", 3, torch.zeros(3), {}, object(), other):
        with pytest.raises(UserError, match=r"^state"):
            model(IDS[:, :1], garbage)


def spoiled(state, change, seen):
    """Copies of a state, each with one tensor changed."""
    for place, part in state.items() if isinstance(state, dict) else enumerate(state):
        if isinstance(part, torch.Tensor):
            seen.append(1)
            yield replaced(state, place, change(part))
        elif part is not None:
            yield from (replaced(state, place, one) for one in spoiled(part, change, seen))
    return


def replaced(state, place, part):
    if isinstance(state, dict):
        return state | {place: part}
    parts = [*state[:place], part, *state[place + 1 :]]
    return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)


CHANGES = {
    "another batch": lambda x: torch.cat([x, x]),
    "another dtype": lambda x: x.double() if x.is_floating_point() else x.float(),
    "a dimension more": lambda x: x[..., None],
    "another device": lambda x: x.to("meta"),
    "none": lambda x: None,
    "a number": lambda x: 3,
}


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("change", CHANGES)
def test_each_tensor_of_a_state_is_looked_at(name, change):
    model = model_of(name)
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[0, :2] = False
    _, state = model(IDS, mask=mask)
    tensors: list[int] = []
    refused = taken = 0
    for wrong in spoiled(state, CHANGES[change], tensors):
        message = refusal(lambda wrong=wrong: model(IDS[:, :1], wrong))
        assert message is None or message.startswith("state.")
        taken += message is None
        refused += message is not None
    # where nothing was padding a state holds no mask
    optional = sum(
        "real" in getattr(part, "_fields", ()) or "valid" in getattr(part, "_fields", ())
        for step in getattr(state, "steps", ())
        for part in step.values()
    )
    assert refused == len(tensors) - (optional if change == "none" else 0)
    assert taken == (optional if change == "none" else 0)


@pytest.mark.parametrize("name", OURS)
def test_right_states_pass(name):
    model = model_of(name)
    _, state = model(IDS)
    for good in (state, select_batch(state, torch.tensor([1, 1])), model.init_state(2)):
        model(IDS[:, :1], good)
    empty = random_ids(0, 6)
    logits, state = model(empty)
    assert logits.shape[:2] == (0, 6)
    assert model(empty[:, :1], state)[0].shape[:2] == (0, 1)
    assert model(IDS[:, :0])[0].shape[:2] == (2, 0)


@pytest.mark.parametrize("name", presets())
def test_another_width_batch_or_precision_is_told_from_its_own(name):
    model = trained_size(name)
    wider = unimatrix.build(name, d_model=32, num_heads=2).eval()
    for state in (wider(IDS)[1], model(IDS[:1])[1], trained_size(name).double()(IDS)[1]):
        with pytest.raises(UserError, match=r"^state\."):
            model(IDS[:, :1], state)


NAMES = {**presets(), **task_presets()}
WRONG = (None, "x", [], {}, 1.5, float("nan"), float("inf"), -1, 0, 10**30, True, (1,), "1e3", b"x", object())


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_of_every_preset_is_checked(name):
    """Each value is either taken, or refused in one line that names a setting."""
    hints = preset_config(name).to_dict()
    tried = 0
    settings = settings_of(NAMES[name]) if isinstance(NAMES[name], ModelConfig) else hints
    for setting in settings:
        for value in WRONG:
            if refusal(lambda given={setting: value}: preset_config(name, **given)) is None:
                number = (
                    setting.endswith(("temperature", "init_std", "rotary_base", "head.scale", "gain"))
                    and value == 10**30
                )
                assert number or value in (None, True, -1, 0, 1.5), (setting, value)
            else:
                tried += 1
    assert tried >= 10 * len(settings)
    assert config_from_dict(hints) == preset_config(name)


@pytest.mark.parametrize("name", NAMES)
def test_every_field_of_a_stored_config_is_checked(name):
    """The readers of config.json: no value of the wrong type or range makes a model, none a traceback."""
    whole = preset_config(name).to_dict()
    places = [(key,) for key in whole]
    places += [(key, inner) for key, part in whole.items() if isinstance(part, dict) for inner in part]
    for place in places:
        for value in (
            *WRONG,
            {"kind": "nope"},
            {"kind": []},
            [[]],
            {"kind": "classes"},
            {"kind": "mlp", "x": 1},
        ):
            changed = {key: dict(part) if isinstance(part, dict) else part for key, part in whole.items()}
            target = changed if len(place) == 1 else changed[place[0]]
            target[place[-1]] = value
            made: list = []
            if refusal(lambda given=changed, made=made: made.append(config_from_dict(given))) is None:
                assert estimate(made[0]).parameters > 0
    for values in (None, [], "x", 3, {"unknown": 1}, {**whole, "unknown": 1}):
        with pytest.raises(UserError):
            config_from_dict(values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mixer": None}, "mixer: expected an object with a kind, got None"),
        ({"layers": [{"mixer": None}]}, "mixer: expected an object with a kind, got None"),
        ({"layers": [{"mixer": {"kind": "slots"}}]}, "mixer: expected a part of role mix or feed, got slots"),
        ({"norm": {"kind": "mlp"}}, "norm: expected a part of role norm, got mlp, a feed"),
        ({"memory": 3}, "memory: expected an object with a kind, got 3"),
        ({"parts": {"memory": 3}}, "memory: expected an object with a kind, got 3"),
        ({"order": [0, 2]}, "order: expected each of the layers 0 to 2 and no other"),
        (
            {"parts": {"norm": {"kind": "slots"}}},
            "expected a name that a model does not use itself, got 'norm'",
        ),
        ({"shared_depth": "yes"}, "shared_depth: expected true or false, got 'yes'"),
        ({"dropout": float("nan")}, "dropout: expected a number, got nan"),
        ({"init_std": float("inf")}, "init_std: expected a number, got inf"),
        ({"d_model": 10**30}, "d_model: expected a whole number of at most 1,048,576, got 10"),
        (
            {"memory": {"kind": "associative", "temperature": "x"}},
            "associative: temperature: expected a number",
        ),
    ],
)
def test_settings_of_a_stored_config_are_named(values, message):
    with pytest.raises(UserError, match=message) as caught:
        ModelConfig.from_dict(values)
    assert str(caught.value).startswith("model config: ")


@pytest.mark.parametrize("name", [None, 3, [], "", "x" * 10_000, "unimatrix-cor"])
def test_unknown_presets_are_named_in_one_short_line(name):
    with pytest.raises(UserError, match=r"^preset: ") as caught:
        unimatrix.build(name)
    assert len(str(caught.value)) < 500


def test_what_cannot_fit_is_refused_before_it_is_made():
    for settings in ({"depth": 4_000, "d_model": 1024}, {"d_model": 2**20}, {"vocab_size": 2**31 - 1}):
        with pytest.raises(
            UserError, match=r"preset transformer: [\d,]+ weights: needs at least .* of memory"
        ):
            unimatrix.build("transformer", **settings)
    assert (
        estimate(preset_config("transformer", depth=4_000)).parameters
        == 16_576 + 8_192 + 128 + 49_984 * 4_000
    )
