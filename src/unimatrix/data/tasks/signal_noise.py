"""Signal versus noise: one marked value among unmarked ones and noise, and the question for the marked one.

    BOS  n3 v7 n1 n1 MARK v2 n9 v5 n3 ... v4 n9  QUERY     -> v2

Token ids: PAD 0, BOS 1, QUERY 2, MARK 3, then the values, and the free symbols that noise is drawn from.
The signal is a mark and the value right after it, side by side; the distractors are single values without a
mark. Signal, distractors and noise stand in any order, each order equally often. The query stands at the last
position, and the answer is asked for there and nowhere else.
B sequences, T = length, D distractors, F noise positions: T = 1 + 2 + D + F + 1.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from unimatrix.data.settings import check_positive, check_types
from unimatrix.data.tasks.batch import (
    IGNORE,
    Batch,
    Stream,
    check_draw,
    first_of_shuffled,
    one_of,
    raw_draws,
    read_names,
    remainders,
    sha256_of,
)
from unimatrix.errors import UserError

MARKS = ("PAD", "BOS", "QUERY", "MARK")
PAD, BOS, QUERY, MARK = range(4)
_NUM_MARKS = len(MARKS)
# BOS, the mark, its value and QUERY
_FRAME = 4
_FINGERPRINT_ROWS = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class SignalNoiseConfig:
    """The signal-versus-noise task; the paper gives the length alone, the rest is docs/fidelity.md's.

    Attributes:
        num_distractors: unmarked values in each sequence; they and the marked one are all different.
        num_values: value symbols.
        num_noise: different noise symbols that one sequence draws from, chosen anew for each sequence.
        length: tokens per sequence.
        vocab_size: marks, values and free symbols together.
        eval_num_distractors: further numbers of distractors that a trained model is evaluated with.
        eval_sequences: how many sequences each evaluation takes.
    """

    kind: ClassVar[str] = "signal-noise"
    num_distractors: int = 7
    num_values: int = 16
    num_noise: int = 12
    length: int = 64
    vocab_size: int = 64
    eval_num_distractors: tuple[int, ...] = ()
    eval_sequences: int = 2048

    def __post_init__(self) -> None:
        check_types(self)
        check_positive(self, "num_values", "num_noise", "length", "vocab_size", "eval_sequences")
        smallest = self.first_noise + 1
        if self.vocab_size < smallest:
            raise UserError(
                f"vocab_size: expected at least {smallest} ({_NUM_MARKS} marks, {self.num_values} values and "
                f"one noise symbol), got {self.vocab_size}"
            )
        if self.num_noise > self.num_free:
            raise UserError(
                f"num_noise: expected at most {self.num_free}, the free symbols of vocab_size "
                f"{self.vocab_size}, got {self.num_noise}"
            )
        self._check_distractors("num_distractors", self.num_distractors)
        for number in self.eval_num_distractors:
            self._check_distractors("eval_num_distractors", number)

    def _check_distractors(self, name: str, number: int) -> None:
        if number < 0:
            raise UserError(f"{name}: expected at least 0, got {number}")
        if number >= self.num_values:
            raise UserError(
                f"{name}: expected at most {self.num_values - 1}, one less than num_values, got {number}"
            )
        shortest = _FRAME + number
        if self.length < shortest:
            raise UserError(
                f"length: expected at least {shortest}, BOS, the mark and its value, {number} distractors "
                f"and the query ({name} {number}), got {self.length}"
            )

    @property
    def first_value(self) -> int:
        return _NUM_MARKS

    @property
    def first_noise(self) -> int:
        return self.first_value + self.num_values

    @property
    def num_free(self) -> int:
        """Free symbols, of which each sequence uses num_noise."""
        return self.vocab_size - self.first_noise


def make(
    config: SignalNoiseConfig, *, seed: int, step: int, batch_size: int, stream: Stream = "train"
) -> Batch:
    """Sequences as a pure function of (config, seed, step, stream): no global generator is read or moved.

    A sequence's row does not depend on how many rows follow it.

    Args:
        seed, step: at least 0 and below 2^64; every pair is its own stream.
        stream: eval's sequences are drawn apart from train's.
    Returns:
        input_ids and labels, [B, T] int64 on the CPU; a label at the last position alone, the marked value.
    Raises:
        UserError: batch_size is not positive.
    """
    check_draw(config, SignalNoiseConfig, batch_size=batch_size, stream=stream)
    num_noise_tokens = config.length - _FRAME - config.num_distractors
    num_items = 1 + config.num_distractors + num_noise_tokens
    widths = (config.num_values, config.num_free, num_noise_tokens, num_items)
    draws = raw_draws(seed=seed, step=step, stream=stream, rows=batch_size, columns=sum(widths))
    for_values, for_symbols, for_noise, for_places = np.split(draws, np.cumsum(widths)[:-1], axis=1)
    # the marked value first
    values = config.first_value + first_of_shuffled(for_values, 1 + config.num_distractors)  # [B, 1 + D]
    symbols = config.first_noise + first_of_shuffled(for_symbols, config.num_noise)
    noise = np.take_along_axis(symbols, remainders(for_noise, config.num_noise), axis=1)  # [B, F]

    mark_at, values_at = _positions(config, for_places)
    rows = np.arange(batch_size)[:, None]
    tokens = np.empty((batch_size, config.length), dtype=np.int64)
    free = np.ones(tokens.shape, dtype=bool)
    free[:, [0, -1]] = free[rows, mark_at] = free[rows, values_at] = False
    tokens[free] = noise.ravel()
    tokens[:, 0], tokens[:, -1] = BOS, QUERY
    tokens[rows, mark_at], tokens[rows, values_at] = MARK, values
    labels = np.full(tokens.shape, IGNORE, dtype=np.int64)
    labels[:, -1] = values[:, 0]
    return Batch(torch.from_numpy(tokens), torch.from_numpy(labels))


def oracle(config: SignalNoiseConfig, input_ids: Tensor) -> Tensor:
    """The right answers, looked up: [B] int64, the token after the mark.

    Args:
        input_ids: [B, T] int64.
    """
    mark_at = (input_ids == MARK).int().argmax(1, keepdim=True)  # [B, 1]
    return input_ids.gather(1, mark_at + 1)[:, 0]


def guess(config: SignalNoiseConfig, input_ids: Tensor, *, seed: int) -> Tensor:
    """Answers of one who sees the values but not which one is marked: [B] int64, uniform among them.

    Args:
        input_ids: [B, T] int64.
        seed: of the guesses.
    """
    is_value = (input_ids >= config.first_value) & (input_ids < config.first_noise)  # [B, T]
    return one_of(input_ids, is_value, seed=seed)


def symbol(config: SignalNoiseConfig, token: int) -> str:
    """A token's name: PAD, BOS, QUERY, MARK, v1 to the last value, n1 to the last noise symbol."""
    if token < _NUM_MARKS:
        return MARKS[token]
    if token < config.first_noise:
        return f"v{token - config.first_value + 1}"
    return f"n{token - config.first_noise + 1}"


def read_symbols(config: SignalNoiseConfig, text: str) -> list[int]:
    """The token ids of names as `symbol` gives them, between spaces.

    Raises:
        UserError: a word that is no symbol's name.
    """
    names = [symbol(config, token) for token in range(config.vocab_size)]
    known = f"BOS, QUERY, MARK, v1 to v{config.num_values}, n1 to n{config.num_free}"
    return read_names(text, names, known=known)


def chance(config: SignalNoiseConfig) -> float:
    """How often a guess among all values is right, in [0, 1]."""
    return 1.0 / config.num_values


def guess_accuracy(config: SignalNoiseConfig) -> float:
    """How often `guess` is right, in [0, 1]: exactly 1 / (1 + D), for no value stands there twice."""
    return 1.0 / (1 + config.num_distractors)


def variants(config: SignalNoiseConfig) -> dict[str, SignalNoiseConfig]:
    """What a trained model is evaluated on besides its own task, by name: {"3_distractors": ..., ...}."""
    return {
        f"{number}_distractors": replace(config, num_distractors=number)
        for number in config.eval_num_distractors
    }


def fingerprint(config: SignalNoiseConfig, *, stream: Stream = "train") -> str:
    """sha256, in hex, of a stream's first 32 sequences and labels at seed 0: what a result records."""
    batch = make(config, seed=0, step=0, batch_size=_FINGERPRINT_ROWS, stream=stream)
    return sha256_of([batch])


def _positions(config: SignalNoiseConfig, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the mark stands, [B, 1], and the values, [B, 1 + D], the marked one first; int64.

    Args:
        draws: [B, 1 + D + F] uint64, one per item, an item being the signal, a distractor or a noise token.
    """
    items = first_of_shuffled(draws, 1 + config.num_distractors)
    # the signal takes two positions: its value, and all that stands behind it, is one further on
    return 1 + items[:, :1], 1 + items + (items >= items[:, :1])
