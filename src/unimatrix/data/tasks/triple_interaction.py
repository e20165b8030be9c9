"""Triple interaction: tags with three values each, and what a rule makes of the three values of one tag.

    BOS  AFFINE  f  A t3 v7  f f  v2 B t3  t5 v0 C  f  ...  C v9 t3  f  t3     -> v13

Token ids: PAD 0, BOS 1, the task tokens (one per rule, in the order of RULES), the roles A, B, C, the
values, the tag symbols, and the filler symbols. Each of G tags has a value in each of the three roles. A
binding is three tokens side by side, a tag, a role and a value, in any order; the bindings stand in any
order, and filler between them, never inside one. Without filler, what stands between the task token and the
last one is a list of threes: there is one way to read it. The queried tag stands at the last position, and
the answer is asked for there and nowhere else. With a, b, c the queried tag's values in A, B, C, as numbers
0..n-1, the rules are

    copy     a
    affine   (3 a + 5 b + 7 c + 1) mod n
    gate     b if a < n / 2, else c
    lookup   table[a, b, c], drawn at random once for all sequences

A random table cannot be generalised, only met entry by entry: lookup's sequences therefore hold the first
`lookup_values` values only, all of them, so that the queried tag does not stand out.
B sequences, T = length, G tags, F filler positions: T = 2 + 9 G + F + 1; n values.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from unimatrix.data.settings import check_positive, check_range, check_types
from unimatrix.data.streams import bit_generator
from unimatrix.data.tasks.batch import (
    IGNORE,
    Batch,
    Stream,
    check_draw,
    first_of_shuffled,
    raw_draws,
    read_names,
    remainders,
    scattered,
    sha256_of,
)
from unimatrix.errors import UserError
from unimatrix.memory import check_fits, host_bytes

RULES = ("copy", "affine", "gate", "lookup")
ROLES = ("A", "B", "C")
_NUM_ROLES = len(ROLES)
# BOS, the task token and the queried tag
_FRAME = 3
# a tag, a role and a value
_BINDING = 3
_FINGERPRINT_ROWS = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Symbols:
    """Where each kind of token begins: PAD, BOS, task tokens, roles, values, tags, filler.

    Attributes:
        num_values: n, values that a binding may hold.
        num_tag_symbols: tags that there are.
    """

    PAD: ClassVar[int] = 0
    BOS: ClassVar[int] = 1
    NUM_ROLES: ClassVar[int] = _NUM_ROLES
    num_values: int = 16
    num_tag_symbols: int = 8

    @property
    def first_task(self) -> int:
        return 2

    @property
    def first_role(self) -> int:
        return self.first_task + len(RULES)

    @property
    def first_value(self) -> int:
        return self.first_role + _NUM_ROLES

    @property
    def first_tag(self) -> int:
        return self.first_value + self.num_values

    @property
    def first_filler(self) -> int:
        return self.first_tag + self.num_tag_symbols


@dataclass(frozen=True, kw_only=True, slots=True)
class TripleInteractionConfig:
    """The triple-interaction task; the defaults are the paper's, and where it is silent docs/fidelity.md's.

    Attributes:
        rules: which rules are asked for, in the order of RULES.
        num_tags: G, tags in each sequence, all different.
        num_tag_symbols: tags that there are.
        num_values: n, values that there are, which are the answers' classes too.
        lookup_values: how many of them, the first, stand in a sequence of the rule lookup.
        table_seed: of the table of lookup.
        task_token: whether the token after BOS names the rule. Without it (the malformed original) a filler
            symbol stands there, every rule has values of all n, and one sequence is asked with any rule.
        phase_steps: training draws the rule from the first of `rules` alone for so many steps, then from the
            first two for so many, and so on until all are there; None draws from all of them at once.
            Evaluation always does.
        length: tokens per sequence.
        vocab_size: all symbols together.
        eval_sequences: how many sequences each evaluation takes.
    """

    kind: ClassVar[str] = "triple-interaction"
    rules: tuple[str, ...] = RULES
    num_tags: int = 4
    num_tag_symbols: int = 8
    num_values: int = 16
    lookup_values: int = 4
    table_seed: int = 0
    task_token: bool = True
    phase_steps: int | None = 200
    length: int = 49
    vocab_size: int = 53
    eval_sequences: int = 2048

    def __post_init__(self) -> None:
        check_types(self)
        check_positive(self, "num_tags", "num_tag_symbols", "num_values", "lookup_values", "phase_steps")
        check_positive(self, "length", "vocab_size", "eval_sequences")
        check_range(self, "table_seed", low=0, below=2**63)
        if not self.rules or self.rules != tuple(rule for rule in RULES if rule in self.rules):
            raise UserError(
                f"rules: expected some of {', '.join(RULES)}, each once and in this order, "
                f"got {', '.join(self.rules) or 'none'}"
            )
        for name, limit in (("num_tags", "num_tag_symbols"), ("lookup_values", "num_values")):
            if getattr(self, name) > getattr(self, limit):
                raise UserError(
                    f"{name}: expected at most {limit} {getattr(self, limit)}, got {getattr(self, name)}"
                )
        shortest = _FRAME + self.num_bindings * _BINDING
        if self.length < shortest:
            raise UserError(
                f"length: expected at least {shortest}, BOS, the task token, {self.num_bindings} bindings of "
                f"{_BINDING} and the queried tag (num_tags {self.num_tags}), got {self.length}"
            )
        smallest = self.symbols.first_filler + 1
        if self.vocab_size < smallest:
            raise UserError(
                f"vocab_size: expected at least {smallest} (PAD, BOS, {len(RULES)} task tokens, {_NUM_ROLES} "
                f"roles, {self.num_values} values, {self.num_tag_symbols} tags and one filler symbol), "
                f"got {self.vocab_size}"
            )

        # every triple of values and its answer are counted, and one rule's answers are a table
        triples = self.num_values**_NUM_ROLES
        check_fits(
            triples * (_NUM_ROLES + 1) * 8,
            what=f"num_values {self.num_values:,}: {triples:,} triples of values",
            there=host_bytes(),
        )

    @property
    def symbols(self) -> Symbols:
        return Symbols(num_values=self.num_values, num_tag_symbols=self.num_tag_symbols)

    @property
    def num_bindings(self) -> int:
        """Bindings in each sequence: every tag has one per role."""
        return self.num_tags * _NUM_ROLES

    @property
    def num_filler(self) -> int:
        """F, positions that filler stands at."""
        return self.length - _FRAME - self.num_bindings * _BINDING

    def values_of(self, rule: str) -> int:
        """How many of the values, from the first on, stand in this rule's sequences."""
        return self.lookup_values if rule == "lookup" and self.task_token else self.num_values


def symbolic_answer(rule: str, a: Any, b: Any, c: Any, num_values: int) -> Any:
    """The answer 0..num_values-1 of copy, affine or gate, elementwise.

    Args:
        a, b, c: values 0..num_values-1 in roles A, B, C: integers, numpy arrays or tensors of them.
    """
    if rule == "copy":
        return a
    if rule == "affine":
        return (3 * a + 5 * b + 7 * c + 1) % num_values
    if rule == "gate":
        return c + (2 * a < num_values) * (b - c)
    raise AssertionError(f"{rule} is no formula")


def lookup_table(config: TripleInteractionConfig) -> np.ndarray:
    """[n, n, n] int64: the answer 0..n-1 of lookup, by the values in roles A, B, C; from table_seed alone."""
    shape = (config.num_values,) * _NUM_ROLES
    generator = bit_generator("table", table_seed=config.table_seed)
    return remainders(generator.random_raw(config.num_values**_NUM_ROLES), config.num_values).reshape(shape)


def make(
    config: TripleInteractionConfig, *, seed: int, step: int, batch_size: int, stream: Stream = "train"
) -> Batch:
    """Sequences as a pure function of (config, seed, step, stream): no global generator is read or moved.

    A sequence's row does not depend on how many rows follow it. The same draws make the sequences of every
    rule: without a task token those of one rule are, token for token, those of any other.

    Args:
        seed, step: at least 0 and below 2^64; every pair is its own stream. A training step sets the phase.
        stream: eval's sequences are drawn apart from train's, and have no phases.
    Returns:
        input_ids and labels, [B, T] int64 on the CPU; a label at the last position alone, the answer's value.
    Raises:
        UserError: batch_size is not positive.
    """
    check_draw(config, TripleInteractionConfig, batch_size=batch_size, stream=stream)
    bindings, fillers, symbols = config.num_bindings, config.num_filler, config.symbols
    # the rule, the query, tags, values, the bindings' order and the order inside each, filler (one symbol
    # more, for the task token's place) and the bindings' places
    widths = (1, 1, config.num_tag_symbols, bindings, bindings, bindings * _BINDING, fillers + 1)
    columns = sum(widths) + bindings + fillers
    draws = raw_draws(seed=seed, step=step, stream=stream, rows=batch_size, columns=columns)
    for_rule, for_query, for_tags, for_values, for_order, for_inside, for_filler, for_places = np.split(
        draws, np.cumsum(widths), axis=1
    )
    available = _rules_at(config, step=step, stream=stream)
    rule = remainders(for_rule, len(available))[:, 0]  # [B], among the available
    domains = np.array([config.values_of(name) for name in available], dtype=np.uint64)
    values = (for_values % domains[rule][:, None]).astype(np.int64)  # [B, 3 G], by tag, then role
    tags = symbols.first_tag + first_of_shuffled(for_tags, config.num_tags)  # [B, G]
    asked = remainders(for_query, config.num_tags)  # [B, 1]
    filler = symbols.first_filler + remainders(for_filler, config.vocab_size - symbols.first_filler)

    rows = np.arange(batch_size)[:, None]
    tokens = np.empty((batch_size, config.length), dtype=np.int64)
    free = np.ones(tokens.shape, dtype=bool)
    free[:, [0, 1, -1]] = False
    starts = 2 + scattered(for_places, bindings, width=_BINDING)
    places = rows[..., None], starts[..., None] + np.arange(_BINDING)  # [B, 3 G, 3]
    free[places] = False
    tokens[free] = filler[:, :fillers].ravel()
    tokens[:, 0] = Symbols.BOS
    named = symbols.first_task + np.array([RULES.index(name) for name in available])
    tokens[:, 1] = named[rule] if config.task_token else filler[:, -1]
    tokens[places] = _shuffled(_bindings(config, tags, values), for_order, for_inside)
    tokens[:, -1:] = np.take_along_axis(tags, asked, axis=1)

    a, b, c = values.reshape(batch_size, config.num_tags, _NUM_ROLES)[rows[:, 0], asked[:, 0]].T  # [B] each
    answers = np.stack([_answer(config, name, a, b, c) for name in available])[rule, rows[:, 0]]
    labels = np.full(tokens.shape, IGNORE, dtype=np.int64)
    labels[:, -1] = symbols.first_value + answers
    return Batch(torch.from_numpy(tokens), torch.from_numpy(labels))


def oracle(config: TripleInteractionConfig, input_ids: Tensor) -> Tensor:
    """The right answers, read from the tokens: [B] int64.

    Args:
        config: with a task token; without it no answer is the right one.
        input_ids: [B, T] int64.
    """
    assert config.task_token, "nothing says which rule is asked for"
    ids, symbols = input_ids.numpy(), config.symbols
    body = ids[:, 2:-1]
    threes = body[body < symbols.first_filler].reshape(len(ids), config.num_bindings, _BINDING)
    # roles come before values, and values before tags
    role, value, tag = np.moveaxis(np.sort(threes, axis=2), 2, 0)  # [B, 3 G] each
    of_query = tag == ids[:, -1:]
    a, b, c = (
        ((value - symbols.first_value) * (of_query & (role == symbols.first_role + place))).sum(1)
        for place in range(_NUM_ROLES)
    )
    answers = np.stack([_answer(config, rule, a, b, c) for rule in RULES])  # [4, B]
    found = answers[ids[:, 1] - symbols.first_task, np.arange(len(ids))]
    return torch.from_numpy(symbols.first_value + found)


def symbol(config: TripleInteractionConfig, token: int) -> str:
    """A token's name: PAD, BOS, COPY to LOOKUP, A to C, v0 to the last value, t1 and f1 to the last ones."""
    return _names(config)[token]


def read_symbols(config: TripleInteractionConfig, text: str) -> list[int]:
    """The token ids of names as `symbol` gives them, between spaces.

    Raises:
        UserError: a word that is no symbol's name.
    """
    *words, last_filler = _names(config)
    known = ", ".join(words[1 : config.symbols.first_value])
    known += f", v0 to v{config.num_values - 1}, t1 to t{config.num_tag_symbols}, f1 to {last_filler}"
    return read_names(text, [*words, last_filler], known=known)


def domain(config: TripleInteractionConfig, rule: str) -> np.ndarray:
    """[3, values^3] int64: the values in roles A, B, C of all the triples that its sequences may hold."""
    return np.indices((config.values_of(rule),) * _NUM_ROLES).reshape(_NUM_ROLES, -1)


def answers_over_domain(config: TripleInteractionConfig, rule: str) -> np.ndarray:
    """[values^3] int64: the rule's answers to the triples of `domain`."""
    return _answer(config, rule, *domain(config, rule))


def chance(config: TripleInteractionConfig) -> float:
    """How often the best answer of one who never looks is right, in [0, 1]: counted, not sampled."""
    shares = [
        np.bincount(answers_over_domain(config, rule), minlength=config.num_values) for rule in config.rules
    ]
    return float(np.mean([counts / counts.sum() for counts in shares], axis=0).max())


def chance_by_rule(config: TripleInteractionConfig) -> dict[str, float]:
    """`chance` of each rule by itself."""
    return {rule: chance(replace(config, rules=(rule,))) for rule in config.rules}


def variants(config: TripleInteractionConfig) -> dict[str, TripleInteractionConfig]:
    """What a trained model is evaluated on besides all rules together: each by itself, under its name."""
    if len(config.rules) == 1:
        return {}
    return {rule: replace(config, rules=(rule,)) for rule in config.rules}


def fingerprint(config: TripleInteractionConfig, *, stream: Stream = "train") -> str:
    """sha256, in hex, of a stream's first 32 sequences and labels at seed 0, of each phase in training."""
    phases = 1 if stream == "eval" or config.phase_steps is None else len(config.rules)
    steps = (phase * (config.phase_steps or 0) for phase in range(phases))
    return sha256_of(
        make(config, seed=0, step=step, batch_size=_FINGERPRINT_ROWS, stream=stream) for step in steps
    )


def _rules_at(config: TripleInteractionConfig, *, step: int, stream: Stream) -> tuple[str, ...]:
    """The rules that a step draws from."""
    if stream == "eval" or config.phase_steps is None:
        return config.rules
    return config.rules[: 1 + step // config.phase_steps]


def _answer(config: TripleInteractionConfig, rule: str, a: Any, b: Any, c: Any) -> np.ndarray:
    """The answer 0..n-1 of any rule, elementwise."""
    if rule == "lookup":
        return lookup_table(config)[a, b, c]
    return symbolic_answer(rule, a, b, c, config.num_values)


def _bindings(config: TripleInteractionConfig, tags: np.ndarray, values: np.ndarray) -> np.ndarray:
    """[B, 3 G, 3] token ids: tag, role and value of every binding, by tag, then role."""
    tag = np.repeat(tags, _NUM_ROLES, axis=1)
    role = config.symbols.first_role + np.tile(np.arange(_NUM_ROLES), tags.shape)
    return np.stack([tag, role, config.symbols.first_value + values], axis=2)


def _shuffled(bindings: np.ndarray, for_order: np.ndarray, for_inside: np.ndarray) -> np.ndarray:
    """The bindings in another order, and each one's three tokens; by draws [B, 3 G] and [B, 9 G]."""
    order = first_of_shuffled(for_order, bindings.shape[1])
    inside = np.argsort(for_inside.reshape(bindings.shape), axis=2, kind="stable")
    return np.take_along_axis(np.take_along_axis(bindings, order[..., None], axis=1), inside, axis=2)


def _names(config: TripleInteractionConfig) -> list[str]:
    """Every token's name, by its id."""
    names = ["PAD", "BOS", *map(str.upper, RULES), *ROLES]
    names += [f"v{number}" for number in range(config.num_values)]
    names += [f"t{number + 1}" for number in range(config.num_tag_symbols)]
    return names + [f"f{number + 1}" for number in range(config.vocab_size - len(names))]
