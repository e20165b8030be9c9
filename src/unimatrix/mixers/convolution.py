"""A causal convolution over the last few tokens, with the tokens it still needs as its state.

Letters: B batch, T new tokens, D width, K kernel size.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimatrix.data.settings import check_counts, check_types
from unimatrix.mixers.layout import kept
from unimatrix.mixers.part import Given, Part, Reading, Role, Size
from unimatrix.mixers.registry import PartConfig
from unimatrix.ops.shapes import Stream, TokenMask
from unimatrix.ops.windows import in_document, packed, unpacked


class ConvolutionState(NamedTuple):
    """The last K - 1 real tokens' vectors, oldest first; zeros before the first token."""

    recent: Tensor  # [B, K - 1, D]


class LocalConvolution(Part):
    """y_t = GELU(bias + sum over j < K of W_j x_{t-j}): a full W_j per place, K D^2 + D weights.

    A masked position is no token: the kernel reaches over it. Its own output means nothing.
    """

    def __init__(self, d_model: int, kernel_size: int) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.mix = nn.Linear(kernel_size * d_model, d_model)  # the oldest token's weights first

    def give(self, x: Stream, state: Any, at: Reading, given: Given) -> tuple[Given, Any]:
        # behind the last norm, which would weigh it down to the stream's scale (docs/fidelity.md)
        y, state = self(x, state, mask=at.mask, starts=at.starts)
        return Given(late=y), state

    def state_layout(self) -> Any:
        return ConvolutionState(kept((self.kernel_size - 1, self.mix.out_features), "stream"))

    def forward(
        self,
        x: Stream,
        state: ConvolutionState | None = None,
        *,
        mask: TokenMask | None = None,
        starts: Tensor | None = None,
    ) -> tuple[Stream, ConvolutionState]:
        """[B, T, D] to [B, T, D]."""
        batch, length, width = x.shape
        past = self.kernel_size - 1
        recent = x.new_zeros(batch, past, width) if state is None else state.recent
        if length == 0:
            return x.clone(), ConvolutionState(recent.clone())  # too few tokens for one window
        # [B, K - 1 + T, D]
        tokens, order = packed(torch.cat([recent, x], dim=1), mask, past)
        # [B, T, D, K] without a copy, then one with the kernel's positions before the channels
        windows = tokens.unfold(1, self.kernel_size, 1).transpose(2, 3)  # [B, T, K, D]
        left = tokens[:, length:]
        if starts is not None:
            same, kept_on = in_document(starts, order, past)
            # not weighed with 0: a number of another document may be none that is finite
            windows, left = windows.where(same[..., None], 0.0), left.where(kept_on[..., None], 0.0)
        windows = windows.flatten(2)  # [B, T, K D]
        y = F.gelu(self.mix(windows))
        if order is not None:
            y = unpacked(y, order, past)
        return y, ConvolutionState(left.clone())


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvolutionConfig(PartConfig):
    """A causal convolution over the last kernel_size tokens' embeddings, past all blocks to the head."""

    kind: ClassVar[str] = "convolution"
    role: ClassVar[Role] = "model"
    documents: ClassVar[bool] = True
    gives: ClassVar[frozenset[str]] = frozenset({"late"})
    kernel_size: int = 5

    def __post_init__(self) -> None:
        check_types(self)
        check_counts(self, "kernel_size")

    def build(self, size: Size) -> LocalConvolution:
        return LocalConvolution(size.d_model, self.kernel_size)
