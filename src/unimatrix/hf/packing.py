"""What a caller says about where the tokens of a row stand: accepted where the model knows it, else refused.

A row is one text. Collators that pack several into one (TRL's packing and padding_free, transformers'
DataCollatorWithFlattening) say so by position ids that start again and by the documents' lengths; here the
state would run on from one document into the next.

Letters: B batch, T time.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from unimatrix.errors import UserError, UserTypeError

LENGTHS = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "seq_lengths", "seq_idx")
NAMES = ("position_ids", *LENGTHS)
_PACKED = "several documents in one row (packing, padding_free, flattening) would run into each other"


def check_one_text_a_row(given: Mapping[str, Any], *, shape: Sequence[int], mask: Any, start: Any) -> None:
    """Raise a UserError if arguments of these names say anything but that each row goes on as one text.

    Args:
        given: a forward pass's arguments, of which `NAMES` are looked at; None says nothing.
        shape: B, T. mask: [B, T] bool or None.
        start: [B], tokens before these, None for none.
    """
    for name in LENGTHS:
        if given.get(name) is not None:
            raise UserError(f"{name}: expected none, {_PACKED}")
    position_ids = given.get("position_ids")
    if position_ids is None:
        return
    if not isinstance(position_ids, Tensor) or position_ids.is_floating_point():
        raise UserTypeError(
            f"position_ids: expected a tensor of whole numbers, got {type(position_ids).__name__}"
        )
    if torch.compiler.is_compiling():
        raise UserError(
            "position_ids: expected none in a compiled or exported model, which cannot look at them"
        )
    if tuple(position_ids.shape) not in (tuple(shape), (1, shape[1])):
        raise UserError(f"position_ids: expected shape {list(shape)}, got {list(position_ids.shape)}")
    position_ids = position_ids.expand(*shape)
    real = torch.ones(*shape, dtype=torch.bool, device=position_ids.device) if mask is None else mask
    expected = real.cumsum(1) - 1
    if start is not None:
        expected = expected + start[:, None]
    wrong = (real & (position_ids != expected)).nonzero()
    if len(wrong):
        row, column = wrong[0].tolist()
        raise UserError(
            f"position_ids: expected {int(expected[row, column])} in row {row}, column {column}, as many as"
            f" there are tokens before it, got {int(position_ids[row, column])}; {_PACKED}"
        )
