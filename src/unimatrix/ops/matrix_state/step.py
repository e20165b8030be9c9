"""One token of a matrix state with what lies around it, as one loop: for writing a text token by token.

A step is a thousand multiply-adds a head; as forty calls of torch it takes many times as long.
Without gradients, and on the CPU. The op between a convolution and a norm of torch's own is what it is held
to (tests/mixers/test_decoding_step.py).

Letters: B batch, H heads, S state dimension, K kernel size; HS = H * S.
"""

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unimatrix.ops.backend import BackendChoice, choose_backend
from unimatrix.ops.internals import watched
from unimatrix.ops.matrix_state.compiled import compiled_problem
from unimatrix.ops.shapes import MatrixState, check_retention, under_autocast


def takes_step(
    x: Tensor, state: MatrixState, recent: Tensor | None, kernel: Tensor | None, backend: BackendChoice
) -> bool:
    """Whether `matrix_state_step` can go on from these, for projections of x [B, 1, D].

    Not with gradients, or where somebody follows the operators; not on tensors of several dtypes or of other
    shapes than the state has: the op has a word for those.
    """
    if torch.is_grad_enabled() or x.shape[1] != 1 or watched(x) or under_autocast(x.device):
        return False
    if x.dtype not in (torch.float32, torch.float64) or not _alike(state, x) or state.dim() != 4:
        return False
    batch, heads, rows, columns = state.shape
    if batch != x.shape[0] or rows != columns or compiled_problem(state, state) is not None:
        return False
    if recent is not None and kernel is not None:
        taps, channels = kernel.shape
        if not (_alike(recent, x) and _alike(kernel, x) and channels == 3 * heads * rows):
            return False
        if recent.shape != (batch, taps - 1, channels):
            return False
    elif recent is not None or kernel is not None:
        return False
    return choose_backend("matrix_state", backend, preferred="compiled", problems={}) == "compiled"


def _alike(x: Tensor, y: Tensor) -> bool:
    return x.dtype == y.dtype and x.device == y.device


def matrix_state_step(
    qkv: Tensor,
    gates: Tensor,
    state: MatrixState,
    recent: Tensor | None,
    kernel: Tensor | None,
    norm_eps: float | None,
) -> tuple[Tensor, MatrixState, Tensor | None]:
    """Read one token and write it, from where `takes_step` says that it can.

        q, k, v = SiLU(sum over j < K of kernel_j * x_{t-j}),  x = qkv; without a kernel x itself
        S_t = rho S_{t-1} + (1 - rho) k v^T,  rho = sigmoid(gates),  y = S_t q
        y / sqrt(mean(y^2) + norm_eps) for each head, without norm_eps y itself

    Args:
        qkv: [B, 1, 3 HS]. gates: [B, 1, at least H], a retention logit for each head first.
        state: [B, H, S, S]. recent: [B, K - 1, 3 HS], the inputs before. kernel: [K, 3 HS], the oldest first.

    Returns:
        y [B, 1, HS], the next state and the next recent inputs, all of qkv's dtype. Nothing is modified.
    """
    batch, heads, dim, _ = state.shape
    qkv, gates, state = qkv.contiguous(), gates.contiguous(), state.contiguous()
    if not _alike(qkv, state) or not _alike(gates, state):  # projections that are not torch's own
        qkv, gates = qkv.to(state), gates.to(state)
    y, last = qkv.new_empty(batch, 1, heads * dim), torch.empty_like(state)
    taps, left = 0, None
    if recent is not None and kernel is not None:
        recent, kernel = recent.contiguous(), kernel.detach().contiguous()
        taps, left = kernel.shape[0], torch.empty_like(recent)
    if _loop()(
        qkv, gates, state, recent, kernel, y, last, left, taps, -1.0 if norm_eps is None else norm_eps
    ):
        check_retention("log_retention", F.logsigmoid(gates[..., :heads]))
    return y, last, left


@cache
def _loop() -> Any:
    from unimatrix.ops.matrix_state.kernels import run_step

    return run_step
