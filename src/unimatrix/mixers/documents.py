"""Documents that follow each other in one row: which is whose, and how far into its document a token stands.

`starts` [B, T] bool says where one begins; what came before, the state too, is none of its business.

Letters: B batch, T time.
"""

import torch
from torch import Tensor

from unimatrix.ops.shapes import TokenMask


def last_start(starts: Tensor) -> Tensor:
    """Where the document of each position began, [B, T] int64; -1 before the first start."""
    index = torch.arange(starts.shape[1], device=starts.device)
    return torch.where(starts, index, -1).cummax(dim=1).values


def positions_in_document(
    mask: TokenMask | None, starts: Tensor | None, before: Tensor, length: int
) -> tuple[Tensor, Tensor]:
    """How many real tokens of its document stand before each position, and how many before the next one.

    Args:
        before: [B] int64, real tokens so far of the document that the state is in.
    Returns:
        [B, T] (of padding before its document's first token -1) and [B], both int64.
    """
    if mask is None and starts is None:
        return before[:, None] + torch.arange(length, device=before.device), before + length
    real = mask
    if real is None:
        assert starts is not None
        real = torch.ones_like(starts)
    seen = real.cumsum(1)  # the position itself included
    if starts is None:
        return before[:, None] + seen - 1, before + real.sum(1)
    earlier = torch.where(starts, seen - real.to(seen.dtype), -1).cummax(dim=1).values  # before its document
    count = torch.where(earlier < 0, before[:, None] + seen, seen - earlier)
    return count - 1, count[:, -1] if length else before
