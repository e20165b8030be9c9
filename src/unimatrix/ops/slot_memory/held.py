"""The slots of a batch row while a compiled loop goes through its text: which are held, which is the oldest.

Imported only when a kernel runs. Whatever is asked for every position costs less than a look at all slots,
but `nearest`.

Letters: N slots, E width of keys; s a slot.
"""

import math
from typing import Any, NamedTuple

import numba
import numpy as np

from unimatrix.ops.rows import FAST, bare

NOT_HELD = np.iinfo(np.int64).min  # in stamps
GROUP = 64  # slots whose least stamp is known together: an oldest one is found by N / 64 + 64 looks
# places in `counts`
EMPTY_FROM = 0  # the first slot that holds nothing, N if all hold something
USED = 1  # no slot from here on holds anything
HELD = 2  # how many hold something
UNCLEARED = 3  # slots below it may have come with numbers in them, even where they hold nothing


class Held(NamedTuple):
    """The slots of a row, beside their values, which no decision looks at; all are `bare`."""

    keys: Any  # [N, E]
    norms: Any  # [N] float64, of the keys; -1 where nothing is held
    stamps: (
        Any  # [N] int64: the real position, counted from 1, that wrote the slot; minus its first age before
    )
    least: Any  # [N / GROUP] int64: at most the least stamp of each group
    counts: Any  # [4] int64


@numba.njit(fastmath=FAST)
def norm_of(key):
    """In float64."""
    square = 0.0
    for e in range(key.shape[0]):
        square += np.float64(key[e]) * np.float64(key[e])
    return math.sqrt(square)


@numba.njit
def hold(keys, ages):
    """The slots of a state, by keys [N, E] (bare; they change) and ages [N]; and what owns the rest."""
    slots = keys.shape[0]
    norms, stamps = np.full(slots, -1.0), np.full(slots, NOT_HELD)
    least, counts = np.zeros((slots + GROUP - 1) // GROUP, np.int64), np.array([0, 0, 0, slots])
    held = Held(keys, bare(norms), bare(stamps), bare(least), bare(counts))
    for s in range(slots):
        if ages[s] >= 0:
            held.norms[s] = norm_of(keys[s])
            held.stamps[s] = -ages[s]
            held.least[s // GROUP] = min(held.least[s // GROUP], -ages[s])
            held.counts[USED] = s + 1
            held.counts[HELD] += 1
    _pass_held(held)
    return held, (norms, stamps, least, counts)


@numba.njit
def _pass_held(held):
    at, stamps = held.counts[EMPTY_FROM], held.stamps
    while at < stamps.shape[0] and stamps[at] != NOT_HELD:
        at += 1
    held.counts[EMPTY_FROM] = at


@numba.njit
def release(held):
    """Empty all slots; how many of them, from the first on, had numbers in them."""
    keys, norms, stamps, counts = held.keys, held.norms, held.stamps, held.counts
    stop = max(counts[USED], counts[UNCLEARED])
    for s in range(stop):
        for e in range(keys.shape[1]):
            keys[s, e] = 0.0
        norms[s], stamps[s] = -1.0, NOT_HELD
    counts[:] = 0
    return stop


@numba.njit
def write_key(held, s, key, norm, clock):
    """The slot s holds this key from the real position `clock` on."""
    keys = held.keys
    for e in range(key.shape[0]):
        keys[s, e] = key[e]
    held.norms[s] = norm
    if held.stamps[s] == NOT_HELD:
        held.counts[HELD] += 1
        held.counts[USED] = max(held.counts[USED], s + 1)
    held.stamps[s] = clock
    _pass_held(held)


@numba.njit
def age_of(held, s, clock):
    """EMPTY (-1) for a slot that holds nothing."""
    return -1 if held.stamps[s] == NOT_HELD else clock - held.stamps[s]


@numba.njit(fastmath=FAST, error_model="numpy")
def nearest(held, key, norm, best, best_cosine, first, stop):
    """The slot of the largest cosine, and that: of `best` and slots first to stop - 1, the first of equal."""
    keys, norms = held.keys, held.norms
    for s in range(first, stop):
        product = norm * norms[s]
        if product > 0.0:  # not for zero keys and empty slots
            dot = 0.0
            for e in range(key.shape[0]):
                dot += np.float64(keys[s, e]) * np.float64(key[e])
            if dot / product > best_cosine:
                best, best_cosine = s, dot / product
    return best, best_cosine


@numba.njit
def free_slot(held):
    """Where a key without a match goes: the first empty slot, else the oldest, of equal ones the lowest."""
    if held.counts[EMPTY_FROM] < held.stamps.shape[0]:
        return held.counts[EMPTY_FROM]
    stamps, least = held.stamps, held.least
    while True:
        group = 0
        for g in range(1, least.shape[0]):
            if least[g] < least[group]:
                group = g
        s = GROUP * group
        for other in range(s + 1, min(s + GROUP, stamps.shape[0])):
            if stamps[other] < stamps[s]:
                s = other
        # what was written since the group was last looked at has only made its least stamp larger
        if stamps[s] == least[group]:
            return s
        least[group] = stamps[s]
