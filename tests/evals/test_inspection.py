"""What the inspection of a slot memory tells agrees with the model's own forward pass."""

import json

import pytest
import torch

import unimatrix
from unimatrix import UserError
from unimatrix.codec import decode, encode
from unimatrix.evals.inspection import SlotHistory, inspect_slots


def pointer_model(**settings):
    torch.manual_seed(0)
    model = unimatrix.build("unimatrix-sparse-pointer", vocab_size=20, slots=4, **settings)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5.0) if parameter.dim() > 1 else parameter
    return model


IDS = torch.tensor([1, 5, 6, 7, 8, 5, 9, 2, 5])


def test_it_follows_every_binding():
    history = inspect_slots(pointer_model(write_gate=False), IDS)
    assert [step.token for step in history.steps] == IDS.tolist()
    assert history.steps[0].written is None
    held: dict[int, tuple[int, int]] = {}
    for before, step in zip(history.steps, history.steps[1:], strict=False):
        assert step.written is not None
        assert step.replaced == held.get(step.written)
        held[step.written] = (before.token, step.token)
        assert {(k, v) for k, v in zip(step.keys, step.values, strict=True) if v >= 0} == set(held.values())
    # 5 was bound to 6 first and to 9 later: one slot, the newest binding
    assert [pair for pair in held.values() if pair[0] == 5] == [(5, 9)]


@pytest.mark.parametrize(("pointer", "top_k"), [(True, None), (False, None), (True, 2)])
def test_weights_and_logits_are_those_of_the_forward_pass(pointer, top_k):
    model = pointer_model(pointer=pointer, top_k=top_k)
    history = inspect_slots(model, IDS)
    model.eval()
    with torch.no_grad():
        logits, _ = model(IDS[None])
        features = model.features(IDS[None])
        words, seen = model.words(features), features.heard["memory", None].seen
    weights = torch.tensor([step.weights for step in history.steps])
    reads = seen.reads
    assert reads.weights.shape == (1, len(IDS), top_k or 4)
    slots = torch.arange(4).expand(1, len(IDS), 4) if top_k is None else reads.slots
    assert torch.allclose(weights.gather(1, slots[0]), reads.weights[0], atol=1e-4)
    assert torch.allclose(weights.sum(-1), reads.weights[0].sum(-1), atol=1e-3)
    for t, step in enumerate(history.steps):
        best = step.choices[0]
        assert best.token == int(logits[0, t].argmax())
        assert best.word + best.vote == pytest.approx(float(logits[0, t].max()), abs=2e-4)
        assert (step.gate is None) == (not pointer)
        assert best.word == pytest.approx(float(words[0, t, best.token]), abs=2e-4)


def test_it_survives_json():
    history = inspect_slots(pointer_model(), IDS)
    assert decode(SlotHistory, json.loads(json.dumps(encode(history))), where="history") == history


def test_the_model_stays_in_its_mode():
    model = pointer_model().train()
    inspect_slots(model, IDS)
    assert model.training


def test_bad_input_is_one_line():
    for without in ("unimatrix-core", "typed-latent"):
        with pytest.raises(UserError, match="expected a model with a slot memory"):
            inspect_slots(unimatrix.build(without), IDS)
    with pytest.raises(UserError, match=r"input_ids: expected one sequence, \[T\], got \[1, "):
        inspect_slots(pointer_model(), IDS[None])
    with pytest.raises(UserError, match="expected at least one token, got none"):
        inspect_slots(pointer_model(), IDS[:0])


def test_what_other_parts_vote_counts_with_the_words():
    torch.manual_seed(0)
    model = unimatrix.build("unimatrix-sparse-pointer", **{"parts.second": "slots"}).eval()
    with torch.no_grad():
        model.second.pointer_gate.bias.fill_(8.0)
        logits, _ = model(IDS[None])
    for t, step in enumerate(inspect_slots(model, IDS).steps):
        assert step.choices[0].token == int(logits[0, t].argmax())
        total = step.choices[0].word + step.choices[0].vote
        assert total == pytest.approx(float(logits[0, t].max()), abs=2e-4)
