"""Causal multi-head self-attention with a key-value cache: the Transformer baseline's mixer.

Letters: B batch, T new tokens, P tokens in the cache, H heads, E = D / H head width, D model width.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimatrix.data.settings import check_counts, check_types
from unimatrix.errors import UserError
from unimatrix.mixers.documents import positions_in_document
from unimatrix.mixers.layout import kept
from unimatrix.mixers.part import Part, Role, Size
from unimatrix.mixers.registry import PartConfig
from unimatrix.ops.shapes import Stream, TokenMask
from unimatrix.ops.windows import document_ids

_EPS = 1e-12  # on the mean square: a vector of zeros stays one


class AttentionState(NamedTuple):
    """Keys and values of every token so far: grows with the text."""

    k: Tensor  # [B, H, P, E]
    v: Tensor  # [B, H, P, E]
    real: Tensor | None  # [B, P] bool, False = padding; None = all real


class CausalAttention(Part):
    """q, k, v in one projection, PyTorch's scaled_dot_product_attention, an output projection; all with bias.

    Raises a UserError when num_heads does not divide d_model. The settings: see `AttentionConfig`.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        *,
        qkv_init: Literal["normal", "xavier"] = "normal",
        rotary_base: float | None = None,
        qk_norm: bool = False,
    ) -> None:
        super().__init__()
        if d_model % num_heads:
            raise UserError(f"num_heads: expected a divisor of d_model = {d_model}, got {num_heads}")
        self.num_heads = num_heads
        self.qkv_init = qkv_init
        self.rotary_base = rotary_base
        self.qk_norm = qk_norm
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)

    def draw_last(self) -> None:
        if self.qkv_init == "xavier":
            nn.init.xavier_uniform_(self.qkv.weight)

    def state_layout(self) -> Any:
        heads = kept((self.num_heads, None, self.out.in_features // self.num_heads), "stream")
        return AttentionState(heads, heads, kept((None,), torch.bool, optional=True))

    def forward(
        self,
        x: Stream,
        state: AttentionState | None = None,
        *,
        mask: TokenMask | None = None,
        starts: Tensor | None = None,
    ) -> tuple[Stream, AttentionState]:
        """[B, T, D] to [B, T, D]; a masked (False) position is no key for any other one."""
        batch, length, width = x.shape
        split = (batch, length, 3, self.num_heads, width // self.num_heads)
        q, k, v = self.qkv(x).view(split).permute(2, 0, 3, 1, 4).unbind()  # [B, H, T, E]
        turned = self.qk_norm or self.rotary_base is not None
        if self.qk_norm:
            q, k = (F.rms_norm(x, x.shape[-1:], eps=_EPS) for x in (q, k))
        if self.rotary_base is not None:
            q, k = _rotated(q, k, _positions(state, mask, starts, x), self.rotary_base)
        real = None if mask is None else mask.clone()
        past = 0
        if state is None:
            # as views they would keep the projection of the queries alive; turned keys are none of it
            k = k.contiguous() if turned else k.clone(memory_format=torch.contiguous_format)
            v = v.clone(memory_format=torch.contiguous_format)
        else:
            past = state.k.shape[2]
            k = torch.cat([state.k, k], dim=2)
            v = torch.cat([state.v, v], dim=2)
            real = _join_masks(state.real, mask, x.new_empty(batch, past), x.new_empty(batch, length))
        if starts is not None and length:
            ids = document_ids(starts)
            of_key = F.pad(ids, (past, 0))  # what came before is of the document that goes on
            allowed = _allowed(past, length, real, x.device)
            allowed = allowed & (of_key[:, None, None] == ids[:, None, :, None])
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
            # nothing later belongs to another document than the last
            real = (of_key == ids[:, -1:]) if real is None else real & (of_key == ids[:, -1:])
        elif real is None and (past == 0 or length == 1):
            y = F.scaled_dot_product_attention(q, k, v, is_causal=bool(past == 0))
        else:
            allowed = _allowed(past, length, real, x.device)
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
        y = self.out(y.transpose(1, 2).reshape(batch, length, width))
        return y, AttentionState(k, v, real)


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionConfig(PartConfig):
    """Causal softmax attention.

    rotary_base: turns q and k by each real token's position (RoFormer, arXiv:2104.09864), by the angles
    position * base^(-2 i / E) of the i-th pair of channels, the first half with the second; None does not.
    qk_norm: q and k of each head to a mean square of 1, without weights, before they are turned.
    qkv_init: weights of the q, k, v projection at the start: normal, N(0, init_std) as everywhere else; or
    xavier, uniform as torch.nn.MultiheadAttention starts it (standard deviation 0.09 at width 64).
    """

    kind: ClassVar[str] = "attention"
    role: ClassVar[Role] = "mix"
    documents: ClassVar[bool] = True
    grows: ClassVar[bool] = True
    num_heads: int = 4
    qkv_init: Literal["normal", "xavier"] = "normal"
    rotary_base: float | None = None
    qk_norm: bool = False

    def __post_init__(self) -> None:
        check_types(self)
        check_counts(self, "num_heads")
        if self.rotary_base is not None and not self.rotary_base > 1.0:
            raise UserError(f"rotary_base: expected a number above 1, got {self.rotary_base}")

    def check(self, size: Size) -> None:
        if size.d_model % self.num_heads:
            raise UserError(
                f"num_heads: expected a divisor of d_model = {size.d_model}, got {self.num_heads}"
            )

        if self.rotary_base is not None and size.d_model // self.num_heads % 2:
            width = size.d_model // self.num_heads
            raise UserError(f"rotary_base: expected heads of an even width, got {width}")

    def build(self, size: Size) -> CausalAttention:
        return CausalAttention(
            size.d_model,
            self.num_heads,
            qkv_init=self.qkv_init,
            rotary_base=self.rotary_base,
            qk_norm=self.qk_norm,
        )

    def multiply_adds(self, size: Size, length: int) -> int:
        return length * (length + 1) // 2 * 2 * size.d_model  # scores and sums over the causal half


def _positions(
    state: AttentionState | None, mask: TokenMask | None, starts: Tensor | None, x: Stream
) -> Tensor:
    """How many real tokens of its document stand before each position, [B, T]; padding may have any."""
    before = torch.zeros(x.shape[0], dtype=torch.int64, device=x.device)
    if state is not None:
        before = before + (state.k.shape[2] if state.real is None else state.real.sum(1))
    return positions_in_document(mask, starts, before, x.shape[1])[0]


def _rotated(q: Tensor, k: Tensor, positions: Tensor, base: float) -> tuple[Tensor, Tensor]:
    """q and k [B, H, T, E] turned by their positions; angles are float32 or wider whatever the dtype."""
    half, dtype = q.shape[-1] // 2, torch.float64 if q.dtype == torch.float64 else torch.float32
    rates = base ** (-torch.arange(half, device=q.device, dtype=dtype) / half)
    angles = positions[:, None, :, None] * rates  # [B or 1, 1, T, E / 2]
    cos, sin = angles.cos().to(q.dtype), angles.sin().to(q.dtype)

    def turn(x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)

    return turn(q), turn(k)


def _join_masks(before: Tensor | None, now: Tensor | None, past: Tensor, new: Tensor) -> Tensor | None:
    if before is None and now is None:
        return None
    before = torch.ones_like(past, dtype=torch.bool) if before is None else before
    now = torch.ones_like(new, dtype=torch.bool) if now is None else now
    return torch.cat([before, now], dim=1)


def _allowed(past: int, length: int, real: Tensor | None, device: torch.device) -> Tensor:
    """Which keys a query sees: earlier real ones, and always itself (a padding row must not be all False)."""
    query = torch.arange(past, past + length, device=device)[:, None]
    key = torch.arange(past + length, device=device)[None, :]
    allowed = key <= query  # [T, P + T]
    if real is None:
        return allowed
    return (allowed & real[:, None, :] | (key == query))[:, None]  # [B, 1, T, P + T]
