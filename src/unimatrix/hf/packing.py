"""What a caller says about where the tokens of a row stand, made into where documents begin.

Collators that pack several documents into one row (TRL's packing and padding_free, transformers'
DataCollatorWithFlattening) say so by position ids that start again and by the documents' lengths, often in
several ways at once. All have to say the same.

Letters: B batch, T time.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from unimatrix.errors import UserError, UserTypeError, shown
from unimatrix.mixers.documents import positions_in_document
from unimatrix.models.documents import starts_from_cu_seqlens
from unimatrix.models.input_checks import check_starts
from unimatrix.ops.shapes import TokenMask

NAMES = (
    *("starts", "position_ids", "cu_seq_lens_q", "cu_seq_lens_k", "seq_lengths", "seq_idx"),
    *("max_length_q", "max_length_k"),
)


class _Rows(NamedTuple):
    """What is known of the tokens beside."""

    real: Tensor  # [B, T] bool
    before: Tensor  # [B] int64, tokens of the state's document


def starts_of(
    given: Mapping[str, Any], ids: Tensor, *, mask: TokenMask | None, before: Tensor | None
) -> Tensor | None:
    """Where documents begin by arguments of these names, [B, T] bool; None: each row goes on as one text.

    Args:
        given: a forward pass's arguments, of which `NAMES` are looked at; None says nothing.
        ids: [B, T] or embeddings [B, T, D].
        before: [B] int64, tokens of the state's document, None for none.
    Raises:
        UserError: one of them says nothing that can be so, or two contradict each other.
    """
    said = {name: given[name] for name in NAMES if given.get(name) is not None}
    if not said:
        return None
    check_starts(said.get("starts"), ids)
    if torch.compiler.is_compiling() and said.keys() != {"starts"}:
        name = next(name for name in said if name != "starts")
        raise UserError(
            f"{name}: expected none in a compiled or exported model, which cannot look at them; starts says"
            " where documents begin"
        )
    if said.keys() == {"starts"}:
        return said["starts"]
    real = torch.ones(ids.shape[:2], dtype=torch.bool, device=ids.device) if mask is None else mask
    rows = _Rows(real, torch.zeros_like(real[:, 0], dtype=torch.int64) if before is None else before)
    first, begins = None, None
    for name, read in _READ.items():
        if name not in said:
            continue
        found = _at_tokens(read(name, said[name], rows, begins), rows)
        if begins is not None and not torch.equal(found, begins):
            row, column = (found != begins).nonzero()[0].tolist()
            here, not_here = ("one", "none") if begins[row, column] else ("none", "one")
            raise UserError(
                f"{name}: expected the documents of {first}, with {here} that begins in row {row}, column"
                f" {column}, got {not_here}"
            )
        first, begins = first or name, found
    begins = torch.zeros_like(real) if begins is None else begins
    for name in ("max_length_q", "max_length_k"):
        if name in said:
            _check_longest(name, said[name], begins, rows)
    if "starts" in said:
        return said["starts"]
    return begins if begins.any() else None


def _at_tokens(starts: Tensor, rows: _Rows) -> Tensor:
    """Starts at their documents' first tokens; without those before which there is nothing to forget."""
    count = starts.cumsum(1)
    at_last_token = F.pad(torch.where(rows.real, count, 0).cummax(1).values, (1, 0))[:, : count.shape[1]]
    earlier = rows.real.cumsum(1) - rows.real.long() + rows.before[:, None]
    return rows.real & (count > at_last_token) & (earlier > 0)


def _of_position_ids(name: str, value: Any, rows: _Rows, _: Tensor | None) -> Tensor:
    value = _whole_numbers(name, value, rows)
    real, before = rows
    expected, _ = positions_in_document(real, None, before, real.shape[1])
    if not (real & (value != expected)).any():
        return torch.zeros_like(real)
    starts = real & (value == 0)
    expected, _ = positions_in_document(real, starts, before, real.shape[1])
    wrong = (real & (value != expected)).nonzero()
    if len(wrong):
        row, column = wrong[0].tolist()
        raise UserError(
            f"{name}: expected {int(expected[row, column])} in row {row}, column {column}, as many as there"
            " are tokens of its document before it, or 0 where a document begins, got"
            f" {int(value[row, column])}"
        )
    return starts


def _of_cu_seq_lens(name: str, value: Any, rows: _Rows, _: Tensor | None) -> Tensor:
    """The rows one behind the other are cut at these; every row begins with a document."""
    batch, length = rows.real.shape
    starts = starts_from_cu_seqlens(value, batch * length, name=name).view(batch, length)
    if length and not starts[:, 0].all():
        row = int((~starts[:, 0]).nonzero()[0])
        raise UserError(
            f"{name}: expected a document to begin with each row, got none that does with row {row}"
        )
    return starts.to(rows.real.device)


def _of_seq_lengths(name: str, value: Any, rows: _Rows, _: Tensor | None) -> Tensor:
    """Of every row its documents' lengths, which fill it, or what of it is no padding."""
    lengths = value.tolist() if isinstance(value, Tensor) else value
    batch, length = rows.real.shape
    fits = isinstance(lengths, list | tuple) and all(isinstance(row, list | tuple) for row in lengths)
    if not fits or not all(type(one) is int and one >= 0 for row in lengths for one in row):
        raise UserTypeError(f"{name}: expected each row's list of whole numbers, got {shown(value)}")
    if len(lengths) != batch:
        raise UserError(f"{name}: expected those of {batch} rows, got {len(lengths)}")
    starts = torch.zeros_like(rows.real)
    for number, of_row in enumerate(lengths):
        tokens = rows.real[number].nonzero()[:, 0]
        if sum(of_row) not in (length, len(tokens)):
            raise UserError(
                f"{name}: expected lengths that add up to the {length} tokens of row {number}, got"
                f" {list(of_row)[:8]}"
            )
        if sum(of_row) == length:
            tokens = torch.arange(length, device=rows.real.device)
        lasting = torch.tensor([one for one in of_row if one], dtype=torch.int64, device=tokens.device)
        starts[number, tokens[lasting.cumsum(0) - lasting]] = True
    return starts


def _of_seq_idx(name: str, value: Any, rows: _Rows, begins: Tensor | None) -> Tensor:
    """A document begins where the number rises; of a row's first token it says nothing, and others may."""
    value = _whole_numbers(name, value, rows).long()
    lowest = torch.iinfo(torch.int64).min
    highest = torch.where(rows.real, value, lowest).cummax(1).values
    wrong = (rows.real & (value != highest)).nonzero()
    if len(wrong):
        row, column = wrong[0].tolist()
        raise UserError(
            f"{name}: expected numbers that do not fall, got {int(value[row, column])} behind"
            f" {int(highest[row, column])} in row {row}, column {column}"
        )
    before = F.pad(highest, (1, 0), value=lowest)[:, : value.shape[1]]
    first = rows.real & (before == lowest)
    said_of_first = torch.zeros_like(first) if begins is None else first & begins
    return (rows.real & (highest > before) & ~first) | said_of_first


_READ = {
    "position_ids": _of_position_ids,
    "starts": lambda _, starts, *__: starts,
    "cu_seq_lens_q": _of_cu_seq_lens,
    "cu_seq_lens_k": _of_cu_seq_lens,
    "seq_lengths": _of_seq_lengths,
    "seq_idx": _of_seq_idx,
}


def _whole_numbers(name: str, value: Any, rows: _Rows) -> Tensor:
    """[B, T], of every row or of all the same."""
    if not isinstance(value, Tensor) or value.is_floating_point() or value.dtype == torch.bool:
        raise UserTypeError(f"{name}: expected a tensor of whole numbers, got {type(value).__name__}")
    batch, length = rows.real.shape
    if tuple(value.shape) not in ((batch, length), (1, length)):
        raise UserError(f"{name}: expected shape {[batch, length]}, got {list(value.shape)}")
    return value.expand(batch, length).to(rows.real.device)


def _check_longest(name: str, value: Any, begins: Tensor, rows: _Rows) -> None:
    """No document may be longer than what a kernel would make room for."""
    number = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
    if type(number) is not int:
        raise UserTypeError(f"{name}: expected a whole number, got {shown(value)}")
    counts = torch.zeros_like(begins, dtype=torch.int64)
    counts = F.pad(counts, (0, 1)).scatter_add(1, begins.cumsum(1), rows.real.long())
    longest = int(counts.max()) if counts.numel() else 0
    if number < longest:
        raise UserError(
            f"{name}: expected at least {longest}, the tokens of the longest document, got {number}"
        )
