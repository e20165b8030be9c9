"""Which labels count in the loss: neither padding nor the way that rows are cut into batches changes it."""

import pytest
import torch
import torch.nn.functional as F
from tolerances import assert_close
from transformers import DataCollatorForLanguageModeling, Trainer, TrainingArguments
from transformers.trainer_pt_utils import LabelSmoother

from unimatrix.data.tokenizer import PAD
from unimatrix.errors import UserError
from unimatrix.hf import ByteTokenizer

TEXTS = ["to be or not to be", "that is the question", "whether", "nobler"]


def padded(side, rows=TEXTS):
    return ByteTokenizer()(rows, padding=True, padding_side=side, return_tensors="pt")


def summed(model, text):
    """The sum of a row's losses alone and unpadded, and how many there are."""
    ids = torch.tensor([list(text.encode())])
    return F.cross_entropy(model(ids).logits[0, :-1], ids[0, 1:], reduction="sum"), ids.shape[1] - 1


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_neither_predicts_nor_is_predicted(preset, make_model, side):
    model = make_model(preset)
    with torch.no_grad():
        sums, counts = zip(*(summed(model, text) for text in TEXTS), strict=True)
        expected = sum(sums) / sum(counts)
        batch = padded(side)
        for labels in (batch.input_ids, batch.input_ids.masked_fill(batch.input_ids == PAD, -100)):
            torch.testing.assert_close(model(**batch, labels=labels).loss, expected)
            # the Trainer counts what is no -100 behind the first position
            asked = (labels[:, 1:] != -100).sum()
            torch.testing.assert_close(model(**batch, labels=labels, num_items_in_batch=asked).loss, expected)
            shifted = F.pad(labels[:, 1:], (0, 1), value=-100)
            torch.testing.assert_close(model(**batch, shift_labels=shifted).loss, expected)


@pytest.mark.parametrize(
    ("side", "pieces"), [("left", 4), ("right", 4), ("right", 2), ("left", 1), ("right", 1)]
)
def test_a_step_of_the_trainer_does_not_depend_on_how_it_is_cut(make_model, tmp_path, side, pieces):
    model, tokenizer = make_model("unimatrix-core"), ByteTokenizer(padding_side=side)
    sums, counts = zip(*(summed(model, text) for text in TEXTS), strict=True)
    loss = sum(sums) / sum(counts)
    expected = torch.autograd.grad(loss, list(model.parameters()))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=1,
        per_device_train_batch_size=4 // pieces,
        gradient_accumulation_steps=pieces,
        learning_rate=1.0,
        max_grad_norm=0.0,
        lr_scheduler_type="constant",
        optim="sgd",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
        dataloader_pin_memory=False,
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=[tokenizer(text) for text in TEXTS],
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
    )
    result = trainer.train()
    assert result.training_loss == pytest.approx(loss.item(), rel=1e-5)
    for parameter, old, gradient in zip(model.parameters(), before, expected, strict=True):
        assert_close(old - parameter.detach(), gradient, "gradient")


def test_a_piece_in_which_nothing_counts_adds_nothing(make_model):
    model = make_model("unimatrix-core")
    ids = torch.tensor([[PAD, 5]])
    out = model(ids, attention_mask=ids != PAD, labels=ids, num_items_in_batch=3)
    assert out.loss.item() == 0.0
    out.loss.backward()
    assert all(p.grad is None or p.grad.abs().sum() == 0 for p in model.parameters())


IDS = torch.tensor([[1, 2, 3]])


@pytest.mark.parametrize("name", ["labels", "shift_labels"])
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([[1, 2, 259]]), "expected token ids from 0 to 258, or -100, got 259"),
        (torch.tensor([[1, -1, 2]]), "expected token ids from 0 to 258, or -100, got -1"),
        (torch.tensor([[1, 2]]), r"expected shape \[1, 3\], got \[1, 2\]"),
        (torch.tensor([[1.0, 2.0, 3.0]]), "expected int64, got float32"),
        ([[1, 2, 3]], "expected a tensor of token ids, got list"),
    ],
)
def test_labels_that_are_none_are_named(make_model, name, labels, message):
    for model in (make_model("unimatrix-core"), make_model("unimatrix-core").train()):
        with pytest.raises(UserError, match=f"^{name}: {message}"):
            model(IDS, **{name: labels})


def test_label_smoothing_of_the_trainer_predicts_the_next_token(make_model, tmp_path):
    """Its Trainer shifts the labels of the models whose names it knows; unshifted they teach to copy."""
    model, batch = make_model("unimatrix-core"), dict(padded("right", TEXTS[:1]))
    batch["labels"] = batch["input_ids"].clone()
    arguments = TrainingArguments(output_dir=str(tmp_path), label_smoothing_factor=0.1, report_to="none")
    got = Trainer(model=model, args=arguments).compute_loss(model, dict(batch))
    outputs = model(batch["input_ids"])
    expected = LabelSmoother(epsilon=0.1)(outputs, batch["labels"], shift_labels=True)
    torch.testing.assert_close(got, expected)
    assert (LabelSmoother(epsilon=0.1)(outputs, batch["labels"]) - expected).abs() > 1e-3
