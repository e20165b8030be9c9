"""The language model as transformers sees it: `generate`, Trainer, `save_pretrained`, `from_pretrained`.

A thin adapter. The mathematics is `unimatrix.models.LanguageModel`, reachable as `.language_model`; what
is added here is the shape of transformers' interfaces. The model's state travels through `generate` as
`past_key_values`, so the prompt is read once and each further step feeds one token.

Letters: B batch, T time, V vocabulary, P tokens already in the state.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils.generic import can_return_tuple

from unimatrix.errors import UserError
from unimatrix.hf.config import UniMatrixConfig
from unimatrix.models import LanguageModel, select_batch

LOSS_KWARGS = ("num_items_in_batch", "shift_labels")


class UniMatrixCache(Cache):
    """A model's state between two calls; transformers carries it as `past_key_values`.

    The forward pass replaces `state` and never writes into its tensors, so a state taken out stays valid.

    Attributes:
        state: the language model's state, None before the first token.
        seq_length: P, how many positions were fed, padding included.
    """

    def __init__(self) -> None:
        super().__init__(layers=[])  # transformers' layers hold keys and values; the state is kept here instead
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
            raise ValueError("a recurrent state cannot forget its last tokens: keep the state from before them")

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("UniMatrixCache holds a model's state, not keys and values")

    def __repr__(self) -> str:
        return f"UniMatrixCache(seq_length={self.seq_length}, batch_size={self.batch_size})"

    @property
    def batch_size(self) -> int:
        return -1 if self.state is None else self._tensor().shape[0]

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
