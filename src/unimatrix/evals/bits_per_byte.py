"""Bits per byte of a language model over a whole text.

N bytes in the text, W window length in targets, B windows per forward pass.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from unimatrix.data.documents import PackedBatch, packed
from unimatrix.data.tasks import IGNORE
from unimatrix.errors import NotFinite, UserError, UserTypeError, shown
from unimatrix.evals.model import (
    check_finite,
    check_text,
    device_of,
    evaluating,
    max_positions,
    memory_of,
    sum_dtype,
    vocab_size,
)
from unimatrix.memory import check_fits
from unimatrix.models.documents import check_keeps_documents


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class BitsPerByte:
    """What a text costs under a model.

    bpb: bits per byte, nats / (ln 2 * num_bytes).
    perplexity: per byte, 2 ** bpb; None where that is too large for a number.
    nats: negative log-likelihood of the whole text, natural log.
    num_bytes: how many bytes were predicted.
    """

    bpb: float
    perplexity: float | None
    nats: float
    num_bytes: int

    @classmethod
    def from_nats(cls, nats: float, num_bytes: int) -> "BitsPerByte":
        """The rates of a sum.

        Raises:
            NotFinite: the loss is not finite, as of a model whose weights are not.
        """
        per_byte = nats / num_bytes
        check_finite(per_byte, unit="byte")
        try:
            perplexity = math.exp(per_byte)
        except OverflowError:
            perplexity = None
        return cls(bpb=per_byte / math.log(2.0), perplexity=perplexity, nats=nats, num_bytes=num_bytes)


def rates_text(bpb: float, perplexity: float | None) -> str:
    """Both rates of a text in words."""
    words = "too large for a number" if perplexity is None else f"{perplexity:.3f} per byte"
    return f"{bpb:.4f} bits per byte, perplexity {words}"


def bits_per_byte(
    model: nn.Module,
    data: np.ndarray,
    *,
    window: int,
    batch_size: int = 32,
    device: torch.device | str | None = None,
    begins: np.ndarray | None = None,
) -> BitsPerByte:
    """Every byte of the text is predicted exactly once, from the bytes before it in its window.

    Windowing: one BOS stands before the first byte; then the text is cut into consecutive windows of `window`
    targets, side by side, the last one shorter. Each window starts from an empty state, and its first input
    is the byte before its first target (BOS in the first window), so that a byte sees between 1 and `window`
    tokens of context. No byte is left out and none is counted twice. (`stream_bits` reads a text as one.)

    With begins the text is documents, each behind a BOS of its own that is read and not predicted
    (`unimatrix.data.documents`): windows are cut from these tokens, and no byte sees another document's.

    The model is put into evaluation mode and back; log-likelihoods are added up in float64.

    Args:
        model: `model(input_ids [B, T], state) -> (logits [B, T, V], state)`, V >= 257.
        data: [N] uint8.
        window: W >= 1; at most the model's max_positions.
        batch_size: windows per forward pass; it changes nothing but rounding.
        device: where to compute; None is where the model is. The model itself is not moved.
        begins: [D] int64, where the text's documents begin; None reads it as one text.
    Raises:
        UserError: no text, a size that is not positive, a window longer than the model's positions, or
            begins with a model that keeps no documents apart.
    """
    check_text(data)
    total = nats_of_share(model, data, window=window, batch_size=batch_size, device=device, begins=begins)
    return BitsPerByte.from_nats(float(total), len(data))


def nats_of_share(
    model: nn.Module,
    data: np.ndarray,
    *,
    window: int,
    batch_size: int,
    device: torch.device | str | None = None,
    carry: Callable[[Any, torch.Tensor, torch.Tensor | None], Any] | None = None,
    begins: np.ndarray | None = None,
    share: tuple[int, int] = (0, 1),
    each: Callable[[torch.Tensor, np.ndarray], None] | None = None,
) -> torch.Tensor:
    """The nats of one process's share of the windows; summed over all shares, those of the whole text.

    Args:
        share: (r, n): the r-th of n shares, every n-th batch of windows. Others as for `bits_per_byte`.
        carry: the windows are the pieces of one stream, read one after the other, each from what this makes
            of the state that the one before it left, and of what was read there, its tokens [1, T] and where
            documents begin among them; of one share alone. None: each from an empty state.
        each: called with every batch's nats [B, T], 0 for a BOS, and where in the text's tokens, BOS among
            them, each window's first input lies, [B].
    Returns:
        [] float64 on the model's device (float32 on MPS, which has no float64). NaN where the model refuses
        numbers that it has come to.
    """
    limit = max_positions(model)
    window = check_size("window", window, limit=limit)
    batch_size = check_size("batch_size", batch_size)
    if carry is not None and (share[1], batch_size) != (1, 1):
        raise UserError(f"carry: expected windows one at a time in 1 share, got {batch_size} and {share[1]}")
    where = torch.device(device) if device is not None else device_of(model)
    # logits and log-probabilities, float32
    tokens = min(batch_size * window, len(data))
    check_fits(
        tokens * (vocab_size(model) or 0) * 8,
        what=f"batch_size {batch_size:,}, window {window:,}: {tokens:,} bytes of text at a time",
        there=memory_of(where),
    )
    if begins is not None:
        check_keeps_documents(model, "begins")
    stream = packed(data, np.arange(min(1, len(data))) if begins is None else begins)
    total = torch.zeros((), dtype=sum_dtype(where), device=where)
    with evaluating(model):
        read: tuple[Any, ...] | None = None  # the window before, with the state that it left
        for index, (first, windows) in enumerate(_windows(stream, window, batch_size)):
            if index % share[1] != share[0]:
                continue
            input_ids, labels, starts = PackedBatch.of(torch.from_numpy(windows).to(where))
            # of one text nothing is said: it may be read by any model
            try:
                state = None if carry is None or read is None else carry(*read)
                given = model(input_ids, state, **({} if begins is None else {"starts": starts}))
            except NotFinite:
                # told by the sum, of which every process hears: none waits for another's
                return total.fill_(torch.nan)
            if not isinstance(given, tuple) or len(given) != 2:
                raise UserTypeError(
                    f"model: expected one that gives (logits, state), got a {type(given).__name__} of "
                    f"{type(model).__name__}; of a model of Hugging Face's form take its language_model"
                )
            logits, left = given
            read = None if carry is None else (left, input_ids, None if begins is None else starts)
            losses = F.cross_entropy(
                logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORE, reduction="none"
            )
            total += losses.to(total.dtype).sum()
            if each is not None:
                each(losses.unflatten(0, labels.shape), first)
    return total


def check_size(name: str, size: Any, *, limit: int | None = None) -> int:
    """A whole number of at least 1, and at most the model's positions; raises a UserError otherwise."""
    if isinstance(size, bool) or not hasattr(size, "__index__"):
        raise UserTypeError(f"{name}: expected a whole number, got {shown(size)}")
    if size < 1 or (limit is not None and size > limit):
        upper = "" if limit is None else f" and at most the model's {limit} positions"
        raise UserError(f"{name}: expected at least 1{upper}, got {size}")
    return int(size)


def _windows(tokens: np.ndarray, window: int, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Where windows begin, [B], and [B, T + 1] int64: T targets and the token before them.

    T = window but in the last, shorter one.
    """
    length = len(tokens) - 1
    # one window holds any shorter text
    window = min(window, max(1, length))
    num_full = length // window
    offsets = np.arange(window + 1)
    for first in range(0, num_full, batch_size):
        starts = np.arange(first, min(first + batch_size, num_full)) * window
        yield starts, tokens[starts[:, None] + offsets].astype(np.int64)
    if length % window:
        yield np.array([num_full * window]), tokens[None, num_full * window :].astype(np.int64)
