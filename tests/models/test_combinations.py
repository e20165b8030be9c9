"""Every combination of parts works, or its configuration cannot be made."""

import itertools

import pytest
import torch
from trained_size import random_ids

from unimatrix.errors import UserError
from unimatrix.mixers import (
    AssociativeMemoryConfig,
    AttentionConfig,
    ClassHeadConfig,
    ConvolutionConfig,
    DeepEmbedConfig,
    LSTMConfig,
    M2RNNConfig,
    MatrixStateConfig,
    MLPConfig,
    PreviousTokenRoutingConfig,
    RecurrentFFNConfig,
    SlotMemoryConfig,
    StepEmbeddingsConfig,
    SurpriseStoreConfig,
    TiedHeadConfig,
    TripleLatentConfig,
)
from unimatrix.models import LanguageModel, ModelConfig, parameter_count
from unimatrix.models.estimate import estimate

SMALL = {"num_heads": 2, "state_dim": 4}
MIXERS = {
    "attention": AttentionConfig(num_heads=2),
    "matrix": MatrixStateConfig(**SMALL),
    "matrix, rules": MatrixStateConfig(**SMALL, rule_mixing=True),
    "matrix, norm": MatrixStateConfig(**SMALL, spectral_norm=True),
    "matrix, rules, norm": MatrixStateConfig(**SMALL, rule_mixing=True, spectral_norm=True),
    "matrix, convolved": MatrixStateConfig(**SMALL, kernel_size=3, idle_diag=False, output_norm=True),
    "matrix, rules, norm, convolved": MatrixStateConfig(
        **SMALL, rule_mixing=True, spectral_norm=True, kernel_size=1
    ),
    "m2rnn": M2RNNConfig(num_heads=2, key_dim=4, value_dim=3, kernel_size=2),
    "lstm": LSTMConfig(width=5),
    "triple": TripleLatentConfig(**SMALL),
    "triple, slots": TripleLatentConfig(**SMALL, num_slots=2),
}
PARTS = {
    "feed_forward": (
        MLPConfig(expansion=2),
        RecurrentFFNConfig(width=4, query=True, local=True, local_width=3),
    ),
    "associations": (None, AssociativeMemoryConfig()),
    "store": (None, SurpriseStoreConfig(budget=3, width=4)),
    "routing": (None, PreviousTokenRoutingConfig()),
    "memory": (
        None,
        SlotMemoryConfig(num_slots=3, width=4),
        SlotMemoryConfig(num_slots=3, width=4, pointer=False, write_gate=False),
    ),
    "deep_embed": (None, DeepEmbedConfig(rank=2)),
    "convolution": (None, ConvolutionConfig(kernel_size=2)),
    "steps": (None, StepEmbeddingsConfig()),
    "order": ((0, 1), (0, 0)),
}
IN_A_LAYER = ("feed_forward", "associations", "store")
IDS = random_ids(2, 5, below=7)
MASK = torch.tensor([[False, True, True, True, True], [True] * 5])


@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize("head", [TiedHeadConfig(), ClassHeadConfig(num_classes=3, first_token=1)])
def test_each_combination_works_or_cannot_be_made(mixer, head):
    made = 0
    for chosen in itertools.product(*PARTS.values()):
        parts = {name: part for name, part in zip(PARTS, chosen, strict=True) if part is not None}
        order = parts.pop("order")
        layer = {"mixer": MIXERS[mixer]} | {name: parts.pop(name) for name in IN_A_LAYER if name in parts}
        settings = {"vocab_size": 7, "d_model": 8, "max_positions": 8, "order": order, "head": head}
        settings |= {"layers": (layer,) * (max(order) + 1), "parts": parts}
        if "store" in layer and not mixer.startswith("matrix"):
            with pytest.raises(UserError, match=r"store: expected a part before it in its layer that gives"):
                ModelConfig(**settings)
            continue
        if "routing" in parts and not mixer.startswith("matrix"):
            with pytest.raises(UserError, match=r"^parts.routing: expected a layer's part that reads"):
                ModelConfig(**settings)
            continue
        config = ModelConfig(**settings)
        model = LanguageModel(config)
        logits, state = model(IDS, mask=MASK)
        logits = logits[torch.isfinite(logits)]
        assert logits.numel() > 0
        logits.sum().backward()
        missing = [key for key, weight in model.named_parameters() if weight.grad is None]
        # classes have a head of their own, and slots without a vote give to the stream
        assert not missing, (parts, missing)
        with torch.no_grad():
            decoded, _ = model.eval()(IDS[:, :1], state)
        assert decoded.shape == (2, 1, 7)
        assert not decoded.isnan().any()
        if made % 16 == 0:
            assert estimate(config).parameters == parameter_count(model)
            assert ModelConfig.from_dict(config.to_dict()) == config
        made += 1
    assert made >= 96
