"""A model whose training has diverged ends in one line that names the weight, in every way to generate."""

import pytest
import torch

from unimatrix.errors import UserError
from unimatrix.hf import ByteTokenizer, load, stream

IDS = torch.tensor([[1, 2, 3]])
GENERATE = [
    {"do_sample": False},
    {"do_sample": True},
    {"num_beams": 2, "do_sample": False},
    {"do_sample": True, "top_k": 3, "top_p": 0.9, "temperature": 0.5},
]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("settings", GENERATE, ids=str)
def test_generate(make_model, value, settings):
    model = make_model("unimatrix-core")
    model.language_model.norm.bias.data[3] = value
    with pytest.raises(UserError, match=r"^model: the weights hold NaN or infinities, in .*norm\.bias$"):
        model.generate(IDS, max_new_tokens=3, **settings)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_stream(make_model, temperature):
    model = make_model("unimatrix-core")
    model.language_model.norm.bias.data[3] = float("nan")
    with pytest.raises(UserError, match=r"^model: the weights hold NaN or infinities, in .*norm\.bias$"):
        list(stream(model, ByteTokenizer(), "x", max_new_tokens=2, temperature=temperature))


def test_load(make_model, tmp_path):
    model = make_model("unimatrix-core")
    model.language_model.blocks[0].mixer_norm.bias.data[3] = float("nan")
    model.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r": the weights hold NaN or infinities, in .*mixer_norm\.bias$"):
        load(tmp_path)


def test_logits_alone(make_model):
    model = make_model("unimatrix-core").half()
    model.language_model.norm.bias.data.fill_(60000)  # some of them together overflow
    model.language_model.embedding.weight.data[:9].abs_()
    with pytest.raises(
        UserError, match=r"^model: the logits hold NaN or infinity, though the weights are finite$"
    ):
        model.generate(IDS, max_new_tokens=2, do_sample=False)
    model.language_model.norm.bias.data.fill_(1.0)
    assert model.generate(IDS, max_new_tokens=2, do_sample=False, eos_token_id=None).shape == (1, 5)
