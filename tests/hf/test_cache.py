"""The state as transformers carries it."""

import copy
import subprocess
import sys

import pytest
import torch
from tolerances import assert_close

from unimatrix.errors import UserError
from unimatrix.hf import UniMatrixCache, UniMatrixConfig
from unimatrix.hf.cache import CACHE_NAME


def test_the_forward_pass_brings_the_cache_up_to_date(preset, make_model):
    model = make_model(preset)
    ids = torch.randint(0, 256, (2, 11))
    with torch.no_grad():
        whole = model(ids)
        first = model(ids[:, :4])
        cache = first.cache
        state_before = cache.state
        second = model(ids[:, 4:], cache=cache)
    assert second.cache is cache
    assert cache.get_seq_length() == 11
    assert state_before is not cache.state
    torch.testing.assert_close(torch.cat([first.logits, second.logits], dim=1), whole.logits)


def test_rows_are_selected_and_repeated(preset, make_model):
    model = make_model(preset)
    ids = torch.randint(0, 256, (3, 6))
    new = torch.tensor([[7]])
    with torch.no_grad():
        cache = model(ids).cache
        cache.reorder_cache(torch.tensor([2, 0]))
        assert cache.batch_size == 2
        cache.batch_repeat_interleave(2)
        assert repr(cache) == "UniMatrixCache(seq_length=6, batch_size=4)"
        out = model(new.expand(4, 1), cache=cache).logits
        expected = model(torch.cat([ids[[2, 2, 0, 0]], new.expand(4, 1)], dim=1)).logits[:, -1:]
    assert_close(out, expected, "logits")


def test_an_empty_cache_and_reset(make_model):
    cache = UniMatrixCache()
    cache.reorder_cache(torch.tensor([0, 0]))
    cache.batch_repeat_interleave(2)
    assert (cache.batch_size, cache.get_seq_length(), cache.is_compileable, cache.is_croppable) == (
        -1,
        0,
        False,
        True,
    )
    model = make_model("transformer")
    with torch.no_grad():
        model(torch.tensor([[1, 2]]), cache=cache, use_cache=True)
        cache.reset()
        again = model(torch.tensor([[5]]), cache=cache).logits
        assert torch.equal(again, model(torch.tensor([[5]])).logits)


def test_without_use_cache_the_state_is_read_but_not_moved(make_model):
    model = make_model("unimatrix-rosa")
    with torch.no_grad():
        cache = model(torch.tensor([[1, 2, 3]])).cache
        first = model(torch.tensor([[4]]), cache=cache, use_cache=False)
        second = model(torch.tensor([[4]]), cache=cache, use_cache=False)
    assert first.cache is None
    assert cache.get_seq_length() == 3
    assert torch.equal(first.logits, second.logits)


@pytest.mark.parametrize("where", ["training", "config"])
def test_a_cache_that_is_given_moves_whatever_training_and_the_config_say(make_model, where):
    """Unmoved, each piece would be read as if nothing stood before it."""
    model, ids = make_model("unimatrix-rosa", dropout=0.0), torch.tensor([[1, 2, 3, 4, 5, 6]])
    if where == "training":
        model.train()
    else:
        model.config.use_cache = False
    cache = UniMatrixCache()
    pieces = [model(ids[:, at : at + 2], cache=cache).logits for at in (0, 2, 4)]
    assert cache.get_seq_length() == 6
    torch.testing.assert_close(torch.cat(pieces, dim=1), model(ids).logits, atol=1e-5, rtol=1e-5)


def test_keys_and_values_are_refused():
    with pytest.raises(TypeError, match="not keys and values"):
        UniMatrixCache().update(torch.zeros(1), torch.zeros(1), 0)


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_the_state_goes_by_either_name(make_model, name):
    model = make_model("unimatrix-core")
    ids = torch.tensor([list(b"by whatever name")])
    settings = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None}
    with torch.no_grad():
        whole = model(ids).logits
        out = model(ids[:, :5])
        cache = out[name]
        assert cache is getattr(out, name) is out.get(name)
        assert name in out
        assert torch.equal(out[0], out.logits)
        assert_close(model(ids[:, 5:], **{name: cache}).logits, whole[:, 5:], "logits")
    expected = model.generate(ids, **settings)
    cache = UniMatrixCache()
    assert torch.equal(model.generate(ids, **{name: cache}, **settings), expected)
    assert cache.get_seq_length() == ids.shape[1] + 3
    assert name in UniMatrixConfig.keys_to_ignore_at_inference


def test_by_both_names_at_once_is_refused(make_model):
    model, ids = make_model("unimatrix-core"), torch.tensor([[1, 2]])
    both = {"cache": UniMatrixCache(), "past_key_values": UniMatrixCache()}
    for call in (model, model.generate):
        with pytest.raises(UserError, match="cache: expected it by one name"):
            call(ids, **both)


@pytest.mark.parametrize("prompt", [b"question", b"quest"])
def test_a_prompt_that_the_state_has_read_whole_is_refused(make_model, prompt):
    model = make_model("unimatrix-core")
    cache = model(torch.tensor([list(b"question")])).cache
    with pytest.raises(
        UserError, match="input_ids: expected at least one token more than the cache has read"
    ):
        model.generate(torch.tensor([list(prompt)]), cache=cache, max_new_tokens=2)


def test_neither_name_makes_a_word_of_warning():
    code = """
import torch
from unimatrix.hf import UniMatrixCache, UniMatrixForCausalLM
from unimatrix.models import build
for name in ("unimatrix-core", "mamba2"):
    model = UniMatrixForCausalLM.from_language_model(build(name, d_model=16, depth=1)).eval()
    ids = torch.tensor([[1, 2, 3]])
    for cache in ("cache", "past_key_values"):
        state = getattr(model(ids), cache)
        model(ids[:, :1], **{cache: state})
        model.generate(
            ids, **{cache: UniMatrixCache()}, max_new_tokens=3, do_sample=False, attention_mask=ids > 0
        )
"""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_what_is_prepared_holds_one_state_that_either_name_finds(preset, make_model):
    model = make_model(preset)
    ids = torch.randint(0, 256, (2, 6))
    with torch.no_grad():
        cache = model(ids[:, :5]).cache
        prepared = model.prepare_inputs_for_generation(ids[:, 5:], **{CACHE_NAME: cache})
        assert prepared["cache"] is prepared["past_key_values"] is prepared.get("past_key_values") is cache
        assert "cache" in prepared
        assert "past_key_values" in prepared
        # as transformers' exporters do: each argument is copied by itself
        copied = {name: copy.deepcopy(value) for name, value in prepared.items()}
        found = model(**copied).logits
        assert_close(found, model(ids).logits[:, -1:], "logits")
