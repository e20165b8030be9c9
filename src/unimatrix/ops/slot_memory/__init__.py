"""The slot memory of UniMatrix-SparsePointer: a fixed number of exact bindings, written and read in order.

`reference` is the definition, `compiled` a CPU loop that writes and reads in one pass (a few of thousands of
slots without a look at each), `chunked` decides the slots on the CPU and reads many positions at once on any
device. All agree in outputs, state and every
gradient (tests/ops/test_slot_memory.py).
"""

import torch
from torch import Tensor

from unimatrix.errors import UserError, UserTypeError, shown
from unimatrix.ops.backend import Backend, BackendChoice, choose_backend, loops_problem
from unimatrix.ops.internals import transforming, watched
from unimatrix.ops.shapes import (
    TokenIds,
    TokenMask,
    accumulation_dtype,
    check_count,
    check_first,
    check_like,
    check_other,
    check_positions,
    check_range,
    check_tuple,
    harmless,
    without_autocast,
)
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
    starts: TokenMask | None = None,
    chunk_len: int | None = None,
    backend: Backend | BackendChoice = "auto",
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
        query, key: [B, T, E]; value: [B, T, W]; any float dtype; float64 beside a narrower query is refused
            here and in every argument.
        token_ids: [B, T] int64, >= 0, the ids stored with the values.
        write_strength: [B, T], lambda in [0, 1].
        num_slots: N. top_k: slots that a query reads, at most N; None is all.
        match_threshold: cosine in [-1, 1) above which two keys are the same key. A zero key matches none.
        write_threshold: at or below it nothing is written.
        state: the slots before the first position; None is empty ones. Never modified.
        mask: [B, T] bool; a False position writes nothing, lets no slot age, and reads zeros (ids EMPTY).
        starts: [B, T] bool; at a True position, a masked one too, the state is emptied before anything is
            written, so that a text begins there: it is as if each text had been given alone.
        chunk_len: queries at once in the chunked form; None is the default. No effect on the result.
        backend: "auto" takes the compiled form on a CPU, the chunked form elsewhere.

    Returns:
        reads: context [B, T, W] in value's dtype, weights [B, T, k] in the accumulation dtype, token_ids
            [B, T, k], and slots [B, T, k]: which slots those are, in ascending order. k is top_k, or N: then
            slots is None, and slot n stands at place n. Where fewer than k hold something the lowest empty
            slots make up the number, with weight 0 and id EMPTY; at a masked position slots is 0 to k - 1. A
            pointer adds the weights up by token id (eq. 14). The state after the last position.

    Raises:
        UserError: shapes, dtypes or devices disagree, a strength outside [0, 1] (on a CPU),
            num_slots < 1, top_k outside 1..num_slots, a negative token id, a
            threshold out of range, a backend that is unknown or cannot run here.

    Numerics: float32, or float64 for float64 inputs; cosines, and the scores that choose the TopK, are
    compared in float64 by every form (the scores in float32 on a device without float64). Compiled, a weight
    below e^-46 is 0, which shows where values differ by a factor of 1e20.
    Differentiable in query, key, value, write_strength and the state's keys, values and strengths; the
    decisions (which slot, whether at all, which TopK) carry no gradient.
    """
    _check(query, key, value, token_ids, write_strength, mask, starts)
    rules = _rules(num_slots, top_k, match_threshold, write_threshold)
    batch, _, width = query.shape
    dtype = accumulation_dtype(query.dtype)
    if state is None:
        state = empty_state(batch, num_slots, width, value.shape[-1], dtype=dtype, device=query.device)
    else:
        _check_state(state, num_slots, query, value)
        if query.shape[1] == 0:
            state = SlotMemoryState(*(x.clone() for x in state))  # what is returned is the caller's own
        state = state._replace(
            keys=state.keys.to(dtype), values=state.values.to(dtype), strengths=state.strengths.to(dtype)
        )
    if chunk_len is not None:
        check_count("chunk_len", chunk_len)
    problem, undecided = loops_problem(query), decisions_problem()
    form = choose_backend(
        "slot_memory",
        backend,
        preferred="compiled" if problem is None else "chunked" if undecided is None else "reference",
        problems={
            "compiled": problem,
            "chunked": undecided,
        },
    )
    query, key, values, strength = (harmless(mask, x.to(dtype)) for x in (query, key, value, write_strength))
    writes = Writes(query, key, values, token_ids, strength, mask, starts)
    if form != "compiled":
        check_range("write_strength", strength, 0.0, 1.0)
    if form == "reference":
        reads, last = slot_memory_reference(writes, state, rules)
    elif form == "compiled":
        reads, last = slot_memory_compiled(writes, state, rules)
    else:
        with without_autocast(query.device):
            reads, last = slot_memory_chunked(writes, state, rules, chunk_len or CHUNK_LEN)
    # not _replace: torch 2.9 compiles no such class made anew
    return SlotReads(reads.context.to(value.dtype), *reads[1:]), last


def _rules(num_slots: int, top_k: int | None, match_threshold: float, write_threshold: float) -> Rules:
    check_count("num_slots", num_slots)
    if num_slots >= 2**31:
        raise UserError(f"num_slots: expected at most 2^31 - 1, got {num_slots}")
    if top_k is not None:
        check_count("top_k", top_k, num_slots, limit="num_slots")
    for name, number in (("match_threshold", match_threshold), ("write_threshold", write_threshold)):
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            raise UserTypeError(f"{name}: expected a number, got {shown(number)}")
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
    starts: TokenMask | None,
) -> None:
    check_first("query", query, "batch, time, width")
    batch, length, width = query.shape
    check_like("key", key, (batch, length, width), query)
    check_first("value", value, "batch, time, width")
    check_like("value", value, (batch, length, value.shape[-1]), query)
    check_other("token_ids", token_ids, torch.int64, (batch, length), query)
    check_like("write_strength", write_strength, (batch, length), query)
    # off the CPU, and in a compiled graph, a look at the values would cost a synchronisation
    looks = token_ids.device.type == "cpu" and token_ids.numel() and not watched(token_ids)
    if looks and not transforming() and (low := int(token_ids.min())) < 0:
        raise UserError(f"token_ids: expected ids from 0 on, got {low}")
    check_positions(mask, starts, (batch, length), query)


def _check_state(state: SlotMemoryState, slots: int, query: Tensor, value: Tensor) -> None:
    check_tuple("state", state, SlotMemoryState)
    batch = len(query)
    check_like("state.keys", state.keys, (batch, slots, query.shape[-1]), query)
    check_like("state.values", state.values, (batch, slots, value.shape[-1]), query)
    check_like("state.strengths", state.strengths, (batch, slots), query)
    check_other("state.token_ids", state.token_ids, torch.int64, (batch, slots), query)
    check_other("state.ages", state.ages, torch.int64, (batch, slots), query)
