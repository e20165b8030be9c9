"""Triple interaction: tags with three values each, and what a rule makes of the three values of one tag.

    BOS  AFFINE  f  A t3 v7  f f  v2 B t3  t5 v0 C  f  ...  C v9 t3  f  t3     -> v13

Token ids: PAD 0, BOS 1, the task tokens (one per rule, in the order of RULES), the roles A, B, C, the values, the
tag symbols, and the filler symbols. Each of G tags has a value in each of the three roles. A binding is three
tokens side by side, a tag, a role and a value, in any order; the bindings stand in any order, and filler between
them, never inside one. Without the filler, what stands between the task token and the last one is a list of
threes: there is one way to read it. The queried tag stands at the last position, and the answer is asked for
there and nowhere else. With a, b, c the queried tag's values in A, B, C, as numbers 0..n-1, the rules are

    copy     a
    affine   (3 a + 5 b + 7 c + 1) mod n
    gate     b if a < n / 2, else c
    lookup   table[a, b, c], drawn at random once for all sequences

A random table cannot be generalised, only met entry by entry: lookup's sequences therefore hold the first
`lookup_values` values only, all of them, so that the queried tag does not stand out.
B sequences, T = length, G tags, F filler positions: T = 2 + 9 G + F + 1; n values.
"""

import hashlib
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from unimatrix.data.settings import check_positive, check_range, check_types
from unimatrix.data.tasks.batch import IGNORE, Batch, Stream, first_of_shuffled, raw_draws
from unimatrix.errors import UserError

RULES = ("copy", "affine", "gate", "lookup")
ROLES = ("A", "B", "C")
_NUM_ROLES = len(ROLES)
# BOS, the task token and the queried tag
_FRAME = 3
# a tag, a role and a value
_BINDING = 3
_FINGERPRINT_ROWS = 32
# sets the table's draws apart from those of the sequences
_TABLE = 1


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
    """The triple-interaction task; the defaults are the paper's, and where it is silent those of docs/fidelity.md.

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

    @property
    def symbols(self) -> Symbols:
        return Symbols(num_values=self.num_values, num_tag_symbols=self.num_tag_symbols)

    @property
    def num_bindings(self) -> int:
        """Bindings in each sequence: every tag has one per role."""
        return self.num_tags * _NUM_ROLES

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
