"""The parameter ledger: every count the paper prints, by counting built models; configs, overrides, names."""

import json

import pytest
import torch

import unimatrix
from unimatrix.cli import LONGEST_LINE
from unimatrix.models import (
    PEER_PRESETS,
    PRESETS,
    ModelConfig,
    parameter_count,
    preset_config,
    task_presets,
)
from unimatrix.studies.paper.published import published

PRINTED = [
    (name, vocab_size, group[name])
    for vocab_size, group in (
        (259, published()["parameters"]["language_model_vocab259_positions128"]),
        (64, published()["parameters"]["recall_vocab64_positions128"]),
    )
    for name in unimatrix.presets()
    if name in group
]


@pytest.mark.parametrize(("name", "vocab_size", "count"), PRINTED)
def test_counts_are_the_papers(name, vocab_size, count):
    assert parameter_count(unimatrix.build(name, vocab_size=vocab_size)) == count


# the paper describes the first and prints no count of it; the others are not the paper's
NOT_PRINTED = "recurrent-ffn-readout"
OWN = {
    "unimatrix": (171_033, 158_553),
    "transformer-modern": (163_712, 151_232),
    "unimatrix-hybrid": (191_368, 178_888),
    "unimatrix-rosa-exact": (103_876, 78_916),
    "unimatrix-discovery-exact": (115_184, 83_984),
}


def test_the_paper_prints_a_count_for_every_preset_of_its_own_but_one():
    assert {name for name, _, _ in PRINTED} | {NOT_PRINTED} | OWN.keys() == set(unimatrix.presets())


@pytest.mark.parametrize("name", OWN)
def test_counts_of_our_own_presets_are_those_that_we_print(name):
    counts = tuple(parameter_count(unimatrix.build(name, vocab_size=v)) for v in (259, 64))
    assert counts == OWN[name]
    assert all(f"{count:,}" in PRESETS[name].about for count in counts)


@pytest.mark.parametrize("name", ["recurrent-ffn", "recurrent-ffn-hybrid"])
@pytest.mark.parametrize("width", [32, 128])
def test_recurrent_ffns_grow_with_the_stream_as_the_mlp_does(name, width):
    ours, theirs = (parameter_count(unimatrix.build(one, d_model=width)) for one in (name, "transformer"))
    # the MLP's biases are what they have not, and the Hybrid's mix what it has
    assert theirs - ours == 3 * (5 - (name == "recurrent-ffn-hybrid")) * width
    given = unimatrix.build(name, d_model=width, width=8)
    assert given.blocks[0].feed_forward.width == 8
    with pytest.raises(unimatrix.UserError, match="width: expected a whole number of at least 1, got 0"):
        unimatrix.build(name, width=0)


def test_readout_has_one_projection_more_than_the_plain_recurrent_ffn():
    more = parameter_count(unimatrix.build(NOT_PRINTED)) - parameter_count(unimatrix.build("recurrent-ffn"))
    assert more == 3 * 64 * 128


@pytest.mark.parametrize("row", ["triple-latent-d60", "triple-slot-d60", "triple-hybrid-d56"])
def test_counts_at_matched_parameters_are_the_papers(row):
    name, width = row.rsplit("-d", 1)
    model = unimatrix.build(name, d_model=int(width), num_heads=4, state_dim=16)
    assert parameter_count(model) == published()["parameters"]["language_model_vocab259_positions128"][row]


@pytest.mark.parametrize("name", unimatrix.presets())
def test_every_parameter_learns(name):
    torch.manual_seed(0)
    model = unimatrix.build(name)
    ids = torch.randint(0, 256, (2, 16)).repeat(1, 2)  # so that there is something to vote for
    logits, _ = model(ids)
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids.roll(-1).flatten()).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key
        # Core and its like have d, as the paper counts it, and no use for it
        assert (parameter.grad.abs().sum() > 0) == (not key.endswith("mixer.d.weight")), key


@pytest.mark.parametrize("name", unimatrix.presets())
def test_initial_weights(name):
    torch.manual_seed(0)
    model = unimatrix.build(name)
    std = model.config.init_std
    for key, parameter in model.named_parameters():
        if key.startswith(("suffix", "contexts")) or (name == "unimatrix" and "gate_and_up" in key):
            continue  # what votes are worth at first, and how a gated MLP starts, stand in their own tests
        if (
            "convolution.weight" in key and parameter.shape[0] == 4
        ):  # a short one, as torch starts convolutions
            assert parameter.detach().std().item() == pytest.approx(0.5 / 3**0.5, rel=0.15), key
        elif "norm" in key:
            assert torch.equal(parameter, torch.full_like(parameter, float(key.endswith("weight")))), key
        elif key == "memory.write_gate.bias":
            assert (parameter == 4).all(), "a write gate starts open"
        elif key.endswith(("bias", "feed_forward.mix")):
            assert (parameter == 0).all(), key
        elif key.endswith("addresses"):
            assert parameter.detach().std().item() == pytest.approx(1.0, rel=0.4), key
        else:
            few = parameter.numel() < 1000
            assert parameter.detach().std().item() == pytest.approx(std, rel=0.4 if few else 0.15), key


def test_qkv_may_start_as_multihead_attention_does():
    torch.manual_seed(0)
    model = unimatrix.build("transformer", qkv_init="xavier")
    expected = torch.nn.MultiheadAttention(64, 4).in_proj_weight.detach()
    for key, parameter in model.named_parameters():
        if key.endswith("qkv.weight"):
            assert parameter.abs().max().item() == pytest.approx(expected.abs().max().item(), rel=0.01)
            assert parameter.std().item() == pytest.approx(expected.std().item(), rel=0.05)
        elif key.endswith("weight") and "norm" not in key:
            assert parameter.detach().std().item() == pytest.approx(0.02, rel=0.15), key


def test_the_memory_settings_reach_the_model():
    model = unimatrix.build(
        "unimatrix-sparse-pointer", slots=5, top_k=2, pointer=False, write_gate_bias=-1.0, memory_width=8
    )
    assert (model.memory.num_slots, model.memory.top_k, model.memory.pointer_gate) == (5, 2, None)
    assert model.memory.write_gate.bias.item() == -1.0
    assert model.memory.out.in_features == 8
    assert unimatrix.build("triple-slot", slots=7).blocks[2].mixer.addresses.shape == (7, 16)
    assert unimatrix.build("triple-hybrid", kernel_size=3).convolution.mix.in_features == 3 * 64
    assert unimatrix.build("unimatrix-sparse-pointer", write_gate=False).memory.write_gate is None
    assert unimatrix.build("unimatrix-assoc", temperature=3.0).blocks[0].associations.temperature == 3.0


@pytest.mark.parametrize(
    ("preset", "setting", "message"),
    [
        ("unimatrix-sparse-pointer", {"slots": 0}, "num_slots: expected a whole number of at least 1, got 0"),
        ("unimatrix-sparse-pointer", {"top_k": 33}, "top_k: expected 1 to num_slots = 32, got 33"),
        ("unimatrix-sparse-pointer", {"match_threshold": 1.5}, "match_threshold: expected a cosine"),
        ("unimatrix-assoc", {"temperature": 0.0}, "temperature: expected a positive number, got 0.0"),
        ("transformer", {"qkv_init": "zeros"}, "qkv_init: expected one of normal, xavier, got 'zeros'"),
        ("unimatrix-core", {"slots": 8}, "unknown setting 'slots'"),
        ("triple-latent", {"slots": 0}, "slots: expected a whole number of at least 1, got 0"),
        ("triple-slot", {"slots": 0}, "num_slots: expected a whole number of at least 1, got 0"),
        ("triple-hybrid", {"kernel_size": 0}, "kernel_size: expected a whole number of at least 1, got 0"),
    ],
)
def test_bad_memory_settings_are_one_line(preset, setting, message):
    with pytest.raises(unimatrix.UserError, match=message):
        unimatrix.build(preset, **setting)


@pytest.mark.parametrize("name", unimatrix.presets())
def test_config_survives_json(name):
    config = preset_config(name, max_positions=None, dropout=0.25, d_model=32)
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_overrides_reach_the_model():
    model = unimatrix.build("unimatrix-core", d_model=32, num_heads=2, depth=5, state_dim=8, dropout=0.5)
    state = model(torch.zeros(1, 3, dtype=torch.int64))[1]
    assert len(state.steps) == 5
    assert state.steps[0]["mixer"].matrix.shape == (1, 2, 8, 8)
    assert model.embedding.weight.shape == (259, 32)
    assert model.blocks[0].dropout.p == 0.5


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("unimatrix-cor", {}, "unknown name 'unimatrix-cor'; did you mean unimatrix-core"),
        ("zzz", {}, "unknown name 'zzz'; known: unimatrix, transformer"),
        ("unimatrix-core", {"state_dims": 4}, "unknown setting 'state_dims'; did you mean state_dim"),
        ("transformer", {"state_dim": 4}, "unknown setting 'state_dim'"),
        ("transformer", {"num_heads": 5}, "num_heads: expected a divisor of d_model = 64, got 5"),
        ("unimatrix-core", {"d_model": 0}, "d_model: expected a whole number of at least 1, got 0"),
        ("unimatrix-core", {"depth": -1}, "depth: expected"),
        ("unimatrix-core", {"state_dim": 0}, "state_dim: expected"),
        ("unimatrix-core", {"num_heads": 2.5}, "num_heads: expected a whole number"),
        ("unimatrix-core", {"max_positions": 0}, "max_positions: expected"),
        ("unimatrix-core", {"vocab_size": 0}, "vocab_size: expected"),
        ("unimatrix-core", {"dropout": 1.0}, "dropout: expected at least 0 and below 1, got 1.0"),
        ("unimatrix-core", {"backend": "fast"}, "backend: expected one of auto, reference"),
    ],
)
def test_bad_settings_are_named(name, overrides, message):
    with pytest.raises(unimatrix.UserError, match=message):
        unimatrix.build(name, **overrides)


def test_unknown_config_keys_are_refused():
    values = preset_config("unimatrix-core").to_dict()
    with pytest.raises(unimatrix.UserError, match="unknown setting 'dropuot'; did you mean dropout"):
        ModelConfig.from_dict(values | {"dropuot": 0.1})
    with pytest.raises(unimatrix.UserError, match="mixer: attention: unknown field 'heads'"):
        ModelConfig.from_dict(values | {"layers": [{"mixer": {"kind": "attention", "heads": 4}}]})
    with pytest.raises(
        unimatrix.UserError,
        match=r"mixer: unknown kind 'mamba'; another package's: .*; known: attention, matrix_state",
    ) as caught:
        ModelConfig.from_dict(values | {"layers": [{"mixer": {"kind": "mamba"}}]})
    # else the commands cut out its middle
    assert len(str(caught.value)) < LONGEST_LINE


@pytest.mark.parametrize("name", [*PRESETS, *PEER_PRESETS, *task_presets()])
@pytest.mark.parametrize("training", [False, True])
def test_shapes_alone_are_read_on_the_meta_device(name, training):
    """As who plans memory does: no value is there to be looked at."""
    model, ids = unimatrix.build(name).to("meta").train(training), torch.zeros(2, 5, dtype=torch.long)
    expected = unimatrix.build(name)(ids)[0].shape
    ids = ids.to("meta")
    with torch.set_grad_enabled(training):
        logits, state = model(ids, mask=torch.ones_like(ids, dtype=torch.bool))
        more, _ = model(ids, state)
    assert (logits.shape, more.shape) == (expected, expected)
    assert logits.is_meta
    if training:
        more.sum().backward()
