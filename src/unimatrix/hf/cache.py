"""A model's state as transformers carries it from call to call, and the only place that knows its name there.

Up to 5.23 transformers calls it `past_key_values` in the arguments of models and `generate` and in what they
return; from 5.24 on `cache`, and the old name warns. Here either name will do, with either release.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast

from unimatrix.errors import UserError
from unimatrix.models import select_batch

CACHE_NAMES = ("cache", "past_key_values")
# the one that the installed transformers knows, and the other
CACHE_NAME, _OTHER_NAME = sorted(
    CACHE_NAMES, key=lambda name: name not in {field.name for field in fields(CausalLMOutputWithPast)}
)


def by_one_name(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments in which the state goes by the name that the installed transformers knows.

    Raises:
        UserError: it comes by both names.
    """
    if kwargs.get(_OTHER_NAME) is not None and kwargs.get(CACHE_NAME) is not None:
        raise UserError("cache: expected it by one name, got past_key_values too")
    named = {name: value for name, value in kwargs.items() if name != _OTHER_NAME}
    return named if kwargs.get(_OTHER_NAME) is None else named | {CACHE_NAME: kwargs[_OTHER_NAME]}


@dataclass
class UniMatrixOutput(CausalLMOutputWithPast):
    """transformers' output of a causal language model, in which the state answers to both its names."""

    def __getitem__(self, k: Any) -> Any:
        return super().__getitem__(CACHE_NAME if k == _OTHER_NAME else k)

    def __contains__(self, key: object) -> bool:
        return super().__contains__(CACHE_NAME if key == _OTHER_NAME else key)

    def get(self, key: str, default: Any = None) -> Any:
        return super().get(CACHE_NAME if key == _OTHER_NAME else key, default)


setattr(UniMatrixOutput, _OTHER_NAME, property(lambda output: getattr(output, CACHE_NAME)))


class UniMatrixCache(Cache):
    """A model's state between two calls.

    The forward pass replaces `state` and never writes into its tensors, so a state taken out stays valid.

    Attributes:
        state: the language model's state, None before the first token.
        seq_length: P, how many positions were fed, padding included.
    """

    def __init__(self) -> None:
        super().__init__(
            layers=[]
        )  # transformers' layers hold keys and values; the state is kept here instead
        self.state: Any = None
        self.seq_length = 0

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.seq_length

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Continue row beam_idx[i] as row i (beam search)."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        if self.state is not None:
            self.state = select_batch(self.state, indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        if self.state is not None:
            rows = torch.arange(self.batch_size, device=self._tensor().device)
            self.batch_select_indices(rows.repeat_interleave(repeats))

    def reset(self) -> None:
        self.state, self.seq_length = None, 0

    def crop(self, tokens_to_remove: int) -> None:
        if tokens_to_remove != 0:
            raise ValueError(
                "a recurrent state cannot forget its last tokens: keep the state from before them"
            )

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> Any:
        raise TypeError("UniMatrixCache holds a model's state, not keys and values")

    def __repr__(self) -> str:
        return f"UniMatrixCache(seq_length={self.seq_length}, batch_size={self.batch_size})"

    @property
    def batch_size(self) -> int:
        return -1 if self.state is None else self._tensor().shape[0]

    @property
    def is_linear(self) -> list[bool]:
        # generate leaves out what the state has read already only where this is not all True
        return [False]

    @property
    def is_compileable(self) -> bool:
        return False

    @property
    def is_croppable(self) -> bool:
        return False

    def _tensor(self) -> Tensor:
        part = self.state
        while not isinstance(part, Tensor):
            part = part[0]
        return part
