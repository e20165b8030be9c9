"""The compiled loops of the suffix automaton: rows of tokens into their trees, and what may be read at all.

Imported only when a kernel runs; the machine code is kept on disk (unimatrix.ops.jit).

Letters: B batch, T time; r a row's registers, n, m, h its room for tokens, nodes and slots.
"""

import numba

from unimatrix.ops.jit import kernel
from unimatrix.ops.suffix_automaton.state import (
    AT_LENGTH,
    AT_NODE,
    AT_TOKEN,
    BASE,
    BEGAN,
    BUILT,
    COUNT,
    EDGES,
    HELD,
    LEAVES,
    MIN_NODES,
    MOST_ID,
    NODE_WORDS,
    NODES,
    NODES_ROOM,
    NONE,
    SLOT_WORDS,
    SLOTS,
    SLOTS_ROOM,
    TOKEN_WORDS,
    TOKENS_ROOM,
)
from unimatrix.ops.suffix_automaton.tree import ROOT, lacks_room, plant, read_token, spread

READ, MORE, OLDER, STRANGE, WRONG_ID = range(5)  # what `read` returns


@numba.njit
def _read_row(r, held, leaves, nodes, table, given, real, starts, done, capacity, out):
    """Read a row on from token `done`, as far as there is room; the token that it stopped before."""
    half = capacity // 2
    t = done
    while True:
        # what the store holds and the tree does not: after a copy, or when half of a capacity was forgotten
        while r[BUILT] < r[HELD]:
            if lacks_room(r, table):
                return t
            read_token(r, held, leaves, nodes, table)
        if t == len(given):
            return t
        if len(starts) and starts[t]:
            r[BASE] = r[COUNT]
            r[BEGAN] = r[COUNT]
            r[HELD] = 0
            plant(r, nodes, table)
        if len(real) and not real[t]:
            out[0, t] = NONE
            out[1, t] = 0
            out[2, t] = NONE
            t += 1
            continue
        if half:
            index = r[COUNT] - r[BEGAN]
            first = r[BEGAN] + max(0, index // half - 1) * half
            if first > r[BASE]:
                gone = first - r[BASE]
                for k in range(r[HELD] - gone):
                    held[k] = held[k + gone]
                r[HELD] -= gone
                r[BASE] = first
                plant(r, nodes, table)
                continue
        if r[HELD] == r[TOKENS_ROOM] or lacks_room(r, table):
            return t
        held[r[HELD]] = given[t]
        r[HELD] += 1
        r[COUNT] += 1
        newest = read_token(r, held, leaves, nodes, table)
        length = r[BUILT] - r[LEAVES]
        if length:
            after = newest + length
            out[0, t] = held[after]
            out[1, t] = length
            out[2, t] = r[BASE] + after
        else:
            out[0, t] = NONE
            out[1, t] = 0
            out[2, t] = NONE
        t += 1


@numba.njit
def _is_sound(r, length, words):
    """Whether the registers go with each other, with the handle and with the store; looks at no more."""
    n, m, h = r[TOKENS_ROOM], r[NODES_ROOM], r[SLOTS_ROOM]
    if min(n, m, h, r[BASE], r[BUILT:TOKENS_ROOM].min()) < 0:
        return False
    if n > words or m > words or h > words:
        return False
    without_tree = m == 0 and h == 0 and n == words
    if TOKEN_WORDS * n + NODE_WORDS * m + SLOT_WORDS * h != words and not without_tree:
        return False
    if r[BUILT] > r[HELD] or r[HELD] > n or r[COUNT] != r[BASE] + r[HELD] or r[BEGAN] > r[BASE]:
        return False
    if length < r[BASE] or length > r[COUNT]:
        return False
    if r[NODES] == 0:  # no tree was planted
        return r[BUILT:TOKENS_ROOM].max() == 0
    inside = r[NODES] <= m and r[SLOTS] <= h and r[EDGES] < r[SLOTS] and r[LEAVES] <= r[BUILT]
    at = r[AT_NODE] >= ROOT and r[AT_NODE] < r[NODES] and r[AT_TOKEN] <= r[BUILT]
    return inside and at and r[AT_LENGTH] <= r[BUILT]


@numba.njit
def _forgets(r, time, starts, capacity):
    """Whether so many tokens more may make a row forget some that it holds."""
    for t in range(len(starts)):
        if starts[t]:
            return True
    half = capacity // 2
    if half == 0:
        return False
    first = (r[COUNT] - r[BEGAN] + time - 1) // half - 1
    return r[BEGAN] + half * first > r[BASE]


@numba.njit
def _has_wrong_id(given, real):
    for t in range(len(given)):
        if (given[t] < 0 or given[t] > MOST_ID) and (len(real) == 0 or real[t]):
            return True
    return False


@kernel
def move_tables(registers, store, at, larger, to):
    """Every row's table from place `at` of a store to place `to` of another, with the room that there is now.

    Unless that is far more than it needs: then it grows with the tree, as a new one does.
    """
    for b in numba.prange(len(registers)):
        r = registers[b]
        used, room = r[SLOTS], r[SLOTS_ROOM]
        slots = room if room <= 2 * used else used
        edges = store[b, at : at + SLOT_WORDS * used].reshape(used, SLOT_WORDS)
        spread(r, edges, larger[b, to : to + SLOT_WORDS * slots].reshape(slots, SLOT_WORDS), slots)


@kernel
def read(own, length, registers, store, given, real, starts, done, capacity, out, count):
    """Read on in every row from the tokens that `done` says on, as far as there is room.

    Returns READ, or MORE where more room is needed. Without doing anything: OLDER, where the store is not
    the caller's own and a handle is not the newest on it or would forget; STRANGE, where numbers in a state
    are none that a call returned; WRONG_ID.

    own: whether nobody else has the store; length [B] and registers [B, REGISTERS] int64, store [B, words]
    int32, given [B, T] int64, real and starts [B, T] or [B, 0], out [3, B, T] int64, capacity 0 for none;
    count [B]: the real tokens after.
    """
    time = given.shape[1]
    older = bare = False
    for b in range(len(registers)):
        if not own:
            if not _is_sound(registers[b], length[b], store.shape[1]):
                return STRANGE
            older |= length[b] != registers[b, COUNT] or _forgets(registers[b], time, starts[b], capacity)
        if _has_wrong_id(given[b], real[b]):
            return WRONG_ID
        bare |= registers[b, NODES_ROOM] < MIN_NODES
    if older:
        return OLDER
    if bare:
        return MORE  # a state of a file or of the reference's has no tree
    for b in numba.prange(len(registers)):
        r = registers[b]
        row = store[b]
        n, m, h = r[TOKENS_ROOM], r[NODES_ROOM], r[SLOTS_ROOM]
        nodes = row[2 * n : 2 * n + NODE_WORDS * m].reshape(m, NODE_WORDS)
        table = row[2 * n + NODE_WORDS * m : 2 * n + NODE_WORDS * m + 2 * h].reshape(h, 2)
        if r[NODES] == 0:
            plant(r, nodes, table)
        done[b] = _read_row(
            r,
            row[:n],
            row[n : 2 * n],
            nodes,
            table,
            given[b],
            real[b],
            starts[b],
            done[b],
            capacity,
            out[:, b],
        )
        count[b] = r[COUNT]
    for b in range(len(registers)):
        if done[b] < time or registers[b, BUILT] < registers[b, HELD]:
            return MORE
    return READ
