"""Bits per byte: exact on models whose answer is known, every byte once, whatever the batch and window."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from unimatrix.data import BOS, VOCAB_SIZE
from unimatrix.data.documents import begins_of
from unimatrix.errors import UserError
from unimatrix.evals import BitsPerByte, bits_per_byte, nats_of_share, rates_text
from unimatrix.hf import UniMatrixConfig, UniMatrixForCausalLM
from unimatrix.models import build

TEXT = np.random.default_rng(0).integers(0, 256, 1003).astype(np.uint8)


class Uniform(nn.Module):
    """The same probability for each of the vocabulary's tokens."""

    def forward(self, input_ids, state=None, *, mask=None):
        return torch.zeros(*input_ids.shape, VOCAB_SIZE), state


class Recorder(Uniform):
    """Keeps what it was asked to read."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, input_ids, state=None, *, mask=None):
        assert not self.training
        self.seen.append(input_ids.clone())
        return super().forward(input_ids, state)


class Bigram(nn.Module):
    """A random table: the next token given this one, and nothing else."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.table = nn.Parameter(torch.randn(VOCAB_SIZE, VOCAB_SIZE, generator=generator))

    def forward(self, input_ids, state=None, *, mask=None):
        return self.table[input_ids], state


def test_a_uniform_model_costs_log2_of_the_vocabulary():
    result = bits_per_byte(Uniform(), TEXT, window=100, batch_size=3)
    assert result.bpb == pytest.approx(math.log2(VOCAB_SIZE), abs=1e-6)
    assert result.perplexity == pytest.approx(VOCAB_SIZE, rel=1e-6)
    assert result.nats == pytest.approx(len(TEXT) * math.log(VOCAB_SIZE), rel=1e-6)
    assert result.num_bytes == len(TEXT)


@pytest.mark.parametrize(("window", "batch_size"), [(1, 64), (7, 4), (100, 3), (1003, 2), (5000, 1)])
def test_the_sum_over_a_known_model_is_exact(window, batch_size):
    model = Bigram()
    tokens = torch.from_numpy(np.concatenate([[BOS], TEXT]).astype(np.int64))
    log_p = model.table.detach().double().log_softmax(-1)[tokens[:-1], tokens[1:]]
    result = bits_per_byte(model, TEXT, window=window, batch_size=batch_size)
    assert result.nats == pytest.approx(-float(log_p.sum()), rel=1e-6)
    assert result.bpb == pytest.approx(result.nats / len(TEXT) / math.log(2))


def test_every_byte_is_predicted_once_from_the_byte_before_it():
    model = Recorder()
    bits_per_byte(model, TEXT, window=64, batch_size=4)
    inputs = torch.cat([batch.flatten() for batch in model.seen])
    assert inputs.tolist() == [BOS, *TEXT[:-1].tolist()]
    assert all(batch.shape[1] <= 64 for batch in model.seen)
    assert model.training


@pytest.mark.parametrize("num_shares", [2, 3])
def test_shares_add_up_to_the_whole(num_shares):
    model = Bigram()
    whole = bits_per_byte(model, TEXT, window=50, batch_size=2).nats
    parts = [
        nats_of_share(model, TEXT, window=50, batch_size=2, share=(r, num_shares)) for r in range(num_shares)
    ]
    assert float(sum(parts)) == pytest.approx(whole, rel=1e-12)
    assert all(float(part) > 0 for part in parts)


@pytest.mark.parametrize("preset", ["transformer", "unimatrix-core", "unimatrix-rosa", "unimatrix-discovery"])
def test_a_carried_state_equals_one_pass_over_the_whole_text(preset):
    torch.manual_seed(0)
    model = build(preset, max_positions=None)
    text = TEXT[:301]
    whole = bits_per_byte(model, text, window=301)
    carried = nats_of_share(model, text, window=40, batch_size=1, carry=lambda state, *_: state)
    cut = bits_per_byte(model, text, window=40)
    assert float(carried) == pytest.approx(whole.nats, rel=2e-6)
    assert abs(cut.bpb - whole.bpb) > 1e-5


DOCUMENTS = (1, 40, 1, 300, 2, 659)


@pytest.mark.parametrize("preset", ["transformer", "unimatrix-core", "unimatrix-sparse-pointer"])
def test_documents_are_measured_as_if_each_were_alone(preset):
    torch.manual_seed(0)
    model = build(preset, max_positions=None)
    begins = begins_of(DOCUMENTS)
    alone = [
        bits_per_byte(model, TEXT[begin : begin + length], window=length)
        for begin, length in zip(begins, DOCUMENTS, strict=True)
    ]
    nats = sum(one.nats for one in alone)
    whole = bits_per_byte(model, TEXT, begins=begins, window=2000)
    assert whole.num_bytes == len(TEXT)
    assert whole.nats == pytest.approx(nats, rel=1e-6)
    carried = nats_of_share(
        model, TEXT, begins=begins, window=30, batch_size=1, carry=lambda state, *_: state
    )
    assert float(carried) == pytest.approx(nats, rel=1e-6)
    assert abs(bits_per_byte(model, TEXT, window=2000).nats - nats) > 0.1


def test_every_byte_of_every_document_is_predicted_once_in_whatever_windows():
    class Reading(Bigram):
        """Each byte from the one before it, or from BOS."""

        def forward(self, input_ids, state=None, *, mask=None, starts=None):
            assert torch.equal(starts, input_ids == BOS)
            return super().forward(input_ids, state)

    model, begins = Reading(), begins_of(DOCUMENTS)
    before = np.concatenate([[BOS], TEXT[:-1]]).astype(np.int64)
    before[begins] = BOS
    log_p = model.table.detach().double().log_softmax(-1)[before, torch.from_numpy(TEXT.astype(np.int64))]
    for window, batch_size in ((1, 64), (7, 4), (100, 3), (5000, 1)):
        result = bits_per_byte(model, TEXT, window=window, batch_size=batch_size, begins=begins)
        assert result.nats == pytest.approx(-float(log_p.sum()), rel=1e-6)
        parts = [
            nats_of_share(model, TEXT, window=window, batch_size=batch_size, begins=begins, share=(r, 3))
            for r in range(3)
        ]
        assert float(sum(parts)) == pytest.approx(result.nats, rel=1e-12)


def test_a_model_that_reads_on_has_no_documents():
    with pytest.raises(UserError, match=r"^begins: documents in one row need .*; Bigram would read on"):
        bits_per_byte(Bigram(), TEXT, window=16, begins=begins_of(DOCUMENTS))


def test_the_batch_size_changes_nothing():
    torch.manual_seed(0)
    model = build("unimatrix-core")
    ones = bits_per_byte(model, TEXT, window=128, batch_size=1)
    assert bits_per_byte(model, TEXT, window=128, batch_size=64).bpb == pytest.approx(ones.bpb, abs=1e-6)


def test_the_models_mode_and_the_global_generator_are_left_as_they_were():
    model = build("unimatrix-core", dropout=0.5)
    model.train()
    before = torch.get_rng_state()
    first = bits_per_byte(model, TEXT, window=128)
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)
    assert bits_per_byte(model, TEXT, window=128) == first


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"data": TEXT[:0]}, "at least 1 byte"),
        ({"window": 0}, "window: expected at least 1 and at most the model's 128 positions, got 0"),
        ({"window": 129}, "at most the model's 128 positions, got 129"),
        ({"batch_size": 0}, "batch_size"),
        ({"window": 2.5}, "window: expected a whole number, got 2.5"),
        ({"batch_size": 2.0}, "batch_size: expected a whole number, got 2.0"),
        ({"data": TEXT.astype(np.int64)}, r"evaluation text: expected bytes, uint8 \[N\], got int64 \["),
        ({"data": TEXT[:20].reshape(2, 10)}, r"expected bytes, uint8 \[N\], got uint8 \[2, 10\]"),
        ({"data": TEXT[:20].tobytes()}, "expected bytes in a numpy array of uint8, got a bytes"),
        ({"data": torch.from_numpy(TEXT[:20].copy())}, "a numpy array of uint8, got a Tensor"),
        ({"model": "adapter"}, "of a model of Hugging Face's form take its language_model"),
    ],
)
def test_bad_input_is_named(arguments, message):
    if arguments.get("model") == "adapter":
        arguments = {"model": UniMatrixForCausalLM(UniMatrixConfig())}
    with pytest.raises(UserError, match=message):
        bits_per_byte(**({"model": build("unimatrix-core"), "data": TEXT, "window": 128} | arguments))


@pytest.mark.parametrize("wrong", [{"batch_size": 2}, {"batch_size": 1, "share": (0, 2)}])
def test_a_stream_has_one_share_and_one_window_at_a_time(wrong):
    with pytest.raises(UserError, match=r"^carry: expected windows one at a time in 1 share, got"):
        nats_of_share(Uniform(), TEXT, window=40, carry=lambda state, *_: state, **wrong)


@pytest.mark.parametrize("nats", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_no_result(nats):
    with pytest.raises(UserError, match=r"evaluation: expected a finite loss, got .* nats per byte"):
        BitsPerByte.from_nats(nats, 1)


def test_a_perplexity_beyond_all_numbers_does_not_lose_the_bits_per_byte():
    rates = BitsPerByte.from_nats(1e6, 1000)
    assert (rates.bpb, rates.perplexity) == (1000 / math.log(2.0), None)
    assert rates_text(rates.bpb, rates.perplexity) == (
        "1442.6950 bits per byte, perplexity too large for a number"
    )


def test_a_model_of_nan_has_no_bits_per_byte():
    model = Bigram()
    torch.nn.init.constant_(model.table, torch.nan)
    with pytest.raises(UserError, match="expected a finite loss, got nan nats per byte"):
        bits_per_byte(model, TEXT, window=64)
