"""Typed-Latent: a model of one task that knows the task's tokens, kept as the constructive upper bound it is.

It parses the tokens of `unimatrix.data.tasks.triple_interaction` into what every (tag, role) holds, answers
three of the four rules symbolically, and learns the fourth, a random table, in factorised form. Nothing else
is learned.

Letters: B batch, T time, V vocabulary, N threes (bindings of three neighbouring symbols), K tags, n values,
R rank.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from unimatrix.codec import decode, encode
from unimatrix.data.settings import check_positive, check_range, check_types
from unimatrix.data.tasks.triple_interaction import RULES, Symbols, symbolic_answer
from unimatrix.errors import UserError
from unimatrix.mixers.layout import check_state, kept
from unimatrix.models.config import check_known_settings
from unimatrix.models.input_checks import check_ids, check_positions, check_shapes
from unimatrix.ops.shapes import TokenIds, TokenMask

UNKNOWN = -1  # no token, no value, no task yet
EXACT_LOGIT = 20.0  # of a symbolic answer, above the 0 of the others: its loss is below 1e-7 nats
LEARNED_RULE = "lookup"


@dataclass(frozen=True, kw_only=True, slots=True)
class TypedLatentConfig:
    """Everything that decides a TypedLatent's weights and function.

    num_values, num_tag_symbols: of the task. rank: of the learned table. dropout: on the rank features of the
    table. vocab_size: holds the task's symbols; what lies above them is filler. max_positions: the longest
    sequence that it takes, None for any.
    """

    kind: ClassVar[str] = "typed_latent"
    num_values: int = 16
    num_tag_symbols: int = 8
    rank: int = 288
    dropout: float = 0.0
    vocab_size: int = 53
    max_positions: int | None = 49

    def __post_init__(self) -> None:
        check_types(self)
        check_positive(self, "num_values", "num_tag_symbols", "rank", "vocab_size", "max_positions")
        check_range(self, "dropout", low=0.0, below=1.0)
        if self.vocab_size < self.symbols.first_filler:
            raise UserError(
                f"vocab_size: expected at least the {self.symbols.first_filler} symbols of the task "
                f"triple-interaction, got {self.vocab_size}"
            )

    @property
    def symbols(self) -> Symbols:
        """Which token id means what."""
        return Symbols(num_values=self.num_values, num_tag_symbols=self.num_tag_symbols)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values with the kind."""
        return encode(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TypedLatentConfig":
        """The inverse of to_dict; raises a UserError for an unknown key, naming the near ones."""
        check_known_settings(f"{cls.kind} config", values, ["kind", *(field.name for field in fields(cls))])
        return decode(cls, values, where=f"{cls.kind} config")


class TypedLatentState(NamedTuple):
    """What has been read; batch first in every tensor, UNKNOWN (-1) where something is not there."""

    position: Tensor  # [B] int64, real tokens so far
    task: Tensor  # [B] int64, place in RULES
    bindings: Tensor  # [B, K, 3] int64, the value (0 to n - 1) of each tag's three roles
    unfinished: Tensor  # [B, 2] int64, tokens of a binding that is not complete


class Queries(NamedTuple):
    """What is asked at each position."""

    task: Tensor  # [B, T] int64, place in RULES, UNKNOWN before the task token
    asked: Tensor  # [B, T] bool, here stands a tag that begins a three and has values for all three roles
    values: Tensor  # [B, T, 3] int64, these values A, B, C; 0 where nothing is asked


class TypedLatent(nn.Module):
    """Token ids in, logits and a state out; decoding is the same call on what comes next.

    Logits are -inf but for the n value tokens. At a tag that begins a new three they are the answer of the
    task's rule for the values bound to the tag so far, plus the task's bias; elsewhere the bias alone (0
    before the task token).
    """

    def __init__(self, config: TypedLatentConfig) -> None:
        super().__init__()
        self.config = config
        # one table per role; a triple's features are the product of its three rows
        self.factors = nn.Parameter(torch.empty(Symbols.NUM_ROLES, config.num_values, config.rank))
        self.readout = nn.Parameter(torch.empty(config.rank, config.num_values))
        self.biases = nn.Parameter(torch.empty(len(RULES), config.num_values))
        self.dropout = nn.Dropout(config.dropout)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Draw fresh weights from torch's global generator: factors N(0, 1), readout and biases 0."""
        nn.init.normal_(self.factors)
        nn.init.zeros_(self.readout)
        nn.init.zeros_(self.biases)

    def init_state(self, batch_size: int) -> TypedLatentState:
        """The state before the first token, the same as passing None."""
        where = self.factors.device

        def unknown(*shape: int) -> Tensor:
            return torch.full((batch_size, *shape), UNKNOWN, dtype=torch.int64, device=where)

        position = torch.zeros(batch_size, dtype=torch.int64, device=where)
        return TypedLatentState(
            position, unknown(), unknown(self.config.num_tag_symbols, Symbols.NUM_ROLES), unknown(2)
        )

    def forward(
        self,
        input_ids: TokenIds,
        state: TypedLatentState | None = None,
        *,
        mask: TokenMask | None = None,
    ) -> tuple[Tensor, TypedLatentState]:
        """Logits for the answer at each position.

        Args:
            input_ids: [B, T] int64, any T >= 0.
            state: what an earlier call returned for the text before; None starts afresh. Not modified.
            mask: [B, T] bool; False positions are no tokens: they leave the state as it is.

        Returns:
            logits [B, T, V] in the model's dtype; the state after the last position.

        Raises:
            UserError: a token id outside the vocabulary, more tokens than max_positions, a wrong shape.
        """
        check_shapes(input_ids, mask)
        check_ids(input_ids, self.config.vocab_size, training=self.training)
        if state is not None:
            check_state(state, self._layout(), input_ids, self.factors.dtype)
        fresh = state is None and mask is None
        state = self.init_state(len(input_ids)) if state is None else state
        length = input_ids.shape[1]
        end = state.position + (length if mask is None else mask.sum(1))
        if length > 0:
            check_positions(self.config.max_positions, length, end, fresh=fresh)
        task = self._tasks(input_ids, state, mask)
        queries, bindings, unfinished = self._parse(input_ids, state, mask, task[:, 1:])
        logits = self._answer(queries)
        first = self.config.symbols.first_value
        after = self.config.vocab_size - first - self.config.num_values
        return (
            F.pad(logits, (first, after), value=-torch.inf),
            TypedLatentState(end, *(part.clone() for part in (task[:, -1], bindings, unfinished))),
        )

    def _layout(self) -> Any:
        whole = torch.int64
        bindings = kept((self.config.num_tag_symbols, Symbols.NUM_ROLES), whole)
        return TypedLatentState(kept((), whole), kept((), whole), bindings, kept((2,), whole))

    def _tasks(self, input_ids: TokenIds, state: TypedLatentState, mask: TokenMask | None) -> Tensor:
        """[B, T + 1]: the task known before the first position and at each; its first token sets it."""
        kind = input_ids - self.config.symbols.first_task
        named = (kind >= 0) & (kind < len(RULES))
        if mask is not None:
            named = named & mask
        first = named & (named.cumsum(1) == 1)
        task = torch.where(first, kind - UNKNOWN, 0).cumsum(1) + UNKNOWN
        before = state.task[:, None]
        return torch.cat([before, torch.where(before == UNKNOWN, task, before)], dim=1)

    def _parse(
        self, input_ids: TokenIds, state: TypedLatentState, mask: TokenMask | None, task: Tensor
    ) -> tuple[Queries, Tensor, Tensor]:
        """The queries, and the state's bindings and unfinished tokens after the last position.

        What is left without padding, filler and the rest is read in threes. One of a tag, a role and a value,
        in any order, binds; any other binds nothing.
        """
        symbols, (batch, length) = self.config.symbols, input_ids.shape
        # 1. roles, values and tags are neighbours among the ids; number those that stand here
        tokens = torch.cat([state.unfinished, input_ids], dim=1)  # [B, T + 2]
        real = (tokens >= symbols.first_role) & (tokens < symbols.first_filler)
        if mask is not None:
            real = real & F.pad(mask, (2, 0), value=True)
        count = real.cumsum(1)
        # 2. line them up in threes; what is none goes to one more place behind the last
        places = 3 * ((length + 2) // 3 + 1)
        line = torch.full((batch, places + 1), UNKNOWN, dtype=torch.int64, device=tokens.device)
        line = line.scatter(1, torch.where(real, count - 1, places), tokens)
        threes = line[:, :places].unflatten(1, (-1, 3))  # [B, N, 3]
        last = (count[:, -1] // 3)[:, None, None].expand(-1, 1, 3)
        unfinished = threes.gather(1, last)[:, 0, :2]
        # 3. what every (tag, role) holds after 0, 1, ..., N of them
        held = self._held(threes, state.bindings)
        # 4. look up the tags that begin a three
        count, real = count[:, 2:], real[:, 2:]
        tag = input_ids - symbols.first_tag
        begins = real & (tag >= 0) & ((count - 1) % 3 == 0)
        row = (count - 1).clamp_min(0) // 3 * self.config.num_tag_symbols + tag
        row = torch.where(begins, row, 0)[..., None].expand(-1, -1, Symbols.NUM_ROLES)
        values = held.flatten(1, 2).gather(1, row)
        asked = begins & (values != UNKNOWN).all(-1) & (task != UNKNOWN)
        return Queries(task, asked, torch.where(asked[..., None], values, 0)), held[:, -1], unfinished

    def _held(self, threes: Tensor, bindings: Tensor) -> Tensor:
        """[B, N + 1, K, 3]: the value of every (tag, role) after 0 to N of the threes [B, N, 3]."""
        symbols, (batch, number, _) = self.config.symbols, threes.shape
        num_values, roles = self.config.num_values, Symbols.NUM_ROLES
        tag = _only(threes, symbols.first_tag, self.config.num_tag_symbols)
        role = _only(threes, symbols.first_role, roles)
        value = _only(threes, symbols.first_value, num_values)
        bound = (tag != UNKNOWN) & (role != UNKNOWN) & (value != UNKNOWN)
        # a stamp is a value and, above it, when it was written: the largest so far is the newest
        known = bindings.flatten(1)[:, None] - UNKNOWN  # [B, 1, K * 3], 0 for none
        when = torch.arange(1, number + 1, device=threes.device) * (num_values + 1)
        stamp = torch.where(bound, when + value - UNKNOWN, 0)
        cell = torch.where(bound, tag * roles + role, 0)
        stamps = known.new_zeros(batch, number, known.shape[-1]).scatter(2, cell[..., None], stamp[..., None])
        newest = torch.cat([known, stamps], dim=1).cummax(1).values
        return (newest % (num_values + 1) + UNKNOWN).unflatten(2, (-1, roles))

    def _answer(self, queries: Queries) -> Tensor:
        """Logits [B, T, n] of the values."""
        num_values = self.config.num_values
        logits = F.embedding(queries.task.clamp_min(0), self.biases)
        logits = torch.where((queries.task != UNKNOWN)[..., None], logits, 0.0)
        a, b, c = queries.values.unbind(-1)
        for place, rule in enumerate(RULES):
            if rule == LEARNED_RULE:
                answer = self.lookup(a, b, c)
            else:
                right = symbolic_answer(rule, a, b, c, num_values)
                answer = EXACT_LOGIT * F.one_hot(right, num_values).to(logits.dtype)
            here = queries.asked & (queries.task == place)
            logits = logits + torch.where(here[..., None], answer, 0.0)
        return logits

    def lookup(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        """The learned table's logits [..., n] of lookup at the values a, b, c [...], without its bias."""
        rows = [F.embedding(values, table) for values, table in zip((a, b, c), self.factors, strict=True)]
        return self.dropout(rows[0] * rows[1] * rows[2]) @ self.readout


def _only(threes: Tensor, first: int, number: int) -> Tensor:
    """[B, N]: which of `number` symbols from `first` on each three holds; UNKNOWN unless it holds one."""
    inside = (threes >= first) & (threes < first + number)
    which = torch.where(inside, threes - first, 0).sum(-1)
    return torch.where(inside.sum(-1) == 1, which, UNKNOWN)


for _state in (TypedLatentState,):
    pytree._register_namedtuple(_state, serialized_type_name=f"unimatrix.{_state.__name__}")
