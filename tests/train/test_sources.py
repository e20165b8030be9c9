"""Training on documents kept apart: batches, the loss, what measures it, going on, and what is refused.

And a stream that is read at the end.
"""

import dataclasses

import numpy as np
import pytest
import torch
from outside_part import SurpriseConfig
from tolerances import assert_close
from torch.nn import functional as F

from unimatrix.data import BOS
from unimatrix.data.documents import packed
from unimatrix.errors import NotFinite, UserError
from unimatrix.evals import bits_per_byte, stream_bits
from unimatrix.models import build
from unimatrix.train import load_checkpoint, sources, train
from unimatrix.train.run import LossModule
from unimatrix.train.sources import source_of


@pytest.fixture
def documents(text):
    """The short text in documents of 1 to 40 bytes."""
    begins = {}
    for split in ("train", "valid", "test"):
        steps = np.random.default_rng(0).integers(1, 41, len(text.split(split)))
        begins[split] = np.concatenate([[0], steps.cumsum()])
        begins[split] = begins[split][begins[split] < len(text.split(split))]
    return dataclasses.replace(text, begins=begins)


@pytest.fixture
def fit(tmp_path, documents, console):
    def run(experiment, *, name="run", **arguments):
        given = {"out": tmp_path / name, "corpus": documents, "console": console} | arguments
        return train(experiment, **given)

    return run


def test_a_batch_is_windows_of_the_packed_text(tiny, documents):
    source = source_of(tiny(pack=True), documents)
    tokens = packed(documents.train, documents.begins["train"]).tobytes()
    batch = source.batch(seed=3, step=5, batch_size=64)
    assert torch.equal(batch.starts, batch.input_ids == BOS)
    assert batch.starts.any()
    for inputs, labels in zip(batch.input_ids, batch.labels, strict=True):
        ends = torch.where(labels < 0, BOS, labels)
        assert torch.equal(inputs[1:], ends[:-1])
        assert np.append(inputs.numpy(), ends[-1]).astype(np.int16).tobytes() in tokens
    again = source_of(tiny(pack=True), documents).batch(seed=3, step=5, batch_size=64)
    assert all(torch.equal(*both) for both in zip(batch, again, strict=True))


@pytest.mark.parametrize("preset", ["transformer", "unimatrix-core"])
def test_the_loss_is_that_of_the_documents_apart(tiny, documents, preset):
    batch = source_of(tiny(pack=True), documents).batch(seed=0, step=0, batch_size=4)
    torch.manual_seed(0)
    model = build(preset, max_positions=16, d_model=16, num_heads=2, depth=2)
    total, count = torch.zeros(()), 0
    for inputs, labels, starts in zip(*batch, strict=True):
        cuts = starts[1:].nonzero()[:, 0].add(1).tolist()
        for ids, asked in zip(inputs.tensor_split(cuts), labels.tensor_split(cuts), strict=True):
            total = total + F.cross_entropy(model(ids[None])[0][0], asked, reduction="sum")
            count += int((asked >= 0).sum())
    expected = torch.autograd.grad(total / count, list(model.parameters()), allow_unused=True)
    loss = LossModule(model)(*batch)
    torch.testing.assert_close(loss, total / count)
    found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    for one, other in zip(found, expected, strict=True):
        if other is not None:
            assert_close(one, other, "gradient")


def test_what_measures_it_keeps_them_apart_too(fit, tiny, documents):
    result = fit(tiny(pack=True, eval_every=3, eval_bytes=300))
    begins = documents.begins["valid"]
    whole = bits_per_byte(result.model, documents.valid, window=16, begins=begins)
    assert result.bpb == pytest.approx(whole.bpb, rel=1e-6)
    assert abs(whole.bpb - bits_per_byte(result.model, documents.valid, window=16).bpb) > 1e-4
    recorded = load_checkpoint(result.checkpoint).trainer.data.valid
    assert (recorded.bytes, recorded.documents.number) == (len(documents.valid), len(begins))


def test_one_document_is_the_text_behind_a_bos(fit, tiny, text):
    one = fit(tiny(pack=True, dropout=0.0), corpus=text)
    assert one.bpb == pytest.approx(bits_per_byte(one.model, text.valid, window=16).bpb, rel=1e-6)
    assert one.data["train"]["documents"]["number"] == 1


def test_a_resumed_run_ends_with_the_same_bytes_and_pieces_with_the_same_numbers(fit, tiny):
    settings = {"pack": True, "preset": "unimatrix-core"}
    whole = fit(tiny(steps=5, **settings), name="whole")
    fit(tiny(steps=2, **settings), name="parts")
    parts = fit(tiny(steps=5, eval_every=1, **settings), name="parts", resume=True)
    for file in ("model.safetensors", "optimizer.safetensors", "rng.safetensors"):
        assert (parts.checkpoint / file).read_bytes() == (whole.checkpoint / file).read_bytes()
    settings |= {"dropout": 0.0, "steps": 3}
    at_once, in_pieces = fit(tiny(**settings)), fit(tiny(accumulation=4, **settings), name="pieces")
    assert in_pieces.final_loss == pytest.approx(at_once.final_loss, rel=1e-5)
    assert in_pieces.bpb == pytest.approx(at_once.bpb, rel=1e-5)


def test_no_run_goes_on_with_other_documents_or_without(fit, tiny, text, documents):
    fit(tiny(steps=2, pack=True))
    with pytest.raises(UserError, match=r"resume: the run in .* has pack True, got False"):
        fit(tiny(steps=3), resume=True)
    others = dataclasses.replace(documents, begins=documents.begins | {"train": np.array([0, 7])})
    with pytest.raises(UserError, match=r"keeps other documents of the train text apart: .*; got 2, sha256"):
        fit(tiny(steps=3, pack=True), resume=True, corpus=others)


def test_a_model_that_would_read_on_is_refused_before_anything_is_written(fit, tiny, tmp_path):
    surprised = build("unimatrix-core", d_model=16, num_heads=2, **{"layers.0.store": SurpriseConfig()})
    given = tiny(pack=True)
    outside = dataclasses.replace(given, model=type(given.model)(config=surprised.config))
    for experiment, name in ((tiny(pack=True, preset="mamba2"), "Mamba2"), (outside, "layers.0.store")):
        with pytest.raises(UserError, match=f"^pack: documents in one row need a model .*; {name}.* read on"):
            fit(experiment)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("preset", ["transformer", "unimatrix-core"])
@pytest.mark.parametrize("pack", [False, True])
def test_at_the_end_a_stream_is_read_too(fit, tiny, documents, preset, pack):
    window = 100 if preset == "transformer" else None
    stride = 50 if preset == "transformer" else None
    asked = {"stream_bytes": 700, "stream_window": window, "stream_stride": stride}
    asked |= {"eval_every": 3, "eval_bytes": 300, "pack": pack}
    result = fit(tiny(preset=preset, max_positions=None, **asked))
    valid, begins = documents.valid[:700], documents.begins["valid"]
    begins = begins[begins < 700] if pack else None
    expected = stream_bits(result.model, valid, window=window, stride=stride, begins=begins)
    in_windows = bits_per_byte(result.model, valid, window=16, begins=begins).bpb
    # where nothing reads on there are no positions in the stream
    rows = {f"stream_bpb_{row.first}": row.bpb for row in expected.by_position if expected.reads_on}
    assert result.metrics == pytest.approx(
        {"bpb": result.metrics["bpb"], "ppl": result.metrics["ppl"]}
        | {"windows_bpb": in_windows, "stream_bpb": expected.whole.bpb}
        | rows
    )


@pytest.mark.parametrize("share", [0, 1])
def test_where_one_process_s_share_is_refused_all_hear_of_it_at_the_same_sum(tiny, text, share):
    """Else one would wait for the other's, or add it to another number's."""
    model = build("unimatrix-core", d_model=8, num_heads=2, depth=1)
    real, summed = model.forward, []

    def forward(input_ids, *rest, **more):
        if share == 1:
            raise NotFinite("log_retention: expected numbers at most 0, got nan")
        return real(input_ids, *rest, **more)

    def add_up(sums):
        summed.append(sums.isnan().item())
        return sums + torch.nan  # the other's

    model.forward = forward
    with pytest.raises(NotFinite):
        source_of(tiny(), text).evaluate(model, seed=7, extent="part", share=(share, 2), add_up=add_up)
    assert summed == [share == 1]


def test_a_stream_that_grows_beyond_all_numbers_takes_nothing_else_with_it(fit, tiny, monkeypatch):
    def refuse(*_, **__):
        raise NotFinite("evaluation: expected a finite loss, got nan nats per byte")

    monkeypatch.setattr(sources, "stream_bits", refuse)
    result = fit(tiny(steps=1, preset="unimatrix-core", max_positions=None, stream_bytes=700))
    assert result.metrics.keys() == {"bpb", "ppl", "windows_bpb"}


def test_a_window_of_evaluation_may_be_another_than_in_training(fit, tiny, documents):
    asked = {"stream_bytes": 700, "eval_every": 3, "eval_bytes": 300}
    experiment = tiny(preset="unimatrix-core", max_positions=None, eval_window=7, **asked)
    result = fit(experiment)
    assert experiment.loop.seq_len == 16
    assert result.metrics["bpb"] == bits_per_byte(result.model, documents.valid, window=7).bpb
    assert result.metrics["windows_bpb"] == bits_per_byte(result.model, documents.valid[:700], window=7).bpb
    same = fit(tiny(preset="unimatrix-core", max_positions=None, **asked), name="same")
    assert (same.final_loss, same.metrics["stream_bpb"]) == (result.final_loss, result.metrics["stream_bpb"])
    assert same.metrics["bpb"] != result.metrics["bpb"]


@pytest.mark.parametrize("pack", [False, True])
def test_what_is_evaluated_may_be_the_test_text(fit, tiny, documents, pack):
    asked = {"preset": "unimatrix-core", "max_positions": None, "stream_bytes": 200, "pack": pack}
    result = fit(tiny(eval_split="test", eval_at=(2,), **asked))
    begins = documents.begins["test"] if pack else None
    measured = bits_per_byte(result.model, documents.test, window=16, begins=begins)
    assert result.metrics["bpb"] == measured.bpb
    stream = stream_bits(
        result.model, documents.test[:200], begins=None if begins is None else begins[begins < 200]
    )
    assert result.metrics["stream_bpb"] == stream.whole.bpb
    assert result.data["valid"].items() >= documents.fingerprint("test").items()
    usual = fit(tiny(eval_at=(2,), **asked), name="usual")
    assert usual.final_loss == result.final_loss
    for name in ("bpb", "bpb_2_steps", "stream_bpb", "windows_bpb"):
        assert usual.metrics[name] != result.metrics[name]
    if pack:
        assert result.data["valid"]["documents"] == documents.documents("test")
    with pytest.raises(UserError, match="has eval_split 'test', got 'valid'"):
        fit(tiny(eval_at=(2,), **asked), resume=True)
    empty = dataclasses.replace(documents, test=documents.test[:0], begins={})
    with pytest.raises(UserError, match=r"\(test\): expected at least 1 byte, got none$"):
        source_of(tiny(eval_split="test", **asked), empty)


def test_a_window_for_a_model_that_looks_back_over_nothing_is_refused_before_the_first_step(fit, tiny):
    given = tiny(preset="unimatrix-core", max_positions=None, stream_bytes=700, stream_window=100)
    with pytest.raises(UserError, match=r"^stream_window: expected None, as no part of unimatrix-core looks"):
        fit(given)
