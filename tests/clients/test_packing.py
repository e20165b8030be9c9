"""Documents packed into one row are refused, however it is said; what says nothing new is accepted."""

import pytest
import torch
from tolerances import assert_close
from transformers import DataCollatorWithFlattening

from unimatrix.errors import UserError
from unimatrix.hf import ByteTokenizer

IDS = torch.randint(0, 256, (2, 9), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_position_ids_that_say_where_the_tokens_stand_change_nothing(preset, make_model):
    model, arange = make_model(preset), torch.arange(9)

    def same(given, position_ids, *, continued: bool = False) -> None:
        """At the tokens: what stands at padding means nothing."""
        caches = [{"cache": model(IDS[:, :4]).cache} if continued else {} for _ in range(2)]
        got = model(**given, position_ids=position_ids, **caches[0]).logits
        expected = model(**given, **caches[1]).logits
        real = given.get("attention_mask", torch.ones_like(given["input_ids"])).bool()
        assert_close(got[real], expected[real], "output")

    for position_ids in (arange[None], arange.expand(2, 9)):
        same({"input_ids": IDS}, position_ids)
    same({"input_ids": IDS[:, 4:]}, arange[4:].expand(2, 5), continued=True)
    padded = ByteTokenizer().pad({"input_ids": [[1, 2, 3], [1, 2, 3, 4, 5]]}, return_tensors="pt")
    for at_padding in (0, 1):
        same(
            padded, (padded.attention_mask.cumsum(1) - 1).masked_fill(padded.attention_mask == 0, at_padding)
        )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"position_ids": torch.tensor([[0, 1, 2, 0, 1, 2, 3, 4, 5]] * 2)},
            "expected 3 in row 0, column 3,.* 0",
        ),
        ({"position_ids": torch.arange(1, 10)[None]}, "expected 0 in row 0, column 0,.* got 1"),
        ({"position_ids": torch.zeros(2, 9)}, "expected a tensor of whole numbers"),
        ({"position_ids": [0, 1]}, "expected a tensor of whole numbers, got list"),
        ({"position_ids": torch.arange(9)}, r"expected shape \[2, 9\], got \[9\]"),
        ({"cu_seq_lens_q": torch.tensor([0, 4, 9])}, "cu_seq_lens_q: .*packing, padding_free, flattening"),
        ({"seq_idx": torch.zeros(2, 9, dtype=torch.int32)}, "seq_idx: expected none, several documents"),
        ({"seq_lengths": [[4, 5], [9]]}, "seq_lengths: expected none"),
    ],
)
def test_anything_else_is_refused_in_one_line(make_model, given, message):
    with pytest.raises(UserError, match=message) as caught:
        make_model("unimatrix-core")(IDS, **given)
    assert "\n" not in str(caught.value)


def test_positions_go_on_from_the_state(make_model):
    model = make_model("transformer")
    cache = model(IDS).cache
    with pytest.raises(UserError, match="expected 9 in row 0, column 0"):
        model(IDS, cache=cache, position_ids=torch.arange(9)[None])


@pytest.mark.parametrize("settings", [{}, {"return_flash_attn_kwargs": True}, {"return_seq_idx": True}])
def test_a_collator_that_flattens_is_refused(make_model, settings):
    batch = DataCollatorWithFlattening(**settings)([{"input_ids": [1, 2, 3]}, {"input_ids": [4, 5, 6, 7]}])
    with pytest.raises(UserError, match="several documents in one row"):
        make_model("unimatrix-core")(**batch)


def test_a_flattened_batch_of_one_text_is_a_text(make_model):
    model = make_model("unimatrix-core")
    batch = DataCollatorWithFlattening()([{"input_ids": [1, 2, 3, 4]}])
    ids = torch.tensor([[1, 2, 3, 4]])
    assert torch.equal(model(**batch).loss, model(ids, labels=ids).loss)
