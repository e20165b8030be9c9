"""transformers' own: a Trainer that goes on where it stopped, to the bit, and the pipeline in batches."""

import pytest
import torch
from transformers import Trainer, TrainingArguments, pipeline

from unimatrix.hf import ByteTokenizer

ROWS = torch.randint(0, 256, (32, 10), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("name", ["unimatrix-core", "unimatrix-discovery", "transformer"])
def test_a_resumed_training_ends_in_the_same_bits(make_model, tmp_path, name, capsys):
    def train(folder: str, resume: str | None = None) -> dict[str, torch.Tensor]:
        settings = TrainingArguments(
            output_dir=str(tmp_path / folder), max_steps=4, save_steps=2, per_device_train_batch_size=2,
            learning_rate=1e-2, report_to="none", use_cpu=True, disable_tqdm=True,
            dataloader_pin_memory=False,
        )  # fmt: skip
        rows = [{"input_ids": row, "labels": row} for row in ROWS]
        trainer = Trainer(model=make_model(name, dropout=0.1), args=settings, train_dataset=rows)
        trainer.train(resume_from_checkpoint=resume)
        assert trainer.state.global_step == 4
        return trainer.model.state_dict()

    whole = train("whole")
    resumed = train("resumed", str(tmp_path / "whole" / "checkpoint-2"))
    for key, tensor in whole.items():
        assert torch.equal(resumed[key], tensor), key
    assert not torch.equal(whole["language_model.embedding.weight"], make_model(name).state_dict()[
        "language_model.embedding.weight"
    ])  # fmt: skip
    capsys.readouterr()


def test_a_pipeline_in_batches_says_what_it_says_one_by_one(preset, make_model):
    settings = {"max_new_tokens": 6, "do_sample": False, "return_full_text": False}
    generator = pipeline("text-generation", model=make_model(preset), tokenizer=ByteTokenizer())
    texts = ["one", "two and three", "a"]
    together = [found[0]["generated_text"] for found in generator(texts, batch_size=3, **settings)]
    assert together == [generator(text, **settings)[0]["generated_text"] for text in texts]
