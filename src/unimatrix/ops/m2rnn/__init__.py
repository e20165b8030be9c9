"""M2RNN's recurrence: a matrix per head that goes through a tanh from token to token.

Letters: K width of keys and queries, V width of values, W the transition; the others as in
unimatrix.ops.shapes.

It is not linear in its state, so that tokens can only go one after another: `reference` is the equation,
`compiled` one CPU loop, and there is no chunked form.
"""

import torch
from torch import Tensor

from unimatrix.ops.backend import Backend, BackendChoice, choose_backend, loops_problem
from unimatrix.ops.m2rnn.compiled import m2rnn_compiled
from unimatrix.ops.m2rnn.reference import m2rnn_reference
from unimatrix.ops.shapes import (
    HeadScalars,
    HeadVectors,
    TokenMask,
    accumulation_dtype,
    check_first,
    check_like,
    check_positions,
    check_range,
    harmless,
    without_autocast,
)

__all__ = ["m2rnn"]

_NOT_CHUNKED = "it is not linear in its state, so that tokens go one after another"


def m2rnn(
    q: HeadVectors,
    k: HeadVectors,
    v: HeadVectors,
    log_retention: HeadScalars,
    transition: Tensor,
    *,
    state: Tensor | None = None,
    mask: TokenMask | None = None,
    starts: TokenMask | None = None,
    backend: Backend | BackendChoice = "auto",
) -> tuple[HeadVectors, Tensor]:
    """Write every token into a matrix per head that a tanh turns over, and read it with the token's query.

        c_t = tanh(h_{t-1} W + k_t v_t^T)
        h_t = f_t h_{t-1} + (1 - f_t) c_t,      f_t = exp(log_retention_t)
        y_t = h_t^T q_t

    Args:
        q, k: [B, T, H, K], any float dtype, any strides; float64 beside a narrower q is refused here and in
            every argument.
        v: [B, T, H, V].
        log_retention: [B, T, H], natural log of f, <= 0; -inf forgets everything, 0 writes nothing.
        transition: [H, V, V], the W of each head.
        state: [B, H, K, V], h_0; None is zeros. Never modified.
        mask: [B, T] bool; a False position neither writes nor decays, and its output is zero.
        starts: [B, T] bool; at a True position, a masked one too, the state is emptied before anything is
            written, so that a text begins there: it is as if each text had been given alone.
        backend: "auto" takes the compiled form on a CPU and the reference, token by token, elsewhere. A form
            asked for by name that cannot run here raises.

    Returns:
        y: [B, T, H, V] in v's dtype; the final state [B, H, K, V] in the accumulation dtype.

    Raises:
        UserError: shapes, dtypes or devices disagree, a retention above 1 (on a CPU), or a backend that is
            unknown or cannot run here.

    Numerics: states and sums are float32, or float64 for float64 inputs. The compiled form's float32 tanh is
    its own. Differentiable in every floating argument, the state included; no gradient is clipped.
    """
    _check(q, k, v, log_retention, transition, state, mask, starts)
    q, k, v, log_retention = (harmless(mask, x) for x in (q, k, v, log_retention))
    problem = loops_problem(q)
    form = choose_backend(
        "m2rnn",
        backend,
        preferred="compiled" if problem is None else "reference",
        problems={"compiled": problem, "chunked": _NOT_CHUNKED},
    )
    batch, length, heads, dim = q.shape
    if state is None:
        dtype = accumulation_dtype(q.dtype)
        state = q.new_zeros(batch, heads, dim, v.shape[-1], dtype=dtype)
    elif length == 0:
        state = state.clone()  # what is returned is the caller's own
    if form == "reference":
        check_range("log_retention", log_retention, -torch.inf, 0.0)
        with without_autocast(q.device):
            return m2rnn_reference(q, k, v, log_retention, transition, state=state, mask=mask, starts=starts)
    # where masked, a retention of 1 neither decays nor writes, since the write strength is 1 minus it
    y, last = m2rnn_compiled(q, k, v, log_retention, transition, state, starts)
    return (y if mask is None else y.masked_fill(~mask[..., None, None], 0.0)), last


def _check(
    q: HeadVectors,
    k: HeadVectors,
    v: HeadVectors,
    log_retention: HeadScalars,
    transition: Tensor,
    state: Tensor | None,
    mask: TokenMask | None,
    starts: TokenMask | None,
) -> None:
    check_first("q", q, "batch, time, heads, key_dim")
    batch, length, heads, dim = q.shape
    check_like("k", k, (batch, length, heads, dim), q)
    width = v.shape[-1] if isinstance(v, Tensor) and v.dim() == 4 else 1
    check_like("v", v, (batch, length, heads, width), q)
    check_like("log_retention", log_retention, (batch, length, heads), q)
    check_like("transition", transition, (heads, width, width), q)
    if state is not None:
        check_like("state", state, (batch, heads, dim, width), q)
    check_positions(mask, starts, (batch, length), q)
