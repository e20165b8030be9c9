"""TRL's SFTTrainer: texts, completions, chats, recomputed activations, packed documents."""

import pytest
import torch
import trl
from datasets import Dataset
from tolerances import assert_close
from torch.nn import functional as F
from trl import SFTConfig, SFTTrainer

from unimatrix.errors import UserError
from unimatrix.hf import ByteTokenizer, UniMatrixForCausalLM
from unimatrix.hf.tokenizer import logger
from unimatrix.models import build

pytestmark = [
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings(
        "ignore:.*You are using packing, but the attention implementation:UserWarning"
    ),
]

CHAT = (
    "{% for m in messages %}{{ m['role'] }}: "
    "{% generation %}{{ m['content'] }}{% endgeneration %}\n{% endfor %}"
)


@pytest.fixture
def tokenizer() -> ByteTokenizer:
    tokenizer = ByteTokenizer()
    tokenizer.split_special_tokens = False  # TRL writes EOS as text
    return tokenizer


@pytest.fixture
def sft(make_model, tmp_path, tokenizer, capsys):
    """A trainer of a preset on rows, four steps."""

    def make(name: str, rows: list[dict], **settings) -> SFTTrainer:
        usual = {"max_length": 64, "max_steps": 4, "per_device_train_batch_size": 4}
        config = SFTConfig(
            output_dir=str(tmp_path), learning_rate=2e-2, report_to="none", use_cpu=True, bf16=False,
            disable_tqdm=True, logging_steps=1, save_steps=4, dataloader_pin_memory=False,
            **(usual | settings),
        )  # fmt: skip
        dataset = Dataset.from_list(rows)
        return SFTTrainer(make_model(name), args=config, train_dataset=dataset, processing_class=tokenizer)

    yield make
    capsys.readouterr()


def losses(trainer: SFTTrainer) -> list[float]:
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("name", ["unimatrix-core", "transformer"])
def test_texts_with_and_without_recomputed_activations(sft, texts, name, tmp_path):
    rows = [{"text": text} for text in texts]
    kept = sft(name, rows, gradient_checkpointing=False)
    recomputed = sft(name, rows, gradient_checkpointing=True)
    expected = losses(kept)
    assert losses(recomputed) == pytest.approx(expected, rel=1e-5)
    assert recomputed.model.language_model.gradient_checkpointing
    assert expected[-1] < 0.9 * expected[0]
    loaded = UniMatrixForCausalLM.from_pretrained(tmp_path / "checkpoint-4")
    for name, tensor in recomputed.model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)


def test_the_end_that_trl_writes_is_eos(sft, texts, tokenizer):
    trainer = sft("unimatrix-core", [{"text": text} for text in texts])
    for row, text in zip(trainer.train_dataset, texts, strict=True):
        assert row["input_ids"] == [*text.encode(), tokenizer.eos_token_id]
    # without being told so it would be seven bytes of text, of which the tokenizer warns
    assert ByteTokenizer()("a<|eos|>").input_ids == list(b"a<|eos|>")


def test_an_end_in_words_is_warned_of_once(caplog, monkeypatch):
    said = []
    monkeypatch.setattr(logger, "warning_once", said.append)
    ByteTokenizer()("a<|eos|>")
    ByteTokenizer()("a")
    assert len(said) == 1
    assert "tokenizer.split_special_tokens = False" in said[0]


def test_only_the_completion_counts(sft):
    rows = [{"prompt": f"{a} and", "completion": f" {b} again"} for a in "xyz" for b in ("four", "five")] * 2
    trainer = sft("unimatrix-core", rows)
    batch = next(iter(trainer.get_train_dataloader()))
    prompt = list(b"x and")
    assert (batch["labels"][:, : len(prompt)] == -100).all()
    counted = batch["labels"] != -100
    assert torch.equal(batch["labels"][counted], batch["input_ids"][counted])
    assert (batch["labels"] == 257).any(1).all()
    found = losses(trainer)
    assert found[-1] < found[0]


def test_chats(sft, texts, tokenizer):
    tokenizer.chat_template = CHAT
    chats = [
        {"messages": [{"role": "user", "content": "say"}, {"role": "assistant", "content": text}]}
        for text in texts
    ]
    found = losses(sft("unimatrix-core", chats))
    assert found[-1] < found[0]
    with pytest.raises(UserError, match="return_assistant_tokens_mask: expected False"):
        sft("unimatrix-core", chats, assistant_only_loss=True)


@pytest.mark.parametrize("settings", [{"packing": True}, {"padding_free": True, "max_length": None}])
@pytest.mark.parametrize("name", ["unimatrix-core", "transformer"])
def test_packed_documents_are_learned_as_if_each_were_alone(sft, texts, keeper, settings, name):
    rows = [{"text": text} for text in texts]
    once = {"max_steps": 1, "per_device_train_batch_size": len(texts), "max_grad_norm": 0.0}
    trainer = sft(name, rows, **once, **settings)
    batch = next(iter(trainer.get_train_dataloader()))
    assert len(batch["input_ids"]) == 1
    assert (batch["position_ids"] == 0).sum() == len(texts)
    model = trainer.model
    ends = [torch.tensor([[*text.encode(), 257]]) for text in texts]
    sums = [F.cross_entropy(model(ids).logits[0, :-1], ids[0, 1:], reduction="sum") for ids in ends]
    loss = sum(sums) / sum(ids.shape[1] - 1 for ids in ends)
    expected = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    trainer.add_callback(keeper)
    assert losses(trainer) == pytest.approx([loss.item()], rel=1e-5)
    for found, gradient in zip(keeper.gradients, expected, strict=True):
        if gradient is not None:
            assert_close(found, gradient, "gradient")


def test_one_long_text_cut_into_rows_is_a_text(sft, texts):
    rows = [{"text": text} for text in texts]
    found = losses(sft("unimatrix-core", rows, packing=True, packing_strategy="wrapped"))
    assert found[-1] < found[0]


@pytest.mark.parametrize(
    ("name", "settings", "more"),
    [
        ("unimatrix-sparse-pointer", {}, "votes of parts.memory"),
        ("transformer", {"head": "scaled"}, "head scaled"),
    ],
)
def test_logits_that_are_more_than_products_with_the_head_are_no_matter_for_trl(
    tmp_path, tokenizer, texts, name, settings, more
):
    """Its newer trainers multiply the stream by the head's weights: the loss would be another model's."""
    model = UniMatrixForCausalLM.from_language_model(build(name, **settings))
    rows = Dataset.from_list([{"text": text} for text in texts])
    config = SFTConfig(output_dir=str(tmp_path), report_to="none", use_cpu=True, bf16=False, max_steps=1)
    if hasattr(trl.trainer, "add_fused_lm_head"):
        with pytest.raises(UserError, match=rf"\({more}\), which TRL's fused head leaves out"):
            SFTTrainer(model, args=config, train_dataset=rows, processing_class=tokenizer)
    else:
        trainer = SFTTrainer(model, args=config, train_dataset=rows, processing_class=tokenizer)
        assert "fused" not in trainer.model.forward.__qualname__
        trainer.train()
