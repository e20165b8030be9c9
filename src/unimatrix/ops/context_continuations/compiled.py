"""Continuations of contexts as a compiled CPU loop, over a table of contexts in a store of tokens.

The loops are numba's (unimatrix.ops.context_continuations.kernels); who owns which store, and how it grows,
says unimatrix.ops.token_store.reading. An older handle's table is built anew.

Bytes: 4 a token, 4 more for each order, 8 a slot of the table, which is three quarters full at most.

Letters: B batch, T time, O orders, K continuations.
"""

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unimatrix.ops.token_store import reading
from unimatrix.ops.token_store.reading import Index, Rooms, eighth_more, per_token, slots_for
from unimatrix.ops.token_store.state import ENTRIES, MIN_SLOTS, TokenStoreState, mark_of

CONTEXTS_OF_TEXT = 0.2  # different ones for each token, in each order


def context_continuations_compiled(
    tokens: Tensor,
    state: TokenStoreState | None,
    mask: Tensor | None,
    starts: Tensor | None,
    capacity: int | None,
    orders: tuple[int, ...],
    continuations: int,
) -> tuple[Tensor, TokenStoreState]:
    """Arguments as in `context_continuations`, already checked."""
    (found,), state = _read(tokens, mask, starts, state, capacity, orders, continuations)
    return found, state


@cache
def _loop() -> Any:
    from unimatrix.ops.context_continuations import kernels

    return kernels.read


@cache
def _index(orders: tuple[int, ...], continuations: int) -> Index:
    number, mark = len(orders), mark_of(orders)

    def rooms(tokens: int) -> Rooms:
        """Room for so many tokens of a text, and for as many contexts as they have as a rule."""
        return max(1, tokens), 0, slots_for(int(CONTEXTS_OF_TEXT * number * tokens) + number)

    def grown(registers: Tensor, tokens: int) -> tuple[int, int]:
        expected = int(per_token(registers, ENTRIES, CONTEXTS_OF_TEXT * number) * tokens)
        needed = eighth_more(int(registers[:, ENTRIES].max()) + number, number * tokens)
        return 0, slots_for(max(expected, needed))

    return Index(
        op="context_continuations",
        mark=mark,
        read=_loop,
        rooms=rooms,
        grown=grown,
        most=lambda time: (time, 0, max(MIN_SLOTS, -(-4 * number * (time + 1) // 3) + 1)),
        out=lambda batch, time: (batch, time, number, continuations),
        answers=lambda out: (torch.from_numpy(out),),
        settings=(mark, np.array(orders, np.int64)),
    )


def _answers(tokens: Tensor, orders: list[int], continuations: int) -> tuple[Tensor, ...]:
    return (tokens.new_empty(*tokens.shape, len(orders), continuations),)


_read = reading.operator(
    "context_continuations",
    lambda orders, continuations: _index(tuple(orders), continuations),
    _answers,
    outputs=1,
    settings=", int[] orders, int continuations",
)
