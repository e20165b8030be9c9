"""What can be done with any model's state without knowing the model: count, gather, move it.

A state is tensors in nested (named) tuples and dicts, batch first, None where there is nothing.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from unimatrix.errors import UserTypeError, shown
from unimatrix.ops import TokenStoreState

State = TypeVar("State")


def state_bytes(state: Any) -> int:
    """Bytes of all tensors in a state."""
    total = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal total
        total += tensor.numel() * tensor.element_size()
        return tensor

    _map(count, state)
    return total


def select_batch(state: State, index: Tensor) -> State:
    """The state whose row n is row index[n] of the given one; index: [B'] int64 (beams, expansion)."""
    if not isinstance(index, Tensor) or index.dim() > 1 or index.dtype not in (torch.int64, torch.int32):
        raise UserTypeError(f"index: expected numbers of rows in one dimension, int64, got {shown(index)}")

    def select(part: Any) -> Any:
        if isinstance(part, TokenStoreState):  # whose tensors go together
            return part.rows(index)
        return torch.index_select(part, 0, index.to(part.device))

    return _map(select, state, (Tensor, TokenStoreState))


def move_state(state: State, device: torch.device | str) -> State:
    """The state on another device, to go on there; what is kept of the text stays on the host."""
    return _map(
        lambda part: part if isinstance(part, TokenStoreState) else part.to(device),
        state,
        (Tensor, TokenStoreState),
    )


def _map(function: Callable[[Any], Any], value: Any, leaf: Any = Tensor) -> Any:
    if value is None:
        return None
    if isinstance(value, leaf):
        return function(value)
    if isinstance(value, dict):
        return {name: _map(function, part, leaf) for name, part in value.items()}
    if not isinstance(value, tuple):
        raise UserTypeError(
            f"state: expected one that a model returned (of a cache its `state`), got {shown(value)}"
        )
    parts = [_map(function, part, leaf) for part in value]
    return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
