"""A store of tokens in plain Python: what each answer stands on, token by token.

Letters: B batch, T time.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from unimatrix.ops.token_store.state import (
    BASE,
    BEGAN,
    COUNT,
    HELD,
    NO_INDEX,
    TokenStoreState,
    check_ids,
    new_store,
)


class Rows:
    """All rows, read on one after the other: where an answer is due, the tokens that it stands on.

    Iterated, it gives b, t, the tokens that are held with token t the last, how many of the row came before
    the first of them, and whether they are those of the row's answer before and token t; then `state` is
    what follows.
    """

    def __init__(
        self,
        tokens: Tensor,
        state: TokenStoreState | None,
        mask: Tensor | None,
        starts: Tensor | None,
        capacity: int | None,
    ) -> None:
        check_ids(tokens, mask)
        self._tokens, self._before, self._mask, self._starts = tokens, state, mask, starts
        self._capacity = capacity
        self._rows: list[tuple[list[int], int, int]] = []

    def __iter__(self) -> Iterator[tuple[int, int, list[int], int, bool]]:
        for b, row in enumerate(self._tokens.tolist()):
            held, base, began = ([], 0, 0) if self._before is None else tokens_of(self._before, b)
            goes_on = False
            for t, token in enumerate(row):
                if self._starts is not None and self._starts[b, t]:
                    base = began = base + len(held)
                    held, goes_on = [], False
                if self._mask is not None and not self._mask[b, t]:
                    continue
                first = began + window_start(base + len(held) - began, self._capacity)
                if first > base:
                    held, base, goes_on = held[first - base :], first, False
                held.append(token)
                yield b, t, held, base, goes_on
                goes_on = True
            self._rows.append((held, base, began))

    def state(self) -> TokenStoreState:
        """The state after all rows, without an index."""
        return state_of(self._rows)


def window_start(index: int, capacity: int | None) -> int:
    """The first token of a document that the answer at token `index` of it stands on.

    Half of the capacity is forgotten whenever another half has been read, so that what it stands on is never
    more than the capacity and, once so many were read, never less than half of it.
    """
    if capacity is None:
        return 0
    half = capacity // 2
    return max(0, index // half - 1) * half


def tokens_of(state: TokenStoreState, row: int) -> tuple[list[int], int, int]:
    """The tokens that a row of a state stands on, how many came before them, and before its document."""
    registers = state.registers[row]
    base, began = int(registers[BASE]), int(registers[BEGAN])
    return state.store[row, : int(state.length[row]) - base].tolist(), base, began


def state_of(rows: list[tuple[list[int], int, int]]) -> TokenStoreState:
    """The state that `tokens_of` takes apart, without an index."""
    held_most = max((len(held) for held, _, _ in rows), default=0)
    registers, store = new_store(len(rows), NO_INDEX, held_most, 0, 0)
    for b, (held, base, began) in enumerate(rows):
        store[b, : len(held)] = torch.tensor(held, dtype=torch.int32, device="cpu")
        for at, number in ((COUNT, base + len(held)), (BASE, base), (BEGAN, began), (HELD, len(held))):
            registers[b, at] = number
    return TokenStoreState(registers[:, COUNT].clone(), registers, store)
