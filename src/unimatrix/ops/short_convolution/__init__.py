"""A convolution over the last few tokens, each channel by itself, and SiLU: one public function, some forms.

`reference` is the equation, `chunked` runs on any device, `compiled` is one CPU loop. All agree in the
output, the last state and every gradient (tests/ops/test_every_op.py).
"""

import torch
from torch import Tensor

from unimatrix.ops.backend import Backend, BackendChoice, choose_backend, loops_problem
from unimatrix.ops.internals import plain
from unimatrix.ops.shapes import (
    Stream,
    TokenMask,
    accumulation_dtype,
    check_first,
    check_like,
    check_positions,
    harmless,
)
from unimatrix.ops.short_convolution.chunked import short_convolution_chunked
from unimatrix.ops.short_convolution.compiled import short_convolution_compiled
from unimatrix.ops.short_convolution.reference import short_convolution_reference
from unimatrix.ops.windows import in_document, packed, unpacked

__all__ = ["short_convolution"]


def short_convolution(
    x: Stream,
    weight: Tensor,
    state: Tensor | None = None,
    *,
    mask: TokenMask | None = None,
    starts: TokenMask | None = None,
    backend: Backend | BackendChoice = "auto",
) -> tuple[Stream, Tensor]:
    """What lies in front of many recurrences (as in Mamba, arXiv:2312.00752):

        y_t = SiLU(sum over j < K of w_j * x_{t - K + 1 + j})        elementwise

    Args:
        x: [B, T, C], any float dtype.
        weight: [K, C], one kernel for each channel, the oldest token's weight first.
        state: [B, K - 1, C], the tokens before x, oldest first; None is zeros. Never modified.
        mask: [B, T] bool; a False position is no token: windows reach over it, and its output is zero.
        starts: [B, T] bool; at a True position, a masked one too, a text begins: its windows hold zeros for
            all that came before, as if each text had been given alone.
        backend: "auto" takes the compiled form on a CPU, and the chunked form elsewhere and under
            torch.compile, which joins it to what lies around. A form asked for by name that cannot run here
            raises.

    Returns:
        y: [B, T, C] in the dtype of x; the last state: [B, K - 1, C] in the accumulation dtype.

    Raises:
        UserError: shapes, dtypes or devices disagree, a mask that is not bool, a backend that is unknown or
            cannot run here.

    Numerics: sums are float32, or float64 for float64 tokens. Differentiable in x, weight and state.
    """
    _check(x, weight, state, mask, starts)
    problem = loops_problem(x)
    given = [found for found in (x, weight, state) if found is not None]
    joined = torch.compiler.is_compiling()
    by_address = problem is None and not joined and all(plain(found.dtype, found) for found in given)
    form = choose_backend(
        "short_convolution",
        backend,
        preferred="compiled" if by_address else "chunked",
        problems={"compiled": problem},
    )
    dtype, (batch, length, channels), past = accumulation_dtype(x.dtype), x.shape, weight.shape[0] - 1
    tokens, weight = harmless(mask, x).to(dtype), weight.to(dtype)
    before = tokens.new_zeros(batch, past, channels) if state is None else state.to(dtype)
    if form == "reference" or length == 0:
        y, last = short_convolution_reference(tokens, weight, before, mask=mask, starts=starts)
        return y.to(x.dtype), last.clone()
    order = inside = None
    whole = tokens
    # all in one row only where it is needed: the copy costs as much as the loop
    if mask is not None or form == "chunked" or length < past:
        whole, order = packed(torch.cat([before, tokens], dim=1), mask, past)
        before, tokens = whole[:, :past], whole[:, past:]
    last = whole[:, whole.shape[1] - past :]
    if starts is not None:
        inside, kept_on = in_document(starts, order, past)
        last = last.where(kept_on[..., None], 0.0)
    if form == "compiled":
        y = short_convolution_compiled(tokens, before, weight, inside)
    else:
        y = short_convolution_chunked(whole, weight, inside)
    if mask is not None and order is not None:
        y = harmless(mask, unpacked(y, order, past))
    return y.to(x.dtype), last.clone()


def _check(
    x: Stream, weight: Tensor, state: Tensor | None, mask: TokenMask | None, starts: TokenMask | None
) -> None:
    check_first("x", x, "batch, time, channels")
    check_first("weight", weight, "kernel size, channels")
    batch, length, channels = x.shape
    check_like("weight", weight, (max(1, weight.shape[0]), channels), x)
    if state is not None:
        check_like("state", state, (batch, weight.shape[0] - 1, channels), x)
    check_positions(mask, starts, (batch, length), x)
