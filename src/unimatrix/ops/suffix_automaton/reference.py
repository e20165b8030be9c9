"""The suffix automaton's answers by brute force: every position is compared with every one before it.

    m_i(j) = 1 + m_{i-1}(j-1) if x_j = x_i, else 0        how long the suffixes that end at j and at i agree

The answer of position i is the largest m_i(j) over j < i, of equal ones the newest j.

Letters: B batch, T time, n tokens before.
"""

import torch
from torch import Tensor

from unimatrix.ops.suffix_automaton.state import (
    BASE,
    BEGAN,
    COUNT,
    HELD,
    NONE,
    SuffixAutomatonState,
    SuffixMatch,
    check_ids,
    new_store,
)


def suffix_automaton_reference(
    tokens: Tensor,
    state: SuffixAutomatonState | None,
    mask: Tensor | None,
    starts: Tensor | None,
    capacity: int | None,
) -> tuple[SuffixMatch, SuffixAutomatonState]:
    """Arguments as in `suffix_automaton`, already checked; the state's tree is not built."""
    check_ids(tokens, mask)
    found = [torch.full(tokens.shape, none, dtype=torch.int64, device="cpu") for none in (NONE, 0, NONE)]
    rows = []
    for b, row in enumerate(tokens.tolist()):
        read = _Row(*(([], 0, 0) if state is None else tokens_of(state, b)))
        for t, token in enumerate(row):
            if starts is not None and starts[b, t]:
                end = read.base + len(read.held)
                read = _Row([], end, end)
            if mask is None or mask[b, t]:
                length, after = read.next(token, capacity)
                if length:
                    found[0][b, t], found[1][b, t] = read.held[after], length
                    found[2][b, t] = read.base + after
        rows.append((read.held, read.base, read.began))
    return SuffixMatch(*found), state_of(rows)


class _Row:
    """What a row has read: the tokens that its answers stand on, and how well each of them agrees."""

    def __init__(self, held: list[int], base: int, began: int) -> None:
        self.held, self.base, self.began = [], base, began
        self.agree: list[int] = []  # m_i(j), i the newest token
        for token in held:
            self._append(token)

    def next(self, token: int, capacity: int | None) -> tuple[int, int]:
        """Read a token; how long the longest suffix is that occurred before, where it ended last, plus 1."""
        first = self.began + window_start(self.base + len(self.held) - self.began, capacity)
        if (gone := first - self.base) > 0:
            self.held, self.base = self.held[gone:], first
            # an occurrence may not begin before what is left
            self.agree = [min(m, j + 1) for j, m in enumerate(self.agree[gone:])]
        self._append(token)
        before = self.agree[:-1]
        best = max(before, default=0)
        return (best, len(before) - before[::-1].index(best)) if best else (0, 0)

    def _append(self, token: int) -> None:
        self.held.append(token)
        longer = [0, *self.agree]
        self.agree = [1 + m if x == token else 0 for x, m in zip(self.held, longer, strict=True)]


def window_start(index: int, capacity: int | None) -> int:
    """The first token of a document that the answer at token `index` of it stands on.

    Half of the capacity is forgotten whenever another half has been read, so that what it stands on is never
    more than the capacity and, once so many were read, never less than half of it.
    """
    if capacity is None:
        return 0
    half = capacity // 2
    return max(0, index // half - 1) * half


def tokens_of(state: SuffixAutomatonState, row: int) -> tuple[list[int], int, int]:
    """The tokens that a row of a state stands on, how many came before them, and before its document."""
    registers = state.registers[row]
    base, began = int(registers[BASE]), int(registers[BEGAN])
    return state.store[row, : int(state.length[row]) - base].tolist(), base, began


def state_of(rows: list[tuple[list[int], int, int]]) -> SuffixAutomatonState:
    """The state that `tokens_of` takes apart, without a tree."""
    registers, store = new_store(len(rows), max((len(held) for held, _, _ in rows), default=0), 0, 0)
    for b, (held, base, began) in enumerate(rows):
        store[b, : len(held)] = torch.tensor(held, dtype=torch.int32, device="cpu")
        for at, number in ((COUNT, base + len(held)), (BASE, base), (BEGAN, began), (HELD, len(held))):
            registers[b, at] = number
    return SuffixAutomatonState(registers[:, COUNT].clone(), registers, store)
