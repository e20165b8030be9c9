"""What the surprise store keeps, what it is given and what a reading returns: the tuples all forms exchange.

Letters: B batch, T time, N entries (the budget), E width of keys and queries, W width of values, R newest
surprises, K entries that a query reads.
"""

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

EMPTY = -1  # token id, priority and level where nothing is held
CALIBRATED = 0.0  # as a rate: the budget over the tokens so far
MOST_KEPT = 2**24  # entries, and surprises to compare with: every query reads all entries
Policy = Literal["surprise", "surprise-oldest", "always", "random", "reservoir"]
POLICIES: tuple[Policy, ...] = get_args(Policy)
BY_SURPRISE: tuple[Policy, ...] = ("surprise", "surprise-oldest")

# surprises are compared in whole steps of 1/1024: what is equal but for rounding is a tie in every form
STEPS, MOST_STEPS = 1024, 2**20
# of the largest that a score can be, |query| |key| / sqrt(E): nearer to the best one, an entry is as good
TIE = 2.0**-12
DRAW_BITS = 31  # of a random number
SEEN_BITS = 40  # of the count of tokens, beneath a level
MULTIPLIERS = (-7046029254386353131, -4658895280553007687)  # splitmix64's


class SurpriseStoreState(NamedTuple):
    """The entries, and what decides who comes in next: the same size however long the text."""

    keys: Tensor  # [B, N, E] float
    values: Tensor  # [B, N, W] float
    token_ids: Tensor  # [B, N] int64, EMPTY where nothing is held
    priorities: Tensor  # [B, N] int64, the least one goes first; EMPTY where nothing is held
    recent: Tensor  # [B, R] int64, the newest surprises in steps, token n at n % R; EMPTY for none yet
    seen: Tensor  # [B] int64, real tokens so far
    mixed: Tensor  # [B] int64, a random number that depends on the seed and on all of them


class StoreReads(NamedTuple):
    """What each position read."""

    context: Tensor  # [B, T, W] sum of weights times the entries' values
    weights: Tensor  # [B, T, K] softmax over what is held, exactly 0 for what is not; all 0 if nothing is
    token_ids: Tensor  # [B, T, K] int64, EMPTY for none


class Offers(NamedTuple):
    """What each position would store, and asks: the arguments of `surprise_store`, checked."""

    query: Tensor  # [B, T, E]
    key: Tensor  # [B, T, E]
    value: Tensor  # [B, T, W]
    token_ids: Tensor  # [B, T] int64
    levels: Tensor  # [B, T] int64, the surprise in steps
    real: Tensor | None  # [B, T] bool, None = all
    allowed: Tensor | None  # [B, T] bool, None = all: what may be stored at all
    starts: Tensor | None  # [B, T] bool, None = none: the store is emptied first


class Rules(NamedTuple):
    """The settings that decide what is stored and what a reading keeps."""

    budget: int
    top_k: int
    policy: Policy
    rate: float  # or CALIBRATED
    start: int  # the random number before the first token, of the seed


def first_mixed(seed: int) -> int:
    """The random number before the first token, an int64."""
    return (seed * MULTIPLIERS[0] + 2**63) % 2**64 - 2**63


def mix(mixed: Tensor, token_ids: Tensor) -> Tensor:
    """The random number [B] behind one more token; int64 products wrap around in every form alike."""
    first, second = MULTIPLIERS
    mixed = (mixed ^ (token_ids + 1)) * first
    mixed = (mixed ^ ((mixed >> 32) & 0xFFFFFFFF)) * second
    return mixed ^ ((mixed >> 29) & 0x7FFFFFFFF)


def in_steps(surprise: Tensor) -> Tensor:
    """Surprises as whole steps, int64; where one is no number 0."""
    # exact in both: a product with a power of two. Apple's GPUs have no float64
    wide = surprise.detach().float() if surprise.device.type == "mps" else surprise.detach().double()
    steps = wide.nan_to_num(0.0) * STEPS
    return steps.round().clamp(0, MOST_STEPS).long()


def emptied(state: SurpriseStoreState, begun: Tensor, start: int) -> SurpriseStoreState:
    """The state of a text that begins in the rows that `begun` [B, 1] names."""
    return SurpriseStoreState(
        keys=state.keys.masked_fill(begun[..., None], 0.0),
        values=state.values.masked_fill(begun[..., None], 0.0),
        token_ids=state.token_ids.masked_fill(begun, EMPTY),
        priorities=state.priorities.masked_fill(begun, EMPTY),
        recent=state.recent.masked_fill(begun, EMPTY),
        seen=state.seen.masked_fill(begun[:, 0], 0),
        mixed=state.mixed.masked_fill(begun[:, 0], start),
    )


def read_rooms(query: Tensor, value: Tensor, keys: Tensor, top_k: int) -> tuple[Tensor, ...]:
    """Room for context, weights, read ids, the sources of what was read, and those of the last entries."""
    batch, length, _ = query.shape
    read = (batch, length, top_k)
    return (
        value.new_empty(batch, length, value.shape[-1]),
        query.new_empty(read),
        query.new_empty(read, dtype=torch.int64),
        query.new_empty(read, dtype=torch.int64),
        query.new_empty((batch, keys.shape[1]), dtype=torch.int64),
    )


def empty_state(
    batch_size: int,
    budget: int,
    key_width: int,
    value_width: int,
    *,
    window: int,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> SurpriseStoreState:
    """A store that holds nothing; window: R."""

    def whole(*shape: int, of: int) -> Tensor:
        return torch.full((batch_size, *shape), of, dtype=torch.int64, device=device)

    return SurpriseStoreState(
        keys=torch.zeros(batch_size, budget, key_width, dtype=dtype, device=device),
        values=torch.zeros(batch_size, budget, value_width, dtype=dtype, device=device),
        token_ids=whole(budget, of=EMPTY),
        priorities=whole(budget, of=EMPTY),
        recent=whole(window, of=EMPTY),
        seen=whole(of=0),
        mixed=whole(of=first_mixed(seed)),
    )
