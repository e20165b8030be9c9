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
    STRAY,
    TOKEN_WORDS,
    TOKENS_ROOM,
)
from unimatrix.ops.suffix_automaton.tree import ROOT, lacks_room, plant, read_token, spread, within

READ, MORE, SHARED, STRANGE, WRONG_ID = range(5)  # what `read` returns


@numba.njit
def _read_row(r, held, leaves, nodes, table, given, real, starts, done, capacity, own, gone, out):
    """Read a row on from token `done`, as far as there is room; the token that it stopped before.

    gone [1]: where the store is not the caller's own and tokens are forgotten next, how many; else as it was.
    """
    half = capacity // 2
    t = done
    while True:
        # what the store holds and the tree does not: after a copy, or when half of a capacity was forgotten
        while r[BUILT] < r[HELD]:
            if lacks_room(r, table):
                return t
            read_token(r, held, leaves, nodes, table)
            if r[STRAY]:
                return t
        if t == len(given):
            return t
        if len(starts) and starts[t]:
            if not own:
                gone[0] = r[HELD]
                return t
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
                less = first - r[BASE]
                if not own:
                    gone[0] = less
                    return t
                for k in range(r[HELD] - less):
                    held[k] = held[k + less]
                r[HELD] -= less
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
        if r[STRAY]:
            return t
        if length:
            after = within(newest + length, r[HELD])
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
    if r[STRAY] or min(n, m, h, r[BASE], r[BUILT:TOKENS_ROOM].min()) < 0:
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


@kernel
def are_sound(registers, length, words):
    """Whether all rows are."""
    sound = True
    for b in range(len(registers)):
        sound &= _is_sound(registers[b], length[b], words)
    return sound


@numba.njit
def _forgotten(r, length, time, real, starts, capacity):
    """How many of a handle's tokens are forgotten before the first of so many more is read."""
    half = capacity // 2
    for t in range(time):
        if len(starts) and starts[t]:
            return length - r[BASE]
        if len(real) == 0 or real[t]:
            first = r[BEGAN] + max(0, (length - r[BEGAN]) // half - 1) * half if half else 0
            return max(0, first - r[BASE])
    return 0


@numba.njit
def _has_wrong_id(given, real):
    for t in range(len(given)):
        if (given[t] < 0 or given[t] > MOST_ID) and (len(real) == 0 or real[t]):
            return True
    return False


@kernel
def move(registers, store, count, gone, after, larger):
    """Rows into another store, whose rooms are in its registers already: what later tokens need, and no more.

    count [B]: the tokens of the handle. gone [B]: how many of those that the store holds are forgotten, and
    the tree with them; -1 for none, of a row whose tree is the handle's.
    """
    for b in numba.prange(len(registers)):
        r, to = registers[b], after[b]
        to[:TOKENS_ROOM] = r[:TOKENS_ROOM]
        first = max(0, gone[b])
        to[COUNT] = count[b]
        to[BASE] += first
        to[HELD] = count[b] - to[BASE]
        larger[b, : to[HELD]] = store[b, first : first + to[HELD]]
        if gone[b] >= 0 or r[NODES] == 0:
            to[BUILT:TOKENS_ROOM] = 0
            continue
        n, m = r[TOKENS_ROOM], to[TOKENS_ROOM]
        larger[b, m : m + r[BUILT]] = store[b, n : n + r[BUILT]]
        n, m, size = 2 * n, 2 * m, NODE_WORDS * r[NODES]
        larger[b, m : m + size] = store[b, n : n + size]
        n, m = n + NODE_WORDS * r[NODES_ROOM], m + NODE_WORDS * to[NODES_ROOM]
        # the table takes all of its room, unless that is far more than it needs: it grows with the tree then
        used, room = r[SLOTS], to[SLOTS_ROOM]
        slots = room if room <= 2 * used else used
        edges = store[b, n : n + SLOT_WORDS * used].reshape(used, SLOT_WORDS)
        spread(to, edges, larger[b, m : m + SLOT_WORDS * slots].reshape(slots, SLOT_WORDS), slots)


@kernel
def read(own, length, registers, store, given, real, starts, done, capacity, out, count, gone):
    """Read on in every row from the tokens that `done` says on, as far as there is room.

    Returns READ, or MORE where more room is needed; SHARED where the store is not the caller's own and a
    handle is not the newest on it or is to forget: `move` then makes one of count and gone. Without doing
    anything, WRONG_ID; STRANGE, where numbers in a state are none that a call returned.

    own: whether nobody else has the store; length [B] and registers [B, REGISTERS] int64, store [B, words]
    int32, given [B, T] int64, real and starts [B, T] or [B, 0], out [3, B, T] int64, capacity 0 for none;
    count [B]: the real tokens after; gone [B]: see `move`.
    """
    time = given.shape[1]
    older = False
    for b in range(len(registers)):
        gone[b] = -1
        if not own:
            if not _is_sound(registers[b], length[b], store.shape[1]):
                return STRANGE
            # a state of a file or of the reference's has no tree
            older |= length[b] != registers[b, COUNT] or registers[b, NODES_ROOM] < MIN_NODES
        if _has_wrong_id(given[b], real[b]):
            return WRONG_ID
    if older:
        for b in range(len(registers)):
            count[b] = length[b]
            less = _forgotten(registers[b], length[b], time, real[b], starts[b], capacity)
            if less > 0 or length[b] != registers[b, COUNT]:
                gone[b] = less
        return SHARED
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
            own,
            gone[b : b + 1],
            out[:, b],
        )
        count[b] = r[COUNT]
    came = READ
    for b in range(len(registers)):
        if registers[b, STRAY]:
            return STRANGE
        if gone[b] >= 0:
            came = SHARED
        elif came == READ and (done[b] < time or registers[b, BUILT] < registers[b, HELD]):
            came = MORE
    return came
