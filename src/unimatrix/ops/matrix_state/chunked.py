"""The matrix state in chunks: matrix products inside a chunk, a short scan over the chunks' states.

Letters: C chunk length, N chunks; the others as in unimatrix.ops.shapes. For a chunk that starts from S_0:

    decay[t, s] = rho_{s+1} ... rho_t for s <= t, else 0          (products, built as sums of logs)
    1. inside   y_t  = sum_s decay[t, s] w_s U_s q_t               w_s = 1 - rho_s
    2. ends     E    = sum_s decay[C-1, s] w_s U_s
    3. carry    S_n  = (rho_1 ... rho_C) S_{n-1} + E_n             over the chunks
    4. before   y_t += (rho_1 ... rho_t) S_{n-1} q_t

Sums of logs start afresh at every s, rather than as differences of one running sum: a retention of 0 is then
an ordinary -inf and no precision is lost behind it. Only exponentials of numbers <= 0 are taken.
"""

import torch
from torch import Tensor

from unimatrix.ops.shapes import (
    HeadScalars,
    HeadVectors,
    MatrixState,
    RuleWeights,
    TokenMask,
    accumulation_dtype,
)

CARRY_BLOCK = 16  # chunks whose states are carried at once by one matrix product


def matrix_state_chunked(
    q: HeadVectors,
    k: HeadVectors,
    v: HeadVectors,
    log_retention: HeadScalars,
    rule_weights: RuleWeights | None,
    diag: HeadVectors | None,
    state: MatrixState | None,
    starts: TokenMask | None,
    chunk_len: int,
) -> tuple[HeadVectors, MatrixState]:
    """Arguments as in `matrix_state`, already checked; the mask is already in log_retention."""
    batch, length, heads, dim = k.shape
    width = v.shape[-1]
    dtype = accumulation_dtype(q.dtype)
    if state is None:
        state = q.new_zeros(batch, heads, dim, width, dtype=dtype)
    if length == 0:
        return k.to(v.dtype), state.to(dtype)
    chunk_len = min(chunk_len, length)
    q_c, k_c, v_c = (_into_chunks(x.to(dtype), chunk_len) for x in (q, k, v))  # [B, H, N, C, S]
    log_rho = _into_chunks(log_retention.to(dtype)[..., None], chunk_len)[..., 0]  # [B, H, N, C]
    log_kept = log_rho
    if starts is not None:
        # nothing is kept where a text starts, but the write's strength stays
        begun = _into_chunks(starts[..., None, None], chunk_len)[..., 0]  # [B, 1, N, C]
        log_kept = log_rho.masked_fill(begun, -torch.inf)
    decay = pairwise_decay(log_kept)  # [B, H, N, C, C]
    write = -torch.expm1(log_rho)  # [B, H, N, C]

    if rule_weights is None or diag is None:
        writes = [(k_c, v_c, write)]
        diag_write = None
    else:
        pi = _into_chunks(rule_weights.to(dtype), chunk_len)  # [B, H, N, C, 3]
        half_sym = 0.5 * write * pi[..., 2]
        writes = [(k_c, v_c, write * pi[..., 0] + half_sym), (v_c, k_c, half_sym)]
        diag_write = _into_chunks(diag.to(dtype), chunk_len) * (write * pi[..., 1])[..., None]

    # 1. and 2.: what the chunk's own tokens add to its outputs and to its end state
    to_end = decay[..., -1, :]  # [B, H, N, C]
    y = torch.zeros_like(k_c)
    ends = q_c.new_zeros(*q_c.shape[:3], dim, width)  # [B, H, N, S, R]
    for left, right, weight in writes:  # each adds left_s right_s^T, weighted
        scores = (q_c @ right.mT) * decay * weight[..., None, :]  # [B, H, N, C, C]
        y = y + scores @ left
        ends = ends + (left * (to_end * weight)[..., None]).mT @ right
    if diag_write is not None:
        y = y + q_c * (decay @ diag_write)
        ends = ends + torch.diag_embed((to_end[..., None, :] @ diag_write)[..., 0, :])

    # 3. and 4.: the states that the chunks start from, and what they add
    from_start = log_kept.cumsum(-1)  # [B, H, N, C]
    carried = carry(from_start[..., -1], ends.flatten(-2), state.to(dtype).flatten(-2))  # [B, H, N + 1, S*R]
    carried = carried.unflatten(-1, (dim, width))
    y = y + from_start.exp()[..., None] * (q_c @ carried[..., :-1, :, :].mT)
    y = y.flatten(2, 3)[:, :, :length].transpose(1, 2)  # [B, T, H, S]
    return y.to(v.dtype), carried[:, :, -1].clone()  # and not all of them


def pairwise_decay(log_rho: Tensor) -> Tensor:
    """decay[t, s] = exp(sum of log_rho over s < r <= t), 0 above the diagonal; [..., C] to [..., C, C]."""
    chunk_len = log_rho.shape[-1]
    ones = torch.ones(chunk_len, chunk_len, dtype=torch.bool, device=log_rho.device)
    rows = log_rho[..., :, None].expand(*log_rho.shape, chunk_len)  # row t holds log_rho_t
    sums = rows.masked_fill(~ones.tril(-1), 0.0).cumsum(-2)
    return sums.masked_fill(~ones.tril(), -torch.inf).exp()


def carry(log_decay: Tensor, ends: Tensor, start: Tensor) -> Tensor:
    """X_n = exp(log_decay_n) X_{n-1} + ends_n for n = 1..N, from X_0 = start; returns X_0 .. X_N.

    log_decay: [..., N]; ends: [..., N, F]; start: [..., F]; result [..., N + 1, F]. Blocks of CARRY_BLOCK
    are solved by one matrix product each and carried by the same function: memory stays linear in N.
    """
    count = ends.shape[-2]
    if count <= CARRY_BLOCK:
        log_steps = torch.cat([torch.zeros_like(log_decay[..., :1]), log_decay], dim=-1)
        return pairwise_decay(log_steps) @ torch.cat([start[..., None, :], ends], dim=-2)
    pad = -count % CARRY_BLOCK
    # padding neither decays nor adds
    log_decay = torch.nn.functional.pad(log_decay, (0, pad)).unflatten(-1, (-1, CARRY_BLOCK))
    ends = torch.nn.functional.pad(ends, (0, 0, 0, pad)).unflatten(-2, (-1, CARRY_BLOCK))
    inside = pairwise_decay(log_decay) @ ends  # as if each block started from zero
    from_start = log_decay.cumsum(-1)
    blocks = carry(from_start[..., -1], inside[..., -1, :], start)  # states at the block borders
    states = inside + from_start.exp()[..., None] * blocks[..., :-1, None, :]
    states = states.flatten(-3, -2)[..., :count, :]
    return torch.cat([start[..., None, :], states], dim=-2)


def _into_chunks(x: Tensor, chunk_len: int) -> Tensor:
    """[B, T, H, F] to [B, H, N, C, F]; the last chunk is filled with tokens that neither decay nor write."""
    pad = -x.shape[1] % chunk_len
    if pad:
        x = torch.nn.functional.pad(x, (0, 0, 0, 0, 0, pad))
    return x.transpose(1, 2).unflatten(2, (-1, chunk_len))
