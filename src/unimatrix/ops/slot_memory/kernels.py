"""The compiled loops of the slot memory: one batch row after the other position, write then read.

Imported only when a kernel runs; the machine code is kept on disk (unimatrix.ops.jit).

Letters: B batch, T time, N slots, E width of keys and queries, W width of values; s a slot, n a slot too.
All arrays are contiguous; `real` has shape [0, 0] where no position is masked, `starts`
where no text begins. Sums may be reassociated (so
that they use vector instructions), infinities and NaNs keep their meaning.
"""

import math
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from unimatrix.ops.jit import kernel
from unimatrix.ops.rows import FAST
from unimatrix.ops.shapes import check_range
from unimatrix.ops.slot_memory.state import SlotMemoryState, Writes, rooms
from unimatrix.ops.threads import threads_for

NOT_WRITTEN = -1  # in slot_of
# a score so far below the best one weighs 1e-20 of it, nothing even in float64; as 0 it costs nothing, while
# the denormal numbers that still smaller weights are made of cost a processor a hundred cycles each
NO_WEIGHT = -46.0
WAS_EMPTY, WAS_GIVEN = -1, -2  # in replaced: the slot held nothing, or what the state brought along


def run_forward(*arguments: Any) -> tuple[Tensor, ...]:
    """The reads, the last state, slot_of and replaced, from the operator's arguments."""
    writes, given = Writes(*arguments[:7]), SlotMemoryState(*arguments[7:12])
    *rules, _keep = arguments[12:]
    state = tuple(_copy(x) for x in given)
    outputs = rooms(writes.query, writes.value, given.keys)
    real, starts = (none_of(writes.query) if x is None else x for x in (writes.real, writes.starts))
    wrong = forward(
        threads_for(writes.query.numel() * given.keys.shape[1]),
        *[array(x) for x in (*writes[:5], real, starts)],
        *rules,
        *[x.numpy() for x in (*state, *outputs)],
    )
    if wrong:
        check_range("write_strength", writes.strength, 0.0, 1.0, writes.real)
    return (*outputs[:3], *state, *outputs[3:])


def run_backward(*arguments: Any) -> tuple[Tensor, ...]:
    """The gradients of query, key, value, strength, and of the first state's keys, values, strengths."""
    writes, state = Writes(*arguments[:7]), SlotMemoryState(*arguments[7:12])
    weights, slot_of, replaced = arguments[12:15]
    grad_context, grad_weights, _, *grad_last = arguments[15:]
    starts = none_of(writes.query) if writes.starts is None else writes.starts
    floating = (state.keys, state.values, state.strengths)
    given = (writes.query, writes.key, writes.value, writes.strength, *floating)
    grads = tuple(x.new_empty(x.shape) for x in given[:4])
    into = (
        writes.value.new_zeros(writes.value.shape) if grad_context is None else grad_context,
        weights.new_zeros(weights.shape) if grad_weights is None else grad_weights,
    )
    # where the gradients of the last state come in, those of the first go out
    grad_state = tuple(
        x.new_zeros(x.shape) if grad is None else _copy(grad)
        for x, grad in zip(floating, (grad_last[0], grad_last[1], grad_last[3]), strict=True)
    )
    backward(
        threads_for(writes.query.numel() * state.keys.shape[1]),
        *[array(x) for x in (*given, starts, weights, slot_of, replaced, *into)],
        *[x.numpy() for x in (*grad_state, *grads)],
    )
    return (*grads, *grad_state)


def none_of(x: Tensor) -> Tensor:
    """In place of a mask or of starts, where there are none."""
    return torch.empty(0, 0, dtype=torch.bool, device=x.device)


def array(x: Tensor) -> Any:
    """The numbers of a tensor on the CPU, contiguous."""
    return x.detach().contiguous().numpy()


def _copy(x: Tensor) -> Tensor:
    return x.detach().clone(memory_format=torch.contiguous_format)


@numba.njit(fastmath=FAST)
def choose_slot(key, keys, norms, ages, match_threshold):
    """The slot that a write of key [E] goes to: see reference.choose_slot; norms [N] are those of keys."""
    slots, width = keys.shape
    square = 0.0
    for e in range(width):
        square += np.float64(key[e]) * np.float64(key[e])
    norm = math.sqrt(square)
    best, best_cosine = -1, match_threshold
    empty, oldest, oldest_age = -1, 0, np.int64(-1)
    for s in range(slots):
        if ages[s] < 0:
            if empty < 0:
                empty = s
            continue
        if ages[s] > oldest_age:
            oldest, oldest_age = s, ages[s]
        product = norm * norms[s]
        if product > 0.0:
            dot = 0.0
            for e in range(width):
                dot += np.float64(keys[s, e]) * np.float64(key[e])
            if dot / product > best_cosine:
                best, best_cosine = s, dot / product
    if best >= 0:
        return best
    return empty if empty >= 0 else oldest


@numba.njit(fastmath=FAST)
def _norm(key):
    square = 0.0
    for e in range(key.shape[0]):
        square += np.float64(key[e]) * np.float64(key[e])
    return math.sqrt(square)


@numba.njit(fastmath=FAST)
def _keep_top(score, ages, top_k, kept):
    """Mark the top_k taken slots of the largest scores; of equal ones the lowest."""
    slots = score.shape[0]
    taken = 0
    for s in range(slots):
        kept[s] = ages[s] >= 0
        taken += kept[s]
    if taken <= top_k:
        return
    for s in range(slots):
        kept[s] = False
    for _ in range(top_k):
        best = -1
        for s in range(slots):
            if ages[s] >= 0 and not kept[s] and (best < 0 or score[s] > score[best]):
                best = s
        kept[best] = True


@kernel(fastmath=FAST)
def forward(
    query, key, value, token_ids, strength, real, starts, top_k, match_threshold, write_threshold,
    keys, values, slot_ids, strengths, ages, context, weights, read_ids, slot_of, replaced,
):  # fmt: skip
    """Fill context, weights, read_ids; keys ... ages come as the first state and leave as the last one.

    slot_of [B, T]: the slot written or NOT_WRITTEN; replaced [B, T]: the position whose binding was replaced.
    """
    batch, length, width = query.shape
    slots, value_width = values.shape[1], values.shape[2]
    scale = 1.0 / math.sqrt(width)
    masked, starting = real.shape[0] > 0, starts.shape[0] > 0
    wrong = 0  # strengths outside [0, 1], or NaN
    for b in numba.prange(batch):
        score = np.empty(slots, query.dtype)
        log_strength = np.empty(slots, query.dtype)
        norms = np.empty(slots, np.float64)
        version = np.empty(slots, np.int64)
        kept = np.empty(slots, np.bool_)
        for s in range(slots):
            norms[s] = _norm(keys[b, s])
            version[s] = WAS_EMPTY if ages[b, s] < 0 else WAS_GIVEN
            log_strength[s] = 0.0 if ages[b, s] < 0 else math.log(strengths[b, s])
        for t in range(length):
            if starting and starts[b, t]:
                for s in range(slots):
                    for e in range(width):
                        keys[b, s, e] = 0.0
                    for w in range(value_width):
                        values[b, s, w] = 0.0
                    slot_ids[b, s], ages[b, s], version[s] = -1, -1, WAS_EMPTY
                    strengths[b, s], log_strength[s], norms[s] = 0.0, 0.0, 0.0
            slot_of[b, t], replaced[b, t] = NOT_WRITTEN, WAS_EMPTY
            for w in range(value_width):
                context[b, t, w] = 0.0
            if masked and not real[b, t]:
                for s in range(slots):
                    weights[b, t, s] = 0.0
                    read_ids[b, t, s] = -1
                continue
            wrong += 0 if 0 <= strength[b, t] <= 1 else 1
            for s in range(slots):
                ages[b, s] += ages[b, s] >= 0
            if strength[b, t] > write_threshold:
                s = choose_slot(key[b, t], keys[b], norms, ages[b], match_threshold)
                for e in range(width):
                    keys[b, s, e] = key[b, t, e]
                for w in range(value_width):
                    values[b, s, w] = value[b, t, w]
                slot_ids[b, s] = token_ids[b, t]
                strengths[b, s] = strength[b, t]
                log_strength[s] = math.log(strength[b, t])
                ages[b, s] = 0
                norms[s] = _norm(keys[b, s])
                slot_of[b, t] = s
                replaced[b, t] = version[s]
                version[s] = t
            top = -np.inf
            for s in range(slots):
                dot = query.dtype.type(0)
                for e in range(width):
                    dot += keys[b, s, e] * query[b, t, e]
                score[s] = dot * scale + log_strength[s]
            _keep_top(score, ages[b], top_k, kept)
            for s in range(slots):
                if kept[s] and score[s] > top:
                    top = score[s]
            total = query.dtype.type(0)
            for s in range(slots):
                read_ids[b, t, s] = slot_ids[b, s]
                below = score[s] - top
                weights[b, t, s] = math.exp(below) if kept[s] and below > NO_WEIGHT else 0.0
                total += weights[b, t, s]
            for s in range(slots):
                if weights[b, t, s] > 0.0:
                    weights[b, t, s] /= total
                    for w in range(value_width):
                        context[b, t, w] += weights[b, t, s] * values[b, s, w]
    return wrong


@numba.njit
def _beginning(starts, b, t):
    """Where the text began that position t of row b is in; 0 where none did."""
    while t > 0 and not starts[b, t]:
        t -= 1
    return t


@kernel(fastmath=FAST)
def backward(
    query, key, value, strength, keys0, values0, strengths0, starts, weights, slot_of, replaced,
    d_context, d_weights,
    d_keys, d_values, d_strengths, d_query, d_key, d_value, d_strength,
):  # fmt: skip
    """Fill d_query ... d_strength; d_keys, d_values, d_strengths come as the gradients of the last state and
    leave as those of the first. The slots are rewound write by write; where a text started, the one before it
    is written once more first."""
    batch, length, width = query.shape
    slots, value_width = values0.shape[1], values0.shape[2]
    scale = 1.0 / math.sqrt(width)
    starting = starts.shape[0] > 0
    for b in numba.prange(batch):
        keys, values, strengths = keys0[b].copy(), values0[b].copy(), strengths0[b].copy()
        d_score = np.empty(slots, query.dtype)
        written = length  # from here on what the slots hold now was written
        for t in range(length - 1, -1, -1):
            if t < written:
                stop = written
                written = _beginning(starts, b, t) if starting else 0
                for u in range(written, min(stop, length)):
                    s = slot_of[b, u]
                    if s >= 0:
                        for e in range(width):
                            keys[s, e] = key[b, u, e]
                        for w in range(value_width):
                            values[s, w] = value[b, u, w]
                        strengths[s] = strength[b, u]
            for e in range(width):
                d_query[b, t, e] = 0.0
                d_key[b, t, e] = 0.0
            for w in range(value_width):
                d_value[b, t, w] = 0.0
            d_strength[b, t] = 0.0
            mean = query.dtype.type(0)
            for s in range(slots):
                weight = weights[b, t, s]
                if weight != 0.0:
                    dot = query.dtype.type(0)
                    for w in range(value_width):
                        dot += d_context[b, t, w] * values[s, w]
                        d_values[b, s, w] += weight * d_context[b, t, w]
                    d_score[s] = d_weights[b, t, s] + dot
                    mean += weight * d_score[s]
            for s in range(slots):
                weight = weights[b, t, s]
                if weight != 0.0:
                    step = weight * (d_score[s] - mean)
                    d_strengths[b, s] += step / strengths[s]
                    for e in range(width):
                        d_query[b, t, e] += step * scale * keys[s, e]
                        d_keys[b, s, e] += step * scale * query[b, t, e]
            s = slot_of[b, t]
            if s >= 0:
                before = replaced[b, t]
                for e in range(width):
                    d_key[b, t, e] = d_keys[b, s, e]
                    d_keys[b, s, e] = 0.0
                    keys[s, e] = key[b, before, e] if before >= 0 else keys0[b, s, e]
                for w in range(value_width):
                    d_value[b, t, w] = d_values[b, s, w]
                    d_values[b, s, w] = 0.0
                    values[s, w] = value[b, before, w] if before >= 0 else values0[b, s, w]
                d_strength[b, t] = d_strengths[b, s]
                d_strengths[b, s] = 0.0
                strengths[s] = strength[b, before] if before >= 0 else strengths0[b, s]
            if starting and starts[b, t]:
                for s in range(slots):
                    for e in range(width):
                        d_keys[b, s, e] = 0.0
                    for w in range(value_width):
                        d_values[b, s, w] = 0.0
                    d_strengths[b, s] = 0.0


@kernel(fastmath=FAST)
def decide(key, strength, real, starts, match_threshold, write_threshold, keys, ages, slot_of):
    """The decisions alone: fill slot_of [B, T]; keys and ages leave as those of the last state."""
    batch, length, width = key.shape
    slots = keys.shape[1]
    masked, starting = real.shape[0] > 0, starts.shape[0] > 0
    for b in numba.prange(batch):
        norms = np.empty(slots, np.float64)
        for s in range(slots):
            norms[s] = _norm(keys[b, s])
        for t in range(length):
            if starting and starts[b, t]:
                for s in range(slots):
                    ages[b, s] = -1
            slot_of[b, t] = NOT_WRITTEN
            if masked and not real[b, t]:
                continue
            for s in range(slots):
                ages[b, s] += ages[b, s] >= 0
            if strength[b, t] > write_threshold:
                s = choose_slot(key[b, t], keys[b], norms, ages[b], match_threshold)
                for e in range(width):
                    keys[b, s, e] = key[b, t, e]
                norms[s] = _norm(keys[b, s])
                ages[b, s] = 0
                slot_of[b, t] = s
