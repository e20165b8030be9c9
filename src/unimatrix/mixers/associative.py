"""UniMatrix-Assoc's memory: causal cosine attention over all earlier positions, read as what followed them.

Letters: B batch, T new tokens, P bindings so far, D model width.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimatrix.data.settings import check_types
from unimatrix.errors import UserError
from unimatrix.mixers.initial import draw_children
from unimatrix.mixers.layout import kept
from unimatrix.mixers.part import Part, Role, Size
from unimatrix.mixers.previous import Previous, none_before, previous_layout, shift
from unimatrix.mixers.registry import PartConfig
from unimatrix.ops.shapes import Stream, TokenMask
from unimatrix.ops.windows import document_ids

_EPS = 1e-12  # on the mean square: a vector of zeros stays one


class AssociativeState(NamedTuple):
    """Every binding so far (the key of a token, the value of the next one): grows with the text."""

    keys: Tensor  # [B, P, D], of mean square 1
    values: Tensor  # [B, P, D]
    valid: Tensor | None  # [B, P] bool, False = padding or nothing before it; None = all valid
    previous: Previous


class AssociativeMemory(Part):
    """c_t = sum over i < t of softmax(tau cos(q_t, kappa_i)) nu_{i+1}, times a gate: eq. (7) to (11).

    Position i is read as what followed it, nu_{i+1}, which is the token at t itself for i = t - 1. The
    first token reads zeros. tau is fixed.
    """

    def __init__(self, d_model: int, *, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        # W_q, W_kappa, W_nu and the gate's weights in one product; only the gate has a bias
        self.qkvg = nn.Linear(d_model, 4 * d_model, bias=False)
        self.gate_bias = nn.Parameter(torch.zeros(d_model))

    @torch.no_grad()
    def init_weights(self, std: float) -> None:
        """Draw the projections from N(0, std); the gate starts half open."""
        draw_children(self, std)
        nn.init.zeros_(self.gate_bias)

    def state_layout(self) -> Any:
        width = self.gate_bias.shape[0]
        bindings = kept((None, width), "stream")
        valid = kept((None,), torch.bool, optional=True)
        return AssociativeState(bindings, bindings, valid, previous_layout(width))

    def forward(
        self,
        u: Stream,
        state: AssociativeState | None = None,
        *,
        mask: TokenMask | None = None,
        starts: Tensor | None = None,
    ) -> tuple[Stream, AssociativeState]:
        """[B, T, D] to the gated context [B, T, D]; masked positions bind nothing."""
        query, key, value, gate = self.qkvg(u).chunk(4, dim=-1)
        # both to a mean square of 1, one kernel each; the D of their product is in the softmax's scale
        query, key = (F.rms_norm(part, part.shape[-1:], eps=_EPS) for part in (query, key))
        if starts is not None and u.shape[1] > 0:
            context, state = self._read_masked(query, key, value, state, mask, starts)
        elif mask is None and state is None and u.shape[1] > 0:
            context, state = self._read_fresh(query, key, value)
        elif mask is None and state is not None and state.valid is None:
            context, state = self._read_on(query, key, value, state)
        else:
            context, state = self._read_masked(query, key, value, state, mask)
        return torch.sigmoid(gate + self.gate_bias) * context, state

    def _attend(
        self, query: Tensor, keys: Tensor, values: Tensor, allowed: Tensor | None, *, causal: bool = False
    ) -> Tensor:
        """Softmax attention of one head; `allowed` [B or 1, T, P] bool, None = all, or the causal half."""
        mask = None if allowed is None else allowed[:, None]
        parts = (query[:, None], keys[:, None], values[:, None])
        return F.scaled_dot_product_attention(
            *parts, attn_mask=mask, is_causal=causal, scale=self.temperature / query.shape[-1]
        )[:, 0]

    def _read_fresh(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, AssociativeState]:
        """A text from its beginning, no padding: position t reads the bindings (i, i + 1) for all i < t."""
        keys, values = key[:, :-1], value[:, 1:]
        present = key.new_ones(key.shape[0], dtype=torch.bool)
        # keys and the last one share what they lie in; the values' other neighbours are not kept alive
        state = AssociativeState(keys, values.clone(), None, Previous(key[:, -1], present))
        if query.shape[1] == 1:
            return torch.zeros_like(value), state
        return F.pad(self._attend(query[:, 1:], keys, values, None, causal=True), (0, 0, 1, 0)), state

    def _read_on(
        self, query: Tensor, key: Tensor, value: Tensor, state: AssociativeState
    ) -> tuple[Tensor, AssociativeState]:
        """A continuation, no padding anywhere."""
        length, past = query.shape[1], state.keys.shape[1]
        before, _, carry = shift(key, state.previous, None)
        keys = torch.cat([state.keys, before], dim=1)
        values = torch.cat([state.values, value], dim=1)
        allowed = None
        if length > 1:
            steps = torch.arange(length, device=query.device)
            allowed = torch.arange(past + length, device=query.device) <= past + steps[:, None]
            allowed = allowed[None]
        return self._attend(query, keys, values, allowed), AssociativeState(keys, values, None, carry)

    def _read_masked(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        state: AssociativeState | None,
        mask: TokenMask | None,
        starts: Tensor | None = None,
    ) -> tuple[Tensor, AssociativeState]:
        """Every position is a binding, valid or not: rows may differ in their padding and documents."""
        batch, length, _ = query.shape
        real = query.new_ones(batch, length, dtype=torch.bool) if mask is None else mask
        if state is None:
            keys, values, carry = key[:, :0], value[:, :0], none_before(key)
            valid = real[:, :0]
        else:
            keys, values, carry = state.keys, state.values, state.previous
            valid = real.new_ones(keys.shape[:2]) if state.valid is None else state.valid
        before, present, carry = shift(key, carry, mask, starts)
        past = keys.shape[1]
        keys = torch.cat([keys, before], dim=1)
        values = torch.cat([values, value], dim=1)
        valid = torch.cat([valid, present & real], dim=1)  # [B, P + T]
        steps = torch.arange(length, device=query.device)
        causal = torch.arange(past + length, device=query.device) <= past + steps[:, None]  # [T, P + T]
        allowed = causal & valid[:, None]
        if starts is not None:
            ids = document_ids(starts)
            of_key = F.pad(ids, (past, 0))  # what came before is of the document that goes on
            allowed = allowed & (of_key[:, None] == ids[..., None])
            valid = valid & (of_key == ids[:, -1:])  # nothing later belongs to another one
        found = allowed.any(-1, keepdim=True)  # a softmax over nothing is NaN: such rows read zeros
        read = self._attend(query, keys, values, allowed | ~found) if length else value
        return read * found, AssociativeState(keys, values, valid, carry)


@dataclass(frozen=True, kw_only=True, slots=True)
class AssociativeMemoryConfig(PartConfig):
    """Cosine attention over all earlier positions, beside a layer's mixer.

    temperature: tau, what cosines are multiplied by before the softmax.
    """

    kind: ClassVar[str] = "associative"
    role: ClassVar[Role] = "mix"
    documents: ClassVar[bool] = True
    grows: ClassVar[bool] = True
    temperature: float = 4.0

    def __post_init__(self) -> None:
        check_types(self)
        if not self.temperature > 0.0:
            raise UserError(f"temperature: expected a positive number, got {self.temperature}")

    def build(self, size: Size) -> AssociativeMemory:
        return AssociativeMemory(size.d_model, temperature=self.temperature)

    def multiply_adds(self, size: Size, length: int) -> int:
        return length * (length + 1) // 2 * 2 * size.d_model  # scores and sums over the causal half
