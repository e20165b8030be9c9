"""A vector carried over time by gates of either sign, and its readout: one public function, several forms.

`reference` is the equation, `chunked` is composed of parts that run on any device, `compiled` is one CPU loop
over decays, scan and readout. All agree in the output, the last state and every gradient
(tests/ops/test_gated_scan.py).
"""

import torch
from torch import Tensor

from unimatrix.errors import UserError
from unimatrix.ops.backend import Backend, BackendChoice, choose_backend, loops_problem
from unimatrix.ops.gated_scan.chunked import gated_scan_chunked
from unimatrix.ops.gated_scan.compiled import gated_scan_compiled
from unimatrix.ops.gated_scan.reference import gated_scan_reference
from unimatrix.ops.shapes import Stream, TokenMask, check_first, check_like, check_positions, harmless

__all__ = ["gated_scan"]


def gated_scan(
    gates: Tensor,
    state: Tensor | None = None,
    *,
    mask: TokenMask | None = None,
    starts: TokenMask | None = None,
    backend: Backend | BackendChoice = "auto",
) -> tuple[Stream, Tensor]:
    """The memory of the recurrent FFN: `signed_scan` with tanh for its decays, and gates for what is read.

        s_t = tanh(f_t) * s_{t-1} + w_t        elementwise, section 5.6 of the paper
        y_t = o_t * s_t                        or, with a query, o_t * q_t * s_t

    Args:
        gates: [B, T, 3, W], f, w and o of every position, or [B, T, 4, W] with q behind them, any float
            dtype; a view of one projection's output is read where it lies.
        state: [B, W], s_0; None is zeros. Never modified.
        mask: [B, T] bool; a False position neither writes nor decays, and its output is zero.
        starts: [B, T] bool; at a True position, a masked one too, the state is emptied before anything is
            written, so that a text begins there: it is as if each text had been given alone.
        backend: "auto" takes the compiled form on a CPU and the chunked form elsewhere. A form asked for by
            name that cannot run here raises.

    Returns:
        y: [B, T, W] in the gates' dtype; the last state: [B, W] in the accumulation dtype.

    Raises:
        UserError: shapes, dtypes or devices disagree, a mask that is not bool, a backend that is unknown or
            cannot run here.

    Numerics: states and sums are float32, or float64 for float64 gates. The compiled form's float32 tanh is
    its own, exact at 0 and where float32's is 1, within 2e-7 elsewhere. Differentiable in gates and state.
    """
    _check(gates, state, mask, starts)
    problem = loops_problem(gates)
    form = choose_backend(
        "gated_scan",
        backend,
        preferred="compiled" if problem is None else "chunked",
        problems={"compiled": problem},
    )
    if state is not None and gates.shape[1] == 0:
        state = state.clone()  # what is returned is the caller's own
    if form == "reference":
        return gated_scan_reference(harmless(mask, gates), state, mask=mask, starts=starts)
    if form == "chunked":
        return gated_scan_chunked(harmless(mask, gates), state, mask=mask, starts=starts)
    if mask is not None:
        # tanh(inf) is 1, exactly
        still = gates.new_tensor([torch.inf, *[0.0] * (gates.shape[2] - 1)])[:, None]
        gates = torch.where(mask[..., None, None], gates, still)
    return gated_scan_compiled(gates, state, starts)


def _check(gates: Tensor, state: Tensor | None, mask: TokenMask | None, starts: TokenMask | None) -> None:
    letters = "batch, time, 3 or 4, width"
    check_first("gates", gates, letters)
    batch, length, kinds, width = gates.shape
    if kinds not in (3, 4):
        raise UserError(f"gates: expected [{letters}], got {list(gates.shape)}")
    if state is not None:
        check_like("state", state, (batch, width), gates)
    check_positions(mask, starts, (batch, length), gates)
