"""Names for the tensors that ops and mixers exchange, and the checks that turn a wrong one into one line.

Letters, everywhere in the project:
    B batch    T time    H heads    S state dimension of a head    D model width    V vocabulary
    C chunk length    N number of chunks

The aliases are plain tensors to Python; the comment gives the shape, and the ops check it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from unimatrix.errors import UserError

HeadVectors = Tensor  # [B, T, H, S]
HeadScalars = Tensor  # [B, T, H]
RuleWeights = Tensor  # [B, T, H, 3]
MatrixState = Tensor  # [B, H, S, S], or [B, H, S, R] where it binds vectors of two widths
TokenMask = Tensor  # [B, T] bool, True = a real token
TokenIds = Tensor  # [B, T] int64
Stream = Tensor  # [B, T, D]


def check_shape(name: str, tensor: Tensor, expected: Sequence[int]) -> None:
    """Raise a UserError that names the argument, what was expected and what came."""
    if tuple(tensor.shape) != tuple(expected):
        raise UserError(f"{name}: expected shape {list(expected)}, got {list(tensor.shape)}")


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64 inputs, float32 for everything narrower: what states and sums are kept in."""
    return torch.float64 if dtype == torch.float64 else torch.float32
