"""One token of a matrix state with what lies around it, as one loop: for writing a text token by token.

A step is a thousand multiply-adds a head; as forty calls of torch it takes many times as long.
Without gradients, and on the CPU. The op between a convolution and a norm of torch's own is what it is held
to (tests/mixers/test_decoding_loops.py).

Letters: B batch, H heads, S state dimension, K kernel size; HS = H * S.
"""

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unimatrix.ops.backend import BackendChoice, choose_backend
from unimatrix.ops.internals import plain
from unimatrix.ops.matrix_state.compiled import compiled_problem
from unimatrix.ops.shapes import MatrixState, check_retention


def matrix_state_step(
    qkv: Tensor,
    gates: Tensor,
    rules: Tensor | None,
    diag: Tensor | None,
    state: MatrixState,
    recent: Tensor | None,
    kernel: Tensor | None,
    *,
    heads: tuple[int, int],
    norm_eps: float | None,
    backend: BackendChoice,
) -> tuple[Tensor, MatrixState, Tensor | None] | None:
    """Read one token and write it; None where that is for the op: tensors of another shape, dtype or kind.

        q, k, v = SiLU(sum over j < K of kernel_j * x_{t - K + 1 + j}),  x = qkv; without a kernel x itself
        S_t = rho S_{t-1} + (1 - rho) U,  U = k v^T, with rules as in `matrix_state`;  y = S_t q
        rho = sigmoid(gates),  pi = softmax(rules)
        y / sqrt(mean(y^2) + norm_eps) for each head, without norm_eps y itself

    Args:
        qkv: [B, 1, 3 HS]. gates: [B, 1, at least H], a retention logit for each head first. heads: H, S.
        rules: [B, 1, 3 H] and diag: [B, 1, HS], the d of the diagonal rule; or neither.
        state: [B, H, S, S]. recent: [B, K - 1, 3 HS], the inputs before. kernel: [K, 3 HS], the oldest first.

    Returns:
        y [B, 1, HS], the next state and the next recent inputs, all of qkv's dtype. Nothing is modified.
    """
    batch, channels = qkv.shape[0], 3 * heads[0] * heads[1]
    if qkv.shape != (batch, 1, channels) or gates.shape[:2] != (batch, 1) or gates.shape[2] < heads[0]:
        return None
    if state.shape != (batch, *heads, heads[1]) or not plain(qkv.dtype, qkv, gates, state):
        return None
    if qkv.dtype not in (torch.float32, torch.float64) or compiled_problem(state, state) is not None:
        return None
    if rules is not None and diag is not None:
        if rules.shape != (batch, 1, 3 * heads[0]) or diag.shape != (batch, 1, channels // 3):
            return None
        if not plain(qkv.dtype, rules, diag):
            return None
        rules, diag = rules.contiguous(), diag.contiguous()
    elif rules is not None or diag is not None:
        return None
    left = None
    if recent is not None and kernel is not None:
        past = (batch, kernel.shape[0] - 1, channels)
        if recent.shape != past or kernel.shape[1] != channels or not plain(qkv.dtype, recent, kernel):
            return None
        recent, kernel = recent.contiguous(), kernel.detach().contiguous()
        left = torch.empty_like(recent)
    elif recent is not None or kernel is not None:
        return None
    if choose_backend("matrix_state", backend, preferred="compiled", problems={}) != "compiled":
        return None
    qkv, gates, state = qkv.contiguous(), gates.contiguous(), state.contiguous()
    y, last = qkv.new_empty(batch, 1, channels // 3), torch.empty_like(state)
    if _run()(qkv, gates, rules, diag, state, recent, kernel, y, last, left, norm_eps):
        check_retention("log_retention", F.logsigmoid(gates[..., : heads[0]]))
    return y, last, left


@cache
def _run() -> Any:
    from unimatrix.ops.matrix_state.kernels import run_step

    return run_step
