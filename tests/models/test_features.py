"""What lies before the head and around it: hidden states, given embeddings, asked positions, recomputing."""

import pytest
import torch
from tolerances import assert_close
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint
from trained_size import ALL_PRESETS, PRESETS, random_ids, trained_size

from unimatrix import UserError
from unimatrix.models import LanguageModel, language_model, model_from_config, task_presets
from unimatrix.models.presets import preset_config

NEEDS_IDS = {
    "unimatrix-rosa": "routing",
    "unimatrix-discovery": "routing",
    "unimatrix-rosa-exact": "routing",
    "unimatrix-discovery-exact": "routing",
    "unimatrix-sparse-pointer": "memory",
    "unimatrix": "suffix",
}
IDS = random_ids(3, 30, below=53)
MASK = torch.ones(3, 30, dtype=torch.bool)
MASK[0, :7] = False
SOME = torch.rand(3, 30, generator=torch.Generator().manual_seed(3)) > 0.8
CHOSEN = {
    "last": (1, lambda x: x[:, -1:]),
    "last five": (5, lambda x: x[:, -5:]),
    "more than all": (99, lambda x: x),
    "none": (0, lambda x: x[:, :0]),
    "positions": (torch.tensor([3, 29, 3, -1]), lambda x: x[:, [3, 29, 3, -1]]),
    "each row's": (
        torch.tensor([[0, 29], [5, -2], [7, 7]]),
        lambda x: torch.stack([x[0, [0, 29]], x[1, [5, -2]], x[2, [7, 7]]]),
    ),
    "mask": (SOME, lambda x: x[SOME]),
}


@pytest.mark.parametrize("name", ALL_PRESETS)
@pytest.mark.parametrize("chosen", CHOSEN)
def test_logits_at_asked_positions_are_those_of_all(name, chosen, monkeypatch):
    model = trained_size(name)
    at, choose = CHOSEN[chosen]
    before = model(IDS[:, :4])[1]
    for state, mask in ((None, None), (None, MASK), (before, MASK)):
        whole, after = model(IDS, state, mask=mask)
        some, same = model(IDS, state, mask=mask, logits_at=at)
        expected = choose(whole)
        assert some.shape == expected.shape
        real = torch.isfinite(expected)
        assert_close(some[real], expected[real], "logits")
        assert torch.equal(same.position, after.position)
        with torch.no_grad(), monkeypatch.context() as patch:
            patch.setattr(language_model, "PIECE_TOKENS", 21)
            some = model(IDS, state, mask=mask, logits_at=at)[0]
        assert_close(some[real], expected[real], "logits")


class Largest(TorchDispatchMode):
    """The most numbers that any tensor made inside holds."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for one in made if isinstance(made, tuple | list) else [made]:
            if isinstance(one, Tensor):
                self.numbers = max(self.numbers, one.untyped_storage().nbytes() // one.element_size())
        return made


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("grad", [False, True])
def test_what_is_not_asked_takes_no_memory(name, grad):
    model = trained_size(name, vocab_size=5000, max_positions=None)
    ids = random_ids(1, 2100)
    with torch.set_grad_enabled(grad), Largest() as largest:
        logits, _ = model(ids, logits_at=2)
    assert logits.shape == (1, 2, 5000)
    assert largest.numbers < 2100 * 5000 / 2  # the embedding is 5000 x 64, attention 2100 x 2100


@pytest.mark.parametrize(
    ("at", "message"),
    [
        (-1, "at least 0, got -1"),
        ("last", "expected a number, or a tensor of positions or of bool, got 'last'"),
        (True, "expected a number, or a tensor"),
        (torch.tensor([30]), "positions from -30 to 29, got 30"),
        (torch.tensor([-31]), "positions from -30 to 29, got -31"),
        (torch.zeros(2, 4, dtype=torch.int64), r"positions \[K\] or \[3, K\], got \[2, 4\]"),
        (torch.zeros(3), "of dtype int64, got float32"),
        (torch.ones(3, 29, dtype=torch.bool), r"\[3, 30\], got \[3, 29\]"),
    ],
)
def test_positions_that_are_none_are_named(at, message):
    with pytest.raises(UserError, match=message):
        trained_size("unimatrix-core")(IDS, logits_at=at)


@pytest.mark.parametrize("name", ALL_PRESETS)
@pytest.mark.parametrize("pieces", [False, True])
@torch.no_grad()
def test_features_are_what_the_head_reads(name, pieces, monkeypatch):
    if pieces:
        monkeypatch.setattr(language_model, "PIECE_TOKENS", 21)
    model = trained_size(name)
    logits, state = model(IDS, mask=MASK)
    features = model.features(IDS, mask=MASK, keep_streams=True)
    assert torch.equal(model.logits(features), logits)
    assert torch.equal(features.state.position, state.position)
    assert model.features(IDS).streams is None
    streams = features.streams
    assert [stream.shape for stream in streams] == [(3, 30, 64)] * (model.config.depth + 1)
    assert streams[-1] is features.hidden
    # each block gets what the stream before it says
    seen = []
    for block in model.blocks:
        block.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model.features(IDS[:, :6])
    expected = model.features(IDS[:, :6], keep_streams=True).streams
    if "steps" not in model.config.parts:  # else it is added in between
        for given, stream in zip(seen[: model.config.depth], expected[:-1], strict=True):
            assert torch.equal(given, stream)


@pytest.mark.parametrize("name", ALL_PRESETS)
def test_embeddings_in_the_place_of_ids(name):
    model = trained_size(name)
    embeds = model.embedding(IDS)
    if name in NEEDS_IDS:
        with pytest.raises(UserError, match=f"inputs_embeds: .* which parts.{NEEDS_IDS[name]} reads"):
            model(None, inputs_embeds=embeds)
        return
    expected, state = model(IDS, mask=MASK)
    got, same = model(None, inputs_embeds=embeds, mask=MASK)
    assert torch.equal(got[MASK], expected[MASK])
    more = model(None, same, inputs_embeds=embeds[:, :6])[0]
    assert torch.equal(model(IDS[:, :6], state)[0], more)
    with pytest.raises(UserError, match="in the place of input_ids, got both"):
        model(IDS, inputs_embeds=embeds)
    with pytest.raises(UserError, match=r"expected shape \[batch, time, 64\], got \[3, 30, 63\]"):
        model(None, inputs_embeds=embeds[..., 1:])
    with pytest.raises(TypeError, match="dtype floating point, got int64"):
        model(None, inputs_embeds=IDS)


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf], ids=str)
@pytest.mark.parametrize("name", [name for name in ALL_PRESETS if name not in NEEDS_IDS])
def test_whatever_stands_at_padding_reaches_no_logit_and_no_gradient(name, wrong):
    model = trained_size(name).requires_grad_(True)
    found = []
    for filled in (0.0, wrong):
        embeds = model.embedding(IDS).detach().clone()
        embeds[~MASK] = filled
        embeds.requires_grad_(True)
        logits, _ = model(None, inputs_embeds=embeds, mask=MASK)
        told = logits[MASK]
        told = told[torch.isfinite(told)]
        told.square().sum().backward()
        grads = {key: weight.grad for key, weight in model.named_parameters() if weight.grad is not None}
        found.append({"logits": told.detach(), "embeds": embeds.grad, **grads})
        model.zero_grad(set_to_none=True)
    assert found[0].keys() == found[1].keys()
    for key, number in found[0].items():
        assert torch.isfinite(number).all(), key
        assert torch.equal(found[1][key], number), key


def gradients(model: LanguageModel) -> tuple[Tensor, dict[str, Tensor]]:
    torch.manual_seed(5)
    model.zero_grad()
    logits, state = model(IDS, mask=MASK)
    logits = model(IDS[:, :5], state)[0] + logits[:, -5:]
    real = torch.isfinite(logits)
    loss = nn.functional.mse_loss(logits[real], torch.ones_like(logits[real]))
    loss.backward()
    return loss.detach(), {key: parameter.grad for key, parameter in model.named_parameters()}


@pytest.mark.parametrize("name", ALL_PRESETS)
def test_recomputed_blocks_give_the_same_gradients(name):
    models = [trained_size(name, dropout=0.2).requires_grad_(True).train() for _ in range(2)]
    models[1].gradient_checkpointing = True
    calls = []
    next(models[1].blocks[0].children()).register_forward_pre_hook(lambda *_: calls.append(1))
    (loss, expected), (same, got) = map(gradients, models)
    assert len(calls) == 2 * 2 * models[1].config.order.count(0)
    assert torch.equal(same, loss)
    for key, grad in expected.items():
        assert torch.equal(got[key], grad), key
    for one, other in zip(models[0].buffers(), models[1].buffers(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", ALL_PRESETS)
def test_a_whole_model_can_be_recomputed(name):
    model = trained_size(name).requires_grad_(True)
    grads = []
    for call in (model, lambda ids: checkpoint(model, ids, use_reentrant=False)):
        model.zero_grad()
        logits = call(IDS)[0]
        logits[torch.isfinite(logits)].square().mean().backward()
        grads.append([parameter.grad for parameter in model.parameters()])
    assert all(map(torch.equal, *grads))


@pytest.mark.parametrize("name", [*PRESETS, *task_presets()])
@pytest.mark.parametrize("how", [{}, {"qkv_init": "xavier"}])
def test_a_model_made_without_memory_is_initialised_whole(name, how):
    if how and "transformer" not in name:
        return
    config = preset_config(name, **how)
    direct = model_from_config(config)
    with torch.device("meta"):
        later = model_from_config(config)
    assert all(parameter.is_meta for parameter in later.parameters())
    later.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in [*later.parameters(), *later.buffers()]:
            tensor.fill_(torch.nan)
    for model in (direct, later):
        torch.manual_seed(1)
        model.init_weights()
    ours, theirs = later.state_dict(), direct.state_dict()
    assert ours.keys() == theirs.keys()
    for key, tensor in theirs.items():
        assert torch.equal(ours[key], tensor), key


@pytest.mark.parametrize("name", ALL_PRESETS)
def test_each_module_can_be_initialised_alone(name):
    model = trained_size(name)
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            tensor.fill_(torch.nan)
        # children before parents, as transformers goes about it
        for _, module in reversed(list(model.named_modules())):
            if module is not model:
                model.init_module(module)
    assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())
    assert torch.isfinite(model.embedding.weight).all()
    if "memory" in model.config.parts:
        assert (model.memory.write_gate.bias == 4).all()
