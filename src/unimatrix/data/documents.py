"""A text's documents in one stream of tokens, each behind a BOS of its own: what is read, what is asked.

Letters: N bytes, D documents, B rows, T time.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from unimatrix.data.tasks.batch import IGNORE
from unimatrix.data.tokenizer import BOS
from unimatrix.errors import UserError, UserTypeError
from unimatrix.memory import check_fits, host_bytes


def check_bytes(name: str, data: object) -> None:
    """Raise a UserError unless it is a text as bytes, a numpy array [N] of uint8."""
    if not isinstance(data, np.ndarray):
        raise UserTypeError(f"{name}: expected bytes in a numpy array of uint8, got a {type(data).__name__}")
    if data.dtype != np.uint8 or data.ndim != 1:
        raise UserError(f"{name}: expected bytes, uint8 [N], got {data.dtype} {list(data.shape)}")


def begins_of(lengths: Sequence[int]) -> np.ndarray:
    """Where documents of these lengths begin that follow each other, [D] int64."""
    each = np.asarray(lengths, dtype=np.int64)
    return each.cumsum() - each


def check_begins(begins: np.ndarray, num_bytes: int) -> None:
    """Raise a UserError unless these are positions in a text at which its documents begin, the first at 0."""
    first = begins[:1].tolist() == ([0] if num_bytes else [])
    if begins.ndim != 1 or begins.dtype != np.int64 or not first:
        raise UserError(f"begins: expected whole numbers from 0 on, got {begins.reshape(-1)[:8].tolist()}")
    if (np.diff(begins) <= 0).any() or (begins >= num_bytes).any():
        raise UserError(
            f"begins: expected rising positions below {num_bytes:,}, got {begins[:8].tolist()}"
            f"{' ...' if len(begins) > 8 else ''}"
        )


def packed(data: np.ndarray, begins: np.ndarray) -> np.ndarray:
    """A text as tokens, with a BOS before each of its documents.

    Args:
        data: [N] uint8. begins: [D] int64, where its documents begin.
    Returns:
        [N + D] int16.
    """
    check_begins(begins, len(data))
    # two bytes a token, before and after what is put in
    check_fits((len(data) + len(begins)) * 4, what=f"{len(data):,} bytes as tokens", there=host_bytes())
    return np.insert(data.astype(np.int16), begins, BOS)


class PackedBatch(NamedTuple):
    """A `Batch` whose rows hold documents; starts [B, T] bool: where they begin."""

    input_ids: Tensor
    labels: Tensor
    starts: Tensor

    @classmethod
    def of(cls, windows: Tensor) -> "PackedBatch":
        """The batch of windows [B, T + 1] of packed tokens: every byte is asked of its own document.

        A BOS begins a document and is nobody's to predict.
        """
        input_ids, labels = windows[:, :-1], windows[:, 1:]
        return cls(input_ids, labels.masked_fill(labels == BOS, IGNORE), input_ids == BOS)
