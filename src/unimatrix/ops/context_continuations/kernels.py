"""The compiled loops of contexts: a table of them all, and for each token where its contexts ended before.

Imported only when a kernel runs; the machine code is kept on disk (unimatrix.ops.jit).

The table leads from a context to 1 + the newest token that it ends at; in the lowest bits of the hash beside
it stands which order it is of. The links of a token lead on to the token before, order by order: 1 + where
its context ended then, 0 for nowhere. A link is written once, with its token.

Letters: B batch, T time, O orders; r a row's registers, n, h its room for tokens and slots; i a token, q an
order by its number, s a hash.
"""

import numba
import numpy as np

from unimatrix.ops.jit import kernel
from unimatrix.ops.token_store import loops
from unimatrix.ops.token_store.loops import BUILD, FORGET, SHARED, SKIP, STOP, STRANGE, WRONG_ID
from unimatrix.ops.token_store.state import (
    BASE,
    BEGAN,
    BUILT,
    COUNT,
    ENTRIES,
    HELD,
    INDEX,
    NONE,
    SLOTS,
    SLOTS_ROOM,
    STRAY,
    TOKENS_ROOM,
)
from unimatrix.ops.token_store.table import clear, is_full, lacks_slots, place_of, within

ORDERS_MASK = 7  # of a hash: which order its context is of


@numba.njit
def _plant(r, table):
    """A table without a context."""
    r[BUILT] = 0
    clear(r, table)


@numba.njit
def _lacks_room(r, table, more):
    """Whether the next token may need more room than there is; a table is made larger within its own."""
    entries = r[ENTRIES] + more
    return is_full(entries, r[SLOTS]) and lacks_slots(r, table, entries)


@numba.njit
def _longer(s, token):
    """The hash of a context with one token more in front."""
    s = (s ^ np.uint64(token)) * np.uint64(0x9E3779B97F4A7C15)
    s ^= s >> np.uint64(29)
    s *= np.uint64(0xBF58476D1CE4E5B9)
    return s ^ (s >> np.uint64(32))


@numba.njit
def _find(held, table, slots, i, order, q, s):
    """The slot of the context of that order that ends at token i, or the empty slot where it would stand.

    As many as there are slots, which is none, in a table that has neither.
    """
    tag = np.int32(s)
    at = place_of(s, slots)
    wrapped = False
    while True:
        if table[at, 0] == 0:
            return at
        if table[at, 1] == tag:
            j = within(table[at, 0] - 1, i)
            same = j >= order - 1
            for k in range(order if same else 0):
                if held[j - k] != held[i - k]:
                    same = False
                    break
            if same:
                return at
        at += np.uint64(1)
        if at == np.uint64(slots):
            if wrapped:
                return at
            at = np.uint64(0)
            wrapped = True


@numba.njit
def _read_token(r, held, links, table, orders):
    """Take the token behind the table into it: its links tell where its contexts ended last."""
    i = r[BUILT]
    s = np.uint64(0)
    length = 0
    for q in range(len(orders)):
        order = orders[q]
        links[i, q] = 0
        if order > i + 1:
            continue
        while length < order:
            s = _longer(s, held[i - length])
            length += 1
        own = (s >> np.uint64(32)) & ~np.uint64(ORDERS_MASK) | np.uint64(q)
        at = _find(held, table, r[SLOTS], i, order, q, own)
        if at == np.uint64(r[SLOTS]):
            r[STRAY] = 1
            return
        if table[at, 0] == 0:
            table[at, 1] = np.int32(own)
            r[ENTRIES] += 1
        else:
            links[i, q] = table[at, 0]
        table[at, 0] = i + 1
    r[BUILT] += 1


@numba.njit
def _answer(r, held, links, out):
    """What followed the contexts of the newest token, [O, K]."""
    for q in range(out.shape[0]):
        i = r[BUILT] - 1
        for k in range(out.shape[1]):
            # 1 + where the context ended is where it was followed
            after = within(links[i, q], r[BUILT]) if i >= 0 else np.int64(0)
            out[q, k] = held[after] if after else NONE
            i = after - 1


@numba.njit
def _no_answer(out):
    for q in range(out.shape[0]):
        for k in range(out.shape[1]):
            out[q, k] = NONE


@numba.njit
def _read_row(r, held, links, table, given, real, starts, done, capacity, own, gone, out, orders):
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
            _plant(r, table)
        elif what == SKIP:
            _no_answer(out[t])
            t += 1
        else:
            if (what != BUILD and r[HELD] == r[TOKENS_ROOM]) or _lacks_room(r, table, len(orders)):
                return t
            if what != BUILD:
                held[r[HELD]] = given[t]
                r[HELD] += 1
                r[COUNT] += 1
            _read_token(r, held, links, table, orders)
            if r[STRAY]:
                return t
            if what != BUILD:
                _answer(r, held, links, out[t])
                t += 1


@kernel
def read(own, length, registers, store, given, real, starts, done, capacity, out, count, gone, index, orders):
    """As the suffix automaton's (unimatrix.ops.suffix_automaton.kernels), of contexts of these orders [O].

    out: [B, T, O, K] int64. index: how the registers say so.
    """
    time = given.shape[1]
    older = False
    for b in range(len(registers)):
        gone[b] = -1
        if not own:
            if not loops.is_sound(registers[b], length[b], store.shape[1]):
                return STRANGE
            older |= length[b] != registers[b, COUNT] or registers[b, INDEX] != index
        if loops.has_wrong_id(given[b], real[b]):
            return WRONG_ID
    if older:
        loops.set_apart(index, registers, length, time, real, starts, capacity, count, gone)
        return SHARED
    for b in numba.prange(len(registers)):
        r = registers[b]
        row = store[b]
        n, h, each = r[TOKENS_ROOM], r[SLOTS_ROOM], 1 + len(orders)
        table = row[each * n : each * n + 2 * h].reshape(h, 2)
        if r[SLOTS] == 0:
            _plant(r, table)
        done[b] = _read_row(
            r,
            row[:n],
            row[n : each * n].reshape(n, len(orders)),
            table,
            given[b],
            real[b],
            starts[b],
            done[b],
            capacity,
            own,
            gone[b : b + 1],
            out[b],
            orders,
        )
        count[b] = r[COUNT]
    return loops.outcome(registers, time, done, gone)
