"""The compiled loops of the slot memory: one batch row after the other position, write then read.

Imported only when a kernel runs; the machine code is kept on disk (unimatrix.ops.jit). Which slots are held
and which is the oldest: `held`. Few of many slots without a look at each: `bounds` and `best`.

Letters: B batch, T time, N slots, E width of keys and queries, W width of values; s a slot, n a slot too.
All arrays are contiguous; `real` has shape [0, 0] where no position is masked, `starts` where no text begins.
Sums may be reassociated (so that they use vector instructions), infinities and NaNs keep their meaning.
"""

import math
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from unimatrix.ops.jit import kernel
from unimatrix.ops.rows import FAST, all_finite, bare, until_here
from unimatrix.ops.shapes import check_range
from unimatrix.ops.slot_memory.best import NO_WEIGHT, find_best, read_best, room_for
from unimatrix.ops.slot_memory.bounds import (
    CHUNK,
    EIGHT,
    SPAN,
    begin_chunk,
    find_slot,
    renew,
    room_for_bounds,
    write_slot,
)
from unimatrix.ops.slot_memory.held import (
    NOT_HELD,
    USED,
    age_of,
    free_slot,
    hold,
    nearest,
    norm_of,
    release,
    write_key,
)
from unimatrix.ops.slot_memory.state import SlotMemoryState, Writes, rooms
from unimatrix.ops.threads import threads_for

NOT_WRITTEN = -1  # in slot_of
WAS_EMPTY, WAS_GIVEN = -1, -2  # in replaced: the slot held nothing, or what the state brought along


def run_forward(*arguments: Any) -> tuple[Tensor, ...]:
    """The reads, the last state, slot_of and replaced, from the operator's arguments."""
    writes, given = Writes(*arguments[:7]), SlotMemoryState(*arguments[7:12])
    top_k, *thresholds, _keep = arguments[12:]
    state = tuple(_copy(x) for x in given)
    context, weights, read_ids, read_slots, *kept = rooms(writes.query, writes.value, given.keys, top_k)
    every = top_k >= given.keys.shape[1]
    reads = (context, weights, read_ids) if every else (context, weights, read_ids, read_slots)
    real, starts = (none_of(writes.query) if x is None else x for x in (writes.real, writes.starts))
    wrong = (forward if every else forward_best)(
        threads_for(writes.query.numel() * given.keys.shape[1]),
        *[array(x) for x in (*writes[:5], real, starts)],
        *thresholds,
        *[x.numpy() for x in (*state, *reads, *kept)],
    )
    if wrong:
        check_range("write_strength", writes.strength, 0.0, 1.0)
    return (context, weights, read_ids, read_slots, *state, *kept)


def run_backward(*arguments: Any) -> tuple[Tensor, ...]:
    """The gradients of query, key, value, strength, and of the first state's keys, values, strengths."""
    writes, state = Writes(*arguments[:7]), SlotMemoryState(*arguments[7:12])
    weights, read_slots, slot_of, replaced = arguments[12:16]
    grad_context, grad_weights, _, _, *grad_last = arguments[16:]
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
        *[array(x) for x in (*given, state.ages, starts, weights)],
        array(read_slots) if read_slots.shape[2] else None,
        *[array(x) for x in (slot_of, replaced, *into)],
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


@numba.njit
def _slot_for(held, key, norm, match_threshold):
    """The slot that a write of key [E] goes to: see reference.choose_slot."""
    s, _ = nearest(held, key, norm, -1, match_threshold, 0, held.counts[USED])
    return s if s >= 0 else free_slot(held)


@numba.njit
def _release(held, values, slot_ids, strengths):
    """Empty all slots; how many of them, from the first on, had numbers in them."""
    stop = release(held)
    for s in range(stop):
        for w in range(values.shape[1]):
            values[s, w] = 0.0
        slot_ids[s], strengths[s] = -1, 0.0
    return stop


@numba.njit
def _weigh_without_total(score, stamps, weights):
    """Weights [N] whose total is no number: a score is NaN or inf, or none is above -inf.

    As a softmax over all slots has it in which an empty one weighs next to nothing, and then 0, whatever
    lies in it: it is what keeps the weights numbers where all held slots are at -inf. Returns what the
    weights are to be divided by.
    """
    low, full, total = True, True, score.dtype.type(0)
    for s in range(len(score)):
        if stamps[s] == NOT_HELD:
            full, weights[s] = False, 0.0
            continue
        total += weights[s]
        if score[s] != -np.inf:
            low = False
    if not math.isnan(total):
        return total
    for s in range(len(score)):
        weights[s] = 0.0 if stamps[s] == NOT_HELD or (low and not full) else np.nan
    return score.dtype.type(1)


@numba.njit
def _read_without_weight(stamps, weights, values, context):
    """Nothing times NaN or infinity is NaN: add to context [W] what the held slots of weight 0 give."""
    for s in range(len(weights)):
        if weights[s] == 0.0 and stamps[s] != NOT_HELD:
            for w in range(len(context)):
                context[w] += weights[s] * values[s, w]


@numba.njit
def _first_versions(ages):
    """What `replaced` says of the bindings that a state brings along."""
    version = np.empty(ages.shape[0], np.int64)
    for s in range(ages.shape[0]):
        version[s] = WAS_EMPTY if ages[s] < 0 else WAS_GIVEN
    return version


@kernel(fastmath=FAST)
def forward(
    query, key, value, token_ids, strength, real, starts, match_threshold, write_threshold,
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
    query, key, keys, values = bare(query), bare(key), bare(keys), bare(values)
    slot_ids, strengths = bare(slot_ids), bare(strengths)
    for b in numba.prange(batch):
        score = np.empty(slots, query.dtype)
        log_strength = np.empty(slots, query.dtype)  # -inf of an empty slot, so that it has no weight
        held, held_owners = hold(keys[b], ages[b])
        version = _first_versions(ages[b])
        careful = not (all_finite(value[b]) and all_finite(values[b]))
        clock = 0
        for s in range(slots):
            log_strength[s] = -np.inf if ages[b, s] < 0 else math.log(strengths[b, s])
        for t in range(length):
            if starting and starts[b, t]:
                for s in range(_release(held, values[b], slot_ids[b], strengths[b])):
                    version[s], log_strength[s] = WAS_EMPTY, -np.inf
            slot_of[b, t], replaced[b, t] = NOT_WRITTEN, WAS_EMPTY
            for w in range(value_width):
                context[b, t, w] = 0.0
            if masked and not real[b, t]:
                for s in range(slots):
                    weights[b, t, s] = 0.0
                    read_ids[b, t, s] = -1
                continue
            wrong += 0 if 0 <= strength[b, t] <= 1 else 1
            clock += 1
            if strength[b, t] > strength.dtype.type(write_threshold):
                norm = norm_of(key[b, t])
                s = _slot_for(held, key[b, t], norm, match_threshold)
                write_key(held, s, key[b, t], norm, clock)
                for w in range(value_width):
                    values[b, s, w] = value[b, t, w]
                slot_ids[b, s] = token_ids[b, t]
                strengths[b, s] = strength[b, t]
                log_strength[s] = math.log(strength[b, t])
                slot_of[b, t], replaced[b, t], version[s] = s, version[s], t
            top = -np.inf
            for s in range(slots):
                dot = query.dtype.type(0)
                for e in range(width):
                    dot += keys[b, s, e] * query[b, t, e]
                score[s] = dot * scale + log_strength[s]
            for s in range(slots):
                if score[s] > top:  # never of NaN, which makes the total NaN
                    top = score[s]
            total = query.dtype.type(0)
            for s in range(slots):
                read_ids[b, t, s] = slot_ids[b, s]
                below = score[s] - top
                weights[b, t, s] = 0.0 if below <= NO_WEIGHT else math.exp(below)  # of NaN it is NaN
                total += weights[b, t, s]
            if math.isnan(total):
                total = _weigh_without_total(score, held.stamps, weights[b, t])
            for s in range(slots):
                if weights[b, t, s] != 0.0:
                    weights[b, t, s] /= total
                    for w in range(value_width):
                        context[b, t, w] += weights[b, t, s] * values[b, s, w]
            if careful:
                _read_without_weight(held.stamps, weights[b, t], values[b], context[b, t])
        for s in range(slots):
            ages[b, s] = age_of(held, s, clock)
        until_here(held_owners)
    return wrong


@numba.njit
def _chunk_end(starts, b, t, length):
    """The position behind the chunk of row b from t on: it ends where the next text starts."""
    stop = t + 1
    while stop < min(t + CHUNK, length) and not (starts.shape[0] > 0 and starts[b, stop]):
        stop += 1
    return stop


@kernel(fastmath=FAST)
def forward_best(
    query, key, value, token_ids, strength, real, starts, match_threshold, write_threshold,
    keys, values, slot_ids, strengths, ages, context, weights, read_ids, read_slots, slot_of, replaced,
):  # fmt: skip
    """As `forward`, where the k best slots are read: weights, read_ids and read_slots are [B, T, k]."""
    batch, length, _ = query.shape
    slots, value_width, top_k = values.shape[1], values.shape[2], weights.shape[2]
    masked = real.shape[0] > 0
    wrong = 0  # strengths outside [0, 1], or NaN
    query, key, keys, values, slot_ids = bare(query), bare(key), bare(keys), bare(values), bare(slot_ids)
    strengths, context, weights = bare(strengths), bare(context), bare(weights)
    read_ids, read_slots = bare(read_ids), bare(read_slots)
    for b in numba.prange(batch):
        memory = np.zeros(slots)
        logs = bare(memory)
        held, held_owners = hold(keys[b], ages[b])
        version = _first_versions(ages[b])
        careful = not (all_finite(value[b]) and all_finite(values[b]))
        for s in range(slots):
            logs[s] = 0.0 if ages[b, s] < 0 else math.log(np.float64(strengths[b, s]))
        best, best_owners = room_for(top_k)
        wide, wide_owners = room_for(min(top_k, slots // (EIGHT * SPAN) + 1))
        likely, likely_owners = room_for(min(top_k, slots // EIGHT + 1))
        bounds, bounds_owners = room_for_bounds(held, length, True)
        clock, t = 0, 0
        while t < length:
            first, stop = t, _chunk_end(starts, b, t, length)
            if starts.shape[0] > 0 and starts[b, t]:
                for s in range(_release(held, values[b], slot_ids[b], strengths[b])):
                    version[s], logs[s] = WAS_EMPTY, 0.0
                renew(bounds, held)
            begin_chunk(bounds, held, logs, key[b, first:stop], query[b, first:stop])
            for t in range(first, stop):
                slot_of[b, t], replaced[b, t] = NOT_WRITTEN, WAS_EMPTY
                if masked and not real[b, t]:
                    for w in range(value_width):
                        context[b, t, w] = 0.0
                    for i in range(top_k):
                        weights[b, t, i], read_ids[b, t, i], read_slots[b, t, i] = 0.0, -1, i
                    continue
                wrong += 0 if 0 <= strength[b, t] <= 1 else 1
                clock += 1
                if strength[b, t] > strength.dtype.type(write_threshold):
                    s = find_slot(bounds, held, t - first, key[b, t], match_threshold)
                    logs[s] = math.log(np.float64(strength[b, t]))
                    write_slot(bounds, held, logs, s, t - first, key[b, t], clock)
                    for w in range(value_width):
                        values[b, s, w] = value[b, t, w]
                    slot_ids[b, s], strengths[b, s] = token_ids[b, t], strength[b, t]
                    slot_of[b, t], replaced[b, t], version[s] = s, version[s], t
                find_best(best, wide, likely, bounds, CHUNK + t - first, held, logs, query[b, t])
                read_best(
                    best, held, careful, values[b], slot_ids[b],
                    context[b, t], weights[b, t], read_ids[b, t], read_slots[b, t],
                )  # fmt: skip
            t = stop
        for s in range(slots):
            ages[b, s] = age_of(held, s, clock)
        until_here((memory, held_owners, bounds_owners, best_owners, wide_owners, likely_owners))
    return wrong


@numba.njit
def _beginning(starts, b, t):
    """Where the text began that position t of row b is in; 0 where none did."""
    while t > 0 and not starts[b, t]:
        t -= 1
    return t


@numba.njit
def _read_slot(read_slots, b, t, i):
    """The i-th slot that was read, of all slots where read_slots is None: numba compiles one of the two."""
    if read_slots is None:
        return i
    return read_slots[b, t, i]


@numba.njit
def _is_finite(arrays, strengths, ages):
    """Whether all numbers of a row are, and the logarithms of the strengths held, with their derivatives."""
    for s in range(len(ages)):
        if ages[s] >= 0 and not 0.0 < strengths[s] < np.inf:
            return False
    finite = True
    for x in arrays:
        finite = finite and all_finite(x)
    return finite


@kernel(fastmath=FAST)
def backward(
    query, key, value, strength, keys0, values0, strengths0, ages0, starts, weights, read_slots,
    slot_of, replaced, d_context, d_weights,
    d_keys, d_values, d_strengths, d_query, d_key, d_value, d_strength,
):  # fmt: skip
    """Fill d_query ... d_strength; d_keys, d_values, d_strengths come as the gradients of the last state and
    leave as those of the first. The slots are rewound write by write; where a text started, the one before it
    is written once more first. weights [B, T, k] are of read_slots, or of all slots where that is None.
    """
    batch, length, width = query.shape
    slots, value_width = values0.shape[1], values0.shape[2]
    scale = 1.0 / math.sqrt(width)
    starting, reads = starts.shape[0] > 0, weights.shape[2]
    for b in numba.prange(batch):
        keys, values, strengths = keys0[b].copy(), values0[b].copy(), strengths0[b].copy()
        d_score = np.empty(reads, query.dtype)
        holds = np.empty(slots, np.bool_)  # which slots hold something now
        # nothing times NaN or infinity is NaN: of held slots those without weight have a part then too
        careful = not _is_finite(
            (query[b], key[b], value[b], keys0[b], values0[b], d_context[b], d_weights[b]),
            strengths0[b], ages0[b],
        )  # fmt: skip
        reached = slots  # no slot from here on has a gradient
        written = length  # from here on what the slots hold now was written
        for t in range(length - 1, -1, -1):
            if t < written:
                stop = written
                written = _beginning(starts, b, t) if starting else 0
                for s in range(slots):
                    holds[s] = ages0[b, s] >= 0 and not (starting and starts[b, written])
                for u in range(written, min(stop, length)):
                    s = slot_of[b, u]
                    if s >= 0:
                        for e in range(width):
                            keys[s, e] = key[b, u, e]
                        for w in range(value_width):
                            values[s, w] = value[b, u, w]
                        strengths[s] = strength[b, u]
                        holds[s] = True
            for e in range(width):
                d_query[b, t, e] = 0.0
                d_key[b, t, e] = 0.0
            for w in range(value_width):
                d_value[b, t, w] = 0.0
            d_strength[b, t] = 0.0
            mean = query.dtype.type(0)
            for i in range(reads):
                s, weight = _read_slot(read_slots, b, t, i), weights[b, t, i]
                if weight != 0.0 or (careful and holds[s]):
                    dot = query.dtype.type(0)
                    for w in range(value_width):
                        dot += d_context[b, t, w] * values[s, w]
                        d_values[b, s, w] += weight * d_context[b, t, w]
                    d_score[i] = d_weights[b, t, i] + dot
                    mean += weight * d_score[i]
            for i in range(reads):
                s, weight = _read_slot(read_slots, b, t, i), weights[b, t, i]
                if weight != 0.0 or (careful and holds[s]):
                    step = weight * (d_score[i] - mean)
                    d_strengths[b, s] += step / strengths[s]
                    for e in range(width):
                        d_query[b, t, e] += step * scale * keys[s, e]
                        d_keys[b, s, e] += step * scale * query[b, t, e]
            # the last one read is the highest
            reached = max(reached, _read_slot(read_slots, b, t, reads - 1) + 1)
            s = slot_of[b, t]
            if s >= 0:
                before = replaced[b, t]
                holds[s] = before != WAS_EMPTY
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
                for s in range(reached):
                    for e in range(width):
                        d_keys[b, s, e] = 0.0
                    for w in range(value_width):
                        d_values[b, s, w] = 0.0
                    d_strengths[b, s] = 0.0
                reached = 0


@kernel(fastmath=FAST)
def decide(key, strength, real, starts, match_threshold, write_threshold, keys, ages, slot_of):
    """The decisions alone: fill slot_of [B, T]; keys are left as they happen to be."""
    batch, length, _ = key.shape
    masked, key, keys = real.shape[0] > 0, bare(key), bare(keys)
    for b in numba.prange(batch):
        held, held_owners = hold(keys[b], ages[b])
        bounds, bounds_owners = room_for_bounds(held, length, False)
        clock, t = 0, 0
        while t < length:
            first, stop = t, _chunk_end(starts, b, t, length)
            if starts.shape[0] > 0 and starts[b, t]:
                release(held)
                renew(bounds, held)
            begin_chunk(bounds, held, held.norms, key[b, first:stop], key[b, first:stop])
            for t in range(first, stop):
                slot_of[b, t] = NOT_WRITTEN
                if masked and not real[b, t]:
                    continue
                clock += 1
                if strength[b, t] > strength.dtype.type(write_threshold):
                    s = find_slot(bounds, held, t - first, key[b, t], match_threshold)
                    write_slot(bounds, held, held.norms, s, t - first, key[b, t], clock)
                    slot_of[b, t] = s
            t = stop
        until_here((held_owners, bounds_owners))
