"""The top_k slots of a query, by their scores in float64, and what is read from them.

Imported only when a kernel runs. Those that were found are kept in a heap whose root is the worst of them.

Letters: N slots, E width of keys and queries, W width of values, k slots that are read; s a slot, c a lane.
"""

import math
from typing import Any, NamedTuple

import numba
import numpy as np

from unimatrix.ops.rows import FAST, bare
from unimatrix.ops.slot_memory.bounds import EIGHT, LOOK, SPAN, groups_for
from unimatrix.ops.slot_memory.held import EMPTY_FROM, HELD, NOT_HELD, USED

# a score so far below the best one weighs 1e-20 of it, nothing even in float64; as 0 it costs nothing, while
# the denormal numbers that still smaller weights are made of cost a processor a hundred cycles each
NO_WEIGHT = -46.0
FEW = 32  # numbers that are sorted soonest one by one


class Best(NamedTuple):
    """Room for the best of some numbered scores, of equal ones those of the lowest numbers; all `bare`."""

    scores: Any  # [k] float64, a heap
    numbers: Any  # [k] int64
    count: Any  # [1] int64


@numba.njit
def room_for(most):
    """For so many; and what owns it."""
    scores, numbers, count = np.empty(most), np.empty(most, np.int64), np.zeros(1, np.int64)
    return Best(bare(scores), bare(numbers), bare(count)), (scores, numbers, count)


@numba.njit
def _before(score, number, other, others_number):
    """Whether the first one is better."""
    return score > other or (score == other and number < others_number)


@numba.njit
def _keep(scores, numbers, count, score, number):
    """It is among the best: put it there, in place of the worst if there is no room."""
    if count[0] < scores.shape[0]:
        i = count[0]
        count[0] += 1
        while i > 0 and _before(scores[(i - 1) // 2], numbers[(i - 1) // 2], score, number):
            scores[i], numbers[i] = scores[(i - 1) // 2], numbers[(i - 1) // 2]
            i = (i - 1) // 2
    else:
        i = 0
        while 2 * i + 1 < scores.shape[0]:
            child = 2 * i + 1
            other = min(child + 1, scores.shape[0] - 1)
            if _before(scores[child], numbers[child], scores[other], numbers[other]):
                child = other
            if _before(scores[child], numbers[child], score, number):
                break
            scores[i], numbers[i] = scores[child], numbers[child]
            i = child
    scores[i], numbers[i] = score, number


@numba.njit(fastmath=FAST)
def _keep_slots(best, first, stop, held, logs, query):
    """Keep those of the slots first to stop - 1 that are among the best of the query [E]."""
    scale, keys, stamps = 1.0 / math.sqrt(query.shape[0]), held.keys, held.stamps
    scores, numbers, count = best.scores, best.numbers, best.count
    for s in range(first, stop):
        if stamps[s] == NOT_HELD:
            continue
        dot = 0.0
        for e in range(query.shape[0]):
            dot += np.float64(keys[s, e]) * np.float64(query[e])
        score = dot * scale + logs[s]
        score = np.inf if math.isnan(score) else score  # comes first, as in torch's order; its weight is NaN
        if count[0] < scores.shape[0] or _before(score, s, scores[0], numbers[0]):
            _keep(scores, numbers, count, score, s)


@numba.njit
def _keep_bounds(best, table, c, first, stop, rest):
    """Keep the best of rows first to stop - 1 of the table, in lane c; the largest left out, or `rest`."""
    scores, numbers, count = best.scores, best.numbers, best.count
    for i in range(first, stop):
        bound = np.float64(table[i, c])
        if count[0] < scores.shape[0]:
            _keep(scores, numbers, count, bound, i)
        elif bound > scores[0]:
            rest = scores[0] if scores[0] > rest else rest
            _keep(scores, numbers, count, bound, i)
        elif bound > rest:
            rest = bound
    return rest


@numba.njit
def _keep_bounded(best, wide, likely, bounds, groups, c, held, logs, query):
    """As `_keep_slots` over all slots, for the query of lane c; the first `groups` are bounded.

    The spans of the largest bounds, in them the groups of the largest ones, in them the slots: what is left
    out, at most `rest`, is hardly ever as good as the worst that was kept.
    """
    used, most, seen = held.counts[USED], bounds.most, bounds.seen
    bounds.flags[LOOK] += 1
    look = bounds.flags[LOOK]
    wide.count[0], likely.count[0] = 0, 0
    rest = _keep_bounds(wide, bounds.tops, c, 0, (groups + SPAN - 1) // SPAN, -np.inf)
    for i in range(wide.count[0]):
        first = wide.numbers[i] * SPAN
        rest = _keep_bounds(likely, most, c, first, min(first + SPAN, groups), rest)
    for i in range(likely.count[0]):
        g = likely.numbers[i]
        seen[g] = look
        _keep_slots(best, g * EIGHT, min(g * EIGHT + EIGHT, used), held, logs, query)
    full = best.count[0] == best.scores.shape[0]
    if full and rest < best.scores[0]:
        return
    for g in range(groups):
        if seen[g] != look and (not full or np.float64(most[g, c]) >= best.scores[0]):
            _keep_slots(best, g * EIGHT, min(g * EIGHT + EIGHT, used), held, logs, query)


@numba.njit
def find_best(best, wide, likely, bounds, c, held, logs, query):
    """Fill `best` with the slots that the query [E] of lane c reads; wide and likely are room for as many."""
    best.count[0] = 0
    groups = groups_for(bounds, c)
    if groups > 0 and held.counts[HELD] > best.scores.shape[0]:
        _keep_bounded(best, wide, likely, bounds, groups, c, held, logs, query)
    else:
        _keep_slots(best, 0, held.counts[USED], held, logs, query)


@numba.njit
def _sort(scores, numbers):
    """Both by the numbers, ascending."""
    if numbers.shape[0] > FEW:
        order = np.argsort(numbers)
        scores[:], numbers[:] = scores[order], numbers[order]
        return
    for i in range(1, numbers.shape[0]):
        score, number = scores[i], numbers[i]
        while i > 0 and numbers[i - 1] > number:
            scores[i], numbers[i] = scores[i - 1], numbers[i - 1]
            i -= 1
        scores[i], numbers[i] = score, number


@numba.njit(fastmath=FAST, error_model="numpy")
def read_best(best, held, careful, values, slot_ids, context, weights, read_ids, read_slots):
    """Fill context [W], weights, ids and slots [k] of a position, the lowest slot first.

    Where fewer than k hold something the lowest empty slots make up the number, with weight 0. Careful: a
    held slot without weight is read all the same, since nothing times NaN or infinity is NaN.
    """
    scores, numbers, stamps, count = best.scores, best.numbers, held.stamps, best.count[0]
    top, empty, total = -np.inf, held.counts[EMPTY_FROM], 0.0
    for i in range(count):
        top = max(top, scores[i])
    if top == -np.inf and count < scores.shape[0]:
        # as in a softmax over all k, in which an empty slot weighs next to nothing, and then 0
        top = np.inf
        total = 1.0
    for i in range(count):
        below = scores[i] - top
        scores[i] = 0.0 if below <= NO_WEIGHT else math.exp(below)
        total += scores[i]
    for i in range(count, scores.shape[0]):
        while stamps[empty] != NOT_HELD:
            empty += 1
        scores[i], numbers[i] = 0.0, empty
        empty += 1
    _sort(scores, numbers)
    for w in range(context.shape[0]):
        context[w] = 0.0
    for i in range(scores.shape[0]):
        s, weight = numbers[i], weights.dtype.type(scores[i] / total if count > 0 else 0.0)
        read_slots[i], weights[i] = s, weight
        read_ids[i] = -1 if stamps[s] == NOT_HELD else slot_ids[s]
        if weight != 0.0 or (careful and stamps[s] != NOT_HELD):
            for w in range(context.shape[0]):
                context[w] += weight * values[s, w]
