"""Parts work together, or their configuration cannot be made: every three of all choices meet in some model.

Choices are made at eleven places. Faults of combinations are nearly always faults of two or three of them,
and all threes fit in some hundreds of models where all combinations are tens of thousands.
"""

import itertools
import random
from functools import cache

import pytest
import torch
from trained_size import random_ids

from unimatrix.errors import UserError
from unimatrix.mixers import (
    AssociativeMemoryConfig,
    AttentionConfig,
    ClassHeadConfig,
    ContextVotesConfig,
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
    SuffixRoutingConfig,
    SuffixVotesConfig,
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
CHOICES = {
    "mixer": tuple(MIXERS),
    "head": (TiedHeadConfig(), ClassHeadConfig(num_classes=3, first_token=1)),
    "feed_forward": (
        MLPConfig(expansion=2),
        RecurrentFFNConfig(width=4, query=True, local=True, local_width=3),
    ),
    "associations": (None, AssociativeMemoryConfig()),
    "store": (None, SurpriseStoreConfig(budget=3, width=4)),
    "routing": (None, PreviousTokenRoutingConfig(), SuffixRoutingConfig(), SuffixRoutingConfig(vote=True)),
    "memory": (
        None,
        SlotMemoryConfig(num_slots=3, width=4),
        SlotMemoryConfig(num_slots=3, width=4, pointer=False, write_gate=False),
    ),
    "suffix": (None, SuffixVotesConfig(), SuffixVotesConfig(gate=True)),
    "contexts": (None, ContextVotesConfig(orders=(1, 2), continuations=2)),
    "deep_embed": (None, DeepEmbedConfig(rank=2)),
    "convolution": (None, ConvolutionConfig(kernel_size=2)),
    "steps": (None, StepEmbeddingsConfig()),
    "order": ((0, 1), (0, 0)),
}
IN_A_LAYER = ("mixer", "feed_forward", "associations", "store")
NEED_A_MATRIX = ("store", "routing")
IDS = random_ids(2, 5, below=7)
MASK = torch.tensor([[False, True, True, True, True], [True] * 5])

# which choice at each of the places, by their numbers
Chosen = tuple[int, ...]


def _refused(chosen: Chosen) -> str | None:
    """The part, if any, that only a matrix state serves and that has none before it."""
    of = dict(zip(CHOICES, chosen, strict=True))
    if CHOICES["mixer"][of["mixer"]].startswith("matrix"):
        return None
    return next((name for name in NEED_A_MATRIX if of[name]), None)


def _threes(chosen: Chosen) -> set[tuple[tuple[int, int], ...]]:
    return set(itertools.combinations(enumerate(chosen), 3))


@cache
def combinations() -> tuple[Chosen, ...]:
    """Few that can be made, in which every three choices meet that can: each the best of some at random."""
    drawn, sizes = random.Random(0), [len(choices) for choices in CHOICES.values()]
    left = set().union(*(_threes(chosen) for chosen in _spread(sizes) if _refused(chosen) is None))
    found = []
    while left:
        needed, best = min(left), ()
        for _ in range(20):
            chosen = [drawn.randrange(size) for size in sizes]
            for place, choice in needed:
                chosen[place] = choice
            if _refused(tuple(chosen)) is None:
                best = max(best, tuple(chosen), key=lambda one: len(_threes(one) & left) if one else 0)
        if best:
            found.append(best)
            left -= _threes(best)
    return tuple(found)


def _spread(sizes: list[int]) -> list[Chosen]:
    """Rows in which all threes occur, refused ones too: each three with the first choice elsewhere."""
    rows = []
    for places in itertools.combinations(range(len(sizes)), 3):
        for choices in itertools.product(*(range(sizes[place]) for place in places)):
            row = [0] * len(sizes)
            for place, choice in zip(places, choices, strict=True):
                row[place] = choice
            rows.append(tuple(row))
    return rows


def _settings(chosen: Chosen) -> dict:
    parts = {name: choices[at] for (name, choices), at in zip(CHOICES.items(), chosen, strict=True)}
    parts = {name: part for name, part in parts.items() if part is not None}
    order, head = parts.pop("order"), parts.pop("head")
    layer = {name: parts.pop(name) for name in IN_A_LAYER if name in parts}
    layer["mixer"] = MIXERS[layer["mixer"]]
    settings = {"vocab_size": 7, "d_model": 8, "max_positions": 8, "order": order, "head": head}
    return settings | {"layers": (layer,) * (max(order) + 1), "parts": parts}


@pytest.mark.parametrize("mixer", MIXERS)
def test_parts_work_together(mixer):
    mine = [chosen for chosen in combinations() if CHOICES["mixer"][chosen[0]] == mixer]
    for chosen in mine:
        config = ModelConfig(**_settings(chosen))
        model = LanguageModel(config)
        logits, state = model(IDS, mask=MASK)
        logits = logits[torch.isfinite(logits)]
        assert logits.numel() > 0
        logits.sum().backward()
        missing = [key for key, weight in model.named_parameters() if weight.grad is None]
        # classes have a head of their own, and slots without a vote give to the stream
        assert not missing, (config.parts, missing)
        with torch.no_grad():
            decoded, _ = model.eval()(IDS[:, :1], state)
        assert decoded.shape == (2, 1, 7)
        assert not decoded.isnan().any()
        assert estimate(config).parameters == parameter_count(model)
        assert ModelConfig.from_dict(config.to_dict()) == config
    assert len(mine) >= 12


@pytest.mark.parametrize("needs", NEED_A_MATRIX)
@pytest.mark.parametrize("mixer", [name for name in MIXERS if not name.startswith("matrix")])
def test_what_only_a_matrix_state_serves_is_refused(mixer, needs):
    names = list(CHOICES)
    for choice in range(1, len(CHOICES[needs])):
        chosen = [0] * len(names)
        chosen[0], chosen[names.index(needs)] = list(MIXERS).index(mixer), choice
        assert _refused(tuple(chosen)) == needs
        with pytest.raises(UserError, match=rf"{needs}: expected a (layer's )?part .*that (gives|reads)"):
            ModelConfig(**_settings(tuple(chosen)))


def test_every_three_choices_meet():
    met = set().union(*(_threes(chosen) for chosen in combinations()))
    assert all(
        _threes(row) - met == set()
        for row in _spread([len(c) for c in CHOICES.values()])
        if _refused(row) is None
    )
    assert len(combinations()) < 400
