"""What the compiled loops over a store have in common: what may be read, what is forgotten, what is copied.

Imported only when a kernel runs. What is asked for every token takes no arrays, whose references numba
counts around a call (docs/log.md).

Letters: B batch, T time; r a row's registers, n, m, h its room for tokens, nodes and slots.
"""

import numba

from unimatrix.ops.jit import kernel
from unimatrix.ops.token_store.state import (
    BASE,
    BEGAN,
    BUILT,
    CONTEXTS,
    COUNT,
    ENTRIES,
    HELD,
    INDEX,
    MOST_ID,
    MOST_ORDER,
    NO_INDEX,
    NODE_WORDS,
    NODES,
    NODES_ROOM,
    ORDER_BITS,
    OWN,
    SLOT_WORDS,
    SLOTS,
    SLOTS_ROOM,
    STRAY,
    TOKENS_ROOM,
    TREE,
    TREE_WORDS,
)
from unimatrix.ops.token_store.table import spread

READ, MORE, SHARED, STRANGE, WRONG_ID = range(5)  # what an op's `read` returns
TAKE, BUILD, SKIP, FORGET, STOP = range(5)  # what `ahead` says


@numba.njit
def token_words(index):
    """int32 for each token under an index; 0 where the register is none of a store's."""
    if index == NO_INDEX:
        return 1
    if index == TREE:
        return TREE_WORDS
    orders = index >> ORDER_BITS
    if index < 0 or index & MOST_ORDER != CONTEXTS or orders == 0:
        return 0
    found, last = 1, 0
    while orders:
        if orders & MOST_ORDER <= last:
            return 0
        last = orders & MOST_ORDER
        found += 1
        orders >>= ORDER_BITS
    return found


@numba.njit
def is_sound(r, length, words):
    """Whether the registers go with each other, with the handle and with the store; looks at no more."""
    n, m, h, each = r[TOKENS_ROOM], r[NODES_ROOM], r[SLOTS_ROOM], token_words(r[INDEX])
    if each == 0 or r[STRAY] or min(n, m, h, r[BASE], r[BUILT:TOKENS_ROOM].min()) < 0:
        return False
    if n > words or m > words or h > words:
        return False
    if each * n + NODE_WORDS * m + SLOT_WORDS * h != words:
        return False
    if r[INDEX] != TREE and (m or r[NODES] or r[OWN:TOKENS_ROOM].max()):
        return False
    if h and r[INDEX] == NO_INDEX:
        return False
    if r[BUILT] > r[HELD] or r[HELD] > n or r[COUNT] != r[BASE] + r[HELD] or r[BEGAN] > r[BASE]:
        return False
    if length < r[BASE] or length > r[COUNT]:
        return False
    if r[SLOTS] == 0:  # no index was begun
        return r[BUILT:TOKENS_ROOM].max() == 0
    return r[NODES] <= m and r[SLOTS] <= h and r[ENTRIES] < r[SLOTS]


@numba.njit
def has_wrong_id(given, real):
    for t in range(len(given)):
        if (given[t] < 0 or given[t] > MOST_ID) and (len(real) == 0 or real[t]):
            return True
    return False


@numba.njit
def _first(began, count, half):
    """The first token of a row that one behind so many stands on, where there is a capacity."""
    return began + max(0, (count - began) // half - 1) * half


@numba.njit
def _forgotten(r, length, time, real, starts, capacity):
    """How many of a handle's tokens are forgotten before the first of so many more is read."""
    half = capacity // 2
    for t in range(time):
        if len(starts) and starts[t]:
            return length - r[BASE]
        if len(real) == 0 or real[t]:
            return max(0, _first(r[BEGAN], length, half) - r[BASE]) if half else 0
    return 0


@numba.njit
def set_apart(index, registers, length, time, real, starts, capacity, count, gone):
    """What `move` has to know where a handle is not the newest on its store, or the index is another."""
    for b in range(len(registers)):
        r = registers[b]
        count[b] = length[b]
        less = _forgotten(r, length[b], time, real[b], starts[b], capacity)
        if less > 0 or length[b] != r[COUNT] or r[INDEX] != index:
            gone[b] = less


@numba.njit
def ahead(base, began, count, held, built, ends, begins, real, half):
    """What the loop over a row does next, by its registers and what comes: numbers alone.

    TAKE: read the token. BUILD: take into the index what the store holds and the index does not, after a copy
    or when half of a capacity was forgotten. SKIP: no token. FORGET: what came before a document's beginning,
    or half of a capacity, see `forget`. STOP: it ends.
    """
    if built < held:
        return BUILD
    if ends:
        return STOP
    if begins and began < count:
        return FORGET
    if not real:
        return SKIP
    if half and _first(began, count, half) > base:
        return FORGET
    return TAKE


@numba.njit
def forget(r, held, begins, half, own, gone):
    """Forget; whether that may be done here: if the store is not the caller's own, gone[0] is how many."""
    less = r[HELD] if begins and r[BEGAN] < r[COUNT] else _first(r[BEGAN], r[COUNT], half) - r[BASE]
    if not own:
        gone[0] = less
        return False
    for k in range(r[HELD] - less):
        held[k] = held[k + less]
    r[HELD] -= less
    r[BASE] += less
    if begins:
        r[BEGAN] = r[BASE]
    return True


@numba.njit
def outcome(registers, time, done, gone):
    """What `read` returns after its rows."""
    came = READ
    for b in range(len(registers)):
        if registers[b, STRAY]:
            return STRANGE
        if gone[b] >= 0:
            came = SHARED
        elif came == READ and (done[b] < time or registers[b, BUILT] < registers[b, HELD]):
            came = MORE
    return came


@kernel
def are_sound(registers, length, words):
    """Whether all rows are."""
    sound = True
    for b in range(len(registers)):
        sound &= is_sound(registers[b], length[b], words)
    return sound


@kernel
def move(registers, store, count, gone, after, larger):
    """Rows into another store, whose rooms are in its registers already: what later tokens need, and no more.

    count [B]: the tokens of the handle. gone [B]: how many of those that the store holds are forgotten, and
    the index with them; -1 for none, of a row whose index is the handle's and is wanted.
    """
    for b in numba.prange(len(registers)):
        r, to = registers[b], after[b]
        to[:TOKENS_ROOM] = r[:TOKENS_ROOM]
        first = max(0, gone[b])
        to[COUNT] = count[b]
        to[BASE] += first
        to[HELD] = count[b] - to[BASE]
        larger[b, : to[HELD]] = store[b, first : first + to[HELD]]
        if gone[b] >= 0 or r[SLOTS] == 0:
            to[BUILT:TOKENS_ROOM] = 0
            continue
        each, n, m = token_words(r[INDEX]), r[TOKENS_ROOM], to[TOKENS_ROOM]
        size = (each - 1) * r[BUILT]
        larger[b, m : m + size] = store[b, n : n + size]
        n, m, size = each * n, each * m, NODE_WORDS * r[NODES]
        larger[b, m : m + size] = store[b, n : n + size]
        n, m = n + NODE_WORDS * r[NODES_ROOM], m + NODE_WORDS * to[NODES_ROOM]
        # the table takes all of its room, unless that is far more than it needs: it grows within it then
        used, room = r[SLOTS], to[SLOTS_ROOM]
        slots = room if room <= 2 * used else used
        entries = store[b, n : n + SLOT_WORDS * used].reshape(used, SLOT_WORDS)
        spread(to, entries, larger[b, m : m + SLOT_WORDS * slots].reshape(slots, SLOT_WORDS), slots)
