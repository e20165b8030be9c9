"""What every task hands out: sequences, and what is asked at which of their positions.

B sequences, T their length.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from unimatrix.data.streams import bit_generator
from unimatrix.errors import UserError, UserTypeError, shown
from unimatrix.memory import check_fits, host_bytes

# the label of a position where nothing is asked: what torch's cross entropy leaves out by default
IGNORE = -100

# a task's sequences come in two streams that share no draw: to train on, and to be measured with
Stream = Literal["train", "eval"]
_STREAMS: dict[Stream, int] = {"train": 0, "eval": 1}


class Batch(NamedTuple):
    """input_ids [B, T] int64; labels [B, T] int64: the token asked for at a position, or IGNORE.

    At padding the label is IGNORE: what a model says there means nothing.
    """

    input_ids: Tensor
    labels: Tensor


def check_draw(config: object, kind: type, *, batch_size: int, stream: object) -> None:
    """Raise a UserError unless these are settings of the task, a number of sequences and a stream."""
    if not isinstance(config, kind):
        raise UserTypeError(f"config: expected a {kind.__name__}, got {shown(config)}")
    if not isinstance(batch_size, int) or isinstance(batch_size, bool):
        raise UserTypeError(f"batch_size: expected a whole number, got {shown(batch_size)}")
    if batch_size < 1:
        raise UserError(f"batch_size: expected at least 1, got {batch_size}")
    if not isinstance(stream, str) or stream not in _STREAMS:
        raise UserError(f"stream: expected one of {', '.join(_STREAMS)}, got {shown(stream)}")


def raw_draws(*, seed: int, step: int, stream: Stream, rows: int, columns: int) -> np.ndarray:
    """[rows, columns] uint64, uniform; a function of its arguments alone, and row i of nothing after it.

    Raw draws of the bit generator: numpy promises their stream for good, that of `integers`, `choice` and
    `permutation` it does not. A remainder of one favours some results by less than n / 2^64.
    """
    # the draws and, at the least, ids and labels
    check_fits(
        rows * columns * 8 * 2,
        what=f"batch_size: {rows:,} sequences of {columns:,} draws each",
        there=host_bytes(),
    )
    generator = bit_generator("sequences", seed=seed, step=step, stream=_STREAMS[stream])
    return generator.random_raw(rows * columns).reshape(rows, columns)


def first_of_shuffled(draws: np.ndarray, count: int) -> np.ndarray:
    """[rows, count] int64: `count` of the numbers 0..columns-1 per row, without replacement, in random order.

    Args:
        draws: [rows, columns] uint64, uniform: each row is sorted, and its order is the permutation.
    """
    return np.argsort(draws, axis=1, kind="stable")[:, :count]


def remainders(draws: np.ndarray, count: int) -> np.ndarray:
    """Numbers 0..count-1, int64, uniform, from uniform uint64 draws of any shape."""
    return (draws % np.uint64(count)).astype(np.int64)


def scattered(draws: np.ndarray, count: int, *, width: int) -> np.ndarray:
    """[rows, count] int64: where each of `count` pieces of `width` positions starts, increasing, from 0 on.

    Pieces and single positions between them stand in any order, each order equally often.

    Args:
        draws: [rows, pieces + single positions] uint64, uniform.
    """
    items = np.sort(first_of_shuffled(draws, count), axis=1)
    # each piece before this one took width - 1 positions more than a single one does
    return items + (width - 1) * np.arange(count)


def one_of(input_ids: Tensor, eligible: Tensor, *, seed: int) -> Tensor:
    """One eligible token per row, each equally often: [B] int64; what a blind guess answers.

    Args:
        input_ids: [B, T] int64.
        eligible: [B, T] bool, at least one in each row.
        seed: of the choice.
    """
    counts = eligible.sum(1, keepdim=True).numpy()
    draws = raw_draws(seed=seed, step=0, stream="eval", rows=len(input_ids), columns=1)
    chosen = torch.from_numpy((draws % counts.astype(np.uint64)).astype(np.int64))  # [B, 1]
    place = (eligible & (eligible.cumsum(1) == chosen + 1)).int().argmax(1, keepdim=True)
    return input_ids.gather(1, place)[:, 0]


def read_names(text: str, names: Sequence[str], *, known: str) -> list[int]:
    """The token ids of names between spaces.

    Args:
        names: every token's name, by its id. known: what the complaint says of them.
    Raises:
        UserError: a word that is no token's name.
    """
    ids = {name: token for token, name in enumerate(names)}
    words = text.split()
    for word in words:
        if word not in ids:
            raise UserError(f"prompt: expected symbols among {known}, got {word!r}")
    return [ids[word] for word in words]


def sha256_of(batches: Iterable[Batch]) -> str:
    """sha256, in hex, of sequences and labels."""
    digest = hashlib.sha256()
    for batch in batches:
        digest.update(np.stack([batch.input_ids.numpy(), batch.labels.numpy()]).astype("<i8").tobytes())
    return digest.hexdigest()
