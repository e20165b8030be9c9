"""Mamba-2: transformers' own to the bit, and pieces, padding and torch.compile change nothing."""

import copy
import json
import subprocess
import sys

import pytest
import torch
import transformers
from tolerances import assert_close

from unimatrix import UserError
from unimatrix.models import (
    Mamba2,
    Mamba2Config,
    build,
    build_language_model,
    config_from_dict,
    model_from_config,
    parameter_count,
    peer_presets,
    preset_config,
    select_batch,
    state_bytes,
    text_config_from_dict,
)

SMALL = {"vocab_size": 20, "max_positions": None, "d_model": 16, "depth": 2, "num_heads": 4, "state_dim": 6}


@pytest.fixture
def make():
    """make(**settings): a small model in evaluation mode, with weights that make every part matter."""

    def build_one(**settings):
        torch.manual_seed(0)
        model = Mamba2(Mamba2Config(**SMALL | {"chunk_length": 8} | settings))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
        return model.eval()

    return build_one


def ids_of(*shape):
    return torch.randint(0, 20, shape, generator=torch.Generator().manual_seed(1))


def theirs(model):
    """transformers' own model with the same weights."""
    other = transformers.Mamba2ForCausalLM(model.backbone.config)
    weights = {f"backbone.{name}": tensor for name, tensor in model.backbone.state_dict().items()}
    missing, unexpected = other.load_state_dict(weights, strict=False)
    assert (missing, unexpected) == (["lm_head.weight"], []), "the head is tied to the embedding"
    return other.train(model.training)


def test_it_has_about_the_transformers_number_of_parameters():
    for vocab_size, count in ((259, 174_008), (64, 161_528)):
        model = build("mamba2", vocab_size=vocab_size)
        assert parameter_count(model) == count
        assert count == pytest.approx(parameter_count(build("transformer", vocab_size=vocab_size)), rel=0.01)


def test_its_logits_and_gradients_are_transformers_own(make):
    model, ids = make(), ids_of(3, 21)
    for mode in (model.eval(), model.train()):
        own = theirs(mode)
        logits, expected = mode(ids)[0], own(ids).logits
        assert torch.equal(logits, expected)
        mode.zero_grad()
        logits.square().sum().backward()
        expected.square().sum().backward()
        gradients = {
            f"backbone.{name}": parameter.grad for name, parameter in model.backbone.named_parameters()
        }
        for name, parameter in own.named_parameters():
            assert torch.equal(parameter.grad, gradients[name]), name


def test_the_seed_decides_the_weights_which_transformers_draws():
    config = Mamba2Config(**SMALL)
    models = []
    for _ in range(2):
        torch.manual_seed(3)
        models.append(model_from_config(config))
    torch.manual_seed(3)
    drawn = transformers.Mamba2ForCausalLM(models[0].backbone.config).backbone.state_dict()
    for name, tensor in models[0].backbone.state_dict().items():
        assert torch.equal(tensor, models[1].backbone.state_dict()[name]), name
        assert torch.equal(tensor, drawn[name]), name
    assert drawn["embeddings.weight"].std() == pytest.approx(0.1, rel=0.1)


@pytest.mark.parametrize("cuts", [(1,), (3, 3, 20, 21), (8, 16), tuple(range(1, 30))], ids=len)
def test_pieces_equal_the_whole(make, cuts):
    model, ids = make(), ids_of(3, 30)
    with torch.no_grad():
        whole, last = model(ids)
        for state in (None, model.init_state(3)):
            parts = []
            for start, stop in zip((0, *cuts), (*cuts, 30), strict=True):
                logits, state = model(ids[:, start:stop], state)
                parts.append(logits)
            assert_close(torch.cat(parts, 1), whole, "logits")
            assert state.position.tolist() == [30, 30, 30]
            for layer, expected in zip(state.layers, last.layers, strict=True):
                for got, tensor in zip(layer, expected, strict=True):
                    assert_close(got, tensor, "state")


@pytest.mark.parametrize("length", [0, 1, 5])
def test_a_state_is_not_modified_and_its_rows_can_be_picked(make, length):
    model, ids = make(), ids_of(3, 12)
    with torch.no_grad():
        _, state = model(ids)
        before = copy.deepcopy(state)
        more = ids_of(3, length)
        logits, after = model(more, state)
        assert logits.shape == (3, length, 20)
        picked, _ = model(more[[2, 0, 0]], select_batch(state, torch.tensor([2, 0, 0])))
    for layer, expected in zip(state.layers, before.layers, strict=True):
        assert all(torch.equal(*pair) for pair in zip(layer, expected, strict=True))
    assert_close(picked, logits[[2, 0, 0]], "logits")
    assert (after is state) == (length == 0)
    channels, heads = 2 * 16 + 2 * 6, 2 * 16 * 6
    assert state_bytes(state) == 3 * (8 + 2 * 4 * (4 * channels + heads))


@pytest.mark.parametrize("length", [1, 11])
def test_left_padding_is_no_padding(make, length):
    model, ids = make(), ids_of(4, length)
    real = torch.tensor([length, length // 2, 1, 0])
    mask = torch.arange(length) >= length - real[:, None]
    with torch.no_grad():
        logits, state = model(ids, mask=mask)
        more, _ = model(ids_of(4, 3), state)
        for row, number in enumerate(real.tolist()):
            alone, its_state = model(ids[row : row + 1, length - number :])
            assert_close(logits[row : row + 1, length - number :], alone, "logits")
            one, _ = model(ids[row : row + 1], mask=mask[row : row + 1])
            assert_close(one[:, length - number :], alone, "logits")
            assert_close(more[row : row + 1], model(ids_of(4, 3)[row : row + 1], its_state)[0], "logits")
    assert torch.equal(state.position, real)


def test_padding_elsewhere_is_refused_and_none_is_none(make):
    model, ids = make(), ids_of(2, 4)
    mask = torch.ones(2, 4, dtype=torch.bool)
    logits, state = model(ids, mask=mask)
    assert torch.equal(logits, model(ids)[0])
    assert torch.equal(model(ids, state, mask=mask)[0], model(ids, state)[0])
    left, right = mask.clone(), mask.clone()
    left[0, 0] = right[0, -1] = False
    for wrong in ({"mask": right}, {"mask": left, "state": state}):
        with pytest.raises(
            UserError, match="mask: expected padding before a row's first token alone"
        ) as caught:
            model(ids, **wrong)
        assert "\n" not in str(caught.value)


def test_in_training_a_state_is_kept_only_where_one_is_given(make):
    model, ids = make().train(), ids_of(2, 10)
    logits, state = model(ids)
    assert state is None
    # and gradients go through one
    first, state = model(ids[:, :4], model.init_state(2))
    second, _ = model(ids[:, 4:], state)
    parameters = list(model.parameters())
    expected = torch.autograd.grad(logits[:, -1].square().sum(), parameters)
    for got, gradient in zip(
        torch.autograd.grad(second[:, -1].square().sum(), parameters), expected, strict=True
    ):
        assert_close(got, gradient, "gradient")
    assert_close(torch.cat([first, second], 1), logits, "logits")


def test_dropout_is_on_the_embeddings_and_on_what_blocks_add(make):
    ids = ids_of(2, 10)
    model = make(dropout=0.5)
    assert torch.equal(model(ids)[0], make()(ids)[0])
    seen = []
    model.dropout.register_forward_hook(
        lambda _, inputs, output: seen.append(float((output == 0).float().mean()))
    )
    model.train()(ids)
    assert len(seen) == 1 + model.config.depth
    assert all(share == pytest.approx(0.5, abs=0.12) for share in seen)
    # a copy drops out by its own mode
    assert not torch.equal(copy.deepcopy(model)(ids)[0], model.eval()(ids)[0])
    assert torch.equal(copy.deepcopy(model)(ids)[0], model(ids)[0])


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (torch.tensor([[1, 20]]), "expected token ids from 0 to 19, got 20"),
        (torch.tensor([1, 2]), r"expected shape \[batch, time\]"),
        (torch.zeros(1, 13, dtype=torch.int64), "expected at most max_positions = 12 tokens, got 13"),
    ],
)
def test_what_it_cannot_read_is_refused(make, ids, message):
    with pytest.raises(UserError, match=message):
        make(max_positions=12)(ids)


def test_a_limit_counts_what_came_before(make):
    model = make(max_positions=12)
    _, state = model(ids_of(1, 10))
    assert model(ids_of(1, 2), state)[0].shape == (1, 2, 20)
    with pytest.raises(UserError, match="max_positions = 12 tokens, got 13"):
        model(ids_of(1, 3), state)


def test_compiled_it_gives_the_same_and_decodes_with_one_graph(make):
    model, ids = make(), ids_of(2, 14)
    torch._dynamo.reset()
    compiled = torch.compile(model, dynamic=False, backend="aot_eager")
    torch._dynamo.utils.counters.clear()
    with torch.no_grad():
        logits, _ = compiled(ids[:, :8])
        _, state = model(ids[:, :8])
        parts = [logits]
        for place in range(8, 14):
            logits, state = compiled(ids[:, place : place + 1], state)
            parts.append(logits)
        assert_close(torch.cat(parts, 1), model(ids)[0], "logits")
    counters = torch._dynamo.utils.counters
    assert not counters["graph_break"]
    assert counters["stats"]["unique_graphs"] <= 3, "the prompt, the first step, and the steps after it"


def test_building_and_running_it_says_nothing_and_asks_no_network():
    code = """
import socket
class NoNetwork(socket.socket):
    def connect(self, address):
        raise AssertionError(f"asked for {address}")
socket.socket = NoNetwork
def no_lookup(*arguments, **settings):
    raise AssertionError(f"asked for {arguments}")
socket.getaddrinfo = no_lookup
import torch
from unimatrix.models import build
model = build("mamba2", d_model=16, depth=1)
ids = torch.zeros(1, 3, dtype=torch.int64)
model(ids)[0].sum().backward()
_, state = model.eval()(ids)
model(ids[:, :1], state)
"""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_its_config_goes_to_json_and_back():
    config = preset_config("mamba2", d_model=32, max_positions=None, dropout=0.1)
    values = json.loads(json.dumps(config.to_dict()))
    assert values["kind"] == "mamba2"
    assert config_from_dict(values) == text_config_from_dict(values) == config
    with pytest.raises(
        UserError, match=r"mamba2 config: unknown setting 'expansion'; known: vocab_size, .*expand"
    ):
        config_from_dict(values | {"expansion": 2})
    with pytest.raises(UserError, match="expected a language model's, got kind 'typed_latent'"):
        text_config_from_dict(preset_config("typed-latent").to_dict())


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"num_heads": 3}, r"num_heads: expected a divisor of expand \* d_model = 128, got 3"),
        ({"state_dim": 0}, "state_dim: expected a positive number, got 0"),
        ({"chunk_length": -1}, "chunk_length: expected a positive number"),
        ({"dropout": 1.0}, "dropout: expected at least 0 and below 1, got 1.0"),
        ({"depth": 1.5}, "depth: expected a whole number, got 1.5"),
    ],
)
def test_settings_that_do_not_fit_are_named(setting, message):
    with pytest.raises(UserError, match=message):
        Mamba2Config(**setting)


def test_it_is_a_peer_and_none_of_our_own():
    assert "mamba2" in peer_presets()
    assert isinstance(build("mamba2", d_model=16, depth=1), Mamba2)
    with pytest.raises(UserError, match="preset mamba2: is a peer's"):
        build_language_model("mamba2")
    with pytest.raises(UserError, match="preset mamba2: unknown setting 'mlp_expansion'"):
        build("mamba2", mlp_expansion=4)
