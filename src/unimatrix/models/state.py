"""What can be done with any model's state without knowing the model: count, gather, save it.

A state is tensors in nested (named) tuples, batch first, None where a part is absent.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from unimatrix.mixers import (
    AssociativeState,
    AttentionState,
    ConvolutionState,
    MatrixStateMixerState,
    RecurrentFFNState,
    RoutingState,
    SlotMemoryMixerState,
)
from unimatrix.mixers.previous import Previous
from unimatrix.models.language_model import LanguageModelState
from unimatrix.models.mamba2 import Mamba2LayerState, Mamba2State
from unimatrix.models.typed_latent import TypedLatentState
from unimatrix.ops import SlotMemoryState, TripleLatentState

State = TypeVar("State")

# a model that torch.export has taken with its state can be saved if the state's parts have names
for _part in (
    AssociativeState,
    AttentionState,
    ConvolutionState,
    LanguageModelState,
    Mamba2LayerState,
    Mamba2State,
    MatrixStateMixerState,
    Previous,
    RecurrentFFNState,
    RoutingState,
    SlotMemoryMixerState,
    SlotMemoryState,
    TripleLatentState,
    TypedLatentState,
):
    pytree._register_namedtuple(_part, serialized_type_name=f"unimatrix.{_part.__name__}")


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
    return _map(lambda tensor: torch.index_select(tensor, 0, index.to(tensor.device)), state)


def _map(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    if value is None:
        return None
    if isinstance(value, Tensor):
        return function(value)
    parts = [_map(function, part) for part in value]
    return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
