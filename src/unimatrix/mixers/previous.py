"""The vector of the real token before each position: the key of a memory that binds a token to the next.

Letters: B batch, T time, E width.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from unimatrix.mixers.documents import last_start
from unimatrix.mixers.layout import kept
from unimatrix.ops.shapes import TokenMask


class Previous(NamedTuple):
    """The newest real token's vector, carried from call to call."""

    vector: Tensor  # [B, E]; zeros before the first real token
    present: Tensor  # [B] bool, whether there was one


def previous_layout(width: int) -> Any:
    """The carry of vectors of a width, see `unimatrix.mixers.layout`."""
    return Previous(kept((width,), "stream"), kept((), torch.bool))


def none_before(x: Tensor) -> Previous:
    """The carry before the first token, for vectors like x [B, T, E]."""
    return Previous(x.new_zeros(x.shape[0], x.shape[2]), x.new_zeros(x.shape[0], dtype=torch.bool))


def newest_real(mask: TokenMask) -> Tensor:
    """Where the newest real token before each position lies, and after the last: [B, T + 1] int64.

    1 is the first position, 0 what was carried from an earlier call.
    """
    index = torch.arange(1, mask.shape[1] + 1, device=mask.device) * mask
    return F.pad(index, (1, 0)).cummax(dim=1).values


def follows(mask: TokenMask | None, starts: Tensor) -> Tensor:
    """Whether what `newest_real` finds is of the same document: before each position, and after the last.

    [B, T + 1] bool; without a mask the newest is the one before.
    """
    length = starts.shape[1]
    index = torch.arange(length + 1, device=starts.device) if mask is None else newest_real(mask)
    began = last_start(starts)
    # after the last position, where the next one would begin to look
    began = torch.cat([began, began[:, -1:] if length else began.new_full((starts.shape[0], 1), -1)], dim=1)
    return index - 1 >= began


def shift(
    x: Tensor, carry: Previous, mask: TokenMask | None, starts: Tensor | None = None
) -> tuple[Tensor, Tensor, Previous]:
    """The vectors of the real tokens before each position.

    Args:
        x: [B, T, E], each position's own vector. mask: [B, T] bool, None = all real. starts: [B, T] bool,
            True where a document begins, before which nothing came.
    Returns:
        before [B, T, E], present [B, T] bool (False where no real token came before), the next carry, which
        is no view of x: a state keeps no more alive than what it holds.
    """
    with_carry = torch.cat([carry.vector[:, None], x], dim=1)  # [B, T + 1, E]
    length = x.shape[1]
    if mask is None and starts is None:
        present = torch.cat([carry.present[:, None], carry.present.new_ones(x.shape[0], length)], dim=1)
        carry = Previous(with_carry[:, -1].clone(), present[:, -1].clone())
        return with_carry[:, :-1], present[:, :-1], carry
    if mask is None:
        seen = with_carry
        present = torch.cat([carry.present[:, None], carry.present.new_ones(x.shape[0], length)], dim=1)
    else:
        newest = newest_real(mask)
        seen = with_carry.gather(1, newest[..., None].expand(-1, -1, x.shape[2]))
        present = (newest > 0) | carry.present[:, None]
    if starts is not None:
        present = present & follows(mask, starts)
        seen = seen.where(present[..., None], 0)
    return seen[:, :-1], present[:, :-1], Previous(seen[:, -1].clone(), present[:, -1].clone())
