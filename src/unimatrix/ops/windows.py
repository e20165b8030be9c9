"""Documents by number, and windows over the last few real tokens: each of one document, without padding.

Letters: B batch, T new tokens, D width; past: how many tokens a window holds before its last.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from unimatrix.ops.shapes import TokenMask, harmless


def document_ids(starts: Tensor) -> Tensor:
    """The document of each position, [B, T] int64: 0 goes on from the state, each start is one more."""
    return starts.cumsum(1)


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
    return harmless(real, tokens).gather(1, order[..., None].expand_as(tokens)), order


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
