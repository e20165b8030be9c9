"""Bits per byte of a whole text read as one stream, and by how much of it a model has read before a byte.

Letters: B batch, T time, D documents.
"""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from unimatrix.data.settings import check_stride
from unimatrix.errors import UserError
from unimatrix.evals.bits_per_byte import BitsPerByte, check_size, nats_of_share
from unimatrix.evals.model import check_text, evaluating, max_positions, vocab_size
from unimatrix.mixers.registry import PartConfig
from unimatrix.models.language_model import STREAM_PIECE, LanguageModelState
from unimatrix.ops.shapes import TokenIds

# what a model with `parts_that_look_back` reads at a time, where no other number is asked for
LOOK_BACK_WINDOW = 4096
# bytes in the first row of what is counted by position; each further row has twice as many positions
FIRST_POSITIONS = 128
# how many logits of a stream are made in one call
_LOGITS = 2**23


@dataclass(frozen=True, kw_only=True, slots=True)
class PositionBits:
    """Bits per byte of the bytes before which a model has read first..last tokens, BOS among them."""

    first: int
    last: int
    num_bytes: int
    bpb: float


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamBits:
    """What a text costs a model that reads it as one stream.

    whole: of all bytes. by_position: of those that follow 1 to 128 tokens, 129 to 256, 257 to 512, ...; no
    row without a byte. window: None, or how many bytes `parts_that_look_back` look back over at most.
    stride: None, or after how many bytes they forget what they kept and read the last window - stride again.
    looking_back: the kinds of these parts. reads_on: whether other parts, if any, read on, so that positions
    are those in the text.
    """

    whole: BitsPerByte
    by_position: tuple[PositionBits, ...]
    window: int | None
    stride: int | None
    looking_back: tuple[str, ...]
    reads_on: bool


def stream_bits(
    model: nn.Module,
    data: np.ndarray,
    *,
    window: int | None = None,
    stride: int | None = None,
    device: torch.device | str | None = None,
    begins: np.ndarray | None = None,
    progress: Callable[[int], None] | None = None,
) -> StreamBits:
    """Every byte of the text is predicted exactly once, from all of the text before it.

    The state is carried from piece to piece, in memory for one piece. A part whose state grows with the text
    and is looked through for every byte (attention, Assoc's memory) would never come to an end: it starts
    afresh in every window, and the other parts, such as a suffix automaton that votes, read on. A byte's
    position is counted in the text where any part reads on, else in its window.

    Windows lie side by side, so that the first byte of each follows one token there. With a stride they
    overlap: behind the first window every byte follows window - stride + 1 to window tokens (fewer where its
    document begins), and the text costs about window / stride times as much. For what overlaps the model runs
    again, from the state that its other parts had there, and of what it leaves these parts' state alone is
    kept: no other one has read a byte of the stream twice. An automaton that routes to layers is built anew
    for each stride, which is slow in a long text; one that votes alone stays out of it.

    Args:
        model, data, device, begins: as for `bits_per_byte`; with begins a position is one in its document.
        window: how many bytes such a part looks back over, LOOK_BACK_WINDOW if None; of a model without one,
            None.
        stride: after how many bytes a window begins; a divisor of the window. None is the window itself.
        progress: called with how many more bytes were predicted.
    Raises:
        UserError: as `bits_per_byte` does; a model with positions; a window or a stride where nothing needs
            one; a stride that does not divide the window.
    """
    check_text(data)
    if max_positions(model) is not None:
        raise UserError(
            f"model: expected max_positions None, as a stream has no end, got {max_positions(model)}"
        )
    looking_back = parts_that_look_back(model)
    if window is not None and not looking_back:
        raise UserError(
            f"window: expected none, as this model reads the whole text as one stream, got {window}"
        )
    if stride is not None and not looking_back:
        raise UserError(f"stride: expected none, as no part of this model has a window, got {stride}")
    piece = max(1, min(STREAM_PIECE, _LOGITS // (vocab_size(model) or 1)))
    carry: Callable[..., Any] = _keep
    reads_on, overlap = True, 0
    if looking_back:
        window = check_size("window", LOOK_BACK_WINDOW if window is None else window)
        piece = window if stride is None else check_size("stride", stride)
        check_stride("stride", piece, window=window)
        overlap = window - piece
        with evaluating(model):
            carry = _Forgetting(model, again=min(overlap // piece, len(data)))
        reads_on = carry.reads_on
    counted = _ByPosition(len(data), begins, None if reads_on else overlap, progress)
    nats = nats_of_share(
        model, data, window=piece, batch_size=1, device=device, carry=carry, begins=begins, each=counted.add
    )
    return StreamBits(
        whole=BitsPerByte.from_nats(float(nats), len(data)),
        by_position=counted.rows(),
        window=window,
        stride=stride,
        looking_back=looking_back,
        reads_on=reads_on,
    )


def _keep(state: Any, _input_ids: TokenIds, _starts: torch.Tensor | None) -> Any:
    return state


class _Piece(NamedTuple):
    """What was read at once, and the state that it will be read from again."""

    state: LanguageModelState
    input_ids: TokenIds  # [1, T]
    starts: torch.Tensor | None  # [1, T]


class _Forgetting:
    """Makes of the state that a piece left the one that the next piece is read from.

    The parts that look back are emptied, and read the last `again` pieces once more. As long as there were no
    more than these, nothing is forgotten.
    """

    def __init__(self, model: Any, *, again: int) -> None:
        self._model, self._again = model, again
        self._fresh = self._next = model.init_state(1)
        self._config = model.config
        self._layers = [self._config.layers[which] for which in self._config.order]
        self._pieces: deque[_Piece] = deque(maxlen=again)
        self._read = 0  # pieces
        steps = zip(self._layers, self._fresh.steps, strict=True)
        kept = [self._config.parts[name] for name in self._fresh.parts]
        kept += [parts[name] for parts, new in steps for name in new]
        self.reads_on = not all(part.looks_back for part in kept)

    def __call__(
        self, left: LanguageModelState, input_ids: TokenIds, starts: torch.Tensor | None
    ) -> LanguageModelState:
        if self._again:
            # no keys and values are held for it. What speaks to no layer tells those that look back nothing:
            # an index of the text, which is slow to take back to where it was, stays out of it too
            before = self._mixed(self._fresh, self._next, by=lambda one: _looks_back(one) or _only_votes(one))
            self._pieces.append(_Piece(before, input_ids, starts))
        self._read += 1
        if self._read > self._again:
            left = self._mixed(self._read_again() if self._again else self._fresh, left, by=_looks_back)
        self._next = left
        return left

    def _read_again(self) -> LanguageModelState:
        """What is left of the last pieces, read by themselves."""
        input_ids = torch.cat([one.input_ids for one in self._pieces], 1)
        starts = [one.starts for one in self._pieces if one.starts is not None]
        documents = {"starts": torch.cat(starts, 1)} if starts else {}
        # 0: no logits are made
        return self._model(input_ids, self._pieces[0].state, logits_at=0, **documents)[1]

    def _mixed(
        self, taken: LanguageModelState, other: LanguageModelState, *, by: Callable[[PartConfig], bool]
    ) -> LanguageModelState:
        """Of the one state the parts for which `by` holds, of the other the rest."""

        def mixed(
            parts: Mapping[str, PartConfig], one: dict[str, Any], two: dict[str, Any]
        ) -> dict[str, Any]:
            return {name: one[name] if by(parts[name]) else two[name] for name in two}

        steps = zip(self._layers, taken.steps, other.steps, strict=True)
        return LanguageModelState(
            taken.position,
            mixed(self._config.parts, taken.parts, other.parts),
            tuple(mixed(*step) for step in steps),
        )


def _looks_back(part: PartConfig) -> bool:
    return part.looks_back


def _only_votes(part: PartConfig) -> bool:
    """Whether all it does is to vote on what comes next, which no layer hears of."""
    return part.gives == {"votes"}


def parts_that_look_back(model: nn.Module) -> tuple[str, ...]:
    """The kinds of a model's parts to which a byte costs more the more was read: their state grows.

    A suffix automaton's grows too, but is appended to, and read on from at the same cost.
    """
    config = getattr(model, "config", None)
    parts = getattr(config, "all_parts", {}).values()
    return tuple(dict.fromkeys(part.kind for part in parts if part.looks_back))


class _ByPosition:
    """Nats and bytes by how many tokens came before, rows of twice as many positions each."""

    def __init__(
        self,
        num_bytes: int,
        begins: np.ndarray | None,
        overlap: int | None,
        progress: Callable[[int], None] | None,
    ) -> None:
        """overlap: of windows by whose positions is counted; None: by those in the text."""
        begins = np.zeros(1, dtype=np.int64) if begins is None else begins
        # of each document's BOS among the tokens
        self._begins = begins + np.arange(len(begins))
        self._overlap, self._progress = overlap, progress
        rows = max(0, (num_bytes - 1).bit_length() - FIRST_POSITIONS.bit_length() + 1) + 1
        self._last = FIRST_POSITIONS << np.arange(rows)
        self._nats, self._bytes = np.zeros(rows), np.zeros(rows, dtype=np.int64)

    def add(self, nats: torch.Tensor, first: np.ndarray) -> None:
        """Count nats [B, T] of windows whose first inputs are these tokens, [B]."""
        targets = first[:, None] + 1 + np.arange(nats.shape[1])
        document = np.searchsorted(self._begins, targets, side="right") - 1
        # 0 for a BOS, which nobody predicts
        position = targets - self._begins[document]
        asked = position > 0
        if self._overlap is not None:
            position = np.minimum(position, 1 + self._overlap + np.arange(nats.shape[1]))
        row = np.searchsorted(self._last, position[asked])
        self._nats += np.bincount(row, nats.double().cpu().numpy()[asked], len(self._last))
        self._bytes += np.bincount(row, minlength=len(self._last))
        if self._progress is not None:
            self._progress(int(asked.sum()))

    def rows(self) -> tuple[PositionBits, ...]:
        first = [1, *(int(last) + 1 for last in self._last[:-1])]
        return tuple(
            PositionBits(
                first=begin,
                last=int(end),
                num_bytes=int(num),
                bpb=BitsPerByte.from_nats(float(nats), int(num)).bpb,
            )
            for begin, end, num, nats in zip(first, self._last, self._bytes, self._nats, strict=True)
            if num
        )
