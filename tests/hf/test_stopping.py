"""Stop strings in generate and in the pipeline, characters of several bytes among them."""

import pytest
import torch
from transformers import pipeline

from unimatrix.errors import UserError
from unimatrix.hf import ByteTokenizer
from unimatrix.hf.stopping import StopBytes

TOKENIZER = ByteTokenizer()


@pytest.fixture
def model(make_model):
    model = make_model("unimatrix-core", max_positions=None)
    model.generation_config.eos_token_id = None
    return model


def test_generation_ends_with_the_bytes_of_a_stop_string(model):
    ids = torch.tensor([list(b"some"), list(b"word")])
    settings = {"max_new_tokens": 60, "do_sample": False, "attention_mask": torch.ones_like(ids)}
    whole = model.generate(ids, **settings)[:, 4:].tolist()
    ending = whole[0][20:22]
    ends = [next((place for place in range(2, 61) if row[place - 2 : place] == ending), 60) for row in whole]
    assert ends[0] <= 22
    # bytes that are no UTF-8 are surrogates in a text
    stop = bytes(ending).decode("utf-8", "surrogateescape")
    for strings in (stop, ["no such text anywhere", stop]):
        out = model.generate(ids, stop_strings=strings, tokenizer=TOKENIZER, **settings)[:, 4:].tolist()
        for row, end, plain in zip(out, ends, whole, strict=True):
            assert row[:end] == plain[:end]
            assert len(row) == max(ends)


@pytest.mark.parametrize("text", ["é", "né🙂", "\n\n", "x", "<|eos|>"])
def test_any_character_stops(text):
    stop = StopBytes(TOKENIZER, text)
    ids = torch.tensor([[0, 0, *text.encode()], [0, *text.encode(), 0]])
    assert stop(ids, torch.zeros(0)).tolist() == [True, False]
    assert stop(ids[:, -1:], torch.zeros(0)).tolist() == [len(text.encode()) == 1, False]


def test_the_pipeline_stops(model):
    generator = pipeline("text-generation", model=model, tokenizer=TOKENIZER)
    settings = {"max_new_tokens": 40, "do_sample": False, "return_full_text": False}
    with torch.no_grad():  # only letters can be said
        model.language_model.embedding.weight[128:] = 0.0
    text = generator("some text", **settings)[0]["generated_text"]
    stop = text[10]  # transformers up to 5.15 at least looks at its first token alone
    stopped = generator("some text", stop_sequence=stop, **settings)[0]["generated_text"]
    assert stopped == text[: text.index(stop) + len(stop)]


@pytest.mark.parametrize("strings", [[""], "", [3], ["a", None]])
def test_what_is_no_text_is_refused(model, strings):
    with pytest.raises(UserError, match="stop_strings: expected texts of a character or more"):
        model.generate(torch.tensor([[1]]), stop_strings=strings, tokenizer=TOKENIZER, max_new_tokens=2)
