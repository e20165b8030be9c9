"""The continuations of contexts by brute force: every position is compared with every one before it.

Letters: B batch, T time, O orders, K continuations.
"""

import torch
from torch import Tensor

from unimatrix.ops.token_store.reference import Rows
from unimatrix.ops.token_store.state import NONE, TokenStoreState


def context_continuations_reference(
    tokens: Tensor,
    state: TokenStoreState | None,
    mask: Tensor | None,
    starts: Tensor | None,
    capacity: int | None,
    orders: tuple[int, ...],
    continuations: int,
) -> tuple[Tensor, TokenStoreState]:
    """Arguments as in `context_continuations`, already checked; the state has no table."""
    shape = (*tokens.shape, len(orders), continuations)
    found = torch.full(shape, NONE, dtype=torch.int64, device="cpu")
    rows = Rows(tokens, state, mask, starts, capacity)
    for b, t, held, _, _ in rows:
        for at, order in enumerate(orders):
            context = held[-order:]
            ends = range(len(held) - 1, order - 1, -1)  # behind each earlier context, the newest first
            followed = [held[end] for end in ends if held[end - order : end] == context]
            newest = followed[:continuations]
            found[b, t, at, : len(newest)] = torch.tensor(newest, dtype=torch.int64, device="cpu")
    return found, rows.state()
