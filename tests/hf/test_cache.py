"""The state as transformers carries it."""

import pytest
import torch
from tolerances import assert_close

from unimatrix.hf import UniMatrixCache


def test_the_forward_pass_brings_the_cache_up_to_date(preset, make_model):
    model = make_model(preset)
    ids = torch.randint(0, 256, (2, 11))
    with torch.no_grad():
        whole = model(ids)
        first = model(ids[:, :4])
        cache = first.past_key_values
        state_before = cache.state
        second = model(ids[:, 4:], past_key_values=cache)
    assert second.past_key_values is cache
    assert cache.get_seq_length() == 11
    assert state_before is not cache.state
    torch.testing.assert_close(torch.cat([first.logits, second.logits], dim=1), whole.logits)


def test_rows_are_selected_and_repeated(preset, make_model):
    model = make_model(preset)
    ids = torch.randint(0, 256, (3, 6))
    new = torch.tensor([[7]])
    with torch.no_grad():
        cache = model(ids).past_key_values
        cache.reorder_cache(torch.tensor([2, 0]))
        assert cache.batch_size == 2
        cache.batch_repeat_interleave(2)
        assert repr(cache) == "UniMatrixCache(seq_length=6, batch_size=4)"
        out = model(new.expand(4, 1), past_key_values=cache).logits
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
        False,
    )
    model = make_model("transformer")
    with torch.no_grad():
        model(torch.tensor([[1, 2]]), past_key_values=cache, use_cache=True)
        cache.reset()
        again = model(torch.tensor([[5]]), past_key_values=cache).logits
        assert torch.equal(again, model(torch.tensor([[5]])).logits)


def test_without_use_cache_the_state_is_read_but_not_moved(make_model):
    model = make_model("unimatrix-rosa")
    with torch.no_grad():
        cache = model(torch.tensor([[1, 2, 3]])).past_key_values
        first = model(torch.tensor([[4]]), past_key_values=cache, use_cache=False)
        second = model(torch.tensor([[4]]), past_key_values=cache, use_cache=False)
    assert first.past_key_values is None
    assert cache.get_seq_length() == 3
    assert torch.equal(first.logits, second.logits)


def test_what_a_state_cannot_do_raises():
    cache = UniMatrixCache()
    cache.crop(0)
    with pytest.raises(ValueError, match="cannot forget"):
        cache.crop(-1)
    with pytest.raises(TypeError, match="not keys and values"):
        cache.update(torch.zeros(1), torch.zeros(1), 0)
