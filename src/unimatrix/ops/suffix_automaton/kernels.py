"""The suffix tree of a row, built online (Ukkonen), and for each of its nodes the newest leaf below it.

Imported only when a kernel runs; the machine code is kept on disk (unimatrix.ops.jit).

After a token the place where Ukkonen's construction stands is the longest suffix that occurred before. Its
occurrences begin where the leaves below that place do, so the newest of them is the answer. Leaves come in
order: a new one is the newest below every node on its way to the root. That way is made one path of a
link-cut tree (Sleator and Tarjan's `access`), which costs O(log n), amortised, on any input; all nodes of a
path have the same newest leaf, which is kept with the path's top splay node.

Nodes count from 1, the root, which is on no path. A child is a node, or ~leaf; leaf s is the suffix that
begins at token s. The edges lie in an open table by node and first token, with their hash beside each, so
that a look rarely leaves the table. They lie in the order of their hashes, nearly, so that a larger table is
filled from end to end.

Letters: B batch, T time; n tokens, v, p, c, m nodes, s a leaf.
"""

import numba
import numpy as np

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
    MIN_SLOTS,
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

# numbers of a node. START: a leaf below it; DEPTH: how many tokens lead to it; LINK: the node of all of them
# but the first; of the link-cut tree: LEFT (nearer the root), RIGHT, UP, NEWEST
START, DEPTH, PARENT, LINK, LEFT, RIGHT, UP, NEWEST = range(NODE_WORDS)
ROOT = 1
FULL, OF = 3, 4  # at most so much of the table is taken
READ, MORE, OLDER, STRANGE, WRONG_ID = range(5)  # what `read` returns


@numba.njit
def _hash(node, token):
    h = np.uint64(node) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(token) * np.uint64(0xC2B2AE3D27D4EB4F)
    h ^= h >> np.uint64(29)
    h *= np.uint64(0xBF58476D1CE4E5B9)
    return h >> np.uint64(32)


@numba.njit
def _first(tokens, nodes, child, parent):
    """The token that the edge from parent to child begins with."""
    start = ~child if child < 0 else nodes[child, START]
    return tokens[start + nodes[parent, DEPTH]]


@numba.njit
def _find(tokens, leaves, nodes, table, slots, node, token):
    """The slot of the edge from a node that begins with a token, or the empty slot where it would stand."""
    h = _hash(node, token)
    tag = np.int32(h)
    at = (h * np.uint64(slots)) >> np.uint64(32)
    while True:
        child = table[at, 0]
        if child == 0:
            return at
        if table[at, 1] == tag:
            above = leaves[~child] if child < 0 else nodes[child, PARENT]
            if above == node and _first(tokens, nodes, child, node) == token:
                return at
        at += np.uint64(1)
        if at == np.uint64(slots):
            at = np.uint64(0)


@numba.njit
def _put(table, slots, node, token, child):
    """Insert an edge that the table does not have."""
    _put_hashed(table, slots, _hash(node, token), child)


@numba.njit
def _put_hashed(table, slots, h, child):
    at = (h * np.uint64(slots)) >> np.uint64(32)
    while table[at, 0] != 0:
        at += np.uint64(1)
        if at == np.uint64(slots):
            at = np.uint64(0)
    table[at, 0] = child
    table[at, 1] = np.int32(h)


@numba.njit
def _spread(r, edges, table, slots):
    """The edges of another table in this one, with so many slots."""
    table[:slots, 0] = 0
    for k in range(len(edges)):
        if edges[k, 0] != 0:
            _put_hashed(table, slots, np.uint64(np.uint32(edges[k, 1])), edges[k, 0])
    r[SLOTS] = slots


@numba.njit
def _plant(r, nodes, table):
    """A tree without a token."""
    r[BUILT] = 0
    r[NODES] = ROOT + 1
    r[EDGES] = 0
    r[LEAVES] = 0
    r[AT_NODE] = ROOT
    r[AT_TOKEN] = 0
    r[AT_LENGTH] = 0
    for k in range(NODE_WORDS):
        nodes[ROOT, k] = 0
    nodes[ROOT, LINK] = ROOT
    r[SLOTS] = min(MIN_SLOTS, r[SLOTS_ROOM])
    for at in range(r[SLOTS]):
        table[at, 0] = 0


@numba.njit
def _is_top(nodes, v):
    up = nodes[v, UP]
    return up == 0 or (nodes[up, LEFT] != v and nodes[up, RIGHT] != v)


@numba.njit
def _rotate(nodes, v):
    p = nodes[v, UP]
    g = nodes[p, UP]
    if _is_top(nodes, p):
        nodes[v, NEWEST] = nodes[p, NEWEST]
    elif nodes[g, LEFT] == p:
        nodes[g, LEFT] = v
    else:
        nodes[g, RIGHT] = v
    if nodes[p, LEFT] == v:
        between = nodes[v, RIGHT]
        nodes[p, LEFT] = between
        nodes[v, RIGHT] = p
    else:
        between = nodes[v, LEFT]
        nodes[p, RIGHT] = between
        nodes[v, LEFT] = p
    if between:
        nodes[between, UP] = p
    nodes[p, UP] = v
    nodes[v, UP] = g


@numba.njit
def _splay(nodes, v):
    """Make v the top of its path's splay tree."""
    while not _is_top(nodes, v):
        p = nodes[v, UP]
        if not _is_top(nodes, p):
            g = nodes[p, UP]
            _rotate(nodes, p if (nodes[g, LEFT] == p) == (nodes[p, LEFT] == v) else v)
        _rotate(nodes, v)


@numba.njit
def _newest_from(nodes, v, s):
    """Say of v and of all nodes on its way to the root that the newest leaf below them is s."""
    below = 0
    top = v
    while top:
        _splay(nodes, top)
        cut = nodes[top, RIGHT]
        if cut:
            nodes[cut, NEWEST] = nodes[top, NEWEST]
        nodes[top, RIGHT] = below
        below = top
        top = nodes[top, UP]
    _splay(nodes, v)
    nodes[v, NEWEST] = s


@numba.njit
def _newest(nodes, child):
    """The newest leaf below a child."""
    if child < 0:
        return np.int64(~child)
    _splay(nodes, child)
    return np.int64(nodes[child, NEWEST])


@numba.njit
def _split(r, tokens, leaves, nodes, table, slot, length):
    """A node on the edge in a slot of the table, so many tokens down from where it begins."""
    p, child, m = r[AT_NODE], table[slot, 0], r[NODES]
    start = ~child if child < 0 else nodes[child, START]
    path = 0 if p == ROOT else p
    if child < 0:
        leaves[start] = m
    else:
        _splay(nodes, child)
        above = nodes[child, LEFT]
        if above:  # on one path with p
            nodes[child, LEFT] = 0
            nodes[above, UP] = nodes[child, UP]
            nodes[above, NEWEST] = nodes[child, NEWEST]
        nodes[child, PARENT] = m
        nodes[child, UP] = m
    depth = nodes[p, DEPTH] + length
    nodes[m, START] = start
    nodes[m, DEPTH] = depth
    nodes[m, PARENT] = p
    nodes[m, LINK] = ROOT
    nodes[m, LEFT] = 0
    nodes[m, RIGHT] = 0
    nodes[m, UP] = path
    nodes[m, NEWEST] = start
    table[slot, 0] = m
    _put(table, r[SLOTS], m, tokens[start + depth], child)
    r[NODES] += 1
    r[EDGES] += 1
    return m


@numba.njit
def _read(r, tokens, leaves, nodes, table):
    """Take the token behind the tree into it; where the longest suffix that occurred before began last."""
    i = r[BUILT]
    token = tokens[i]
    unlinked = 0  # the node that was made last, which waits for its link
    newest = np.int64(0)
    pending = i + 1 - r[LEAVES]  # suffixes that are no leaf, with the one that begins here
    while pending > 0:
        node, length = r[AT_NODE], r[AT_LENGTH]
        if length == 0:
            r[AT_TOKEN] = i
        begins = tokens[r[AT_TOKEN]]
        slot = _find(tokens, leaves, nodes, table, r[SLOTS], node, begins)
        child = table[slot, 0]
        parent = node
        if child != 0:
            if child > 0:
                edge = nodes[child, DEPTH] - nodes[node, DEPTH]
                if length >= edge:
                    r[AT_NODE] = child
                    r[AT_TOKEN] += edge
                    r[AT_LENGTH] -= edge
                    continue
                start = nodes[child, START]
            else:
                start = ~child
            if tokens[start + nodes[node, DEPTH] + length] == token:
                if unlinked:
                    nodes[unlinked, LINK] = node
                r[AT_LENGTH] += 1
                newest = _newest(nodes, child)
                break
            parent = _split(r, tokens, leaves, nodes, table, slot, length)
        s = r[LEAVES]
        leaves[s] = parent
        _put(table, r[SLOTS], parent, token, ~s)
        r[LEAVES] += 1
        r[EDGES] += 1
        if parent != ROOT:
            _newest_from(nodes, parent, s)
        if unlinked:
            nodes[unlinked, LINK] = parent
        unlinked = parent if child != 0 else 0
        pending -= 1
        if node != ROOT:
            r[AT_NODE] = nodes[node, LINK]
        elif length > 0:
            r[AT_LENGTH] -= 1
            r[AT_TOKEN] = i - pending + 1
    r[BUILT] += 1
    return newest


@numba.njit
def _lacks_room(r, table):
    """Whether the next token may need more room than there is; a table is made larger within its own."""
    # each suffix that is no leaf may become one, with a node and two edges
    most = min(r[BUILT] + 2 - r[LEAVES], r[BUILT] + 1)
    if r[NODES] + most > r[NODES_ROOM]:
        return True
    edges = r[EDGES] + 2 * most
    if OF * edges > FULL * r[SLOTS]:
        slots = min(2 * r[SLOTS], r[SLOTS_ROOM])
        while OF * edges > FULL * slots and slots < r[SLOTS_ROOM]:
            slots = min(2 * slots, r[SLOTS_ROOM])
        if OF * edges > FULL * slots:
            return True
        _spread(r, table[: r[SLOTS]].copy(), table, slots)
    return False


@numba.njit
def _read_row(r, held, leaves, nodes, table, given, real, starts, done, capacity, out):
    """Read on from token done[b] of a row, as far as there is room; whether there is no more to read."""
    half = capacity // 2
    t = done
    while True:
        # what the store holds and the tree does not: after a copy, or when half of a capacity was forgotten
        while r[BUILT] < r[HELD]:
            if _lacks_room(r, table):
                return t
            _read(r, held, leaves, nodes, table)
        if t == len(given):
            return t
        if len(starts) and starts[t]:
            r[BASE] = r[COUNT]
            r[BEGAN] = r[COUNT]
            r[HELD] = 0
            _plant(r, nodes, table)
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
                _plant(r, nodes, table)
                continue
        if r[HELD] == r[TOKENS_ROOM] or _lacks_room(r, table):
            return t
        held[r[HELD]] = given[t]
        r[HELD] += 1
        r[COUNT] += 1
        newest = _read(r, held, leaves, nodes, table)
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
        _spread(r, edges, larger[b, to : to + SLOT_WORDS * slots].reshape(slots, SLOT_WORDS), slots)


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
            _plant(r, nodes, table)
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
