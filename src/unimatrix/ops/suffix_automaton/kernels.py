"""The compiled loops of the suffix automaton: rows of tokens into their trees.

Imported only when a kernel runs; the machine code is kept on disk (unimatrix.ops.jit).

Letters: B batch, T time; r a row's registers, n, m, h its room for tokens, nodes and slots.
"""

import numba

from unimatrix.ops.jit import kernel
from unimatrix.ops.suffix_automaton.state import AT_LENGTH, AT_NODE, AT_TOKEN, LEAVES
from unimatrix.ops.suffix_automaton.tree import ROOT, lacks_room, plant, read_token
from unimatrix.ops.token_store import loops
from unimatrix.ops.token_store.loops import BUILD, FORGET, SHARED, SKIP, STOP, STRANGE, WRONG_ID
from unimatrix.ops.token_store.state import (
    BASE,
    BEGAN,
    BUILT,
    COUNT,
    HELD,
    INDEX,
    NODE_WORDS,
    NODES,
    NODES_ROOM,
    NONE,
    SLOTS,
    SLOTS_ROOM,
    STRAY,
    TOKENS_ROOM,
    TREE,
)
from unimatrix.ops.token_store.table import within


@numba.njit
def _read_row(r, held, leaves, nodes, table, given, real, starts, done, capacity, own, gone, out):
    """Read a row on from token `done`, as far as there is room; the token that it stopped before.

    gone [1]: where the store is not the caller's own and tokens are forgotten next, how many; else as it was.
    """
    t, half = done, capacity // 2
    while True:
        ends = t == len(given)
        begins = not ends and len(starts) > 0 and starts[t]
        is_real = ends or len(real) == 0 or real[t]
        what = loops.ahead(r[BASE], r[BEGAN], r[COUNT], r[HELD], r[BUILT], ends, begins, is_real, half)
        if what == STOP:
            return t
        if what == FORGET:
            if not loops.forget(r, held, begins, half, own, gone):
                return t
            plant(r, nodes, table)
            continue
        newest = length = 0
        if what != SKIP:
            if (what != BUILD and r[HELD] == r[TOKENS_ROOM]) or lacks_room(r, table):
                return t
            if what != BUILD:
                held[r[HELD]] = given[t]
                r[HELD] += 1
                r[COUNT] += 1
            newest = read_token(r, held, leaves, nodes, table)
            if r[STRAY]:
                return t
            if what == BUILD:
                continue
            length = r[BUILT] - r[LEAVES]
        out[0, t] = NONE
        out[1, t] = length
        out[2, t] = NONE
        if length:
            after = within(newest + length, r[HELD])
            out[0, t] = held[after]
            out[2, t] = r[BASE] + after
        t += 1


@numba.njit
def _is_sound(r, length, words):
    """Whether the registers may be read by; those of the tree too where there is one."""
    if not loops.is_sound(r, length, words):
        return False
    if r[INDEX] != TREE or r[SLOTS] == 0:
        return True
    at = r[AT_NODE] >= ROOT and r[AT_NODE] < r[NODES] and r[AT_TOKEN] <= r[BUILT]
    return at and r[LEAVES] <= r[BUILT] and r[AT_LENGTH] <= r[BUILT]


@kernel
def read(own, length, registers, store, given, real, starts, done, capacity, out, count, gone):
    """Read on in every row from the tokens that `done` says on, as far as there is room.

    Returns READ, or MORE where more room is needed; SHARED where the store is not the caller's own and a
    handle is not the newest on it, has no tree or is to forget: `loops.move` then makes one of count and
    gone. Without doing anything, WRONG_ID; STRANGE, where numbers in a state are none that a call returned.

    own: whether nobody else has the store; length [B] and registers [B, REGISTERS] int64, store [B, words]
    int32, given [B, T] int64, real and starts [B, T] or [B, 0], out [3, B, T] int64, capacity 0 for none;
    count [B]: the real tokens after; gone [B]: see `loops.move`.
    """
    time = given.shape[1]
    older = False
    for b in range(len(registers)):
        gone[b] = -1
        if not own:
            if not _is_sound(registers[b], length[b], store.shape[1]):
                return STRANGE
            # a state of a file or of the reference's has no tree
            older |= length[b] != registers[b, COUNT] or registers[b, INDEX] != TREE
        if loops.has_wrong_id(given[b], real[b]):
            return WRONG_ID
    if older:
        loops.set_apart(TREE, registers, length, time, real, starts, capacity, count, gone)
        return SHARED
    for b in numba.prange(len(registers)):
        r = registers[b]
        row = store[b]
        n, m, h = r[TOKENS_ROOM], r[NODES_ROOM], r[SLOTS_ROOM]
        nodes = row[2 * n : 2 * n + NODE_WORDS * m].reshape(m, NODE_WORDS)
        table = row[2 * n + NODE_WORDS * m : 2 * n + NODE_WORDS * m + 2 * h].reshape(h, 2)
        if r[SLOTS] == 0:
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
    return loops.outcome(registers, time, done, gone)
