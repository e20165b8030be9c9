"""Associative recall: key-value pairs, filler, and the question for the value of one key.

    BOS  k1 v1 k2 v2 k3 v3 k4 v4  f f f f f f ... f f  QUERY k3      -> v3

Token ids: PAD 0, BOS 1, QUERY 2, then the keys, the values, and the free symbols that filler is drawn from.
The queried key stands at the last position, and the answer is asked for there and nowhere else.
B sequences, T = length, P pairs, F filler positions: T = 1 + 2 P + F + 2.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

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
    scattered,
    sha256_of,
)
from unimatrix.errors import UserError

MARKS = ("PAD", "BOS", "QUERY")
PAD, BOS, QUERY = range(3)
_NUM_MARKS = len(MARKS)
# BOS, QUERY and the queried key
_FRAME = 3
_FINGERPRINT_ROWS = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class RecallConfig:
    """The recall task; the defaults are the paper's, and where it is silent those of docs/fidelity.md.

    Attributes:
        num_pairs: pairs in each sequence; their keys are all different, and so are their values.
        num_keys: key symbols.
        num_values: value symbols.
        num_fillers: different filler symbols that one sequence draws from, chosen anew for each sequence.
        placement: start: the pairs directly follow BOS; spread: each stands somewhere in the filler.
        length: tokens per sequence.
        vocab_size: marks, keys, values and free symbols together.
        eval_num_pairs: further numbers of pairs that a trained model is evaluated with.
        eval_sequences: how many sequences each evaluation takes.
    """

    kind: ClassVar[str] = "recall"
    num_pairs: int = 4
    num_keys: int = 8
    num_values: int = 8
    num_fillers: int = 12
    placement: Literal["start", "spread"] = "start"
    length: int = 128
    vocab_size: int = 64
    eval_num_pairs: tuple[int, ...] = ()
    eval_sequences: int = 2048

    def __post_init__(self) -> None:
        check_types(self)
        check_positive(self, "num_keys", "num_values", "num_fillers", "length", "vocab_size")
        check_positive(self, "eval_sequences")
        smallest = self.first_filler + 1
        if self.vocab_size < smallest:
            raise UserError(
                f"vocab_size: expected at least {smallest} ({_NUM_MARKS} marks, {self.num_keys} keys, "
                f"{self.num_values} values and one filler symbol), got {self.vocab_size}"
            )
        if self.num_fillers > self.num_free:
            raise UserError(
                f"num_fillers: expected at most {self.num_free}, the free symbols of vocab_size "
                f"{self.vocab_size}, got {self.num_fillers}"
            )
        self._check_pairs("num_pairs", self.num_pairs)
        for number in self.eval_num_pairs:
            self._check_pairs("eval_num_pairs", number)

    def _check_pairs(self, name: str, number: int) -> None:
        if number < 1:
            raise UserError(f"{name}: expected at least 1, got {number}")
        for kind, available in (("num_keys", self.num_keys), ("num_values", self.num_values)):
            if number > available:
                raise UserError(f"{name}: expected at most {kind} {available}, got {number}")
        shortest = _FRAME + 2 * number
        if self.length < shortest:
            raise UserError(
                f"length: expected at least {shortest}, BOS, {number} pairs and the query ({name} {number}), "
                f"got {self.length}"
            )

    @property
    def first_key(self) -> int:
        return _NUM_MARKS

    @property
    def first_value(self) -> int:
        return self.first_key + self.num_keys

    @property
    def first_filler(self) -> int:
        return self.first_value + self.num_values

    @property
    def num_free(self) -> int:
        """Free symbols, of which each sequence uses num_fillers."""
        return self.vocab_size - self.first_filler


def make(config: RecallConfig, *, seed: int, step: int, batch_size: int, stream: Stream = "train") -> Batch:
    """Sequences as a pure function of (config, seed, step, stream): no global generator is read or moved.

    A sequence's row does not depend on how many rows follow it.

    Args:
        seed, step: at least 0 and below 2^64; every pair is its own stream.
        stream: eval's sequences are drawn apart from train's.
    Returns:
        input_ids and labels, [B, T] int64 on the CPU; a label at the last position alone, the value.
    Raises:
        UserError: batch_size is not positive.
    """
    check_draw(config, RecallConfig, batch_size=batch_size, stream=stream)
    num_filler = config.length - _FRAME - 2 * config.num_pairs
    num_items = config.num_pairs + num_filler
    widths = (config.num_keys, config.num_values, config.num_free, num_filler, num_items, 1)
    draws = raw_draws(seed=seed, step=step, stream=stream, rows=batch_size, columns=sum(widths))
    for_keys, for_values, for_symbols, for_filler, for_places, for_query = np.split(
        draws, np.cumsum(widths)[:-1], axis=1
    )
    keys = config.first_key + first_of_shuffled(for_keys, config.num_pairs)  # [B, P]
    values = config.first_value + first_of_shuffled(for_values, config.num_pairs)  # [B, P]
    symbols = config.first_filler + first_of_shuffled(for_symbols, config.num_fillers)
    filler = np.take_along_axis(symbols, remainders(for_filler, config.num_fillers), axis=1)  # [B, F]
    asked = remainders(for_query, config.num_pairs)  # [B, 1]

    key_at = _key_positions(config, for_places)  # [B, P]
    rows = np.arange(batch_size)[:, None]
    tokens = np.empty((batch_size, config.length), dtype=np.int64)
    free = np.ones(tokens.shape, dtype=bool)
    free[:, [0, -2, -1]] = False
    free[rows, key_at] = free[rows, key_at + 1] = False
    tokens[free] = filler.ravel()
    tokens[:, 0] = BOS
    tokens[rows, key_at], tokens[rows, key_at + 1] = keys, values
    tokens[:, -2] = QUERY
    tokens[:, -1:] = np.take_along_axis(keys, asked, axis=1)
    labels = np.full(tokens.shape, IGNORE, dtype=np.int64)
    labels[:, -1:] = np.take_along_axis(values, asked, axis=1)
    return Batch(torch.from_numpy(tokens), torch.from_numpy(labels))


def oracle(config: RecallConfig, input_ids: Tensor) -> Tensor:
    """The right answers, looked up: [B] int64, the token after the first occurrence of the last one.

    Args:
        input_ids: [B, T] int64.
    """
    place = (input_ids[:, :-1] == input_ids[:, -1:]).int().argmax(1, keepdim=True)  # [B, 1]
    return input_ids.gather(1, place + 1)[:, 0]


def guess(config: RecallConfig, input_ids: Tensor, *, seed: int) -> Tensor:
    """Answers of one who sees the values but not which key each belongs to: [B] int64, uniform among them.

    Args:
        input_ids: [B, T] int64.
        seed: of the guesses.
    """
    is_value = (input_ids >= config.first_value) & (input_ids < config.first_filler)  # [B, T]
    return one_of(input_ids, is_value, seed=seed)


def symbol(config: RecallConfig, token: int) -> str:
    """A token's name: PAD, BOS, QUERY, k1 to the last key, v1 to the last value, f1 to the last filler."""
    if token < _NUM_MARKS:
        return MARKS[token]
    for letter, first in (("f", config.first_filler), ("v", config.first_value), ("k", config.first_key)):
        if token >= first:
            return f"{letter}{token - first + 1}"
    raise AssertionError("keys begin where the marks end")


def read_symbols(config: RecallConfig, text: str) -> list[int]:
    """The token ids of names as `symbol` gives them, between spaces.

    Raises:
        UserError: a word that is no symbol's name.
    """
    names = [symbol(config, token) for token in range(config.vocab_size)]
    known = f"BOS, QUERY, k1 to k{config.num_keys}, v1 to v{config.num_values}, f1 to f{config.num_free}"
    return read_names(text, names, known=known)


def chance(config: RecallConfig) -> float:
    """How often a guess among all values is right, in [0, 1]."""
    return 1.0 / config.num_values


def guess_accuracy(config: RecallConfig) -> float:
    """How often `guess` is right, in [0, 1]: exactly 1 / num_pairs, for no value stands there twice."""
    return 1.0 / config.num_pairs


def variants(config: RecallConfig) -> dict[str, RecallConfig]:
    """What a trained model is evaluated on besides its own task, by name: {"6_pairs": ..., ...}."""
    return {f"{number}_pairs": replace(config, num_pairs=number) for number in config.eval_num_pairs}


def fingerprint(config: RecallConfig, *, stream: Stream = "train") -> str:
    """sha256, in hex, of a stream's first 32 sequences and labels at seed 0: what a result records."""
    batch = make(config, seed=0, step=0, batch_size=_FINGERPRINT_ROWS, stream=stream)
    return sha256_of([batch])


def _key_positions(config: RecallConfig, draws: np.ndarray) -> np.ndarray:
    """[B, P] int64: where each pair's key stands, increasing; its value follows at once.

    Args:
        draws: [B, P + F] uint64, one per item, an item being a pair or a filler token.
    """
    if config.placement == "start":
        return np.broadcast_to(1 + 2 * np.arange(config.num_pairs), (len(draws), config.num_pairs))
    return 1 + scattered(draws, config.num_pairs, width=2)
