"""The slot memory of UniMatrix-SparsePointer: a fixed number of exact bindings, written and read in order.

`reference` is the definition, `compiled` a CPU loop that writes and reads in one pass, `chunked` decides the
slots on the CPU and reads many positions at once on any device. All agree in outputs, state and every
gradient (tests/ops/test_slot_memory.py).
"""

import torch
from torch import Tensor

from unimatrix.errors import UserError
from unimatrix.ops.backend import Backend, choose_backend, loops_problem
from unimatrix.ops.shapes import TokenIds, TokenMask, accumulation_dtype, check_shape
from unimatrix.ops.slot_memory.chunked import decisions_problem, slot_memory_chunked
from unimatrix.ops.slot_memory.compiled import slot_memory_compiled
from unimatrix.ops.slot_memory.reference import slot_memory_reference
from unimatrix.ops.slot_memory.state import EMPTY, Rules, SlotMemoryState, SlotReads, Writes, empty_state

__all__ = ["EMPTY", "SlotMemoryState", "SlotReads", "empty_state", "slot_memory"]

CHUNK_LEN = 64  # queries that are read at once in the chunked form


def slot_memory(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    token_ids: TokenIds,
    write_strength: Tensor,
    *,
    num_slots: int = 32,
    top_k: int | None = None,
    match_threshold: float = 0.99,
    write_threshold: float = 0.5,
    state: SlotMemoryState | None = None,
    mask: TokenMask | None = None,
    chunk_len: int | None = None,
    backend: Backend = "auto",
) -> tuple[SlotReads, SlotMemoryState]:
    """Bind a value and a token id to a key in one of a few slots, and read the slots with a query.

    Source: the UniMatrix paper, eq. (12) to (14). Each position first writes, then reads.

    A write of strength lambda_t above write_threshold goes to the taken slot whose key has the largest
    cosine with key_t, if that is above match_threshold; else to the first empty slot; else to the oldest one,
    which is the one not written for the longest time. Whichever it is, key, value, token id and strength are
    replaced by the new ones: the newest binding of a key wins, and nothing of the old one remains. Equal
    cosines, scores and ages go to the lowest slot.

        beta_s = query_t . K_s / sqrt(E) + log lambda_s          over the slots that hold something
        w = softmax(beta) over the TopK of them;  context_t = sum_s w_s V_s

    Args:
        query, key: [B, T, E]; value: [B, T, W]; any float dtype.
        token_ids: [B, T] int64, >= 0, the ids stored with the values.
        write_strength: [B, T], lambda in [0, 1].
        num_slots: N. top_k: slots that a query reads, at most N; None is all.
        match_threshold: cosine in [-1, 1) above which two keys are the same key. A zero key matches none.
        write_threshold: at or below it nothing is written.
        state: the slots before the first position; None is empty ones. Never modified.
        mask: [B, T] bool; a False position writes nothing, lets no slot age, and reads zeros (ids EMPTY).
        chunk_len: queries at once in the chunked form; None is the default. No effect on the result.
        backend: "auto" takes the compiled form on a CPU, the chunked form elsewhere.

    Returns:
        reads: context [B, T, W] in value's dtype, weights [B, T, N] in the accumulation dtype, token_ids
            [B, T, N]; a pointer adds the weights up by token id (eq. 14). The state after the last position.

    Raises:
        UserError: shapes disagree, num_slots < 1, top_k outside 1..num_slots, a negative token id, a
            threshold out of range, a backend that is unknown or cannot run here.

    Numerics: float32, or float64 for float64 inputs; cosines are compared in float64 by every form.
    Differentiable in query, key, value, write_strength and the state's keys, values and strengths; the
    decisions (which slot, whether at all, which TopK) carry no gradient.
    """
    _check(query, key, value, token_ids, write_strength, mask)
    rules = _rules(num_slots, top_k, match_threshold, write_threshold)
    batch, _, width = query.shape
    dtype = accumulation_dtype(query.dtype)
    if state is None:
        state = empty_state(batch, num_slots, width, value.shape[-1], dtype=dtype, device=query.device)
    else:
        _check_state(state, batch, num_slots, width, value.shape[-1])
        state = state._replace(
            keys=state.keys.to(dtype), values=state.values.to(dtype), strengths=state.strengths.to(dtype)
        )
    if chunk_len is not None and chunk_len < 1:
        raise UserError(f"chunk_len: expected at least 1, got {chunk_len}")
    problem, undecided = loops_problem(query), decisions_problem()
    form = choose_backend(
        "slot_memory",
        backend,
        preferred="compiled" if problem is None else "chunked" if undecided is None else "reference",
        problems={
            "compiled": problem,
            "chunked": undecided,
            "triton": "there is no triton form of this op",
        },
    )
    writes = Writes(
        query.to(dtype), key.to(dtype), value.to(dtype), token_ids, write_strength.to(dtype), mask
    )
    if form == "reference":
        reads, last = slot_memory_reference(writes, state, rules)
    elif form == "compiled":
        reads, last = slot_memory_compiled(writes, state, rules)
    else:
        reads, last = slot_memory_chunked(writes, state, rules, chunk_len or CHUNK_LEN)
    return reads._replace(context=reads.context.to(value.dtype)), last


def _rules(num_slots: int, top_k: int | None, match_threshold: float, write_threshold: float) -> Rules:
    if num_slots < 1:
        raise UserError(f"num_slots: expected at least 1, got {num_slots}")
    if top_k is not None and not 1 <= top_k <= num_slots:
        raise UserError(f"top_k: expected 1 to num_slots = {num_slots}, got {top_k}")
    if not -1.0 <= match_threshold < 1.0:
        raise UserError(f"match_threshold: expected a cosine in [-1, 1), got {match_threshold}")
    if not 0.0 <= write_threshold < 1.0:
        raise UserError(f"write_threshold: expected at least 0 and below 1, got {write_threshold}")
    return Rules(num_slots, top_k or num_slots, match_threshold, write_threshold)


def _check(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    token_ids: TokenIds,
    write_strength: Tensor,
    mask: TokenMask | None,
) -> None:
    if query.dim() != 3:
        raise UserError(f"query: expected [batch, time, width], got {list(query.shape)}")
    batch, length, _ = query.shape
    check_shape("key", key, query.shape)
    if value.dim() != 3:
        raise UserError(f"value: expected [batch, time, width], got {list(value.shape)}")
    check_shape("value", value, (batch, length, value.shape[-1]))
    check_shape("token_ids", token_ids, (batch, length))
    check_shape("write_strength", write_strength, (batch, length))
    if token_ids.dtype != torch.int64:
        raise UserError(f"token_ids: expected dtype int64, got {token_ids.dtype}")
    # off the CPU, and in a compiled graph, a look at the values would cost a synchronisation
    looks = token_ids.device.type == "cpu" and token_ids.numel() and not torch.compiler.is_compiling()
    if looks and int(token_ids.min()) < 0:
        raise UserError(f"token_ids: expected ids from 0 on, got {int(token_ids.min())}")
    if mask is not None:
        check_shape("mask", mask, (batch, length))
        if mask.dtype != torch.bool:
            raise UserError(f"mask: expected dtype bool, got {mask.dtype}")


def _check_state(state: SlotMemoryState, batch: int, slots: int, width: int, value_width: int) -> None:
    check_shape("state.keys", state.keys, (batch, slots, width))
    check_shape("state.values", state.values, (batch, slots, value_width))
    for name in ("token_ids", "strengths", "ages"):
        check_shape(f"state.{name}", getattr(state, name), (batch, slots))
