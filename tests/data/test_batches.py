"""Batches are a function of (seed, step) and of nothing else."""

import hashlib

import numpy as np
import pytest
import torch

from unimatrix.data import BOS, random_windows
from unimatrix.errors import UserError

TEXT = np.arange(1000, dtype=np.int64).astype(np.uint8)


def draw(**changed):
    arguments = {"seed": 7, "step": 3, "batch_size": 4, "seq_len": 16} | changed
    return random_windows(TEXT, **arguments)


def test_rows_are_consecutive_bytes_of_the_text():
    rows = draw(batch_size=64)
    assert rows.shape == (64, 17)
    assert rows.dtype == torch.int64
    # TEXT counts upwards modulo 256, so every window does
    assert ((rows[:, 1:] - rows[:, :-1]) % 256 == 1).all()


def test_same_seed_and_step_give_the_same_batch_whatever_the_global_generators_do():
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = draw()
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    assert torch.equal(first, draw())


def test_every_seed_and_step_is_another_batch():
    drawn = [draw(seed=seed, step=step) for seed in range(5) for step in range(5)]
    assert len({rows.numpy().tobytes() for rows in drawn}) == 25


def test_the_first_batch_is_pinned():
    # results depend on it: a change here is a change of every published number
    rows = draw(seed=7, step=0)
    digest = hashlib.sha256(rows.numpy().astype("<i8").tobytes()).hexdigest()
    assert digest[:16] == "a33a8776fe1bed5a"


def test_positions_are_uniform_and_reach_both_ends():
    text = np.arange(20, dtype=np.uint8)
    firsts = random_windows(text, seed=1, step=0, batch_size=20_000, seq_len=9)[:, 0]
    counts = torch.bincount(firsts, minlength=11)
    assert counts.shape == (11,)
    # 20,000 / 11 = 1818 expected, standard deviation 41: five of them on either side
    assert ((counts - 20_000 / 11).abs() < 5 * 41).all()


def test_a_text_of_exactly_one_window_is_enough():
    text = np.arange(17, dtype=np.uint8)
    rows = random_windows(text, seed=0, step=0, batch_size=2, seq_len=16)
    assert rows.tolist() == [list(range(17))] * 2


def test_a_share_of_the_windows_begins_with_bos_and_the_rest_stays():
    plain, begun = draw(batch_size=20_000), draw(batch_size=20_000, bos_share=0.1)
    starts = begun[:, 0] == BOS
    # binomial: five standard deviations
    assert abs(int(starts.sum()) - 2000) < 5 * (20_000 * 0.1 * 0.9) ** 0.5
    assert torch.equal(begun[~starts], plain[~starts])
    assert torch.equal(begun[starts, 1:], plain[starts, :-1])
    assert (draw(bos_share=1.0)[:, 0] == BOS).all()
    assert torch.equal(begun, draw(batch_size=20_000, bos_share=0.1))
    other = draw(batch_size=20_000, bos_share=0.1, step=4)[:, 0] == BOS
    assert not torch.equal(other, starts)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seq_len": 1000}, "expected at least 1,001 bytes.*got 1,000"),
        ({"seq_len": 0}, "seq_len: expected at least 1, got 0"),
        ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
    ],
)
def test_bad_sizes_are_named(changed, message):
    with pytest.raises(UserError, match=message):
        draw(**changed)


def test_a_read_only_text_is_fine():
    text = np.frombuffer(b"x" * 100, dtype=np.uint8)
    assert random_windows(text, seed=0, step=0, batch_size=1, seq_len=9).shape == (1, 10)
