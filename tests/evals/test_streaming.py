"""A text as one stream: all of it, by position, and what a state that grows makes of it."""

import math

import numpy as np
import pytest
import torch
from small_models import PRESETS, one_thread, small_model, small_settings
from torch import nn

from unimatrix.data import BOS, VOCAB_SIZE
from unimatrix.data.documents import begins_of
from unimatrix.errors import UserError
from unimatrix.evals import bits_per_byte, stream_bits, streaming
from unimatrix.mixers import ContextVotesConfig, SuffixRoutingConfig, SuffixVotesConfig
from unimatrix.models import build

__all__ = ["one_thread"]

TEXT = np.random.default_rng(0).integers(0, 256, 1003).astype(np.uint8)
GROWING = {
    *("transformer", "transformer-modern", "unimatrix-assoc", "unimatrix-hybrid"),
    *("recurrent-ffn", "recurrent-ffn-readout", "recurrent-ffn-hybrid"),
}
RANGES = [(1, 128), (129, 256), (257, 512), (513, 1024)]


class Counting(nn.Module):
    """Gives any byte the same probability, by how many tokens were read before it: `bits_at`."""

    def __init__(self):
        super().__init__()
        self.pieces, self.asked = [], []

    def forward(self, input_ids, state=None, *, starts=None):
        (_, length), before = input_ids.shape, 0 if state is None else state
        self.pieces.append(length)
        steps = []
        for t in range(length):
            before = 1 if starts is not None and bool(starts[0, t]) else before + 1
            steps.append(before)
        chance = 2.0 ** -(torch.tensor(steps) % 9 + 1.0)
        # every byte has it, and what is left over is PAD's
        logits = (chance / 300).log()[None, :, None].repeat(1, 1, VOCAB_SIZE).double()
        logits[..., -1] = (1 - chance * (VOCAB_SIZE - 1) / 300).log()
        return logits, before


def bits_at(position):
    return position % 9 + 1 + math.log2(300)


def expected(positions):
    rows = {}
    for position in positions:
        row = next(pair for pair in RANGES if position <= pair[1])
        rows.setdefault(row, []).append(bits_at(position))
    return {row: (len(bits), pytest.approx(np.mean(bits), rel=1e-6)) for row, bits in sorted(rows.items())}


def rows_of(found):
    return {(row.first, row.last): (row.num_bytes, row.bpb) for row in found.by_position}


@pytest.mark.parametrize("piece", [64, 1000, 5000])
def test_bits_by_position_are_those_of_the_positions(piece, monkeypatch):
    monkeypatch.setattr(streaming, "STREAM_PIECE", piece)
    model, told = Counting(), []
    found = stream_bits(model, TEXT, progress=told.append)
    assert found.window is None
    assert rows_of(found) == expected(range(1, 1004))
    assert found.whole.bpb == pytest.approx(np.mean([bits_at(t) for t in range(1, 1004)]), rel=1e-6)
    assert sum(told) == found.whole.num_bytes == 1003
    assert max(model.pieces) == min(piece, 1003)


def small(preset, **changes):
    torch.manual_seed(0)
    settings = {"d_model": 16, "num_heads": 2, "depth": 1} if preset == "mamba2" else small_settings(preset)
    return build(preset, max_positions=None, **settings, **changes)


def test_where_nothing_reads_on_a_position_is_one_in_its_window():
    found = stream_bits(small("transformer"), TEXT, window=300)
    assert (found.window, found.reads_on) == (300, False)
    assert [(row.first, row.last, row.num_bytes) for row in found.by_position] == [
        (1, 128, 3 * 128 + 103),
        (129, 256, 3 * 128),
        (257, 512, 3 * 44),
    ]
    assert found.whole.bpb == pytest.approx(
        bits_per_byte(small("transformer"), TEXT, window=300).bpb, abs=1e-5
    )


BESIDE_ATTENTION = {
    "votes": ("transformer", {"parts.votes": SuffixVotesConfig()}),
    "contexts": ("transformer", {"parts.contexts": ContextVotesConfig()}),
    "routing": ("unimatrix-hybrid", {"parts.routing": SuffixRoutingConfig()}),
    "short routing": ("unimatrix-hybrid", {"parts.routing": SuffixRoutingConfig(capacity=60)}),
}


@pytest.mark.parametrize("stride", [200, 100, 40])
@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("name", ["unimatrix-hybrid", "recurrent-ffn", "unimatrix-assoc", *BESIDE_ATTENTION])
def test_what_does_not_look_back_reads_on_from_window_to_window(name, pack, stride):
    preset, beside = BESIDE_ATTENTION.get(name, (name, {}))
    model = small_model(preset, max_positions=None, **beside).double()
    text = np.tile(TEXT[:250], 4)
    begins = begins_of((1, 40, 300, 2, 657)) if pack else np.array([0])
    found = stream_bits(
        model,
        text,
        window=200,
        stride=None if stride == 200 else stride,
        begins=begins if pack else None,
    )
    assert (found.window, found.reads_on) == (200, True)
    assert pack or [(row.first, row.last) for row in found.by_position] == RANGES
    # by hand: a stride at a time, of each state a part that read the overlap alone for whatever looks back
    tokens = np.insert(text.astype(np.int64), begins, BOS)
    ids = torch.from_numpy(tokens)[None]
    starts = torch.from_numpy(np.isin(np.arange(len(tokens)), begins + np.arange(len(begins))))[None]
    fresh, nats, overlap = model.init_state(1), 0.0, 200 - stride
    layers = [model.config.layers[which] for which in model.config.order]
    before = {0: fresh}  # where in the text -> the state there, as it was read the first time

    def read(first, end, state):
        return model(ids[:, first:end], state, starts=starts[:, first:end] if pack else None)

    def of_both(looks_back, others):
        """The one state of what looks back, the other of the rest."""

        def mixed(parts, one, two):
            looks = {name for name in two if parts[name].kind in ("attention", "associative")}
            return {name: one[name] if name in looks else two[name] for name in two}

        steps = zip(layers, looks_back.steps, others.steps, strict=True)
        return looks_back._replace(
            parts=mixed(model.config.parts, looks_back.parts, others.parts),
            steps=tuple(mixed(*step) for step in steps),
        )

    with torch.inference_mode():
        for first in range(0, len(tokens) - 1, stride):
            end, state = min(first + stride, len(tokens) - 1), before[first]
            if first > overlap:
                again = of_both(fresh, before[first - overlap])
                if overlap:
                    again = read(first - overlap, first, again)[1]
                state = of_both(again, state)
            logits, before[end] = read(first, end, state)
            of_each = nn.functional.cross_entropy(logits[0], ids[0, first + 1 : end + 1], reduction="none")
            nats += float(of_each[~starts[0, first + 1 : end + 1]].sum())
    assert found.whole.nats == pytest.approx(nats, rel=1e-6)
    # and that is another number than of windows that know nothing of each other
    assert abs(found.whole.nats - bits_per_byte(model, text, window=200).nats) > 1e-3


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize(("window", "stride"), [(300, 100), (64, 32), (7, 1), (2000, 500)])
def test_windows_that_overlap_give_every_byte_what_they_have_in_common(window, stride, pack):
    """By hand: each window read by itself, and of all but the first the last stride of it counted."""
    model, begins = small("transformer").double(), begins_of((1, 40, 300, 2, 660)) if pack else np.array([0])
    tokens = np.insert(TEXT.astype(np.int64), begins, BOS)
    starts = torch.from_numpy(np.isin(np.arange(len(tokens)), begins + np.arange(len(begins))))
    ids, nats, positions = torch.from_numpy(tokens), 0.0, []
    with torch.inference_mode():
        for end in range(min(window, len(ids) - 1), len(ids) + stride - 1, stride):
            first, end = max(0, end - window), min(end, len(ids) - 1)
            logits, _ = model(ids[None, first:end], starts=starts[None, first:end] if pack else None)
            of_each = nn.functional.cross_entropy(logits[0], ids[first + 1 : end + 1], reduction="none")
            asked = ~starts[first + 1 : end + 1]
            asked[: 0 if first == 0 else window - stride] = False
            nats += float(of_each[asked].sum())
            positions += (1 + torch.nonzero(asked)[:, 0]).tolist()
    found = stream_bits(model, TEXT, window=window, stride=stride, begins=begins if pack else None)
    assert (found.window, found.stride, found.reads_on) == (window, stride, False)
    assert found.whole.nats == pytest.approx(nats, rel=1e-7)
    assert found.whole.num_bytes == len(positions) == len(TEXT)
    if not pack:
        rows = [sum(first <= position <= last for position in positions) for first, last in RANGES]
        assert [row.num_bytes for row in found.by_position] == [number for number in rows if number]


def test_votes_read_on_while_attention_forgets():
    votes = {"parts.votes": SuffixVotesConfig()}
    again = np.tile(TEXT[:500], 2)
    found = stream_bits(small("transformer", **votes), again, window=50)
    first, second = (
        np.average([row.bpb for row in rows]) for rows in (found.by_position[:2], found.by_position[3:])
    )
    assert second < first / 2, "the second half is the first once more"


def test_of_documents_a_position_is_one_in_its_document(monkeypatch):
    lengths = (1, 40, 1, 300, 2, 659)
    for piece in (50, 5000):
        monkeypatch.setattr(streaming, "STREAM_PIECE", piece)
        found = stream_bits(Counting(), TEXT, begins=begins_of(lengths))
        assert rows_of(found) == expected([t for length in lengths for t in range(1, length + 1)])


@pytest.mark.parametrize("num_bytes", [1, 127, 128, 129, 256, 257, 512, 513])
def test_ranges_end_where_the_text_does(num_bytes):
    found = stream_bits(Counting(), TEXT[:num_bytes])
    assert rows_of(found) == expected(range(1, num_bytes + 1))


@pytest.mark.parametrize("preset", [*PRESETS, "mamba2"])
def test_every_preset_reads_a_stream_or_the_windows_it_can(preset, monkeypatch):
    monkeypatch.setattr(streaming, "STREAM_PIECE", 70)
    monkeypatch.setattr(streaming, "LOOK_BACK_WINDOW", 200)
    model = small(preset)
    grows = not getattr(model.config, "read_in_pieces", True)
    assert grows == (preset in GROWING)
    found = stream_bits(model, TEXT)
    assert (found.window, bool(found.looking_back)) == ((200, True) if grows else (None, False))
    if not grows or not found.reads_on:
        other = bits_per_byte(model, TEXT, window=200 if grows else 1003)
        assert found.whole.bpb == pytest.approx(other.bpb, abs=1e-5)
    total = sum(row.bpb * row.num_bytes for row in found.by_position)
    assert total / 1003 == pytest.approx(found.whole.bpb, rel=1e-6)
    assert [(row.first, row.last) for row in found.by_position] == RANGES[: 4 if found.reads_on else 2]


def test_a_model_in_training_is_measured_and_stays_as_it_is():
    """Spectral normalisation follows its matrix once a pass in training; a measurement is none."""
    torch.manual_seed(0)
    model = small("unimatrix-hybrid", **{"layers.0.mixer.spectral_norm": True}).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    stream_bits(model, TEXT[:300], window=64)
    model.init_state(2)
    assert model.training
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_large_vocabulary_is_read_in_smaller_pieces():
    class Wide(Counting):
        config = type("Config", (), {"vocab_size": 100_000, "max_positions": None})

    model = Wide()
    stream_bits(model, TEXT)
    assert max(model.pieces) == 2**23 // 100_000


def test_bad_input_is_named():
    for model, data, settings, message in (
        (Counting(), TEXT[:0], {}, "evaluation text: expected at least 1 byte, got none"),
        (
            build("unimatrix-core"),
            TEXT,
            {},
            "model: expected max_positions None, as a stream has no",
        ),
        (Counting(), TEXT, {"window": 300}, "window: expected none, as this model reads the whole text"),
        (small("transformer"), TEXT, {"window": 0}, "window: expected at least 1, got 0"),
        (Counting(), TEXT, {"stride": 3}, "stride: expected none, as no part of this model has a window"),
    ):
        with pytest.raises(UserError, match=f"^{message}"):
            stream_bits(model, data, **settings)
    looking_back = small("transformer")
    for settings, message in (
        ({"window": 8, "stride": 3}, "stride: expected a divisor of the window, 8, got 3"),
        ({"window": 8, "stride": 16}, "stride: expected a divisor of the window, 8, got 16"),
        ({"stride": 3}, "stride: expected a divisor of the window, 4096, got 3"),
        ({"window": 8, "stride": 0}, "stride: expected at least 1, got 0"),
        ({"window": 8, "stride": 4.0}, "stride: expected a whole number, got 4.0"),
        ({"window": 8.0, "stride": 4}, "window: expected a whole number, got 8.0"),
        ({"window": "x", "stride": 4}, "window: expected a whole number, got 'x'"),
        ({"window": 0, "stride": 4}, "window: expected at least 1, got 0"),
    ):
        with pytest.raises(UserError, match=f"^{message}"):
            stream_bits(looking_back, TEXT, **settings)
    # however far it would look back
    found = stream_bits(looking_back, TEXT[:20], window=2**63, stride=2)
    assert found.whole.nats == pytest.approx(stream_bits(looking_back, TEXT[:20]).whole.nats, rel=1e-6)


def test_what_overlaps_is_held_without_keys_and_values():
    """Of every stride in a window its tokens; with a state each they would be as many keys as W squared."""
    held = []

    class Watched(streaming._Forgetting):
        def __call__(self, *read):
            given = super().__call__(*read)
            held.append(
                [state for piece in self._pieces for step in piece.state.steps for state in step.values()]
            )
            return given

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(streaming, "_Forgetting", Watched)
        stream_bits(small("transformer"), TEXT[:200], window=40, stride=5)
    assert max(map(len, held)) == 7 * len(small("transformer").config.order)
    assert all(state.k.numel() == state.v.numel() == 0 for states in held for state in states)
