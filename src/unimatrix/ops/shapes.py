"""Names for the tensors that ops and mixers exchange, and the checks that turn a wrong one into one line.

Letters, everywhere in the project:
    B batch    T time    H heads    S state dimension of a head    D model width    V vocabulary
    C chunk length    N number of chunks

The aliases are plain tensors to Python; the comment gives the shape, and the ops check it.
"""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from unimatrix.errors import NotFinite, UserError, UserTypeError, shown
from unimatrix.ops.internals import transforming, watched

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


def check_first(name: str, tensor: object, letters: str) -> None:
    """Raise a UserError unless it is a floating tensor with as many dimensions as `letters` has words."""
    _check_tensor(name, tensor)
    assert isinstance(tensor, Tensor)
    if tensor.dim() != len(letters.split(", ")):
        raise UserError(f"{name}: expected [{letters}], got {list(tensor.shape)}")
    if not tensor.is_floating_point():
        raise UserError(f"{name}: expected a floating dtype, got {tensor.dtype}")


def check_like(name: str, tensor: object, expected: tuple[int, ...], first: Tensor) -> None:
    """Raise a UserError unless it is a floating tensor of the expected shape beside `first`.

    It lies on the same device, and is not float64 where sums are float32: nothing is rounded unsaid.
    """
    if _is_plain(tensor, first.dtype, expected, first):
        return
    _check_tensor(name, tensor)
    assert isinstance(tensor, Tensor)
    if tensor.shape != expected:
        raise UserError(f"{name}: expected shape {list(expected)}, got {list(tensor.shape)}")
    if tensor.dtype is not first.dtype:
        if not tensor.is_floating_point():
            raise UserError(f"{name}: expected a floating dtype, got {tensor.dtype}")
        if tensor.dtype == torch.float64:
            raise UserError(f"{name}: expected at most float32 beside {first.dtype}, got {tensor.dtype}")
    _check_device(name, tensor, first)


def check_other(
    name: str, tensor: object, dtype: torch.dtype, expected: tuple[int, ...], first: Tensor
) -> None:
    """Raise a UserError unless it is a tensor of this dtype and shape on the device of `first`."""
    if _is_plain(tensor, dtype, expected, first):
        return
    _check_tensor(name, tensor)
    assert isinstance(tensor, Tensor)
    check_shape(name, tensor, expected)
    if tensor.dtype != dtype:
        raise UserError(f"{name}: expected dtype {str(dtype).removeprefix('torch.')}, got {tensor.dtype}")
    _check_device(name, tensor, first)


def check_positions(
    mask: TokenMask | None, starts: TokenMask | None, expected: tuple[int, int], first: Tensor
) -> None:
    """Raise a UserError unless each that is given says True or False of every position of `first`."""
    if mask is not None:
        check_other("mask", mask, torch.bool, expected, first)
    if starts is not None:
        check_other("starts", starts, torch.bool, expected, first)


def harmless(mask: TokenMask | None, x: Tensor) -> Tensor:
    """The input [B, T, ...] of an op with zeros at its masked positions; itself where there is no mask.

    Padding may hold anything, and nothing times NaN or infinity is NaN: what a form only weighs with zero
    would reach the real positions, or their gradients.
    """
    return x if mask is None else torch.where(mask.reshape(mask.shape + (1,) * (x.dim() - 2)), x, 0.0)


def check_count(name: str, value: object, high: int | None = None, *, limit: str = "") -> None:
    """Raise a UserError unless it is a whole number from 1 on, up to `high`, which `limit` may name."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise UserTypeError(f"{name}: expected a whole number, got {shown(value)}")
    if high is not None and not 1 <= value <= high:
        named = f"{limit} = {high}" if limit else high
        raise UserError(f"{name}: expected 1 to {named}, got {value}")
    if value < 1:
        raise UserError(f"{name}: expected at least 1, got {value}")


def check_tuple(name: str, value: object, kind: type) -> None:
    """Raise a UserError unless it is a `kind`, a NamedTuple."""
    if not isinstance(value, kind):
        raise UserTypeError(f"{name}: expected a {kind.__name__}, got {type(value).__name__}")


def check_retention(name: str, log: Tensor) -> None:
    """Raise a UserError that names the first retention whose log is above 0 or NaN, if there is one.

    The log itself is asked: above 0, its exponential may still be 1.
    """
    wrong = log[~(log <= 0)]
    if len(wrong):
        raise _refusal(wrong[0].item(), f"{name}: expected numbers at most 0")


def check_range(name: str, x: Tensor, low: float, high: float) -> None:
    """Raise a UserError for a number outside [low, high], or NaN, where a look at the values is free.

    Off the CPU, and in a compiled graph, it would cost a synchronisation.
    """
    if x.device.type != "cpu" or x.numel() == 0 or watched(x) or transforming():
        return
    x = x.detach()
    least, most = x.aminmax()  # NaN, if there is one; a third of the cost of all that follows
    if low <= least.item() and most.item() <= high:
        return
    wrong = ~((x >= low) & (x <= high))
    if wrong.any():
        expected = "at most 0" if high == 0 else f"from {low:g} to {high:g}"
        raise _refusal(x[wrong][0].item(), f"{name}: expected numbers {expected}")


def _refusal(number: float, expected: str) -> UserError:
    """Of NaN or infinity, which no caller chose, a NotFinite."""
    kind = UserError if math.isfinite(number) else NotFinite
    return kind(f"{expected}, got {number:g}")


def _is_plain(tensor: object, dtype: torch.dtype, expected: tuple[int, ...], first: Tensor) -> bool:
    """The usual case, in few calls: a decoding step looks at twenty tensors."""
    return (
        type(tensor) is Tensor
        and tensor.shape == expected
        and tensor.dtype is dtype
        and tensor.device == first.device
        and (torch.compiler.is_compiling() or not tensor.is_neg())
    )


def _check_tensor(name: str, tensor: object) -> None:
    if not isinstance(tensor, Tensor):
        raise UserTypeError(f"{name}: expected a tensor, got {type(tensor).__name__}")
    # of a conjugate's imaginary part: the numbers in memory have the other sign (an operator resolves it)
    if not torch.compiler.is_compiling() and tensor.is_neg():
        raise UserError(
            f"{name}: expected a tensor that holds its numbers, got a negated view (resolve_neg())"
        )


def _check_device(name: str, tensor: Tensor, first: Tensor) -> None:
    if tensor.device != first.device:
        raise UserError(f"{name}: expected a tensor on {first.device}, as the others, got {tensor.device}")


def under_autocast(device: torch.device) -> bool:
    """Whether autocast casts there; torch refuses to be asked of the meta device, which has none."""
    return device.type != "meta" and torch.is_autocast_enabled(device.type)


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Within the block sums stay in the dtype of their tensors; where autocast is off it costs nothing."""
    if not under_autocast(device):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64 inputs, float32 for everything narrower: what states and sums are kept in."""
    return torch.float64 if dtype == torch.float64 else torch.float32
