"""An open table of an index: numbers that are not 0, each with its hash, in the order of the hashes.

Imported only when a kernel runs. Nearly in that order, rather, so that a larger table is filled from end to
end. A store may hold anything by the time it comes back: no look at a table is longer than it has slots.
"""

import numba
import numpy as np

from unimatrix.ops.token_store.state import ENTRIES, MIN_SLOTS, SLOTS, SLOTS_ROOM

FULL, OF = 3, 4  # at most so much of a table is taken


@numba.njit
def within(index, end):
    """An index that the store gives, where it lies below `end`; else 0."""
    return np.int64(index) if np.uint64(index) < np.uint64(end) else np.int64(0)


@numba.njit
def place_of(h, slots):
    """The slot that a hash of 32 bits leads to."""
    return (h * np.uint64(slots)) >> np.uint64(32)


@numba.njit
def put_hashed(table, slots, h, number):
    """Insert a number that the table does not have."""
    at = place_of(h, slots)
    wrapped = False
    while table[at, 0] != 0:
        at += np.uint64(1)
        if at == np.uint64(slots):
            at = np.uint64(0)
            if wrapped:
                return
            wrapped = True
    table[at, 0] = number
    table[at, 1] = np.int32(h)


@numba.njit
def spread(r, entries, table, slots):
    """The entries of another table in this one, with so many slots."""
    table[:slots, 0] = 0
    for k in range(len(entries)):
        if entries[k, 0] != 0:
            put_hashed(table, slots, np.uint64(np.uint32(entries[k, 1])), entries[k, 0])
    r[SLOTS] = slots


@numba.njit
def clear(r, table):
    """A table without an entry, with few slots: it grows within its room."""
    r[ENTRIES] = 0
    r[SLOTS] = min(MIN_SLOTS, r[SLOTS_ROOM])
    for at in range(r[SLOTS]):
        table[at, 0] = 0


@numba.njit
def is_full(entries, slots):
    """Whether so many entries are too many for a table."""
    return OF * entries > FULL * slots


@numba.njit
def lacks_slots(r, table, entries):
    """Whether so many entries in all need a larger room; else the table is made larger within its own."""
    slots = min(2 * r[SLOTS], r[SLOTS_ROOM])
    while is_full(entries, slots) and slots < r[SLOTS_ROOM]:
        slots = min(2 * slots, r[SLOTS_ROOM])
    if is_full(entries, slots):
        return True
    spread(r, table[: r[SLOTS]].copy(), table, slots)
    return False
