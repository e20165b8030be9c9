"""Packed documents: where they begin, made from what the field's collators give, and each on its own.

Letters: B rows, T time, N documents.
"""

import inspect
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from unimatrix.errors import UserError, UserTypeError, shown
from unimatrix.models.input_checks import check_mask, check_starts
from unimatrix.ops.shapes import TokenIds, TokenMask


def starts_from_cu_seqlens(
    cu_seqlens: Tensor | Sequence[int], length: int, *, name: str = "cu_seqlens"
) -> Tensor:
    """Where documents of these accumulated lengths begin in the one row that holds them, [1, T] bool.

    Args:
        cu_seqlens: [N + 1] whole numbers that rise from 0 to `length` (FlashAttention's cu_seq_lens_q).
        name: what they are called where they are wrong.
    Raises:
        UserError: they are none.
    """
    try:
        ends = torch.as_tensor(cu_seqlens)
    except (TypeError, ValueError, RuntimeError):
        ends = torch.zeros(())
    if ends.dim() != 1 or ends.is_floating_point() or ends.dtype == torch.bool:
        raise UserTypeError(f"{name}: expected whole numbers in one dimension, got {shown(cu_seqlens)}")
    ends = ends.long()
    if len(ends) < 2 or ends[0] != 0 or ends[-1] != length or (ends.diff() < 0).any():
        raise UserError(f"{name}: expected numbers that rise from 0 to {length}, got {ends.tolist()[:8]}")
    starts = torch.zeros(1, length, dtype=torch.bool, device=ends.device)
    starts[0, ends[:-1][ends.diff() > 0]] = True
    return starts


def starts_from_position_ids(position_ids: Tensor, mask: TokenMask | None = None) -> Tensor:
    """Where position ids [B, T] start again at 0: a document begins there, [B, T] bool.

    Args:
        mask: [B, T] bool, False at padding, whose position ids may be anything: no document begins there.
            Without it padding with zeros begins documents, which empties the state of what was read.
    """
    if not isinstance(position_ids, Tensor) or position_ids.dim() != 2 or position_ids.is_floating_point():
        raise UserTypeError(f"position_ids: expected whole numbers [batch, time], got {shown(position_ids)}")
    check_mask(mask, position_ids)
    return position_ids == 0 if mask is None else (position_ids == 0) & mask


def check_keeps_documents(model: nn.Module, name: str) -> None:
    """Raise a UserError about what goes by `name` for a model that reads on from document to document."""
    takes_starts = "starts" in inspect.signature(model.forward).parameters
    reads_on = getattr(model, "reads_on", [] if takes_starts else [type(model).__name__])
    if reads_on:
        raise UserError(
            f"{name}: documents in one row need a model that keeps them apart; {reads_on[0]} would read on"
            " (a part that empties its state where one begins says documents = True)"
        )


class Documents(NamedTuple):
    """Documents one a row: what is longer than the document is padding on the right."""

    ids: TokenIds  # [N, L], L the longest
    mask: TokenMask  # [N, L]
    row: Tensor  # [N] int64, the row that each was in
    begin: Tensor  # [N] int64, where it began there


def documents_apart(input_ids: TokenIds, starts: Tensor, mask: TokenMask | None = None) -> Documents:
    """The documents of packed rows [B, T], row by row, each in a row of its own.

    Reading these gives the state behind each document, `model(ids, mask=mask)[1]`: what follows padding on
    the right is what there was before it. What stands before a row's first start counts as a document too.
    """
    check_starts(starts, input_ids)
    begins = starts.clone()
    begins[:, :1] = True
    row, begin = begins.nonzero(as_tuple=True)
    length = input_ids.shape[1]
    ends = torch.cat([begin[1:], begin.new_full((1,), length)])
    last_of_row = torch.cat([row[1:] != row[:-1], row.new_ones(1, dtype=torch.bool)])
    ends = torch.where(last_of_row, length, ends)
    longest = int((ends - begin).max()) if len(row) else 0
    place = begin[:, None] + torch.arange(longest, device=begin.device)
    inside = place < ends[:, None]
    place = place.clamp_max(max(0, length - 1))
    ids = input_ids[row[:, None], place].masked_fill(~inside, 0)
    real = inside if mask is None else inside & mask[row[:, None], place]
    return Documents(ids, real, row, begin)
