"""M2RNN as a mixer: projections, a short convolution, the op, a gated readout. A peer, from its equation.

Letters: D model width, H heads, K width of keys and queries, V width of values; HV = H * V.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimatrix.data.settings import check_counts, check_types
from unimatrix.mixers.initial import draw_children
from unimatrix.mixers.layout import kept
from unimatrix.mixers.part import Part, Role, Size
from unimatrix.mixers.registry import PartConfig
from unimatrix.mixers.short_convolution import ShortConvolution
from unimatrix.ops import Backend, BackendChoice, m2rnn
from unimatrix.ops.shapes import Stream, TokenMask

MOST_DECAY = 16.0  # exp(a) is drawn between 0 and this
TIME_STEPS = (1e-3, 0.1)  # softplus of the retentions' bias is drawn between these, its logarithm uniformly


class M2RNNState(NamedTuple):
    """One matrix per head, and what the convolution still needs: one size however long the text."""

    matrix: Tensor  # [B, H, K, V] float32 (float64 for a float64 model)
    recent: Tensor  # [B, kernel_size - 1, 2 K + HV]


class M2RNNMixer(Part):
    """y = W_o norm((h_t^T q_t + d * v_t) * SiLU(g)), with h_t of `unimatrix.ops.m2rnn`.

    One query and one key, shared by the heads, and a value for each go through a causal convolution with
    SiLU. The retention of a head is exp(-exp(a) softplus(x + b)), with x a projection and a and b learned;
    d weighs each channel of the values; g gates the readout, which an RMSNorm over all heads follows. No
    projection has a bias.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        key_dim: int,
        value_dim: int,
        *,
        kernel_size: int,
        backend: Backend = "auto",
    ) -> None:
        super().__init__()
        self.num_heads, self.key_dim, self.value_dim = num_heads, key_dim, value_dim
        self.backend = BackendChoice(backend)
        inner = num_heads * value_dim
        self.convolved = 2 * key_dim + inner
        self.project = nn.Linear(d_model, self.convolved + inner + num_heads, bias=False)  # q k v, g, x
        self.convolution = ShortConvolution(self.convolved, kernel_size, backend)
        self.transition = nn.Parameter(torch.empty(num_heads, value_dim, value_dim))
        self.decay = nn.Parameter(torch.empty(num_heads))  # a
        self.step_bias = nn.Parameter(torch.empty(num_heads))  # b
        self.direct = nn.Parameter(torch.empty(num_heads, value_dim))  # d
        self.norm = nn.RMSNorm(inner, eps=1e-5)
        self.readout = nn.Linear(inner, d_model, bias=False)

    @torch.no_grad()
    def init_weights(self, std: float) -> None:
        """Draw the projections from N(0, std); the transition starts as the identity, d as 1."""
        draw_children(self, std)
        self.transition.copy_(
            torch.eye(self.value_dim, device=self.transition.device).expand_as(self.transition)
        )
        nn.init.ones_(self.direct)
        nn.init.uniform_(self.decay, 0.0, MOST_DECAY)
        self.decay.clamp_(min=1e-4).log_()
        low, high = (math.log(step) for step in TIME_STEPS)
        nn.init.uniform_(self.step_bias, low, high)
        step = self.step_bias.exp()
        self.step_bias.copy_(step + torch.log(-torch.expm1(-step)))  # softplus of it is the step

    def state_layout(self) -> Any:
        matrix = kept((self.num_heads, self.key_dim, self.value_dim), "sums")
        return M2RNNState(matrix, kept((self.convolution.kernel_size - 1, self.convolved), "stream"))

    def forward(
        self,
        u: Stream,
        state: M2RNNState | None = None,
        *,
        mask: TokenMask | None = None,
        starts: Tensor | None = None,
    ) -> tuple[Stream, M2RNNState]:
        """[B, T, D] to [B, T, D] and the next state."""
        heads, key, value = self.num_heads, self.key_dim, self.value_dim
        written, gate, step = self.project(u).split([self.convolved, heads * value, heads], dim=-1)
        before = None if state is None else state.recent
        written, recent = self.convolution(written, before, mask=mask, starts=starts)
        q, k, v = written.split([key, key, heads * value], dim=-1)
        q, k = (x[..., None, :].expand(-1, -1, heads, -1) for x in (q, k))  # [B, T, H, K]
        v = v.unflatten(-1, (heads, value))
        # float32 keeps retentions next to 1 apart from 1 whatever the model's dtype
        step = step if step.dtype == torch.float64 else step.float()
        step = F.softplus(step + self.step_bias.to(step.dtype))
        y, last = m2rnn(
            q,
            k,
            v,
            -self.decay.to(step.dtype).exp() * step,
            self.transition,
            state=None if state is None else state.matrix,
            mask=mask,
            starts=starts,
            backend=self.backend,
        )
        y = (y + self.direct.to(y.dtype) * v).flatten(2) * F.silu(gate)
        return self.readout(self.norm(y)), M2RNNState(last, recent)


@dataclass(frozen=True, kw_only=True, slots=True)
class M2RNNConfig(PartConfig):
    """M2RNN's recurrence: a matrix per head that goes through a tanh from token to token.

    key_dim, value_dim: of a head's matrix. kernel_size: of the convolution over queries, keys and values.
    """

    kind: ClassVar[str] = "m2rnn"
    ops: ClassVar[tuple[str, ...]] = ("m2rnn", "short_convolution")
    role: ClassVar[Role] = "mix"
    documents: ClassVar[bool] = True
    num_heads: int = 3
    key_dim: int = 64
    value_dim: int = 16
    kernel_size: int = 4
    backend: Backend = "auto"

    def __post_init__(self) -> None:
        check_types(self)
        check_counts(self, "num_heads", "key_dim", "value_dim", "kernel_size")

    def build(self, size: Size) -> M2RNNMixer:
        return M2RNNMixer(
            size.d_model,
            self.num_heads,
            self.key_dim,
            self.value_dim,
            kernel_size=self.kernel_size,
            backend=self.backend,
        )

    def multiply_adds(self, size: Size, length: int) -> int:
        # the transition, write, decay and read of K x V numbers; the convolution
        of_a_head = self.key_dim * self.value_dim * (self.value_dim + 3)
        convolved = self.kernel_size * (2 * self.key_dim + self.num_heads * self.value_dim)
        return length * (self.num_heads * of_a_head + convolved)
