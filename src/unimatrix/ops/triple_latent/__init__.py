"""The triple latent: a retained sum, and a memory that binds each token to what the sum was before it.

Letters: lambda the sum's retention, mu the pair memory's, M slots, E their addresses; the others as in
unimatrix.ops.shapes.

Both recurrences are linear in their state, so both are parallel over time: the sum is a signed_scan with one
decay per head, and the pair memory is a matrix_state that binds b_t to s_{t-1}. `chunked` is those two ops in
that form, `compiled` is one loop over both, and `reference` is the equation, on its own.
"""

import torch
from torch import Tensor

from unimatrix.errors import UserError
from unimatrix.ops.backend import Backend, BackendChoice, choose_backend
from unimatrix.ops.matrix_state import matrix_state
from unimatrix.ops.matrix_state.compiled import compiled_problem
from unimatrix.ops.shapes import (
    HeadScalars,
    HeadVectors,
    TokenMask,
    accumulation_dtype,
    check_first,
    check_like,
    check_positions,
    check_range,
    check_tuple,
    harmless,
    without_autocast,
)
from unimatrix.ops.signed_scan import signed_scan
from unimatrix.ops.triple_latent.compiled import triple_latent_compiled
from unimatrix.ops.triple_latent.reference import triple_latent_reference
from unimatrix.ops.triple_latent.state import TripleLatentState, address

__all__ = ["TripleLatentState", "triple_latent"]

MAX_COMPILED_SLOTS = 32  # a step is straight-line code over the slots


def triple_latent(
    a: HeadVectors,
    b: HeadVectors,
    q_l: HeadVectors,
    q_r: HeadVectors,
    log_retention: HeadScalars,
    log_pair_retention: HeadScalars,
    *,
    addresses: Tensor | None = None,
    state: TripleLatentState | None = None,
    mask: TokenMask | None = None,
    starts: TokenMask | None = None,
    backend: Backend | BackendChoice = "auto",
) -> tuple[HeadVectors, TripleLatentState]:
    """Write every token into a sum and, bound to the sum before it, into a memory; probe it with two queries.

    Source: the UniMatrix paper, section 3.5.
        s_t = lambda_t s_{t-1} + (1 - lambda_t) a_t
        P_t = mu_t P_{t-1} + (1 - mu_t) s_{t-1} b_t^T
        y_t = (P_t^T q_l) * q_r                             elementwise
    With addresses E the memory has M rows in place of S, and softmax(E s_{t-1}) writes, softmax(E q_l) reads.

    Args:
        a, b, q_l, q_r: [B, T, H, S], any float dtype, any strides; float64 beside a narrower a is refused
            here and in every argument.
        log_retention, log_pair_retention: [B, T, H], natural logs of lambda and mu, <= 0; -inf forgets
            everything, 0 writes nothing. float32 or wider keeps retentions near 1 exact.
        addresses: [M, S], the learned addresses of the slots, shared by the heads; None is the dense memory.
        state: s_0 and P_0; None is zeros. Never modified.
        mask: [B, T] bool; a False position neither writes nor decays, and its output is zero.
        starts: [B, T] bool; at a True position, a masked one too, the state is emptied before anything is
            written, so that a text begins there: it is as if each text had been given alone.
        backend: "auto" takes the compiled form on a CPU (S a power of two up to 32, M up to 32) and the
            chunked form elsewhere. A form asked for by name that cannot run here raises.

    Returns:
        y: [B, T, H, S] in b's dtype; the final state in the accumulation dtype.

    Raises:
        UserError: shapes, dtypes or devices disagree, a retention above 1 (on a CPU), or a backend that
            is unknown or cannot run here.

    Numerics: states and sums are float32, or float64 for float64 inputs. No exponential of a positive number
    is taken but in the softmax over slots. Differentiable in every floating argument, the state included.
    """
    _check(a, b, q_l, q_r, log_retention, log_pair_retention, addresses, state, mask, starts)
    a, b, q_l, q_r = (harmless(mask, x) for x in (a, b, q_l, q_r))
    log_retention, log_pair_retention = (harmless(mask, x) for x in (log_retention, log_pair_retention))
    problem = compiled_problem(b, b)
    if problem is None and addresses is not None and len(addresses) > MAX_COMPILED_SLOTS:
        problem = f"it takes at most {MAX_COMPILED_SLOTS} slots, got {len(addresses)}"
    form = choose_backend(
        "triple_latent",
        backend,
        preferred="compiled" if problem is None else "chunked",
        problems={"compiled": problem},
    )
    dtype = accumulation_dtype(a.dtype)
    batch, _, heads, dim = a.shape
    if state is None:
        rows = dim if addresses is None else len(addresses)
        state = TripleLatentState(
            a.new_zeros(batch, heads, dim, dtype=dtype), a.new_zeros(batch, heads, rows, dim, dtype=dtype)
        )
    elif a.shape[1] == 0:
        state = TripleLatentState(*(x.clone() for x in state))  # what is returned is the caller's own
    if form != "compiled":
        check_range("log_retention", log_retention, -torch.inf, 0.0)
        check_range("log_pair_retention", log_pair_retention, -torch.inf, 0.0)
    if form == "reference":
        with without_autocast(a.device):
            return triple_latent_reference(
                a,
                b,
                q_l,
                q_r,
                log_retention,
                log_pair_retention,
                addresses=addresses,
                state=state,
                mask=mask,
                starts=starts,
            )
    if form == "compiled":
        # where masked, retentions of 1 neither decay nor write, since the write strength is 1 minus them
        y, state = triple_latent_compiled(
            a, b, q_l, q_r, log_retention, log_pair_retention, addresses, state, starts
        )
        return (y if mask is None else y.masked_fill(~mask[..., None, None], 0.0)), state
    with without_autocast(a.device):
        before, last = _retained_sum(a, log_retention, state.sum.to(dtype), mask, starts)
        read, pairs = matrix_state(
            address(q_l.to(dtype), addresses),
            b.to(dtype),
            address(before, addresses),
            log_pair_retention,
            state=state.pairs.mT,
            mask=mask,
            starts=starts,
            backend="chunked",
        )
    return (read * q_r).to(b.dtype), TripleLatentState(last, pairs.mT)


def _retained_sum(
    a: HeadVectors,
    log_retention: HeadScalars,
    start: Tensor,
    mask: TokenMask | None,
    starts: TokenMask | None,
) -> tuple[HeadVectors, Tensor]:
    """The sum before each token [B, T, H, S] and after the last one [B, H, S], in the accumulation dtype."""
    log_keep = log_retention.to(start.dtype)
    write = -torch.expm1(log_keep)[..., None] * a
    start = start.flatten(1)
    sums, last = signed_scan(
        log_keep.exp(), write.flatten(2), start, mask=mask, starts=starts, backend="chunked"
    )
    before = torch.cat([start[:, None], sums[:, :-1]], dim=1) if a.shape[1] else sums
    if starts is not None:
        before = before.masked_fill(starts[..., None], 0.0)
    return before.view(a.shape), last.view(a.shape[0], *a.shape[2:])


def _check(
    a: HeadVectors,
    b: HeadVectors,
    q_l: HeadVectors,
    q_r: HeadVectors,
    log_retention: HeadScalars,
    log_pair_retention: HeadScalars,
    addresses: Tensor | None,
    state: TripleLatentState | None,
    mask: TokenMask | None,
    starts: TokenMask | None,
) -> None:
    check_first("a", a, "batch, time, heads, state_dim")
    batch, length, heads, dim = a.shape
    for name, vectors in (("b", b), ("q_l", q_l), ("q_r", q_r)):
        check_like(name, vectors, (batch, length, heads, dim), a)
    check_like("log_retention", log_retention, (batch, length, heads), a)
    check_like("log_pair_retention", log_pair_retention, (batch, length, heads), a)
    rows = dim
    if addresses is not None:
        check_first("addresses", addresses, "slots, state_dim")
        rows = len(addresses)
        if addresses.shape[-1] != dim or not rows:
            raise UserError(f"addresses: expected [slots, {dim}], got {list(addresses.shape)}")
        check_like("addresses", addresses, (rows, dim), a)
    if state is not None:
        check_tuple("state", state, TripleLatentState)
        check_like("state.sum", state.sum, (batch, heads, dim), a)
        check_like("state.pairs", state.pairs, (batch, heads, rows, dim), a)
    check_positions(mask, starts, (batch, length), a)
