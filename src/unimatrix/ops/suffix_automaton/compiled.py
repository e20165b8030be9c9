"""The suffix automaton as a compiled CPU loop, over a tree in a store of tokens.

The loops are numba's (unimatrix.ops.suffix_automaton.kernels); who owns which store, and how it grows, says
unimatrix.ops.token_store.reading. An older handle's tree is built anew, n log n for n tokens.

Bytes: 8 a token, 32 a node of the tree, 8 a slot of its table, which is three quarters full at most; a text
has about 0.65 nodes a token, no input more than 1.

Letters: B batch, T time.
"""

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unimatrix.ops.suffix_automaton.state import LEAVES, MIN_NODES, SuffixMatch
from unimatrix.ops.token_store import reading
from unimatrix.ops.token_store.reading import Index, Rooms, eighth_more, per_token, slots_for
from unimatrix.ops.token_store.state import BUILT, ENTRIES, MIN_SLOTS, NODES, TREE, TokenStoreState

NODES_OF_TEXT = 0.7  # for each token


def suffix_automaton_compiled(
    tokens: Tensor,
    state: TokenStoreState | None,
    mask: Tensor | None,
    starts: Tensor | None,
    capacity: int | None,
) -> tuple[SuffixMatch, TokenStoreState]:
    """Arguments as in `suffix_automaton`, already checked."""
    found, state = _read(tokens, mask, starts, state, capacity)
    return SuffixMatch(*found), state


@cache
def _loop() -> Any:
    from unimatrix.ops.suffix_automaton import kernels

    return kernels.read


def _rooms(tokens: int) -> Rooms:
    """Room for so many tokens of a text, and what a tree over them has as a rule."""
    nodes = MIN_NODES + int(NODES_OF_TEXT * tokens)
    return max(1, tokens), nodes, slots_for(tokens + nodes)


def _grown(registers: Tensor, tokens: int) -> tuple[int, int]:
    # of the next token: every suffix that is no leaf may become one, with a node and two edges
    pending = int((registers[:, BUILT] - registers[:, LEAVES]).max()) + 3
    planted, edges = (int(registers[:, at].max()) for at in (NODES, ENTRIES))
    expected = int(per_token(registers, NODES, NODES_OF_TEXT) * tokens)
    # no input has more than one node, two edges a token
    nodes = max(expected + MIN_NODES, eighth_more(planted + pending, tokens + 2 * MIN_NODES))
    most = eighth_more(edges + 2 * pending, 2 * tokens + 2 * MIN_NODES)
    return nodes, max(slots_for(tokens + expected), slots_for(most))


def _most(time: int) -> Rooms:
    return time, time + MIN_NODES, max(MIN_SLOTS, 3 * time + 16)


def _answers(out: np.ndarray) -> tuple[Tensor, ...]:
    return tuple(map(torch.from_numpy, out))


INDEX = Index(
    op="suffix_automaton",
    mark=TREE,
    read=_loop,
    rooms=_rooms,
    grown=_grown,
    most=_most,
    out=lambda batch, time: (3, batch, time),
    answers=_answers,
)
_read = reading.operator(
    "suffix_automaton",
    lambda: INDEX,
    lambda tokens: tuple(tokens.new_empty(tokens.shape) for _ in range(3)),
    outputs=3,
)
