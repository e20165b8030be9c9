"""The triple latent as a mixer: five projections, the op, a readout.

Letters: D model width, H heads, S state dimension, M slots; HS = H * S.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimatrix.data.settings import check_counts, check_types
from unimatrix.mixers.initial import draw_children
from unimatrix.mixers.layout import kept
from unimatrix.mixers.part import Part, Role, Size
from unimatrix.mixers.registry import PartConfig
from unimatrix.ops import Backend, BackendChoice, TripleLatentState, triple_latent
from unimatrix.ops.shapes import Stream, TokenMask


class TripleLatentMixer(Part):
    """y = W_o vec((P_t^T q_l) * q_r), with s_t and P_t of section 3.5 of the paper.

    The projections of a, b, q_l, q_r and of the two retentions per head lie in one matrix, so that one
    product makes them all; the retentions alone have a bias. num_slots: slots, whose addresses the heads
    share; None is the dense pair memory.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        state_dim: int,
        *,
        num_slots: int | None = None,
        backend: Backend = "auto",
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.state_dim = state_dim
        self.backend = BackendChoice(backend)
        inner = num_heads * state_dim
        self.write_and_query = nn.Linear(d_model, 4 * inner + 2 * num_heads, bias=False)
        self.retention_bias = nn.Parameter(torch.zeros(2 * num_heads))
        self.addresses = None if num_slots is None else nn.Parameter(torch.empty(num_slots, state_dim))
        self.readout = nn.Linear(inner, d_model, bias=False)
        self.draw_first()

    @torch.no_grad()
    def draw_first(self) -> None:
        """Draw the slots' addresses from N(0, 1): apart from each other from the first step on."""
        if self.addresses is not None:
            nn.init.normal_(self.addresses)

    @torch.no_grad()
    def init_weights(self, std: float) -> None:
        """Draw the projections from N(0, std); the retentions start at 1/2. `draw_first` is apart."""
        draw_children(self, std)
        nn.init.zeros_(self.retention_bias)

    def state_layout(self) -> Any:
        rows = self.state_dim if self.addresses is None else self.addresses.shape[0]
        heads, dim = self.num_heads, self.state_dim
        return TripleLatentState(kept((heads, dim), "sums"), kept((heads, rows, dim), "sums"))

    def init_state(self, batch_size: int, *, device: torch.device | None = None) -> TripleLatentState:
        """The empty state: zeros [B, H, S] and [B, H, S or M, S]."""
        weight = self.readout.weight
        dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
        rows = self.state_dim if self.addresses is None else len(self.addresses)
        shape = (batch_size, self.num_heads, rows, self.state_dim)
        pairs = torch.zeros(shape, dtype=dtype, device=device or weight.device)
        return TripleLatentState(torch.zeros_like(pairs[:, :, 0]), pairs)

    def forward(
        self,
        u: Stream,
        state: TripleLatentState | None = None,
        *,
        mask: TokenMask | None = None,
        starts: Tensor | None = None,
    ) -> tuple[Stream, TripleLatentState]:
        """[B, T, D] to [B, T, D]."""
        inner = self.num_heads * self.state_dim
        projected, retention = self.write_and_query(u).split([4 * inner, 2 * self.num_heads], dim=-1)
        a, b, q_l, q_r = projected.unflatten(-1, (4, self.num_heads, self.state_dim)).unbind(
            2
        )  # [B, T, H, S]
        # float32 keeps retentions next to 1 apart from 1 whatever the model's dtype
        retention = retention if retention.dtype == torch.float64 else retention.float()
        log_retention = F.logsigmoid(retention + self.retention_bias.to(retention.dtype))
        log_sum, log_pairs = log_retention.split(self.num_heads, dim=-1)  # [B, T, H]
        y, state = triple_latent(
            a,
            b,
            q_l,
            q_r,
            log_sum,
            log_pairs,
            addresses=self.addresses,
            state=state,
            mask=mask,
            starts=starts,
            backend=self.backend,
        )
        return self.readout(y.flatten(2)), state


@dataclass(frozen=True, kw_only=True, slots=True)
class TripleLatentConfig(PartConfig):
    """A retained sum per head, and a memory that binds each token to what the sum was before it.

    num_slots: None keeps the dense pair memory, S x S per head; a number keeps so many slots, whose learned
    addresses the heads share.
    """

    kind: ClassVar[str] = "triple_latent"
    ops: ClassVar[tuple[str, ...]] = ("triple_latent", "signed_scan", "matrix_state")
    role: ClassVar[Role] = "mix"
    documents: ClassVar[bool] = True
    num_heads: int = 4
    state_dim: int = 16
    num_slots: int | None = None
    backend: Backend = "auto"

    def __post_init__(self) -> None:
        check_types(self)
        check_counts(self, "num_heads", "state_dim", "num_slots")

    def build(self, size: Size) -> TripleLatentMixer:
        return TripleLatentMixer(
            size.d_model, self.num_heads, self.state_dim, num_slots=self.num_slots, backend=self.backend
        )

    def multiply_adds(self, size: Size, length: int) -> int:
        dim = self.state_dim
        # decay, write and read of the pair memory; with slots also the scores of both
        of_a_head = 3 * dim**2 if self.num_slots is None else 5 * self.num_slots * dim
        return length * self.num_heads * of_a_head
