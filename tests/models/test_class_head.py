"""The head of classes: its logits stand at the tokens that the classes are; no other has a chance."""

import dataclasses
import json

import pytest
import torch
import torch.nn.functional as F
from tolerances import assert_close

import unimatrix
from unimatrix.mixers import AttentionConfig, ClassHeadConfig, MLPConfig, SuffixVotesConfig, TiedHeadConfig
from unimatrix.models import LanguageModel, ModelConfig, Parts, parameter_count

CLASSES = slice(9, 25)  # transformer-triple's 16 classes are the tokens 9 to 24 of 53


def class_model(**settings) -> LanguageModel:
    torch.manual_seed(0)
    model = unimatrix.build("transformer-triple", **settings)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(5.0)
        model.class_head.bias.normal_()
    return model.eval()


def random_ids(*shape: int) -> torch.Tensor:
    return torch.randint(0, 53, shape, generator=torch.Generator().manual_seed(1))


def test_it_has_the_papers_count():
    model = class_model()
    assert parameter_count(model) == 107_664
    tied = LanguageModel(ModelConfig.from_dict(model.config.to_dict() | {"head": {"kind": "tied"}}))
    assert parameter_count(model) - parameter_count(tied) == 64 * 16 + 16


def test_no_other_token_has_a_chance():
    logits, _ = class_model()(random_ids(2, 30))
    assert logits.shape == (2, 30, 53)
    assert torch.isfinite(logits[..., CLASSES]).all()
    outside = torch.cat([logits[..., : CLASSES.start], logits[..., CLASSES.stop :]], dim=-1)
    assert (outside == -torch.inf).all()
    assert_close(logits.softmax(-1)[..., CLASSES].sum(-1), torch.ones(2, 30), "logits")


def test_class_c_is_the_token_first_token_plus_c():
    """Another head reads the same stream: its weights as rows of an embedding give the tied logits."""
    model = class_model()
    tied = LanguageModel(ModelConfig.from_dict(model.config.to_dict() | {"head": {"kind": "tied"}})).eval()
    tied.load_state_dict(model.state_dict(), strict=False)
    x: list[torch.Tensor] = []
    model.norm.register_forward_hook(lambda _, __, out: x.append(out))
    ids = random_ids(2, 30)
    got, expected = model(ids)[0], tied(ids)[0]
    assert_close(got[..., CLASSES], F.linear(x[0], model.class_head.weight, model.class_head.bias), "logits")
    assert_close(expected, x[0] @ model.embedding.weight.mT, "logits")


@pytest.mark.parametrize(("first_token", "num_classes"), [(0, 4), (6, 4), (0, 10)])
def test_classes_at_either_end_of_the_vocabulary(first_token, num_classes):
    head = ClassHeadConfig(num_classes=num_classes, first_token=first_token)
    model = LanguageModel(
        ModelConfig(
            vocab_size=10,
            d_model=8,
            layers=({"mixer": AttentionConfig(), "feed_forward": MLPConfig()},),
            head=head,
        )
    )
    logits, _ = model(torch.randint(0, 10, (1, 5)))
    assert logits.shape == (1, 5, 10)
    finite = torch.isfinite(logits[0, 0]).nonzero().flatten().tolist()
    assert finite == list(range(first_token, first_token + num_classes))


def test_pieces_and_padding_change_nothing():
    model = class_model().requires_grad_(False)
    ids = random_ids(2, 40)
    whole, _ = model(ids)
    first, state = model(ids[:, :17])
    second, _ = model(ids[:, 17:], state)
    assert_close(torch.cat([first, second], 1)[..., CLASSES], whole[..., CLASSES], "logits")
    mask = torch.ones(2, 49, dtype=torch.bool)
    mask[:, :9] = False
    padded, _ = model(torch.cat([ids[:, :9], ids], 1), mask=mask)
    assert_close(padded[:, 9:, CLASSES], whole[..., CLASSES], "logits")
    assert (padded[:, 9:, : CLASSES.start] == -torch.inf).all()


def test_every_parameter_learns_from_token_ids():
    model = class_model().train()
    ids = random_ids(4, 49)
    labels = torch.tensor([9, 24, 12, 17])
    loss = F.cross_entropy(model(ids)[0][:, -1], labels)
    expected = F.cross_entropy(model(ids)[0][:, -1, CLASSES], labels - CLASSES.start)
    assert_close(loss, expected, "logits")
    loss.backward()
    for key, parameter in model.named_parameters():
        assert torch.isfinite(parameter.grad).all(), key
        assert parameter.grad.any(), key


def test_it_starts_like_every_linear_layer():
    torch.manual_seed(0)
    head = unimatrix.build("transformer-triple").class_head
    assert head.weight.detach().std().item() == pytest.approx(0.02, rel=0.15)
    assert not head.bias.any()


@pytest.mark.parametrize("gate", [False, True])
def test_a_vote_for_what_is_no_class_counts_for_nothing(gate):
    config = ModelConfig(
        vocab_size=20,
        d_model=16,
        layers=(Parts(mixer=AttentionConfig(num_heads=2)),),
        parts=Parts(suffix=SuffixVotesConfig(gate=gate)),
        head=ClassHeadConfig(num_classes=5, first_token=10),
    )
    torch.manual_seed(0)
    model = unimatrix.build(config)
    ids = torch.tensor([[1, 2, 3, 11, 1, 2, 3, 12, 11, 12, 11, 12]])  # both kinds are pointed at, and none
    logits, _ = model(ids)
    without = unimatrix.build(dataclasses.replace(config, parts=Parts()))
    without.load_state_dict(model.state_dict(), strict=False)
    plain, _ = without(ids)
    changed = (logits != plain).any(-1)[0].tolist()
    pointed_at = [-1, -1, -1, -1, 2, 3, 11, -1, 1, 11, 12, 11]  # 10 to 14 are classes
    assert changed == [token >= 10 for token in pointed_at]
    assert torch.isneginf(logits[..., :10]).all()
    answers = ids[:, [3, 7, 8, 11]] - 10
    torch.nn.functional.cross_entropy(
        logits[:, [2, 6, 7, 10], 10:15].flatten(0, 1), answers.flatten()
    ).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all(), key
    assert model.suffix.mixture.weights.grad.any()


def test_the_config_survives_json():
    config = class_model().config
    assert config.head == ClassHeadConfig(num_classes=16, first_token=9)
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    without = config.to_dict()
    del without["head"]  # as configs were before there was one
    assert ModelConfig.from_dict(without).head == TiedHeadConfig()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"num_classes": 0, "first_token": 0}, "num_classes: expected a whole number of at least 1, got 0"),
        ({"num_classes": 1, "first_token": 0}, "num_classes: expected at least 2, .* got 1"),
        ({"num_classes": 4, "first_token": -1}, "first_token: expected a token id, got -1"),
        ({"num_classes": 4, "first_token": 1.5}, "first_token: expected a whole number, got 1.5"),
        ({"num_classes": 4, "first_token": 7}, "vocab_size 10, got 7 [+] 4"),
    ],
)
def test_bad_classes_are_one_line(setting, message):
    with pytest.raises(unimatrix.UserError, match=message):
        ModelConfig(vocab_size=10, head=ClassHeadConfig(**setting))
