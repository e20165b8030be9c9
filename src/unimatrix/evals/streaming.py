"""Bits per byte of a whole text read as one stream, and by how much of it a model has read before a byte.

Letters: B batch, T time, D documents.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from unimatrix.errors import UserError
from unimatrix.evals.bits_per_byte import BitsPerByte, nats_of_share
from unimatrix.evals.model import check_text, evaluating, max_positions, vocab_size
from unimatrix.mixers.registry import PartConfig
from unimatrix.models.language_model import STREAM_PIECE, LanguageModelState

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
    row without a byte. window: None, or after how many bytes what `parts_that_look_back` have kept is
    forgotten. looking_back: the kinds of these parts. reads_on: whether other parts, if any, read on, so that
    positions are those in the text.
    """

    whole: BitsPerByte
    by_position: tuple[PositionBits, ...]
    window: int | None
    looking_back: tuple[str, ...]
    reads_on: bool


def stream_bits(
    model: nn.Module,
    data: np.ndarray,
    *,
    window: int | None = None,
    device: torch.device | str | None = None,
    begins: np.ndarray | None = None,
    progress: Callable[[int], None] | None = None,
) -> StreamBits:
    """Every byte of the text is predicted exactly once, from all of the text before it.

    The state is carried from piece to piece, in memory for one piece. A part whose state grows with the text
    and is looked through for every byte (attention, Assoc's memory) would never come to an end: it starts
    afresh in every window, and the other parts, such as a suffix automaton that votes, read on. A byte's
    position is counted in the text where any part reads on, else in its window.

    Args:
        model, data, device, begins: as for `bits_per_byte`; with begins a position is one in its document.
        window: how many bytes such a part looks back over, LOOK_BACK_WINDOW if None; of a model without one,
            None.
        progress: called with how many more bytes were predicted.
    Raises:
        UserError: as `bits_per_byte` does; a model with positions; a window where nothing needs one.
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
    with evaluating(model):
        carry, reads_on = _forgetting(model) if looking_back else (lambda state: state, True)
    if looking_back:
        window = LOOK_BACK_WINDOW if window is None else window
    piece = max(1, min(STREAM_PIECE, _LOGITS // (vocab_size(model) or 1)))
    counted = _ByPosition(len(data), begins, None if reads_on else window, progress)
    nats = nats_of_share(
        model,
        data,
        window=piece if window is None else window,
        batch_size=1,
        device=device,
        carry=carry,
        begins=begins,
        each=counted.add,
    )
    whole = BitsPerByte.from_nats(float(nats), len(data))
    return StreamBits(
        whole=whole, by_position=counted.rows(), window=window, looking_back=looking_back, reads_on=reads_on
    )


def _forgetting(model: Any) -> tuple[Callable[[LanguageModelState], LanguageModelState], bool]:
    """A function of a state that empties the parts that look back; whether there are others."""
    config, fresh = model.config, model.init_state(1)

    def forgets(
        parts: Mapping[str, PartConfig], state: dict[str, Any], new: dict[str, Any]
    ) -> dict[str, Any]:
        return {name: new[name] if parts[name].looks_back else left for name, left in state.items()}

    layers = [config.layers[which] for which in config.order]

    def carry(state: LanguageModelState) -> LanguageModelState:
        steps = zip(layers, state.steps, fresh.steps, strict=True)
        return LanguageModelState(
            fresh.position,
            forgets(config.parts, state.parts, fresh.parts),
            tuple(forgets(parts, left, new) for parts, left, new in steps),
        )

    kept = [config.parts[name] for name in fresh.parts]
    kept += [parts[name] for parts, new in zip(layers, fresh.steps, strict=True) for name in new]
    return carry, not all(part.looks_back for part in kept)


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
        window: int | None,
        progress: Callable[[int], None] | None,
    ) -> None:
        begins = np.zeros(1, dtype=np.int64) if begins is None else begins
        # of each document's BOS among the tokens
        self._begins = begins + np.arange(len(begins))
        self._window, self._progress = window, progress
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
        if self._window is not None:
            position = np.minimum(position, 1 + np.arange(nats.shape[1]))
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
