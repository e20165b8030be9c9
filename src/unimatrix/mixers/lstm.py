"""torch's own LSTM as a mixer: a peer that every table of language models once began with.

Letters: B batch, T time, D model width, W width of the cell.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from unimatrix.data.settings import check_counts, check_types
from unimatrix.mixers.initial import draw_weights
from unimatrix.mixers.layout import kept
from unimatrix.mixers.part import Part, Role, Size
from unimatrix.mixers.registry import PartConfig
from unimatrix.ops.shapes import Stream, TokenMask, under_autocast, without_autocast


class LSTMState(NamedTuple):
    """What the cell gave and what it keeps: one size however long the text."""

    hidden: Tensor  # [B, W]
    cell: Tensor  # [B, W]


class LSTMMixer(Part):
    """y = W_o h, with h of `torch.nn.LSTM`, one layer; its weights start as torch draws them.

    Where there is padding, or a document begins, it goes token by token: torch's own loop knows of neither.
    """

    def __init__(self, d_model: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.lstm = nn.LSTM(d_model, width, batch_first=True)
        self.readout = nn.Linear(width, d_model)

    @torch.no_grad()
    def init_weights(self, std: float) -> None:
        """Draw the cell's weights as torch does, from +- 1 / sqrt(W), and the readout's from N(0, std)."""
        self.lstm.reset_parameters()
        draw_weights(self.readout, std)

    def state_layout(self) -> Any:
        return LSTMState(kept((self.width,), "stream"), kept((self.width,), "stream"))

    def forward(
        self,
        u: Stream,
        state: LSTMState | None = None,
        *,
        mask: TokenMask | None = None,
        starts: Tensor | None = None,
    ) -> tuple[Stream, LSTMState]:
        """[B, T, D] to [B, T, D] and the next state."""
        if state is None:
            state = LSTMState(*(u.new_zeros(u.shape[0], self.width) for _ in LSTMState._fields))
        if u.shape[1] == 0:
            return torch.zeros_like(u), LSTMState(*(x.clone() for x in state))  # the caller's own
        if mask is None and starts is None:
            h, state = self._read(u, state)
            return self.readout(h), state
        outputs = []
        for t in range(u.shape[1]):
            if starts is not None:
                state = _where(starts[:, t], LSTMState(*map(torch.zeros_like, state)), state)
            h, after = self._read(u[:, t : t + 1], state)
            state = after if mask is None else _where(mask[:, t], after, state)
            outputs.append(h)
        return self.readout(torch.cat(outputs, dim=1)), state

    def _read(self, u: Stream, state: LSTMState) -> tuple[Tensor, LSTMState]:
        """The cell's outputs [B, T, W] and its state; torch's has a layer in front."""
        device = u.device
        if (
            device.type == "cpu"
            and under_autocast(device)
            and torch.get_autocast_dtype("cpu") == torch.float16
        ):
            # torch's cell cannot be cast to it there
            dtype = next(self.lstm.parameters()).dtype
            with without_autocast(device):
                return self._read(u.to(dtype), LSTMState(*(x.to(dtype) for x in state)))
        h, (hidden, cell) = self.lstm(u, (state.hidden[None], state.cell[None]))
        return h, LSTMState(hidden[0], cell[0])


def _where(chosen: Tensor, one: LSTMState, other: LSTMState) -> LSTMState:
    """Row by row, [B] bool."""
    pairs = zip(one, other, strict=True)
    return LSTMState(*(torch.where(chosen[:, None], *pair) for pair in pairs))


@dataclass(frozen=True, kw_only=True, slots=True)
class LSTMConfig(PartConfig):
    """An LSTM as torch has it, and a projection back to the stream.

    width: of the cell; None is the model's.
    """

    kind: ClassVar[str] = "lstm"
    role: ClassVar[Role] = "mix"
    documents: ClassVar[bool] = True
    width: int | None = None

    def __post_init__(self) -> None:
        check_types(self)
        check_counts(self, "width")

    def build(self, size: Size) -> LSTMMixer:
        return LSTMMixer(size.d_model, self.width or size.d_model)

    def multiply_adds(self, size: Size, length: int) -> int:
        # what is counted beside these are the products of nn.Linear alone, and the cell has none: each of
        # its four gates is a product with the input and one with its last output; three more join the gates
        width = self.width or size.d_model
        return length * (4 * width * (size.d_model + width) + 3 * width)
