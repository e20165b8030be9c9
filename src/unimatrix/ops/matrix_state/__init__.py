"""The matrix-valued recurrent state of UniMatrix: one public function, several forms of it.

`reference` is the equation, `chunked` is parallel inside a chunk and runs on any device, `compiled` is a
CPU kernel that keeps the state of a head in the first-level cache. All three agree in outputs, final state
and every gradient (tests/ops/test_matrix_state.py).
"""

import torch

from unimatrix.errors import UserError
from unimatrix.ops.backend import Backend, BackendChoice, choose_backend
from unimatrix.ops.matrix_state.chunked import matrix_state_chunked
from unimatrix.ops.matrix_state.compiled import compiled_problem, matrix_state_compiled
from unimatrix.ops.matrix_state.reference import matrix_state_reference
from unimatrix.ops.shapes import (
    HeadScalars,
    HeadVectors,
    MatrixState,
    RuleWeights,
    TokenMask,
    check_count,
    check_first,
    check_like,
    check_positions,
    check_range,
    harmless,
    without_autocast,
)

__all__ = ["matrix_state"]

# CPU: measured with `unimatrix bench chunk-length` (docs/performance.md); elsewhere a guess, not yet measured
CPU_CHUNK_LEN = 16
ACCELERATOR_CHUNK_LEN = 64


def matrix_state(
    q: HeadVectors,
    k: HeadVectors,
    v: HeadVectors,
    log_retention: HeadScalars,
    *,
    rule_weights: RuleWeights | None = None,
    diag: HeadVectors | None = None,
    state: MatrixState | None = None,
    mask: TokenMask | None = None,
    starts: TokenMask | None = None,
    chunk_len: int | None = None,
    backend: Backend | BackendChoice = "auto",
) -> tuple[HeadVectors, MatrixState]:
    """Write every token into a matrix per head and read it back with the token's query.

    Source: the UniMatrix paper, eq. (2) to (6).
        U_t = pi_outer k_t v_t^T + pi_diag Diag(d_t) + pi_sym (k_t v_t^T + v_t k_t^T) / 2
        S_t = rho_t S_{t-1} + (1 - rho_t) U_t,      rho_t = exp(log_retention_t)
        y_t = S_t q_t

    Args:
        q, k, v: [B, T, H, S], any float dtype, any strides; float64 beside a narrower q is refused here
            and in every argument. q and v may have another width R than k: the
            state is then S x R, and y is as wide as k. Rule mixing needs R = S.
        log_retention: [B, T, H], natural log of rho, <= 0; -inf forgets everything, 0 writes nothing.
            float32 or wider keeps retentions near 1 exact.
        rule_weights: [B, T, H, 3] weights pi over (outer, diag, sym); None is the outer product alone.
        diag: [B, T, H, S], the d of the diagonal rule; given exactly when rule_weights is.
        state: [B, H, S, R], S_0; None is zeros. Never modified.
        mask: [B, T] bool; a False position neither writes nor decays, and its output is zero.
        starts: [B, T] bool; at a True position, a masked one too, the state is emptied before anything is
            written, so that a text begins there: it is as if each text had been given alone.
        chunk_len: tokens per chunk of the chunked form; None is the measured best. No effect on the result.
        backend: "auto" takes the compiled form on a CPU (the larger of S and R a power of two up to 32) and
            the chunked form elsewhere. A form asked for by name that cannot run here raises.

    Returns:
        y: [B, T, H, S] in v's dtype; the final state: [B, H, S, R] in the accumulation dtype.

    Raises:
        UserError: shapes, dtypes or devices disagree, rule_weights without diag or the reverse, a retention
            above 1 (on a CPU), chunk_len < 1, a backend that is unknown or cannot run here.

    Numerics: states and sums are float32, or float64 for float64 inputs. No exponential of a positive number
    is taken. Differentiable in every floating argument, the state included.
    """
    _check(q, k, v, log_retention, rule_weights, diag, state, mask, starts, chunk_len)
    q, k, v, log_retention = (harmless(mask, x) for x in (q, k, v, log_retention))
    if rule_weights is not None and diag is not None:
        rule_weights, diag = harmless(mask, rule_weights), harmless(mask, diag)
    problem = compiled_problem(k, v)
    form = choose_backend(
        "matrix_state",
        backend,
        preferred="compiled" if problem is None else "chunked",
        problems={"compiled": problem},
    )
    if state is not None and q.shape[1] == 0:
        state = state.clone()  # what is returned is the caller's own
    if form != "compiled":
        check_range("log_retention", log_retention, -torch.inf, 0.0)
    if form == "reference":
        with without_autocast(q.device):
            return matrix_state_reference(
                q,
                k,
                v,
                log_retention,
                rule_weights=rule_weights,
                diag=diag,
                state=state,
                mask=mask,
                starts=starts,
            )
    # where masked, rho = 1 neither decays nor writes, since the write strength is 1 - rho
    if form == "compiled":
        y, last = matrix_state_compiled(q, k, v, log_retention, rule_weights, diag, state, starts)
    else:
        best = CPU_CHUNK_LEN if q.device.type == "cpu" else ACCELERATOR_CHUNK_LEN
        with without_autocast(q.device):
            y, last = matrix_state_chunked(
                q, k, v, log_retention, rule_weights, diag, state, starts, chunk_len or best
            )
    if mask is not None:
        y = y.masked_fill(~mask[..., None, None], 0.0)
    return y, last


def _check(
    q: HeadVectors,
    k: HeadVectors,
    v: HeadVectors,
    log_retention: HeadScalars,
    rule_weights: RuleWeights | None,
    diag: HeadVectors | None,
    state: MatrixState | None,
    mask: TokenMask | None,
    starts: TokenMask | None,
    chunk_len: int | None,
) -> None:
    check_first("q", q, "batch, time, heads, state_dim")
    batch, length, heads, width = q.shape
    dim = k.shape[-1] if isinstance(k, torch.Tensor) and k.dim() == 4 and rule_weights is None else width
    check_like("k", k, (batch, length, heads, dim), q)
    check_like("v", v, (batch, length, heads, width), q)
    check_like("log_retention", log_retention, (batch, length, heads), q)
    if (rule_weights is None) != (diag is None):
        raise UserError("rule_weights and diag: expected both or neither, got one of them")
    if rule_weights is not None:
        check_like("rule_weights", rule_weights, (batch, length, heads, 3), q)
        check_like("diag", diag, (batch, length, heads, width), q)
    if state is not None:
        check_like("state", state, (batch, heads, dim, width), q)
    check_positions(mask, starts, (batch, length), q)
    if chunk_len is not None:
        check_count("chunk_len", chunk_len)
