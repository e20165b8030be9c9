"""What every model refuses to read: ids of the wrong shape or outside the vocabulary, too many tokens."""

from collections.abc import Callable

import torch
from torch import Tensor

from unimatrix.errors import UserError, UserTypeError, shown
from unimatrix.ops.internals import mapping
from unimatrix.ops.shapes import Stream, TokenIds, TokenMask


def check_shapes(input_ids: TokenIds | None, mask: TokenMask | None) -> None:
    """Raise a UserError unless input_ids are int64 [batch, time] and the mask, if there is one, fits them."""
    _check_tensor("input_ids", input_ids, torch.int64, "token ids")
    assert input_ids is not None
    if input_ids.dim() != 2:
        raise UserError(f"input_ids: expected shape [batch, time], got {list(input_ids.shape)}")
    check_mask(mask, input_ids)


def check_embeddings(inputs_embeds: Stream, d_model: int, mask: TokenMask | None) -> None:
    """Raise a UserError unless inputs_embeds are [batch, time, d_model] and the mask fits them."""
    _check_tensor("inputs_embeds", inputs_embeds, None, "embeddings")
    if inputs_embeds.dim() != 3 or inputs_embeds.shape[2] != d_model:
        raise UserError(
            f"inputs_embeds: expected shape [batch, time, {d_model}], got {list(inputs_embeds.shape)}"
        )
    check_mask(mask, inputs_embeds)


def _check_tensor(name: str, value: object, dtype: torch.dtype | None, what: str) -> None:
    """A tensor, of a dtype; None is any floating one."""
    if isinstance(value, Tensor) and (value.is_floating_point() if dtype is None else value.dtype == dtype):
        return
    kind = "floating point" if dtype is None else str(dtype).removeprefix("torch.")
    if not isinstance(value, Tensor):
        got = "None" if value is None else f"a {type(value).__name__}"
        raise UserTypeError(f"{name}: expected a tensor of {what} ({kind}), got {got}")
    got = str(value.dtype).removeprefix("torch.")
    raise UserTypeError(f"{name}: expected {what} of dtype {kind}, got {got}")


def check_mask(mask: object, given: Tensor) -> None:
    """Raise a UserError unless the mask, if there is one, is bool [batch, time] where the inputs are."""
    _check_flags("mask", mask, "real tokens", given)


def check_starts(starts: object, given: Tensor) -> None:
    """Raise a UserError unless starts, if there are any, are bool [batch, time] where the inputs are."""
    _check_flags("starts", starts, "documents' beginnings", given)


def _check_flags(name: str, flags: object, what: str, given: Tensor) -> None:
    """None, or bool [batch, time] beside inputs [batch, time, ...]."""
    if flags is None:
        return
    _check_tensor(name, flags, torch.bool, what)
    assert isinstance(flags, Tensor)
    if flags.shape != given.shape[:2]:
        raise UserError(f"{name}: expected shape {list(given.shape[:2])}, got {list(flags.shape)}")
    if flags.device != given.device:
        raise UserError(f"{name}: expected it where the inputs are, {given.device}, got {flags.device}")


def positions_at(at: object, hidden: Stream) -> Callable[[Tensor], Tensor]:
    """What takes the asked positions of any [B, T, ...] out: see `LanguageModel.logits`.

    Raises:
        UserError: `at` names no positions of hidden [B, T, D].
    """
    batch, length = hidden.shape[:2]
    if isinstance(at, int) and not isinstance(at, bool):
        if at < 0:
            raise UserError(f"at: expected a number of last positions of at least 0, got {at}")
        return lambda x: x[:, max(0, length - at) :]
    if not isinstance(at, Tensor):
        raise UserTypeError(f"at: expected a number, or a tensor of positions or of bool, got {shown(at)}")
    if at.dtype == torch.bool:
        if at.shape != (batch, length):
            raise UserError(f"at: expected a bool for each position, {[batch, length]}, got {list(at.shape)}")
        return lambda x: x[at]
    if at.dtype != torch.int64:
        raise UserTypeError(
            f"at: expected positions of dtype int64, got {str(at.dtype).removeprefix('torch.')}"
        )
    if at.dim() not in (1, 2) or (at.dim() == 2 and len(at) != batch):
        raise UserError(f"at: expected positions [K] or [{batch}, K], got {list(at.shape)}")
    if at.numel() and may_look(at):
        low, high = (int(bound) for bound in torch.aminmax(at))
        if low < -length or high >= length:
            bad = low if low < -length else high
            raise UserError(f"at: expected positions from {-length} to {length - 1}, got {bad}")
    if at.dim() == 1:
        return lambda x: x[:, at]
    rows = torch.arange(batch, device=at.device)[:, None]
    return lambda x: x[rows, at]


def may_look(x: Tensor) -> bool:
    """Whether its values can be looked at, and cost no synchronisation."""
    return x.is_cpu and has_values(x)


def has_values(x: Tensor) -> bool:
    """Whether it has values that can be looked at, wherever it is."""
    return not (x.is_meta or torch.compiler.is_compiling() or mapping())


def check_ids(input_ids: TokenIds, vocab_size: int, *, training: bool) -> None:
    """Raise a UserError for an id outside the vocabulary, where a look at the values is free."""
    # in a compiled graph, and in training off the CPU, it would cost a synchronisation
    if input_ids.numel() == 0 or not has_values(input_ids):
        return
    if training and input_ids.device.type != "cpu":
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
    if limit is None or (not fresh and (torch.compiler.is_compiling() or mapping())):
        return
    longest = length if fresh or end.shape[0] == 0 or end.is_meta else int(end.max())
    if longest > limit:
        raise UserError(
            f"input_ids: expected at most max_positions = {limit} tokens, got {longest}; "
            "build with max_positions=None for streams of any length"
        )
