"""The compiled loops of the surprise store: who comes in and who goes, and what is read, row after row.

Imported only when one runs; the machine code is kept on disk (unimatrix.ops.jit). What an entry holds is
never changed, only replaced, so it is not copied: an entry is known by its source, n of the first state or
N + t for the token at t.

Letters: B batch, T time, N entries, E width of keys and queries, W width of values, R newest surprises, K
entries read, C chunk length, M chunks. All arrays are contiguous; `real`, `allowed`, `starts` have shape
[0, 0] where there is none of them.
"""

import math
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from unimatrix.ops.jit import kernel
from unimatrix.ops.rows import FAST, all_finite, larger
from unimatrix.ops.surprise_store.state import (
    CALIBRATED,
    DRAW_BITS,
    EMPTY,
    MULTIPLIERS,
    POLICIES,
    SEEN_BITS,
    TIE,
    Offers,
    SurpriseStoreState,
    read_rooms,
)
from unimatrix.ops.threads import threads_for

SURPRISE, SURPRISE_OLDEST = POLICIES.index("surprise"), POLICIES.index("surprise-oldest")
RANDOM, RESERVOIR = POLICIES.index("random"), POLICIES.index("reservoir")
FIRST, SECOND = (np.uint64(number % 2**64) for number in MULTIPLIERS)
# so far below the best score a weight is nothing even in float64: see unimatrix.ops.slot_memory.best
NO_WEIGHT = -46.0


def run_forward(*arguments: Any) -> tuple[Tensor, ...]:
    """The reads, the last state, sources and last, from the operator's arguments."""
    offers, given = Offers(*arguments[:8]), SurpriseStoreState(*arguments[8:15])
    top_k, policy, rate, start, keep = arguments[15:]
    *reads, sources, last = read_rooms(offers.query, offers.value, given.keys, top_k)
    if not keep:
        sources = sources[:, :0]
    deciding = [copy(x) for x in given[3:]]
    forward(
        threads_for(offers.query.numel() * given.keys.shape[1]),
        *[array(x) for x in (*offers, *given[:3])],
        policy,
        rate,
        start,
        *[x.numpy() for x in (*deciding, *reads, sources, last)],
    )
    gone = deciding[0] == EMPTY
    held = (
        _at(last, given.keys, offers.key).masked_fill_(gone[..., None], 0.0),
        _at(last, given.values, offers.value).masked_fill_(gone[..., None], 0.0),
        _at(last, given.token_ids, offers.token_ids).masked_fill_(gone, EMPTY),
    )
    return (*reads, *held, *deciding, sources, last.masked_fill_(gone, EMPTY))


def run_backward(*arguments: Any) -> tuple[Tensor, ...]:
    """The gradients of query, key, value, and of the first state's keys and values."""
    query, key, value, *_ = arguments
    keys, values, *_ = arguments[8:15]
    weights, sources, last = arguments[15:18]
    grad_context, grad_weights, _, grad_keys, grad_values, *_ = arguments[18:]
    given = (query, key, value, keys, values)
    into = [
        x.new_zeros(x.shape) if grad is None else grad
        for x, grad in (
            (value, grad_context),
            (weights, grad_weights),
            (keys, grad_keys),
            (values, grad_values),
        )
    ]
    grads = tuple(x.new_zeros(x.shape) for x in given)
    backward(
        threads_for(query.numel() * keys.shape[1]),
        *[array(x) for x in (*given, weights, sources, last, *into)],
        *[x.numpy() for x in grads],
    )
    return grads


def array(x: Tensor | None) -> Any:
    """The numbers of a tensor on the CPU, contiguous; [0, 0] for none."""
    if x is None:
        return np.empty((0, 0), dtype=np.bool_)
    return x.detach().contiguous().numpy()


def copy(x: Tensor) -> Tensor:
    """A copy on the CPU, which a loop may write into."""
    return x.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


def _at(source: Tensor, before: Tensor, offered: Tensor) -> Tensor:
    """What the entries [B, N] of these sources hold, from the first state's and from the tokens'."""
    budget = before.shape[1]
    index = source if before.dim() == 2 else source[..., None].expand(before.shape)
    if offered.shape[1] == 0:
        return before.detach().clone()
    old = before.detach().gather(1, index.clamp_max(budget - 1))
    return torch.where(index < budget, old, offered.detach().gather(1, (index - budget).clamp_min(0)))


@numba.njit
def _mix(mixed, token_id):
    x = (np.uint64(mixed) ^ np.uint64(token_id + 1)) * FIRST
    x = (x ^ (x >> np.uint64(32))) * SECOND
    return np.int64(x ^ (x >> np.uint64(29)))


@numba.njit
def _admit(level, token_id, allowed, policy, rate, b, priorities, recent, seen, mixed):
    """The entry that a token takes, or -1; see reference.decide. Everything that decides moves on by one."""
    budget, window, count = priorities.shape[1], recent.shape[1], seen[b]
    mixed[b] = _mix(mixed[b], token_id)
    draw = np.int64(np.uint64(mixed[b]) >> np.uint64(64 - DRAW_BITS))
    priority = count
    if policy == SURPRISE:
        priority = (level << SEEN_BITS) + count
    elif policy == RESERVOIR:
        priority = (draw << DRAW_BITS) + (count & (2**DRAW_BITS - 1))
    entry = 0  # the first of the least priority: an empty one has -1
    for n in range(1, budget):
        if priorities[b, n] < priorities[b, entry]:
            entry = n
    written = allowed and priority > priorities[b, entry]
    if written and priorities[b, entry] >= 0:
        compared = min(count, window) + 1
        ranks = np.int64(math.ceil(rate * compared))
        if rate == CALIBRATED:
            before = max(count, 0)  # a state from a file may say anything
            ranks = (budget * compared + before) // (before + 1)  # rounded up
        if policy == RANDOM:
            written = draw * compared < ranks << DRAW_BITS
            if rate != CALIBRATED:
                written = draw < rate * 2.0**DRAW_BITS
        elif policy in (SURPRISE, SURPRISE_OLDEST):
            above = 0
            for r in range(window):
                above += recent[b, r] >= level
            written = above < ranks
    recent[b, count % window] = level
    seen[b] = count + 1
    if written:
        priorities[b, entry] = priority
        return entry
    return -1


@numba.njit
def _empty(start, b, priorities, recent, seen, mixed):
    """Forget all: a text begins."""
    for n in range(priorities.shape[1]):
        priorities[b, n] = -1
    for r in range(recent.shape[1]):
        recent[b, r] = -1
    seen[b], mixed[b] = 0, start


@kernel
def decide(
    levels, token_ids, real, allowed, starts, policy, rate, start, chunk_len,
    priorities, recent, seen, mixed, version, first, last,
):  # fmt: skip
    """Fill version, first, last; priorities ... mixed come as those of the first state, leave as the last's.

    version [B, T, N]: which candidate of its chunk an entry is at a position: n as it was before the chunk,
    N + u the token at u of the chunk; -1 - n for one that is empty, or of a position that is no token.
    first [B, M, N], last [B, N]: the sources before each chunk and at the end; n where one is empty.
    """
    batch, length = levels.shape
    budget = priorities.shape[1]
    masked, choosy, starting = real.shape[0] > 0, allowed.shape[0] > 0, starts.shape[0] > 0
    for b in numba.prange(batch):
        source = np.empty(budget, np.int64)
        local = np.empty(budget, np.int64)
        for n in range(budget):
            source[n] = n
        for t in range(length):
            if t % chunk_len == 0:
                for n in range(budget):
                    first[b, t // chunk_len, n] = source[n]
                    local[n] = n if priorities[b, n] >= 0 else -1 - n
            if starting and starts[b, t]:
                _empty(start, b, priorities, recent, seen, mixed)
                for n in range(budget):
                    source[n], local[n] = n, -1 - n
            if masked and not real[b, t]:
                for n in range(budget):
                    version[b, t, n] = -1 - n
                continue
            entry = _admit(
                levels[b, t], token_ids[b, t], not choosy or allowed[b, t], policy, rate, b,
                priorities, recent, seen, mixed,
            )  # fmt: skip
            if entry >= 0:
                source[entry], local[entry] = budget + t, budget + t % chunk_len
            for n in range(budget):
                version[b, t, n] = local[n]
        for n in range(budget):
            last[b, n] = source[n]


@numba.njit
def _longest(query, key, keys, source, empty):
    """The query's length times that of the longest key that is held."""
    budget, asking, longest = len(source), 0.0, 0.0
    for n in range(budget):
        if not empty[n]:
            its = keys[n] if source[n] < budget else key[source[n] - budget]
            square = 0.0
            for e in range(len(query)):
                square += its[e] * its[e]
            longest = larger(longest, square)
    for e in range(len(query)):
        asking += query[e] * query[e]
    return math.sqrt(asking) * math.sqrt(longest)


@numba.njit
def _read_without_weight(column, source, weights, values, value, context):
    """Nothing times NaN or infinity is NaN: add to context [W] what is read with weight 0."""
    for j in range(len(column)):
        n = column[j]
        if n >= 0 and weights[j] == 0.0:
            its = values[n] if source[n] < len(values) else value[source[n] - len(values)]
            for w in range(len(context)):
                context[w] += weights[j] * its[w]


@kernel(fastmath=FAST)
def forward(
    query, key, value, token_ids, levels, real, allowed, starts, keys, values, held_ids, policy, rate, start,
    priorities, recent, seen, mixed, context, weights, read_ids, sources, last,
):  # fmt: skip
    """Fill context, weights, read_ids, last as `decide` does, and, if it has room, sources [B, T, K]: of what
    was read, -1 for nothing; priorities ... mixed come as those of the first state, leave as the last's."""
    batch, length, width = query.shape
    budget, value_width, top_k = values.shape[1], values.shape[2], weights.shape[2]
    scale = 1.0 / math.sqrt(width)
    masked, choosy, starting = real.shape[0] > 0, allowed.shape[0] > 0, starts.shape[0] > 0
    keeping = sources.shape[1] > 0
    for b in numba.prange(batch):
        source = np.empty(budget, np.int64)
        score = np.empty(budget, query.dtype)
        column = np.empty(top_k, np.int64)  # which entry is read there
        taken = np.empty(budget, np.bool_)
        careful = not (all_finite(value[b]) and all_finite(values[b]))
        for n in range(budget):
            source[n] = n
        for t in range(length):
            if starting and starts[b, t]:
                _empty(start, b, priorities, recent, seen, mixed)
                for n in range(budget):
                    source[n] = n
            for w in range(value_width):
                context[b, t, w] = 0.0
            for j in range(top_k):
                weights[b, t, j], read_ids[b, t, j], column[j] = 0.0, -1, -1
                if keeping:
                    sources[b, t, j] = -1
            if masked and not real[b, t]:
                continue
            entry = _admit(
                levels[b, t], token_ids[b, t], not choosy or allowed[b, t], policy, rate, b,
                priorities, recent, seen, mixed,
            )  # fmt: skip
            if entry >= 0:
                source[entry] = budget + t
            for n in range(budget):
                taken[n] = priorities[b, n] < 0
                if not taken[n]:
                    dot = query.dtype.type(0)
                    if source[n] < budget:
                        for e in range(width):
                            dot += keys[b, n, e] * query[b, t, e]
                    else:
                        for e in range(width):
                            dot += key[b, source[n] - budget, e] * query[b, t, e]
                    score[n] = dot * scale
            margin, spoilt = 0.0, False  # whether a score is NaN
            if top_k < budget:
                for n in range(budget):
                    spoilt |= not taken[n] and math.isnan(score[n])
                margin = TIE * scale * _longest(query[b, t], key[b], keys[b], source, taken)
            top = -np.inf
            for j in range(top_k):
                best = j if top_k == budget and not taken[j] else -1
                if top_k < budget:
                    most = -np.inf
                    for n in range(budget):
                        if not taken[n]:
                            most = larger(most, score[n]) if spoilt else max(most, score[n])
                    for n in range(budget - 1, -1, -1):
                        if not taken[n] and not score[n] < most - margin:
                            best = n
                if best >= 0:
                    column[j], taken[best] = best, True
                    top = max(top, score[best])  # whatever it is, a score that is NaN makes the total NaN
            total = query.dtype.type(0)
            if top == -np.inf and column.min() < 0:
                # as in a softmax over all K, in which an empty entry weighs next to nothing, and then 0
                top, total = np.inf, query.dtype.type(1)
            for j in range(top_k):
                n = column[j]
                if n >= 0:
                    below = score[n] - top
                    weights[b, t, j] = 0.0 if below <= NO_WEIGHT else math.exp(below)  # of NaN it is NaN
                    total += weights[b, t, j]
            for j in range(top_k):
                n = column[j]
                if n < 0:
                    continue
                weight = weights[b, t, j] / total
                weights[b, t, j] = weight
                read_ids[b, t, j] = held_ids[b, n] if source[n] < budget else token_ids[b, source[n] - budget]
                if keeping:
                    sources[b, t, j] = source[n]
                if weight != 0.0:
                    if source[n] < budget:
                        for w in range(value_width):
                            context[b, t, w] += weight * values[b, n, w]
                    else:
                        for w in range(value_width):
                            context[b, t, w] += weight * value[b, source[n] - budget, w]
            if careful:
                _read_without_weight(column, source, weights[b, t], values[b], value[b], context[b, t])
        for n in range(budget):
            last[b, n] = source[n]


@kernel(fastmath=FAST)
def backward(
    query, key, value, keys, values, weights, sources, last,
    d_context, d_weights, d_last_keys, d_last_values,
    d_query, d_key, d_value, d_keys, d_values,
):  # fmt: skip
    """Add to d_query ... d_values, which come as zeros; last [B, N] is -1 where an entry is empty."""
    batch, length, width = query.shape
    budget, value_width, top_k = values.shape[1], values.shape[2], weights.shape[2]
    scale = 1.0 / math.sqrt(width)
    for b in numba.prange(batch):
        d_score = np.empty(top_k, query.dtype)
        # nothing times NaN or infinity is NaN: what was read without weight has a part then too
        careful = False
        for x in (query[b], key[b], value[b], keys[b], values[b], d_context[b], d_weights[b]):
            careful = careful or not all_finite(x)
        for n in range(budget):
            s = last[b, n]
            if s >= 0:
                into_key, into_value = d_keys[b, s % budget], d_values[b, s % budget]
                if s >= budget:
                    into_key, into_value = d_key[b, s - budget], d_value[b, s - budget]
                for e in range(width):
                    into_key[e] += d_last_keys[b, n, e]
                for w in range(value_width):
                    into_value[w] += d_last_values[b, n, w]
        for t in range(length):
            mean = query.dtype.type(0)
            for j in range(top_k):
                weight, s = weights[b, t, j], sources[b, t, j]
                if weight != 0.0 or (careful and s >= 0):
                    its, into = values[b, s % budget], d_values[b, s % budget]
                    if s >= budget:
                        its, into = value[b, s - budget], d_value[b, s - budget]
                    dot = query.dtype.type(0)
                    for w in range(value_width):
                        dot += d_context[b, t, w] * its[w]
                        into[w] += weight * d_context[b, t, w]
                    d_score[j] = d_weights[b, t, j] + dot
                    mean += weight * d_score[j]
            for j in range(top_k):
                weight, s = weights[b, t, j], sources[b, t, j]
                if weight != 0.0 or (careful and s >= 0):
                    step = weight * (d_score[j] - mean) * scale
                    its, into = keys[b, s % budget], d_keys[b, s % budget]
                    if s >= budget:
                        its, into = key[b, s - budget], d_key[b, s - budget]
                    for e in range(width):
                        d_query[b, t, e] += step * its[e]
                        into[e] += step * query[b, t, e]
