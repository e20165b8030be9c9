"""What every task hands out: sequences, and what is asked at which of their positions.

B sequences, T their length.
"""

from typing import Literal, NamedTuple

import numpy as np
from torch import Tensor

# the label of a position where nothing is asked: what torch's cross entropy leaves out by default
IGNORE = -100

# a task's sequences come in two streams that share no draw: to train on, and to be measured with
Stream = Literal["train", "eval"]
_STREAMS: dict[Stream, int] = {"train": 0, "eval": 1}


class Batch(NamedTuple):
    """input_ids [B, T] int64; labels [B, T] int64: the token asked for at a position, or IGNORE."""

    input_ids: Tensor
    labels: Tensor


def raw_draws(*, seed: int, step: int, stream: Stream, rows: int, columns: int) -> np.ndarray:
    """[rows, columns] uint64, uniform; a function of its arguments alone, and row i of nothing after it.

    Raw draws of the bit generator: numpy promises their stream for good, that of `integers`, `choice` and
    `permutation` it does not. A remainder of one favours some results by less than n / 2^64.
    """
    generator = np.random.PCG64(np.random.SeedSequence((seed, step, _STREAMS[stream])))
    return generator.random_raw(rows * columns).reshape(rows, columns)


def first_of_shuffled(draws: np.ndarray, count: int) -> np.ndarray:
    """[rows, count] int64: `count` of the numbers 0..columns-1 per row, without replacement, in random order.

    Args:
        draws: [rows, columns] uint64, uniform: each row is sorted, and its order is the permutation.
    """
    return np.argsort(draws, axis=1, kind="stable")[:, :count]
