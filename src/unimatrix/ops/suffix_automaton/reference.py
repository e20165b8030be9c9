"""The suffix automaton's answers by brute force: every position is compared with every one before it.

    m_i(j) = 1 + m_{i-1}(j-1) if x_j = x_i, else 0        how long the suffixes that end at j and at i agree

The answer of position i is the largest m_i(j) over j < i, of equal ones the newest j.

Letters: B batch, T time.
"""

import torch
from torch import Tensor

from unimatrix.ops.suffix_automaton.state import SuffixMatch
from unimatrix.ops.token_store.reference import Rows
from unimatrix.ops.token_store.state import NONE, TokenStoreState


def suffix_automaton_reference(
    tokens: Tensor,
    state: TokenStoreState | None,
    mask: Tensor | None,
    starts: Tensor | None,
    capacity: int | None,
) -> tuple[SuffixMatch, TokenStoreState]:
    """Arguments as in `suffix_automaton`, already checked; the state's tree is not built."""
    found = [torch.full(tokens.shape, none, dtype=torch.int64, device="cpu") for none in (NONE, 0, NONE)]
    rows = Rows(tokens, state, mask, starts, capacity)
    agree: list[int] = []  # m_i(j), i the newest token of the row
    for b, t, held, base, goes_on in rows:
        # anew after what was forgotten: an occurrence may not begin before what is left
        agree = agree if goes_on else []
        for token in held[len(agree) :]:
            agree = [1 + m if x == token else 0 for x, m in zip(held, [0, *agree], strict=False)]
        before = agree[:-1]
        best = max(before, default=0)
        if best:
            after = len(before) - before[::-1].index(best)
            found[0][b, t], found[1][b, t], found[2][b, t] = held[after], best, base + after
    return SuffixMatch(*found), rows.state()
