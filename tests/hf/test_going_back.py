"""A state that goes back: crop gives the shorter text's state, and drafts change no text."""

import copy

import pytest
import torch
from tolerances import assert_close

from unimatrix.errors import UserError
from unimatrix.hf import UniMatrixCache
from unimatrix.hf.cache import SPACING, WINDOW

GREEDY = {"max_new_tokens": 24, "do_sample": False, "eos_token_id": None}


def recording():
    cache = UniMatrixCache()
    cache.activate_past_recording()
    return cache


@pytest.mark.parametrize("mask_first", [False, True])
def test_crop_gives_the_state_of_the_shorter_text(preset, make_model, mask_first):
    model = make_model(preset, max_positions=None)
    ids = torch.randint(0, 256, (2, 400))
    mask = torch.ones_like(ids)
    mask[0, :3] = 0 if mask_first else 1
    cache, length = recording(), 0
    lengths = [200, 1, 1, 1, 40, 1, 2, 30, 1, 1]
    with torch.no_grad():
        for step, (more, back) in enumerate(zip(lengths, [0, 2, 0, 41, 40, 0, 3, 90, 0, 0], strict=True)):
            here = slice(length, length + more)
            out = model(ids[:, here], cache=cache, attention_mask=mask[:, : length + more])
            length += more
            whole = model(ids[:, :length], attention_mask=mask[:, :length]).logits
            assert_close(out.logits, whole[:, here], "logits")
            cache.crop(-back)
            length -= back
            assert cache.get_seq_length() == length
            if step == 5:  # beams may change places in between
                cache.reorder_cache(torch.tensor([1, 0]))
                ids, mask = ids.flip(0), mask.flip(0)


def test_a_copy_is_a_branch(preset, make_model):
    """What either reads on, and goes back by, is nothing to the other."""
    model = make_model(preset, max_positions=None)
    ids = torch.randint(0, 256, (1, 40))
    others = torch.randint(0, 256, (1, 40))
    with torch.no_grad():
        first = recording()
        model(ids[:, :30], cache=first)
        branch = copy.copy(first)
        model(others[:, :5], cache=branch)
        first.crop(-2)
        found = model(ids[:, 28:32], cache=first).logits
        assert_close(found, model(ids[:, :32]).logits[:, 28:], "logits")
        branch.crop(-4)
        found = model(others[:, 1:6], cache=branch).logits
        whole = torch.cat([ids[:, :30], others[:, :6]], dim=1)
        assert_close(found, model(whole).logits[:, 31:], "logits")


def test_not_further_than_it_is_kept(make_model):
    model = make_model("unimatrix-core", max_positions=None)
    ids = torch.zeros(1, 300, dtype=torch.int64)
    cache = model(ids).cache
    cache.crop(0)
    with pytest.raises(UserError, match="crop: this state can go back by 0 tokens, got 1; activate_past_rec"):
        cache.crop(-1)
    with pytest.raises(UserError, match="crop: expected minus the number of tokens to remove, got 5"):
        cache.crop(5)
    cache = recording()
    model(ids, cache=cache)
    for _ in range(3):
        model(ids[:, :1], cache=cache)
    with pytest.raises(UserError, match=f"can go back by {WINDOW + 3} tokens, got 200"):
        cache.crop(-200)
    assert cache.get_seq_length() == 303
    cache.crop(-WINDOW)
    assert cache.get_seq_length() == 303 - WINDOW


def test_a_state_between_two_that_are_kept_is_not_given_out(make_model):
    model, cache = make_model("unimatrix-core"), recording()
    ids = torch.randint(0, 256, (1, 22))
    with torch.no_grad():
        model(ids[:, :18], cache=cache)
        assert cache.state.position.tolist() == [18]
        model(ids[:, 18:20], cache=cache)
        cache.crop(-1)
        assert (cache.get_seq_length(), cache.position.tolist()) == (19, [19])
        with pytest.raises(UserError, match="state: expected a forward pass first, which reads 1 tokens aga"):
            cache.state  # noqa: B018
        model(ids[:, 19:20], cache=cache)
        assert cache.state.position.tolist() == [20]
        cache.crop(-2)  # to where one was kept
        assert cache.state.position.tolist() == [18]
        rest = model.language_model(ids[:, 18:], cache.state)[0]
        assert_close(rest, model(ids).logits[:, 18:], "logits")


def test_what_is_kept_does_not_grow(make_model):
    model, cache = make_model("unimatrix-core", max_positions=None), recording()
    with torch.no_grad():
        for _ in range(3 * WINDOW):
            model(torch.zeros(1, 1, dtype=torch.int64), cache=cache)
    assert len(cache._past) <= WINDOW / SPACING + 1
    assert WINDOW <= sum(read.length for read in cache._past) < 2 * WINDOW


def test_prompt_lookup_equals_plain_decoding(preset, make_model, count_fed):
    model = make_model(preset, max_positions=None)
    prompt = torch.tensor([list(b"the same words again, the same words again, the same" * 4)])
    expected = model.generate(prompt, **GREEDY)
    for settings in ({}, {"prefill_chunk_size": None, "max_matching_ngram_size": 1}):
        shapes = count_fed(model.language_model)
        got = model.generate(prompt, prompt_lookup_num_tokens=5, **settings, **GREEDY)
        assert torch.equal(got, expected)
        # the prompt is read once but for its end, and after it drafts and what lies behind the last state
        lengths = [length for _, length in shapes]
        assert sum(lengths[:2]) <= prompt.shape[1] + 5
        assert lengths[2] <= WINDOW
        assert max(lengths[3:]) <= SPACING + 6


def test_drafts_may_be_longer_than_what_is_kept_of_single_tokens(make_model):
    model = make_model("unimatrix", max_positions=None)
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(0, 256, (1, 3 * WINDOW), generator=generator)
    prompt = torch.cat([text, text[:, :40]], 1)  # what stood behind these 40 is the draft
    expected = model.generate(prompt, **GREEDY)
    got = model.generate(prompt, prompt_lookup_num_tokens=2 * WINDOW, **GREEDY)
    assert torch.equal(got, expected)
    # by hand: a draft, all of it refused
    cache = recording()
    with torch.no_grad():
        model(prompt[:, :50], cache=cache)
        model(prompt[:, 50 : 52 + 2 * WINDOW], cache=cache)
        cache.crop(-2 * WINDOW - 1)
        rest = model(prompt[:, 51:60], cache=cache).logits
        assert_close(rest, model(prompt[:, :60]).logits[:, 51:], "logits")


@pytest.mark.parametrize("assistant", ["transformer", "unimatrix-core", "unimatrix-rosa"])
def test_an_assistant_changes_nothing(preset, make_model, assistant):
    model, helper = make_model(preset), make_model(assistant, seed=0 if assistant == preset else 1)
    prompt = torch.tensor([list(b"who would have said so")])
    expected = model.generate(prompt, **GREEDY)
    assert torch.equal(model.generate(prompt, assistant_model=helper, **GREEDY), expected)


def test_an_assistant_that_is_right_saves_steps(make_model, count_fed):
    model, helper = make_model("unimatrix-core"), make_model("unimatrix-core")
    helper.generation_config.update(num_assistant_tokens=8, assistant_confidence_threshold=0.0)
    shapes = count_fed(model.language_model)
    model.generate(torch.tensor([[1, 2, 3]]), assistant_model=helper, **GREEDY)
    assert len(shapes) <= 4
