"""What is checked of the arguments that every op over a store of tokens takes.

Letters: B batch, T time.
"""

import torch

from unimatrix.errors import UserError
from unimatrix.ops.shapes import TokenIds, TokenMask, check_count, check_other, check_positions, check_tuple
from unimatrix.ops.token_store.state import REGISTERS, TokenStoreState


def check_reading(
    tokens: object,
    state: TokenStoreState | None,
    mask: TokenMask | None,
    starts: TokenMask | None,
    capacity: object,
) -> None:
    """Raise a UserError unless shapes, dtypes and the capacity are right; looks at no value of a tensor."""
    if not isinstance(tokens, torch.Tensor) or tokens.dim() != 2:
        got = list(tokens.shape) if isinstance(tokens, torch.Tensor) else type(tokens).__name__
        raise UserError(f"tokens: expected [batch, time], got {got}")
    check_other("tokens", tokens, torch.int64, tuple(tokens.shape), tokens)
    check_positions(mask, starts, (tokens.shape[0], tokens.shape[1]), tokens)
    if capacity is not None:
        check_count("capacity", capacity)
        if capacity == 1:
            raise UserError("capacity: expected at least 2 tokens, got 1")
    if state is not None:
        _check_state(state, tokens)


def _check_state(state: TokenStoreState, tokens: TokenIds) -> None:
    check_tuple("state", state, TokenStoreState)
    batch, host = len(tokens), tokens if tokens.device.type == "cpu" else torch.empty(0, device="cpu")
    check_other("state.length", state.length, torch.int64, (batch,), host)
    check_other("state.registers", state.registers, torch.int64, (batch, REGISTERS), host)
    words = state.store.shape[1] if isinstance(state.store, torch.Tensor) and state.store.dim() == 2 else 0
    check_other("state.store", state.store, torch.int32, (batch, words), host)
