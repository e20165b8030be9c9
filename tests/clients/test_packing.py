"""Documents packed into one row, however the field says so, are read as if each were alone."""

import pytest
import torch
from datasets import Dataset
from tolerances import assert_close
from torch.nn import functional as F
from transformers import DataCollatorWithFlattening, Trainer, TrainingArguments

from unimatrix.errors import UserError
from unimatrix.hf import ByteTokenizer, UniMatrixForCausalLM
from unimatrix.hf.cache import UniMatrixCache
from unimatrix.models import build

IDS = torch.randint(0, 256, (2, 9), generator=torch.Generator().manual_seed(0))
# documents of 4, 1 and 4 tokens, and of 9
POSITIONS = torch.tensor([[0, 1, 2, 3, 0, 0, 1, 2, 3], [0, 1, 2, 3, 4, 5, 6, 7, 8]])
STARTS = POSITIONS == 0
SAID = {
    "starts": STARTS,
    "position_ids": POSITIONS,
    "cu_seq_lens_q": torch.tensor([0, 4, 5, 9, 18], dtype=torch.int32),
    "cu_seq_lens_k": [0, 4, 4, 5, 9, 18],
    "seq_lengths": [[4, 1, 4], [9]],
    "seq_idx": torch.tensor([[0, 0, 0, 0, 1, 2, 2, 2, 2], [5] * 9], dtype=torch.int32),
}
TEXTS = ["to be or not to be", "t", "that is the question", "whether"]


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


@torch.no_grad()
def test_documents_are_apart_however_they_are_said(preset, make_model):
    model = make_model(preset)
    rows = [[IDS[0, :4], IDS[0, 4:5], IDS[0, 5:]], [IDS[1]]]
    expected = torch.stack([torch.cat([model(one[None]).logits[0] for one in row]) for row in rows])
    last = [model(row[-1][None]).cache for row in rows]
    for some in (*({name: value} for name, value in SAID.items()), SAID):
        out = model(IDS, **some)
        assert_close(out.logits, expected, "logits")
        assert torch.equal(out.logits, model(IDS, starts=STARTS).logits)
        assert_close(
            model.model(IDS, **some).last_hidden_state,
            model(IDS, **SAID, output_hidden_states=True).hidden_states[-1],
            "logits",
        )
        # a later call goes on from the last document
        assert out.cache.position.tolist() == [4, 9]
        again = torch.tensor([[4, 5], [9, 10]])
        more = model(IDS[:, :2], cache=out.cache, position_ids=again).logits
        for row, cache in enumerate(last):
            alone = model(IDS[row : row + 1, :2], cache=model(rows[row][-1][None]).cache).logits
            assert_close(more[row], alone[0], "logits")
            assert cache.position.tolist() == again[row, :1].tolist()


@torch.no_grad()
def test_pieces_padding_and_a_document_that_begins_with_a_call(make_model):
    model = make_model("transformer-modern")
    alone = [model(IDS[:1, :4]).logits, model(IDS[:1, 4:9]).logits]
    # the first piece ends in the second document
    first = model(IDS[:1, :6], position_ids=torch.tensor([[0, 1, 2, 3, 0, 1]]))
    second = model(IDS[:1, 6:9], cache=first.cache, position_ids=torch.tensor([[2, 3, 4]]))
    assert_close(torch.cat([first.logits, second.logits], 1), torch.cat(alone, 1), "logits")
    # a document that begins with a call: 0 again, or lengths, which are those of whole documents
    for said in ({"position_ids": torch.arange(5)[None]}, {"cu_seq_lens_q": [0, 5]}, {"seq_lengths": [[5]]}):
        cache = model(IDS[:1, :4]).cache
        assert_close(model(IDS[:1, 4:9], cache=cache, **said).logits, alone[1], "logits")
        assert cache.position.tolist() == [5]
    # of a first token seq_idx says nothing alone
    cache, other = model(IDS[:1, :4]).cache, model(IDS[:1, :4]).cache
    got = model(IDS[:1, 4:9], cache=cache, seq_idx=torch.ones(1, 5, dtype=torch.int32)).logits
    assert torch.equal(got, model(IDS[:1, 4:9], cache=other).logits)
    # and nobody at padding
    mask = torch.tensor([[0, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1]])
    ids = torch.zeros(1, 11, dtype=torch.int64)
    ids[mask.bool()] = IDS[0]
    positions = torch.tensor([[7, 0, 1, 2, 3, 0, 0, 1, 2, 3, 4]])
    lengths = {"cu_seq_lens_q": [0, 5, 11], "seq_lengths": [[4, 5]], "max_length_q": 5}
    seq_idx = torch.tensor([[9, 0, 0, 0, 0, -1, 1, 1, 1, 1, 1]])
    got = model(ids, attention_mask=mask, position_ids=positions, seq_idx=seq_idx, **lengths).logits
    assert_close(got[mask.bool()], torch.cat(alone, 1)[0], "logits")


@torch.no_grad()
def test_what_goes_back_goes_back_over_documents(make_model):
    model = make_model("transformer-modern")
    cache = model(IDS[:1, :2], cache=(given := _recording())).cache
    assert cache is given
    for column in range(2, 9):
        position = POSITIONS[:1, column : column + 1]
        model(IDS[:1, column : column + 1], cache=cache, position_ids=position)
    cache.crop(-2)
    assert cache.position.tolist() == [2]
    got = model(IDS[:1, 7:], cache=cache, position_ids=POSITIONS[:1, 7:]).logits
    assert_close(got, model(IDS[:1, 5:]).logits[:, 2:], "logits")
    cache.crop(-6)
    assert cache.position.tolist() == [3]
    assert_close(model(IDS[:1, 3:4], cache=cache).logits, model(IDS[:1, :4]).logits[:, 3:], "logits")


def _recording():
    cache = UniMatrixCache()
    cache.activate_past_recording()
    return cache


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"position_ids": torch.tensor([[0, 1, 2, 0, 1, 2, 2, 4, 5]] * 2)},
            "expected 3 in row 0, column 6, as many as there are tokens of its document.* got 2",
        ),
        ({"position_ids": torch.arange(1, 10)[None]}, "expected 0 in row 0, column 0,.* got 1"),
        ({"position_ids": torch.zeros(2, 9)}, "expected a tensor of whole numbers"),
        ({"position_ids": [0, 1]}, "expected a tensor of whole numbers, got list"),
        ({"position_ids": torch.arange(9)}, r"expected shape \[2, 9\], got \[9\]"),
        ({"starts": STARTS.long()}, "starts: expected documents' beginnings of dtype bool, got int64"),
        ({"cu_seq_lens_q": torch.tensor([0, 4, 9])}, r"^cu_seq_lens_q: expected .* 18, got \[0, 4, 9\]"),
        ({"cu_seq_lens_k": [0, 4, 18]}, "^cu_seq_lens_k: expected a document to begin with each row.* row 1"),
        ({"cu_seq_lens_q": 5}, "^cu_seq_lens_q: expected whole numbers"),
        ({"seq_lengths": [[4, 5], [8]]}, r"^seq_lengths: expected .* 9 tokens of row 1, got \[8\]"),
        ({"seq_lengths": [[4, 5]]}, "^seq_lengths: expected those of 2 rows, got 1"),
        ({"seq_lengths": [4, 5]}, "^seq_lengths: expected each row's list of whole numbers"),
        ({"seq_idx": torch.tensor([[0, 0, 1, 1, 0, 0, 0, 0, 0]])}, "^seq_idx: .*got 0 behind 1 in row 0"),
        ({"seq_idx": torch.zeros(2, 8, dtype=torch.int32)}, r"^seq_idx: expected shape \[2, 9\]"),
        ({**SAID, "starts": ~STARTS}, "^starts: expected the documents of position_ids, .* got"),
        (
            {**SAID, "seq_idx": torch.zeros(1, 9, dtype=torch.int32)},
            "^seq_idx: expected .* position_ids, with one that begins in row 0, column 4, got none",
        ),
        (
            {"position_ids": torch.arange(9)[None], "seq_lengths": [[4, 5], [9]]},
            "^seq_lengths: expected the documents of position_ids, with none that begins in row 0, column 4",
        ),
        ({**SAID, "max_length_q": 8}, "^max_length_q: expected at least 9, .*longest .*, got 8"),
        ({"max_length_k": 8}, "^max_length_k: expected at least 9"),
        ({"max_length_q": "9"}, "^max_length_q: expected a whole number"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_one_line(make_model, given, message):
    with pytest.raises(UserError, match=message) as caught:
        make_model("transformer")(IDS, **given)
    assert "\n" not in str(caught.value)


def test_positions_go_on_from_the_state(make_model):
    model = make_model("transformer")
    cache = model(IDS).cache
    with pytest.raises(UserError, match="expected 9 in row 0, column 0"):
        model(IDS, cache=cache, position_ids=torch.arange(1, 10)[None])


def test_mamba2_reads_on_and_says_so():
    model = UniMatrixForCausalLM.from_language_model(build("mamba2", d_model=16, depth=1, num_heads=2))
    assert model(IDS, position_ids=torch.arange(9)[None], max_length_q=9).logits.shape == (2, 9, 259)
    with pytest.raises(UserError, match=r"^position_ids: documents in one row .*Mamba2 would read on"):
        model(IDS, position_ids=POSITIONS)


def packed_by_collator(texts, **settings):
    return DataCollatorWithFlattening(**settings)([{"input_ids": list(text.encode())} for text in texts])


def losses_apart(model, texts=TEXTS):
    """The sum of the documents' losses, each alone, and how many labels they have."""
    total, count = torch.zeros(()), 0
    for text in texts:
        ids = torch.tensor([list(text.encode())])
        total = total + F.cross_entropy(model(ids).logits[0, :-1], ids[0, 1:], reduction="sum")
        count += ids.shape[1] - 1
    return total, count


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"return_flash_attn_kwargs": True, "return_seq_idx": True},
        {"return_flash_attn_kwargs": True, "return_position_ids": False},
        {"return_seq_idx": True, "return_position_ids": False},
        {"separator_id": 257},  # what it would have the last token of a document predict
    ],
)
def test_a_collator_that_flattens_gives_the_loss_of_the_documents_apart(preset, make_model, settings):
    model = make_model(preset)
    total, count = losses_apart(model)
    expected = total / count
    gradients = torch.autograd.grad(expected, list(model.parameters()), allow_unused=True)
    batch = packed_by_collator(TEXTS, **settings)
    loss = model(**batch).loss
    torch.testing.assert_close(loss, expected)
    asked = (batch["labels"][:, 1:] != -100).sum()
    torch.testing.assert_close(model(**batch, num_items_in_batch=asked).loss, expected)
    shifted = F.pad(batch["labels"][:, 1:], (0, 1), value=-100)
    torch.testing.assert_close(model(**batch, shift_labels=shifted).loss, expected)
    found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    for one, other in zip(found, gradients, strict=True):
        if one is not None:
            assert_close(one, other, "gradient")


def test_a_flattened_batch_of_one_text_is_a_text(make_model):
    model = make_model("unimatrix-core")
    batch = DataCollatorWithFlattening()([{"input_ids": [1, 2, 3, 4]}])
    ids = torch.tensor([[1, 2, 3, 4]])
    assert torch.equal(model(**batch).loss, model(ids, labels=ids).loss)


@pytest.mark.parametrize("pieces", [1, 2, 4])
def test_a_step_of_the_trainer_on_flattened_batches(make_model, tmp_path, keeper, pieces):
    model = make_model("transformer")
    total, count = losses_apart(model)
    expected = torch.autograd.grad(total / count, list(model.parameters()))
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=1, per_device_train_batch_size=4 // pieces,
        gradient_accumulation_steps=pieces, max_grad_norm=0.0, report_to="none", use_cpu=True,
        disable_tqdm=True, save_strategy="no", dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=[{"input_ids": list(text.encode())} for text in TEXTS],
        data_collator=DataCollatorWithFlattening(return_flash_attn_kwargs=True, return_seq_idx=True),
        callbacks=[keeper],
    )
    result = trainer.train()
    assert result.training_loss == pytest.approx((total / count).item(), rel=1e-5)
    for found, gradient in zip(keeper.gradients, expected, strict=True):
        assert_close(found, gradient, "gradient")


@torch.no_grad()
def test_a_compiled_model_takes_starts_and_cannot_look_at_the_rest(make_model):
    torch.compiler.reset()
    model = make_model("transformer-modern")
    compiled = torch.compile(model, backend="aot_eager")
    expected = model(IDS, **SAID).logits
    assert_close(compiled(IDS, starts=STARTS).logits, expected, "logits")
    # outside the graph it can
    assert_close(compiled(IDS, position_ids=POSITIONS).logits, expected, "logits")
    torch.compiler.reset()
    whole = torch.compile(model, backend="aot_eager", fullgraph=True)
    with pytest.raises(Exception, match="position_ids: expected none in a compiled or exported model"):
        whole(IDS, position_ids=POSITIONS)


def test_a_datasets_columns_of_documents_reach_the_model(tmp_path, make_model):
    """A Trainer hands on the columns that forward names, and leaves others out without a word."""
    model = make_model("unimatrix-core", max_positions=None)
    rows = {"input_ids": IDS.tolist(), "labels": IDS.tolist()}
    expected = model(IDS, labels=IDS, starts=STARTS).loss
    assert model(IDS, labels=IDS).loss != expected
    for name in ("position_ids", "seq_idx"):
        data = Dataset.from_dict(rows | {name: SAID[name].tolist()})
        settings = TrainingArguments(
            str(tmp_path), report_to="none", use_cpu=True, per_device_train_batch_size=2
        )
        trainer = Trainer(model, settings, train_dataset=data)
        torch.manual_seed(0)
        batch = next(iter(trainer.get_train_dataloader()))
        assert name in batch
        assert_close(trainer.compute_loss(model, batch), expected, "output")
    shifted = F.pad(IDS[:, 1:], (0, 1), value=-100)
    batch = {"input_ids": IDS, "shift_labels": shifted, "starts": STARTS}
    assert_close(model(**batch).loss, expected, "output")
