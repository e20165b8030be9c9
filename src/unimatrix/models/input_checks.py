"""What every model refuses to read: ids of the wrong shape or outside the vocabulary, too many tokens."""

import torch
from torch import Tensor

from unimatrix.errors import UserError
from unimatrix.ops.shapes import TokenIds, TokenMask


def check_shapes(input_ids: TokenIds, mask: TokenMask | None) -> None:
    """Raise a UserError unless input_ids are [batch, time] and the mask, if there is one, has their shape."""
    if input_ids.dim() != 2:
        raise UserError(f"input_ids: expected shape [batch, time], got {list(input_ids.shape)}")
    if mask is not None and mask.shape != input_ids.shape:
        raise UserError(f"mask: expected shape {list(input_ids.shape)}, got {list(mask.shape)}")


def check_ids(input_ids: TokenIds, vocab_size: int, *, training: bool) -> None:
    """Raise a UserError for an id outside the vocabulary, where a look at the values is free."""
    # in a compiled graph, and in training off the CPU, it would cost a synchronisation
    if torch.compiler.is_compiling() or (training and input_ids.device.type != "cpu"):
        return
    if input_ids.numel() == 0:
        return
    low, high = (int(bound) for bound in torch.aminmax(input_ids))
    if low < 0 or high >= vocab_size:
        bad = low if low < 0 else high
        raise UserError(f"input_ids: expected token ids from 0 to {vocab_size - 1}, got {bad}")


def check_positions(limit: int | None, length: int, end: Tensor, *, fresh: bool) -> None:
    """Raise a UserError for more tokens than the model has positions for.

    Args:
        limit: max_positions, None for no limit.
        length: T of this call. end: [B], real tokens up to its end.
        fresh: whether nothing came before and nothing is padding, so that `length` says it all.
    """
    if limit is None or (torch.compiler.is_compiling() and not fresh):
        return
    longest = length if fresh else int(end.max())
    if longest > limit:
        raise UserError(
            f"input_ids: expected at most max_positions = {limit} tokens, got {longest}; "
            "build with max_positions=None for streams of any length"
        )
