"""The matrix-valued recurrent state as a mixer: projections, the op, the gated readout.

Letters: D model width, H heads, S state dimension; HS = H * S.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimatrix.data.settings import check_counts, check_types
from unimatrix.mixers.initial import draw_weights
from unimatrix.mixers.layout import kept
from unimatrix.mixers.older_weights import upgrade_before_loading
from unimatrix.mixers.part import Given, Part, Reading, Role, Size, called_as_written
from unimatrix.mixers.registry import PartConfig
from unimatrix.mixers.short_convolution import ShortConvolution
from unimatrix.mixers.spectral import SpectralLinear
from unimatrix.ops import Backend, BackendChoice, matrix_state
from unimatrix.ops.internals import watched
from unimatrix.ops.matrix_state.step import matrix_state_step
from unimatrix.ops.shapes import MatrixState, Stream, TokenMask, under_autocast

_TINY = 1e-30  # of a norm: nothing is divided by zero
# of the output norm: small reads are lifted a hundred times, whatever their size, and large ones bounded;
# with 1e-6 the first steps learn faster still and all later ones less (docs/log.md)
_EPS = 1e-4


class MatrixStateMixerState(NamedTuple):
    """One matrix per head: the same size however long the text."""

    matrix: MatrixState  # [B, H, S, S] float32 (float64 for a float64 model)
    recent: Tensor | None = None  # [B, K - 1, 3 HS], what the short convolution still needs


class MatrixStateMixer(Part):
    """y = gate(u) * (W_o vec(S_t q_t) + context), with S_t of eq. (6) of the paper.

    The projections of d, q, k, v lie in one matrix, `dqkv`, d first. A variant that mixes no rules has no use
    for d, which the paper counts nevertheless: there it is a module of its own, `d`, beside `qkv`. The
    retention of each head and the readout gate share another matrix. `spectral_norm` divides W_(d,q,k,v) and
    W_o by their largest singular value (see `SpectralLinear`); d then stays with the others.
    `kernel_size`: of a short convolution over q, k and v; None for none. `idle_diag`: whether `d` is there at
    all where nothing reads it. `output_norm`: whether what a head reads, y = S_t q_t, becomes
    y / sqrt(mean(y^2) + 1e-4) before W_o. Fresh reads are far below 1e-2 (2e-5 is the root mean square in the
    preset `unimatrix`), so that at the start this is a constant gain of 100, which lets the product of three
    small projections count from the first steps on; only large reads are divided by their own size.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        state_dim: int,
        *,
        rule_mixing: bool = False,
        spectral_norm: bool = False,
        kernel_size: int | None = None,
        idle_diag: bool = True,
        output_norm: bool = False,
        backend: Backend = "auto",
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.state_dim = state_dim
        self.output_norm = output_norm
        self.backend = BackendChoice(backend)
        inner = num_heads * state_dim
        self.dqkv = self.d = self.qkv = None
        if spectral_norm:
            self.dqkv = SpectralLinear(d_model, 4 * inner)
        elif rule_mixing:
            self.dqkv = nn.Linear(d_model, 4 * inner, bias=False)
        else:
            self.d = nn.Linear(d_model, inner, bias=False) if idle_diag else None
            self.qkv = nn.Linear(d_model, 3 * inner, bias=False)
        self.gates = nn.Linear(d_model, num_heads + d_model)  # retention logits, then the readout gate's
        self.readout = (
            SpectralLinear(inner, d_model) if spectral_norm else nn.Linear(inner, d_model, bias=False)
        )
        self.convolution = None if kernel_size is None else ShortConvolution(3 * inner, kernel_size, backend)
        self.rules = nn.Linear(d_model, 3 * num_heads) if rule_mixing else None
        self.register_load_state_dict_pre_hook(upgrade_before_loading)

    @torch.no_grad()
    def init_weights(self, std: float) -> None:
        """Draw all matrices from N(0, std), d, q, k, v as the one matrix that they are for the paper."""
        if self.d is not None and self.qkv is not None:
            rows = self.d.out_features
            joint = self.d.weight.new_empty(4 * rows, self.d.in_features)
            nn.init.normal_(joint, std=std)
            self.d.weight.copy_(joint[:rows])
            self.qkv.weight.copy_(joint[rows:])
        drawn = None if self.d is not None else self.qkv
        for part in (self.dqkv, drawn, self.gates, self.readout, self.rules, self.convolution):
            if part is not None:
                draw_weights(part, std)

    @property
    def renews(self) -> bool:
        return isinstance(self.readout, SpectralLinear)

    def renew(self) -> None:
        """One power iteration for each spectrally normalised matrix, used once or often in the pass."""
        for part in (self.dqkv, self.readout):
            if isinstance(part, SpectralLinear):
                part.renew()

    def give(self, x: Stream, state: Any, at: Reading, given: Given) -> tuple[Given, Any]:
        wanted = "error" in at.wanted
        y, after, *error = self(
            x,
            state,
            mask=at.mask,
            starts=at.starts,
            context=given.context,
            with_error=wanted,
            with_idle=at.first,
        )
        return Given(add=y, error=error[0] if wanted else None), after

    def state_layout(self) -> Any:
        inner = 3 * self.num_heads * self.state_dim
        recent = self.convolution and kept((self.convolution.kernel_size - 1, inner), "stream")
        return MatrixStateMixerState(kept((self.num_heads, self.state_dim, self.state_dim), "sums"), recent)

    def init_state(self, batch_size: int, *, device: torch.device | None = None) -> MatrixStateMixerState:
        """The empty state: zeros [B, H, S, S]."""
        dtype = torch.float64 if self.gates.weight.dtype == torch.float64 else torch.float32
        shape = (batch_size, self.num_heads, self.state_dim, self.state_dim)
        weight = self.gates.weight
        matrix = torch.zeros(shape, dtype=dtype, device=device or weight.device)
        recent = None
        if self.convolution is not None:
            past, inner = self.convolution.kernel_size - 1, 3 * self.num_heads * self.state_dim
            recent = weight.new_zeros(batch_size, past, inner, device=device)
        return MatrixStateMixerState(matrix, recent)

    def forward(
        self,
        u: Stream,
        state: MatrixStateMixerState | None = None,
        *,
        mask: TokenMask | None = None,
        starts: Tensor | None = None,
        context: Stream | None = None,
        with_error: bool = False,
        with_idle: bool = True,
    ) -> Any:
        """[B, T, D] to [B, T, D] and the next state; context [B, T, D] joins the readout before its gate.

        with_error: also how badly the state foretold each token, [B, T, H] (see `_error`). with_idle: whether
        idle weights get their gradient of zeros, for which one call in a graph will do.
        """
        products = self._products(u)
        if mask is None and starts is None and not with_error and self._may_step(u, state):
            stepped = self._step(products, state, context)
            if stepped is not None:
                return stepped
        written = self._written(products, u, state, mask, starts, with_idle)
        y, after = self._run(written, state, mask, starts, context)
        return (y, after, self._error(written, state, mask, starts)) if with_error else (y, after)

    def _may_step(self, u: Stream, state: MatrixStateMixerState | None) -> bool:
        """Whether what lies between the projections may be one loop: one token, and nobody is to see it."""
        if state is None or u.dim() != 3 or u.shape[1] != 1 or torch.is_grad_enabled():
            return False
        convolution = self._modules.get("convolution")
        if convolution is not None and not called_as_written(convolution, ShortConvolution):
            return False
        return not watched(u) and not under_autocast(u.device)

    def _products(self, u: Stream) -> "_Products":
        """All that is read off the stream."""
        parts: dict[str, Any] = self._modules  # looked up here: torch's own way costs as much as a product
        joint, rules, diag = parts.get("dqkv"), parts.get("rules"), None
        if joint is None:
            qkv = parts["qkv"](u)
        else:
            inner = self.num_heads * self.state_dim
            diag, qkv = joint(u).split([inner, 3 * inner], dim=-1)
        if rules is None:
            return _Products(qkv, parts["gates"](u), None, None)
        return _Products(qkv, parts["gates"](u), rules(u), diag)

    def _step(
        self, products: "_Products", state: Any, context: Stream | None
    ) -> tuple[Stream, MatrixStateMixerState] | None:
        """`forward` of one token behind its products, where `_may_step`; None: it is for the op."""
        convolution: Any = self._modules.get("convolution")
        found = matrix_state_step(
            *products,
            state.matrix,
            state.recent,
            None if convolution is None else convolution.weight,
            heads=(self.num_heads, self.state_dim),
            norm_eps=_EPS if self.output_norm else None,
            backend=self.backend,
        )
        if found is None:
            return None
        y, last, recent = found
        gate = products.gates[..., self.num_heads :]
        return self._out(y, gate, context), MatrixStateMixerState(last, recent)

    def _out(self, y: Tensor, gate: Stream, context: Stream | None) -> Stream:
        """The gated readout of y [B, T, HS]."""
        out = self.readout(y)
        if context is not None:
            out = out + context
        return torch.sigmoid(gate) * out

    def _written(
        self,
        products: "_Products",
        u: Stream,
        state: MatrixStateMixerState | None,
        mask: TokenMask | None,
        starts: Tensor | None,
        with_idle: bool,
    ) -> "_Written":
        """What the op takes."""
        qkv, gates, rules, diag = products
        heads, recent = (self.num_heads, self.state_dim), None
        if self.convolution is not None:
            before = None if state is None else state.recent
            qkv, recent = self.convolution(qkv, before, mask=mask, starts=starts)
        q, k, v = qkv.unflatten(-1, (3, *heads)).unbind(2)  # [B, T, H, S]
        rule_weights = None
        if rules is not None and diag is not None:
            rule_weights = rules.unflatten(-1, (self.num_heads, 3)).softmax(-1)
            diag = diag.unflatten(-1, heads)
        retention, gate = gates.split([self.num_heads, u.shape[-1]], dim=-1)
        # float32 keeps retentions next to 1 apart from 1 whatever the model's dtype
        log_retention = F.logsigmoid(retention if retention.dtype == torch.float64 else retention.float())
        if with_idle and self.d is not None and torch.is_grad_enabled():
            # of no token at all: d gets a gradient of zeros, which optimisers and DDP expect of every weight
            log_retention = log_retention + self.d(u.detach()[:, :0]).sum()
        return _Written(q, k, v, log_retention, rule_weights, diag, gate, recent)

    def _run(
        self,
        written: "_Written",
        state: MatrixStateMixerState | None,
        mask: TokenMask | None,
        starts: Tensor | None,
        context: Stream | None,
    ) -> tuple[Stream, MatrixStateMixerState]:
        q, k, v, log_retention, rule_weights, diag, gate, recent = written
        y, last = matrix_state(
            q,
            k,
            v,
            log_retention,
            rule_weights=rule_weights,
            diag=diag,
            state=None if state is None else state.matrix,
            mask=mask,
            starts=starts,
            backend=self.backend,
        )
        if self.output_norm:
            y = F.rms_norm(y, y.shape[-1:], eps=_EPS)
        return self._out(y.flatten(2), gate, context), MatrixStateMixerState(last, recent)

    def _error(
        self,
        written: "_Written",
        state: MatrixStateMixerState | None,
        mask: TokenMask | None,
        starts: Tensor | None,
    ) -> Tensor:
        """|k_t - S_{t-1} v_t / |v_t|^2| / |k_t| per head, [B, T, H]: what the state holds at the address v_t,
        read before the write, beside what is written there. 1 where it holds nothing, 0 at padding.
        """
        _, k, v, log_retention, rule_weights, diag, *_ = written

        def twice(x: Tensor | None, before: Tensor | None = None) -> Any:
            """Each token once as a mere reader and once as itself: [B, 2 T, ...]."""
            return (
                None if x is None else torch.stack([x if before is None else before, x], dim=2).flatten(1, 2)
            )

        read, _ = matrix_state(
            twice(v),
            twice(k),
            twice(v),
            twice(log_retention, torch.zeros_like(log_retention)),  # neither decays nor writes
            rule_weights=twice(rule_weights),
            diag=twice(diag),
            state=None if state is None else state.matrix,
            mask=twice(mask),
            starts=None if starts is None else twice(torch.zeros_like(starts), starts),
            backend=self.backend,
        )
        k, v, read = (x.to(log_retention.dtype) for x in (k, v, read[:, ::2]))
        held = read / v.square().sum(-1, keepdim=True).clamp_min(_TINY)
        error = (k - held).norm(dim=-1) / k.norm(dim=-1).clamp_min(_TINY)
        return error if mask is None else torch.where(mask[..., None], error, 0.0)


class _Products(NamedTuple):
    """What the mixer reads off the stream."""

    qkv: Tensor  # [B, T, 3 HS]
    gates: Tensor  # [B, T, H + D], a retention logit for each head first
    rules: Tensor | None  # [B, T, 3 H], logits
    diag: Tensor | None  # [B, T, HS], with rules alone


class _Written(NamedTuple):
    """What the op takes, and what comes after it."""

    q: Tensor  # [B, T, H, S]
    k: Tensor
    v: Tensor
    log_retention: Tensor  # [B, T, H]
    rule_weights: Tensor | None  # [B, T, H, 3]
    diag: Tensor | None  # [B, T, H, S]
    gate: Stream  # logits
    recent: Tensor | None  # of the short convolution


@dataclass(frozen=True, kw_only=True, slots=True)
class MatrixStateConfig(PartConfig):
    """The matrix-valued recurrent state.

    kernel_size: of a short causal convolution over q, k and v, each channel by itself, with SiLU; None: none.
    idle_diag: whether the projection d of the diagonal rule is there, as the paper counts it, where it is
    idle, without rule mixing and spectral_norm, which keep it.
    output_norm: whether each head's read y becomes y / sqrt(mean(y^2) + 1e-4) before the output projection: a
    gain of 100 for small reads, such as fresh ones, and a root mean square of 1 for large ones.
    """

    kind: ClassVar[str] = "matrix_state"
    ops: ClassVar[tuple[str, ...]] = ("matrix_state", "short_convolution")
    role: ClassVar[Role] = "mix"
    documents: ClassVar[bool] = True
    reads: ClassVar[frozenset[str]] = frozenset({"context"})
    gives: ClassVar[frozenset[str]] = frozenset({"add", "error"})
    num_heads: int = 4
    state_dim: int = 16
    rule_mixing: bool = False
    spectral_norm: bool = False
    kernel_size: int | None = None
    idle_diag: bool = True
    output_norm: bool = False
    backend: Backend = "auto"

    def __post_init__(self) -> None:
        check_types(self)
        check_counts(self, "num_heads", "state_dim", "kernel_size")

    def build(self, size: Size) -> MatrixStateMixer:
        return MatrixStateMixer(
            size.d_model,
            self.num_heads,
            self.state_dim,
            rule_mixing=self.rule_mixing,
            spectral_norm=self.spectral_norm,
            kernel_size=self.kernel_size,
            idle_diag=self.idle_diag,
            output_norm=self.output_norm,
            backend=self.backend,
        )

    def versions(self) -> dict[str, int]:
        # in 1 the weights were drawn again after the normalisation had got to know them
        return PartConfig.versions(self) | ({"spectral_norm": 2} if self.spectral_norm else {})

    def multiply_adds(self, size: Size, length: int) -> int:
        # decay, write and read of S x S numbers; of mixed rules the symmetric one and the diagonal; the
        # convolution of q, k and v
        of_a_head = 3 * self.state_dim**2 + (self.kernel_size or 0) * 3 * self.state_dim
        of_a_head += (self.state_dim**2 + self.state_dim) if self.rule_mixing else 0
        return length * self.num_heads * of_a_head
