"""The logits of some positions alone: which, what is computed for them, what names none."""

import pytest
import torch
from tolerances import assert_close

from unimatrix.errors import UserError
from unimatrix.hf import UniMatrixCache


@pytest.mark.parametrize("keep", [1, 3, 30, torch.tensor([0, 4]), torch.tensor([-1])], ids=str)
def test_the_head_computes_the_kept_positions_alone(preset, make_model, keep):
    model = make_model(preset)
    ids = torch.randint(0, 256, (2, 9))
    rows = []
    model.get_output_embeddings().register_forward_hook(lambda _, inputs, __: rows.append(inputs[0].shape[1]))
    with torch.no_grad():
        all_of_them = model(ids).logits
        kept = model(ids, logits_to_keep=keep).logits
        expected = all_of_them[:, keep] if isinstance(keep, torch.Tensor) else all_of_them[:, -keep:]
        assert_close(kept, expected, "logits")
        assert rows == [9, expected.shape[1]]
        assert torch.equal(model(ids, logits_to_keep=keep, labels=ids).loss, model(ids, labels=ids).loss)


EACH = torch.tensor([[0, 4], [8, -1]])  # each row's own
SOME = torch.arange(18).reshape(2, 9) % 4 == 1


@pytest.mark.parametrize("keep", [2, 30, torch.tensor([0, 4]), EACH, SOME], ids=str)
def test_labels_change_no_kept_position(make_model, keep):
    model = make_model("unimatrix-core")
    ids = torch.randint(0, 256, (2, 9))
    with torch.no_grad():
        kept = model(ids, logits_to_keep=keep).logits
        expected = model(ids, labels=ids)
        got = model(ids, labels=ids, logits_to_keep=keep)
    assert_close(got.logits, kept, "logits")
    assert torch.equal(got.loss, expected.loss)


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (-3, "expected a number of last positions of at least 0, got -3"),
        (True, "expected a number, or a tensor of positions or of bool, got True"),
        (1.5, "expected a number"),
        (torch.tensor([9]), "expected positions from -9 to 8, got 9"),
        (torch.tensor([1.0]), "expected positions of dtype int64, got float32"),
        (torch.ones(2, 8, dtype=torch.bool), r"expected a bool for each position, \[2, 9\], got \[2, 8\]"),
    ],
    ids=str,
)
def test_positions_that_are_none_are_refused_with_labels_and_without(make_model, keep, message):
    model = make_model("unimatrix-core")
    ids = torch.randint(0, 256, (2, 9))
    for labels in (None, ids):
        with pytest.raises(UserError, match=f"^logits_to_keep: {message}"):
            model(ids, labels=labels, logits_to_keep=keep)


@pytest.mark.parametrize("keep", [1, 140, 500, torch.tensor([3, -1])], ids=str)
def test_a_text_read_in_two_pieces_has_no_more_logits_made(preset, make_model, keep):
    model = make_model(preset, max_positions=None)
    ids = torch.randint(0, 256, (2, 200))
    rows = []
    with torch.no_grad():
        whole = model(ids).logits
        head = model.get_output_embeddings()
        if head is not None:  # Mamba-2 has none
            head.register_forward_hook(lambda _, inputs, __: rows.append(inputs[0].shape[1]))
        for streams in (False, True):
            rows.clear()
            cache = UniMatrixCache()
            cache.activate_past_recording()
            kept = model(ids, cache=cache, logits_to_keep=keep, output_hidden_states=streams).logits
            expected = whole[:, keep] if isinstance(keep, torch.Tensor) else whole[:, -keep:]
            assert_close(kept, expected, "logits")
            assert head is None or sum(rows) == (min(keep, 200) if isinstance(keep, int) else 200)
