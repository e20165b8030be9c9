"""A causal convolution over the last few tokens, with the tokens it still needs as its state.

Letters: B batch, T new tokens, D width, K kernel size.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimatrix.data.settings import check_counts, check_types
from unimatrix.mixers.documents import document_ids
from unimatrix.mixers.layout import kept
from unimatrix.mixers.part import Given, Part, Reading, Role, Size
from unimatrix.mixers.registry import PartConfig
from unimatrix.ops.shapes import Stream, TokenMask


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
            return x, ConvolutionState(recent)  # too few tokens for one window
        # [B, K - 1 + T, D]
        tokens, order = packed(torch.cat([recent, x], dim=1), mask, past)
        # [B, T, D, K] without a copy, then one with the kernel's positions before the channels
        windows = tokens.unfold(1, self.kernel_size, 1).transpose(2, 3)  # [B, T, K, D]
        left = tokens[:, length:]
        if starts is not None:
            same, kept_on = in_document(starts, order, past)
            windows, left = windows * same[..., None], left * kept_on[..., None]
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


def packed(tokens: Tensor, mask: TokenMask | None, past: int) -> tuple[Tensor, Tensor | None]:
    """Rows [B, past + T, D] with their padding (as zeros) in front, so that windows hold real tokens alone.

    The first `past` are carried ones, all real. Also the order [B, past + T] for `unpacked`; None: none.
    """
    if mask is None:
        return tokens, None
    real = torch.cat([mask.new_ones(mask.shape[0], past), mask], dim=1)
    order = real.to(torch.uint8).argsort(
        dim=1, stable=True
    )  # padding, carried tokens, the real ones as they came
    return (tokens * real[..., None]).gather(1, order[..., None].expand_as(tokens)), order


def in_document(starts: Tensor, order: Tensor | None, past: int) -> tuple[Tensor, Tensor]:
    """Which tokens of the windows over packed rows are of their last token's document.

    Returns:
        [B, T, past + 1] bool, and of those that are carried on [B, past], the ones of the last document.
    """
    ids = F.pad(document_ids(starts), (past, 0))  # what is carried is of the document that goes on
    last = ids[:, -1:]
    if order is not None:
        ids = ids.gather(1, order)
    length = starts.shape[1]
    return ids.unfold(1, past + 1, 1) == ids[:, past:, None], ids[:, length:] == last


def unpacked(y: Tensor, order: Tensor, past: int) -> Tensor:
    """What windows of packed rows gave, [B, T, D], where the tokens stood."""
    # token n of the packed row is token order[n] of the given one
    back = order.argsort(dim=1)[:, past:] - past
    return y.gather(1, back.clamp_min(0)[..., None].expand_as(y))
