"""Signal versus noise: one answer, told by the mark alone, wherever it stands; one seed, one batch."""

import dataclasses
import hashlib
import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unimatrix.data.tasks import IGNORE, TASKS, SignalNoiseConfig, signal_noise, task_of
from unimatrix.data.tasks.signal_noise import BOS, MARK, QUERY
from unimatrix.errors import UserError


def draw(config=None, **changed):
    arguments = {"seed": 7, "step": 3, "batch_size": 512} | changed
    return signal_noise.make(SignalNoiseConfig() if config is None else config, **arguments)


def within(share, expected, n):
    """Five standard deviations of a share of n independent trials."""
    return abs(share - expected) <= 5 * math.sqrt(expected * (1 - expected) / n)


def is_value(config, ids):
    return (ids >= config.first_value) & (ids < config.first_noise)


@st.composite
def configs(draw):
    """Settings that fit together, at their limits as likely as not."""
    values, free = (draw(st.integers(1, 12)) for _ in range(2))
    distractors = draw(st.integers(0, values - 1))
    return SignalNoiseConfig(
        num_distractors=distractors,
        num_values=values,
        num_noise=draw(st.integers(1, free)),
        length=4 + distractors + draw(st.integers(0, 20)),
        vocab_size=4 + values + free,
    )


@settings(deadline=None, max_examples=150)
@given(config=configs(), seed=st.integers(0, 2**63 - 1), step=st.integers(0, 10**6))
def test_every_sequence_has_one_answer_and_the_mark_tells_it(config, seed, step):
    batch_size = 8
    ids, labels = signal_noise.make(config, seed=seed, step=step, batch_size=batch_size, stream="eval")
    assert ids.shape == labels.shape == (batch_size, config.length)
    assert ids.dtype == labels.dtype == torch.int64
    # PAD nowhere, BOS first, QUERY last, and neither a second time
    assert ids.min() >= 1
    assert ids.max() < config.vocab_size
    assert (ids == BOS).nonzero().tolist() == [[row, 0] for row in range(batch_size)]
    assert (ids == QUERY).nonzero().tolist() == [[row, config.length - 1] for row in range(batch_size)]
    # asked at the last position and nowhere else
    assert (labels[:, :-1] == IGNORE).all()
    assert torch.equal(signal_noise.oracle(config, ids), labels[:, -1])
    for row, answer in zip(ids.tolist(), labels[:, -1].tolist(), strict=True):
        assert row.count(MARK) == row.count(answer) == 1
        assert row[row.index(MARK) + 1] == answer
        values = [token for token in row if config.first_value <= token < config.first_noise]
        assert len(values) == len(set(values)) == 1 + config.num_distractors
        assert answer in values
        noise = [token for token in row if token >= config.first_noise]
        assert len(noise) == config.length - 4 - config.num_distractors
        assert len(set(noise)) <= config.num_noise


@pytest.mark.parametrize("num_distractors", [0, 3, 7, 15])
def test_the_oracle_is_always_right_and_a_guess_as_often_as_it_should(num_distractors):
    config = SignalNoiseConfig(num_distractors=num_distractors)
    ids, labels = draw(config, batch_size=8192)
    answers = labels[:, -1]
    assert torch.equal(signal_noise.oracle(config, ids), answers)
    guessed = float((signal_noise.guess(config, ids, seed=1) == answers).double().mean())
    assert signal_noise.guess_accuracy(config) == 1 / (1 + num_distractors)
    assert within(guessed, 1 / (1 + num_distractors), 8192)
    # a guess among all values, and the same value each time
    assert signal_noise.chance(config) == 1 / 16
    for value in range(config.first_value, config.first_noise):
        assert within(float((answers == value).double().mean()), 1 / 16, 8192)


def test_a_guess_takes_every_value_that_stands_there_and_nothing_else():
    config = SignalNoiseConfig(num_distractors=2)
    ids, _ = draw(config, batch_size=1)
    rows = 6000
    guesses = signal_noise.guess(config, ids.expand(rows, -1), seed=1)
    there = ids[is_value(config, ids)].tolist()
    counts = Counter(guesses.tolist())
    assert set(counts) == set(there)
    assert all(within(count / rows, 1 / 3, rows) for count in counts.values())
    assert torch.equal(guesses, signal_noise.guess(config, ids.expand(rows, -1), seed=1))
    assert not torch.equal(guesses, signal_noise.guess(config, ids.expand(rows, -1), seed=2))


def test_every_order_of_signal_distractors_and_noise_is_equally_likely():
    """A signal of two positions, two distractors and two noise tokens: 5 * 4 * 3 / 2 = 30 orders."""
    config, rows = SignalNoiseConfig(num_distractors=2, length=8), 12_000
    ids, _ = draw(config, batch_size=rows)
    kinds = torch.where(is_value(config, ids), 1, torch.where(ids == MARK, 2, 0))
    counts = Counter(map(tuple, kinds[:, 1:-1].tolist()))
    # a mark is 2, a value 1 and noise 0
    orders = set(itertools.permutations([(2, 1), (1,), (1,), (0,), (0,)]))
    expected = {tuple(itertools.chain(*order)) for order in orders}
    assert len(expected) == 30
    assert set(counts) == expected
    assert all(within(count / rows, 1 / 30, rows) for count in counts.values())


def test_every_position_is_as_likely_for_the_signal_and_for_each_distractor():
    config, rows = SignalNoiseConfig(), 16_384
    ids, labels = draw(config, batch_size=rows)
    # 61 places for the signal: its mark stands at 1 to 61
    mark_at = torch.bincount((ids == MARK).nonzero()[:, 1], minlength=64) / rows
    assert mark_at[[0, 62, 63]].tolist() == [0, 0, 0]
    assert all(within(float(share), 1 / 61, rows) for share in mark_at[1:62])
    # without the signal 60 places are left, and 7 distractors stand at each of them equally often
    unmarked = is_value(config, ids) & (ids != labels[:, -1:])
    rest = unmarked[(ids != MARK) & (ids != labels[:, -1:])].reshape(rows, 62)[:, 1:-1]
    assert all(within(float(share), 7 / 60, rows) for share in rest.double().mean(0))


def test_neither_the_order_of_the_values_nor_the_noise_tells_the_answer():
    """The marked one is the first, second, ... last of the values equally often, and so is every value."""
    config, rows = SignalNoiseConfig(), 16_384
    ids, labels = draw(config, batch_size=rows)
    values = ids[is_value(config, ids)].reshape(rows, 8)
    which = torch.bincount((values == labels[:, -1:]).int().argmax(1), minlength=8) / rows
    assert all(within(float(share), 1 / 8, rows) for share in which)
    # nor does it help to know which value is the first
    for seen in range(config.first_value, config.first_noise):
        answers = labels[values[:, 0] == seen, -1]
        assert within(float((answers == seen).double().mean()), 1 / 8, len(answers))
    for seen in range(config.first_noise, config.first_noise + 8):
        answers = labels[ids[:, 1] == seen, -1] - config.first_value
        shares = torch.bincount(answers, minlength=16) / len(answers)
        assert all(within(float(share), 1 / 16, len(answers)) for share in shares)


@pytest.mark.parametrize("num_noise", [1, 12, 44])
def test_noise_is_drawn_from_so_many_symbols_and_all_free_ones_get_their_turn(num_noise):
    config = SignalNoiseConfig(num_noise=num_noise, length=1011)
    ids, _ = draw(config, batch_size=256)
    for row in ids:
        symbols, counts = row[row >= config.first_noise].unique(return_counts=True)
        assert len(symbols) == num_noise
        assert all(within(float(count) / 1000, 1 / num_noise, 1000) for count in counts)
    everything = ids[ids >= config.first_noise].unique()
    assert everything.tolist() == list(range(config.first_noise, config.vocab_size))


def test_the_first_batch_is_pinned():
    # results depend on it: a change here is a change of every published number
    digests = {
        "c1237c69bc77aaf5b09e924437e5306da2bcae090190484671887db391bc6415": (SignalNoiseConfig(), "train"),
        "e4e7f174dfc89b2051c08159ff049bb9c83a1e62b0ce7c2869c8f96e7b1d36b4": (SignalNoiseConfig(), "eval"),
        "0f18656165d029b900bb8d5cc75911bbb6d287034c3307de10686137e176c1d6": (
            SignalNoiseConfig(num_distractors=0),
            "train",
        ),
    }
    for digest, (config, stream) in digests.items():
        assert signal_noise.fingerprint(config, stream=stream) == digest
        batch = signal_noise.make(config, seed=0, step=0, batch_size=32, stream=stream)
        both = torch.stack([*batch]).numpy().astype("<i8").tobytes()
        assert hashlib.sha256(both).hexdigest() == digest


def test_same_seed_and_step_give_the_same_batch_whatever_the_global_generators_do():
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = draw()
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    assert torch.equal(first.input_ids, draw().input_ids)
    # and the first rows are the same however many follow
    assert torch.equal(first.input_ids[:5], draw(batch_size=5).input_ids)


def test_every_seed_step_and_stream_is_another_batch():
    drawn = [
        draw(seed=seed, step=step, stream=stream, batch_size=4)
        for seed in range(4)
        for step in range(4)
        for stream in ("train", "eval")
    ]
    assert len({batch.input_ids.numpy().tobytes() for batch in drawn}) == 32


def test_further_numbers_of_distractors_are_tasks_of_their_own():
    config = SignalNoiseConfig(eval_num_distractors=(0, 15), num_noise=44)
    assert signal_noise.variants(config) == {
        "0_distractors": dataclasses.replace(config, num_distractors=0),
        "15_distractors": dataclasses.replace(config, num_distractors=15),
    }
    assert signal_noise.variants(SignalNoiseConfig()) == {}


def test_every_symbol_has_a_name_of_its_own_that_is_read_back():
    config = SignalNoiseConfig()
    names = [signal_noise.symbol(config, token) for token in range(64)]
    assert names[:5] == ["PAD", "BOS", "QUERY", "MARK", "v1"]
    assert names[19:21] + names[-1:] == ["v16", "n1", "n44"]
    assert signal_noise.read_symbols(config, " ".join(names)) == list(range(64))
    complaint = "symbols among BOS, QUERY, MARK, v1 to v16, n1 to n44, got 'k1'"
    with pytest.raises(UserError, match=complaint):
        signal_noise.read_symbols(config, "BOS k1")


def test_it_is_in_the_catalogue():
    config = SignalNoiseConfig()
    task = task_of(config)
    assert TASKS["signal-noise"] is task
    assert (task.config, task.chance(config)) == (SignalNoiseConfig, 1 / 16)
    assert torch.equal(task.make(config, seed=7, step=3, batch_size=512).input_ids, draw().input_ids)
    assert task.symbol(config, MARK) == "MARK"
    assert task.fingerprint(config) == signal_noise.fingerprint(config)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"num_distractors": 16}, "num_distractors: expected at most 15, one less than num_values, got 16"),
        ({"num_values": 7}, "num_distractors: expected at most 6, one less than num_values, got 7"),
        ({"num_distractors": -1}, "num_distractors: expected at least 0, got -1"),
        ({"num_distractors": 4.0}, "num_distractors: expected a whole number, got 4.0"),
        ({"length": 10}, r"length: expected at least 11, .*, 7 distractors .*\(num_distractors 7\), got 10"),
        ({"length": 18, "eval_num_distractors": (15,)}, r"at least 19.*eval_num_distractors 15.*got 18"),
        ({"eval_num_distractors": (4, 16)}, "eval_num_distractors: expected at most 15, .*, got 16"),
        ({"eval_num_distractors": (-1,)}, "eval_num_distractors: expected at least 0, got -1"),
        ({"eval_num_distractors": [4]}, r"eval_num_distractors: expected whole numbers, got \[4\]"),
        ({"num_values": 0}, "num_values: expected a positive number, got 0"),
        ({"num_noise": 0}, "num_noise: expected a positive number, got 0"),
        ({"num_noise": 45}, "num_noise: expected at most 44, the free symbols of vocab_size 64, got 45"),
        ({"vocab_size": 20}, r"vocab_size: expected at least 21 \(4 marks, 16 values and one noise symbol\)"),
        ({"eval_sequences": 0}, "eval_sequences: expected a positive number, got 0"),
    ],
)
def test_bad_settings_are_named_in_one_line(changed, message):
    with pytest.raises(UserError, match=message) as caught:
        SignalNoiseConfig(**changed)
    assert "\n" not in str(caught.value)


def test_a_batch_has_at_least_one_row():
    with pytest.raises(UserError, match="batch_size: expected at least 1, got 0"):
        draw(batch_size=0)
