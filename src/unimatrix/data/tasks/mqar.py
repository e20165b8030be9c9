"""Multi-query associative recall (MQAR): pairs of a key and a value, and each key asked for somewhere behind.

    k1 v1 k2 v2 k3 v3   0  0 k2  0  0  0  0  0 k1  0 k3  0  0  0
                             v2                v1    v3            <- labels; nothing is asked elsewhere

As zoology draws it (Arora et al., arXiv:2312.04927): token 0 is a blank, keys are the tokens below half of
the vocabulary and values those from there on, each drawn without replacement. A query is a key alone, and the
answer is asked for at its own position; it does not follow there. Queries stand an even number of positions
behind the pairs; how far is drawn by a power law, without replacement, and the first pair has the first draw.
All sequences have as many answers, so that the mean of each one's accuracy, which zoology takes, is the share
of right ones among all answers.
Beyond zoology: keys that are bound again (the newest value counts), fewer queries than pairs, filler that is
no key or value of its sequence, and lengths above the vocabulary's size.
B sequences, T = length, P pairs, C bindings (pairs and re-bound ones), Q queries, F filler positions.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from unimatrix.data.settings import check_positive, check_range, check_types
from unimatrix.data.tasks.batch import (
    IGNORE,
    Batch,
    Stream,
    check_draw,
    first_of_shuffled,
    raw_draws,
    read_names,
    remainders,
    sha256_of,
)
from unimatrix.errors import UserError
from unimatrix.memory import check_fits, host_bytes

BLANK = 0
_FINGERPRINT_ROWS = 32

# (length, pairs) that zoology measures with; from the fourth on every place for a query is taken
CELLS = ((64, 4), (128, 8), (256, 16), (256, 64), (512, 128), (1024, 256))


@dataclass(frozen=True, kw_only=True, slots=True)
class MQARConfig:
    """The MQAR task; the defaults are the first cell of zoology's Figure 2.

    Attributes:
        num_pairs: different keys in each sequence, each with a value of its own.
        num_rebound: how many of the keys are bound once more, somewhere behind their first pair, to another
            value; the newest value is the answer.
        num_queries: how many of the keys are asked for, each once; None asks for all, as zoology does.
        num_passes: how often the pairs are read, all of them in the same order each time.
        power: exponent of the queries' distance: its probability is proportional to distance^(power - 1), so
            that 1 is uniform.
        filler: what stands between the queries. zero: blanks; random: any token, keys and values of the
            sequence too; clean: any token but those.
        length: tokens per sequence, an even number.
        vocab_size: the blank, keys, and values from vocab_size // 2 on.
        eval_cells: further (length, num_pairs) that a trained model is evaluated with.
        eval_rebound: of a further evaluation, in which so many keys are bound again; 0 for none.
        eval_sequences: how many sequences each evaluation takes.
        eval_tokens: a further evaluation takes no more sequences than hold so many tokens, and at least one;
            None takes eval_sequences however long they are.
    """

    kind: ClassVar[str] = "mqar"
    num_pairs: int = 4
    num_rebound: int = 0
    num_queries: int | None = None
    num_passes: int = 1
    power: float = 0.01
    filler: Literal["zero", "random", "clean"] = "zero"
    length: int = 64
    vocab_size: int = 8192
    eval_cells: tuple[tuple[int, int], ...] = ()
    eval_rebound: int = 0
    eval_sequences: int = 2048
    eval_tokens: int | None = None

    def __post_init__(self) -> None:
        check_types(self)
        check_positive(self, "num_pairs", "num_queries", "num_passes", "power", "length", "vocab_size")
        check_positive(self, "eval_sequences", "eval_tokens")
        check_range(self, "num_rebound", low=0)
        check_range(self, "eval_rebound", low=0)
        if len(set(self.eval_cells)) < len(self.eval_cells):
            raise UserError(f"eval_cells: expected each once, got {self.eval_cells}")
        if self.power > 1:
            raise UserError(f"power: expected above 0 and at most 1, got {self.power:g}")
        self._check_cell("", self.length, self.num_pairs, self.num_rebound)
        if self.eval_rebound:
            where = f"eval_rebound {self.eval_rebound}: "
            self._check_cell(where, self.length, self.num_pairs, self.eval_rebound)
        for length, number in self.eval_cells:
            if min(length, number) < 1:
                raise UserError(f"eval_cells: expected positive numbers, got {length} {number}")
            self._check_cell(f"eval_cells {length} {number}: ", length, number, self.num_rebound)

    def few(self) -> "MQARConfig":
        """The same, evaluated with no more sequences than hold eval_tokens, and at least one."""
        if self.eval_tokens is None:
            return self
        return replace(self, eval_sequences=max(1, min(self.eval_sequences, self.eval_tokens // self.length)))

    def _check_cell(self, where: str, length: int, num_pairs: int, num_rebound: int) -> None:
        for name, value in (("num_rebound", num_rebound), ("num_queries", self.num_queries)):
            if value is not None and value > num_pairs:
                raise UserError(f"{where}{name}: expected at most num_pairs {num_pairs}, got {value}")
        bindings = num_pairs + num_rebound
        smallest = max(2 * num_pairs + 2, 2 * bindings - 1)
        if self.vocab_size < smallest:
            raise UserError(
                f"{where}vocab_size: expected at least {smallest}, half of it for {num_pairs} keys and half "
                f"for {bindings} values (num_pairs {num_pairs}, num_rebound {num_rebound}), "
                f"got {self.vocab_size}"
            )
        queries = num_pairs if self.num_queries is None else self.num_queries
        shortest = 2 * bindings * self.num_passes + 2 * queries
        if length < shortest:
            raise UserError(
                f"{where}length: expected at least {shortest}, two tokens for each of {bindings} bindings in "
                f"each pass and for each of {queries} queries (num_pairs {num_pairs}, num_rebound "
                f"{num_rebound}, num_passes {self.num_passes}, num_queries {queries}), got {length}"
            )
        if length % 2:
            raise UserError(f"{where}length: expected an even number, got {length}")

    @property
    def first_key(self) -> int:
        return 1

    @property
    def first_value(self) -> int:
        return self.vocab_size // 2

    @property
    def num_bindings(self) -> int:
        """Key-value pairs in each pass, those of re-bound keys too: as many values, all different."""
        return self.num_pairs + self.num_rebound

    @property
    def num_asked(self) -> int:
        """Queries, and so labels, of each sequence."""
        return self.num_pairs if self.num_queries is None else self.num_queries

    @property
    def first_query(self) -> int:
        """The first position behind the pairs."""
        return 2 * self.num_bindings * self.num_passes


def make(config: MQARConfig, *, seed: int, step: int, batch_size: int, stream: Stream = "train") -> Batch:
    """Sequences as a pure function of (config, seed, step, stream): no global generator is read or moved.

    A sequence's row does not depend on how many rows follow it.

    Args:
        seed, step: at least 0 and below 2^64; every pair is its own stream.
        stream: eval's sequences are drawn apart from train's.
    Returns:
        input_ids and labels, [B, T] int64 on the CPU; Q labels in each row: at a query the newest value.
    Raises:
        UserError: batch_size is not positive, or a batch that does not fit into memory.
    """
    check_draw(config, MQARConfig, batch_size=batch_size, stream=stream)
    places = (config.length - config.first_query) // 2
    num_filler = config.length - config.first_query - config.num_asked
    widths = (
        config.num_pairs,
        config.num_bindings,
        config.num_bindings if config.num_rebound else 0,
        config.num_pairs if config.num_asked < config.num_pairs else 0,
        places,
        0 if config.filler == "zero" else num_filler,
    )
    draws = raw_draws(seed=seed, step=step, stream=stream, rows=batch_size, columns=sum(widths))
    check_fits(
        batch_size * config.vocab_size * 8,
        what=f"batch_size: {batch_size:,} sequences of a vocabulary of {config.vocab_size:,} tokens",
        there=host_bytes(),
    )
    for_keys, for_values, for_order, for_asked, for_places, for_filler = np.split(
        draws, np.cumsum(widths)[:-1], axis=1
    )
    keys = config.first_key + _few_of(for_keys, config.first_value - config.first_key)  # [B, P]
    values = config.first_value + _few_of(for_values, config.vocab_size - config.first_value)  # [B, C]
    which, newest = _bindings(config, for_order, rows=batch_size)  # [B, C], [B, P]
    bound = np.take_along_axis(keys, which, axis=1)  # [B, C]
    asked = newest  # [B, Q], as bindings
    if config.num_asked < config.num_pairs:
        asked = np.take_along_axis(newest, first_of_shuffled(for_asked, config.num_asked), axis=1)

    rows = np.arange(batch_size)[:, None]
    query_at = config.first_query + 2 * _distances(for_places, config.num_asked, power=config.power)  # [B, Q]
    tokens = np.full((batch_size, config.length), BLANK, dtype=np.int64)
    if config.filler != "zero":
        free = np.ones(tokens.shape, dtype=bool)
        free[:, : config.first_query] = free[rows, query_at] = False
        tokens[free] = _filler(config, for_filler, np.hstack([keys, values])).ravel()
    pairs = np.stack([bound, values], axis=2).reshape(batch_size, -1)  # [B, 2 C]
    tokens[:, : config.first_query] = np.tile(pairs, (1, config.num_passes))
    tokens[rows, query_at] = np.take_along_axis(bound, asked, axis=1)
    labels = np.full(tokens.shape, IGNORE, dtype=np.int64)
    labels[rows, query_at] = np.take_along_axis(values, asked, axis=1)
    return Batch(torch.from_numpy(tokens), torch.from_numpy(labels))


def oracle(config: MQARConfig, input_ids: Tensor) -> Tensor:
    """The right answers, looked up: [B, T] int64, behind the pairs the newest value of the key at a position.

    IGNORE among the pairs and where no key of the sequence stands. Random filler may be one; then there is an
    answer where none is asked for.

    Args:
        input_ids: [B, T] int64.
    """
    table = input_ids.new_full((len(input_ids), config.vocab_size), IGNORE)
    for at in range(0, config.first_query, 2):
        table.scatter_(1, input_ids[:, at : at + 1], input_ids[:, at + 1 : at + 2])
    answers = table.gather(1, input_ids)
    answers[:, : config.first_query] = IGNORE
    return answers


def guess(config: MQARConfig, input_ids: Tensor, *, seed: int) -> Tensor:
    """Answers of one who sees the values but not which key each belongs to: [B, T] int64, uniform among them.

    Args:
        input_ids: [B, T] int64.
        seed: of the guesses.
    """
    rows, columns = input_ids.shape
    draws = raw_draws(seed=seed, step=0, stream="eval", rows=rows, columns=columns)
    values = input_ids[:, 1 : 2 * config.num_bindings : 2]  # [B, C]
    return values.gather(1, torch.from_numpy(remainders(draws, config.num_bindings)))


def symbol(config: MQARConfig, token: int) -> str:
    """A token's name: BLANK, k1 to the last key, v1 to the last value."""
    if token == BLANK:
        return "BLANK"
    if token < config.first_value:
        return f"k{token - config.first_key + 1}"
    return f"v{token - config.first_value + 1}"


def read_symbols(config: MQARConfig, text: str) -> list[int]:
    """The token ids of names as `symbol` gives them, between spaces.

    Raises:
        UserError: a word that is no symbol's name.
    """
    names = [symbol(config, token) for token in range(config.vocab_size)]
    known = f"BLANK, k1 to {names[config.first_value - 1]}, v1 to {names[-1]}"
    return read_names(text, names, known=known)


def chance(config: MQARConfig) -> float:
    """How often a guess among all values is right, in [0, 1]."""
    return 1.0 / (config.vocab_size - config.first_value)


def guess_accuracy(config: MQARConfig) -> float:
    """How often `guess` is right, in [0, 1]: exactly one in all bindings, for no value is bound twice."""
    return 1.0 / config.num_bindings


def variants(config: MQARConfig) -> dict[str, MQARConfig]:
    """What a trained model is evaluated on besides its own task, by name: {"128_tokens_8_pairs": ...}."""

    plain = replace(config, eval_rebound=0)
    found = {
        f"{length}_tokens_{number}_pairs": replace(plain, length=length, num_pairs=number).few()
        for length, number in config.eval_cells
    }
    if config.eval_rebound:
        rebound = replace(plain, num_rebound=config.eval_rebound, eval_cells=())
        found[f"{config.eval_rebound}_rebound"] = rebound.few()
    return found


def fingerprint(config: MQARConfig, *, stream: Stream = "train") -> str:
    """sha256, in hex, of a stream's first 32 sequences and labels at seed 0: what a result records."""
    batch = make(config, seed=0, step=0, batch_size=_FINGERPRINT_ROWS, stream=stream)
    return sha256_of([batch])


def _few_of(draws: np.ndarray, among: int) -> np.ndarray:
    """[rows, columns] int64: numbers 0..among-1, in each row without replacement, in random order.

    Where a few are drawn among many this needs no more draws than it gives numbers, and sorts nothing.

    Args:
        draws: [rows, columns] uint64, uniform; at most `among` columns.
    """
    rows = np.arange(len(draws))
    left = np.tile(np.arange(among), (len(draws), 1))
    taken = np.empty(draws.shape, dtype=np.int64)
    for i in range(draws.shape[1]):
        at = i + remainders(draws[:, i], among - i)
        taken[:, i] = left[rows, at]
        left[rows, at] = left[:, i]
    return taken


def _bindings(config: MQARConfig, draws: np.ndarray, *, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Which key each binding is of, [B, C], and each key's newest binding, [B, P], increasing; int64.

    Without re-bound keys it is one after the other; with them all orders of the bindings are equally likely.

    Args:
        draws: [B, C] uint64, uniform, read only where keys are re-bound.
    """
    if not config.num_rebound:
        in_order = np.broadcast_to(np.arange(config.num_pairs), (rows, config.num_pairs))
        return in_order, in_order
    order = first_of_shuffled(draws, config.num_bindings)  # [B, C]: the first so many keys are there twice
    place = np.argsort(order, axis=1)
    older = np.minimum(place[:, : config.num_rebound], place[:, config.num_pairs :])
    newest = np.ones(order.shape, dtype=bool)
    np.put_along_axis(newest, older, values=False, axis=1)
    which = np.where(order < config.num_pairs, order, order - config.num_pairs)
    return which, np.nonzero(newest)[1].reshape(rows, config.num_pairs)


def _distances(draws: np.ndarray, count: int, *, power: float) -> np.ndarray:
    """[rows, count] int64: numbers 0..columns-1 by a power law, in each row without replacement, as drawn.

    Each draw takes x with probability proportional to (x + 1)^(power - 1) among those that are left. It is a
    race: x arrives after an exponential time of that rate, and the order of arrival is the order of drawing.
    The last bit of a logarithm may be another one on another machine; two arrivals are so close in fewer than
    one of 10^10 sequences.

    Args:
        draws: [rows, columns] uint64, uniform; at least `count` columns.
    """
    columns = draws.shape[1]
    # in (0, 1): a float holds 53 bits, and here a half is among them
    uniform = ((draws >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
    arrival = -np.log(uniform) * np.arange(1, columns + 1, dtype=np.float64) ** (1.0 - power)
    first = np.argpartition(arrival, count - 1, axis=1)[:, :count]
    order = np.argsort(np.take_along_axis(arrival, first, axis=1), axis=1)
    return np.take_along_axis(first, order, axis=1)


def share_within(config: MQARConfig, tokens: int) -> float:
    """How often the first pair is asked for at most so many tokens behind the last pair, from 0 to 1.

    The pairs after it take what is left, so that theirs is hardly less.
    """
    places = (config.length - config.first_query) // 2
    chances = np.arange(1, places + 1, dtype=np.float64) ** (config.power - 1.0)
    return float(chances[: (tokens + 1) // 2].sum() / chances.sum())


def _filler(config: MQARConfig, draws: np.ndarray, bound: np.ndarray) -> np.ndarray:
    """[B, F] int64: filler that is drawn, each token equally often.

    Args:
        draws: [B, F] uint64, uniform.
        bound: [B, P + C], the keys and values of each sequence, all different: what clean filler leaves out.
    """
    if config.filler == "random":
        return remainders(draws, config.vocab_size)
    unbound = np.ones((len(bound), config.vocab_size), dtype=bool)
    np.put_along_axis(unbound, bound, values=False, axis=1)
    tokens = np.nonzero(unbound)[1].reshape(len(bound), -1)
    return np.take_along_axis(tokens, remainders(draws, tokens.shape[1]), axis=1)
