"""A linear recurrence over time with decays of either sign: one public function, several forms of it.

`reference` is the equation, `chunked` runs many chunks of time at once on any device, `compiled` is a CPU
kernel. All agree in the states, the last state and every gradient (tests/ops/test_signed_scan.py).
"""

from torch import Tensor

from unimatrix.errors import UserError
from unimatrix.ops.backend import Backend, BackendChoice, choose_backend, loops_problem
from unimatrix.ops.shapes import Stream, TokenMask, check_first, check_like, check_positions, harmless
from unimatrix.ops.signed_scan.chunked import signed_scan_chunked
from unimatrix.ops.signed_scan.compiled import signed_scan_compiled
from unimatrix.ops.signed_scan.reference import signed_scan_reference

__all__ = ["signed_scan"]


def signed_scan(
    decay: Tensor,
    write: Stream,
    state: Tensor | None = None,
    *,
    mask: TokenMask | None = None,
    starts: TokenMask | None = None,
    backend: Backend | BackendChoice = "auto",
) -> tuple[Stream, Tensor]:
    """Carry a vector over time, every channel with its own decay: a scan of multiply-adds.

        s_t = a_t * s_{t-1} + w_t        elementwise, a = decay, w = write

    Args:
        decay: [B, T, G], any float dtype; meant for [-1, 1], both signs, exact 0 and exact +-1 included.
            G divides D: channels g D/G to (g + 1) D/G - 1 share decay g. G = D gives each its own.
            float32 or wider keeps decays near 1 exact.
        write: [B, T, D], any float dtype; float64 beside a narrower one is refused in every argument.
        state: [B, D], s_0; None is zeros. Never modified.
        mask: [B, T] bool; a False position neither writes nor decays: its state is the one before it.
        starts: [B, T] bool; at a True position, a masked one too, the state is emptied before anything is
            written, so that a text begins there: it is as if each text had been given alone.
        backend: "auto" takes the compiled form on a CPU and the chunked form elsewhere. A form asked for by
            name that cannot run here raises.

    Returns:
        states: [B, T, D] in write's dtype, s_1 to s_T; the last state: [B, D] in the accumulation dtype.

    Raises:
        UserError: shapes, dtypes or devices disagree, D not divisible by G, a mask that is not bool, a
            backend that is unknown or cannot run here.

    Numerics: states and sums are float32, or float64 for a float64 write. No form takes a logarithm or
    divides, so that a sign or a zero is a number like any other. Differentiable in decay, write and state.
    """
    _check(decay, write, state, mask, starts)
    decay, write = harmless(mask, decay), harmless(mask, write)
    problem = loops_problem(write)
    form = choose_backend(
        "signed_scan",
        backend,
        preferred="compiled" if problem is None else "chunked",
        problems={"compiled": problem},
    )
    if state is not None and write.shape[1] == 0:
        state = state.clone()  # what is returned is the caller's own
    if form == "reference":
        return signed_scan_reference(decay, write, state, mask=mask, starts=starts)
    if mask is not None:
        decay = decay.masked_fill(~mask[..., None], 1.0)
    if form == "compiled":
        return signed_scan_compiled(decay, write, state, starts)
    if starts is not None:
        decay = decay.masked_fill(starts[..., None], 0.0)
    return signed_scan_chunked(decay, write, state)


def _check(
    decay: Tensor, write: Stream, state: Tensor | None, mask: TokenMask | None, starts: TokenMask | None
) -> None:
    check_first("write", write, "batch, time, channels")
    batch, length, width = write.shape
    check_first("decay", decay, "batch, time, groups")
    groups = decay.shape[2]
    check_like("decay", decay, (batch, length, groups), write)
    if groups == 0 or width % groups:
        raise UserError(f"decay: expected groups that divide the {width} channels of write, got {groups}")
    if state is not None:
        check_like("state", state, (batch, width), write)
    check_positions(mask, starts, (batch, length), write)
