"""The suffix tree of a row, built online (Ukkonen), and for each of its nodes the newest leaf below it.

Imported only when a kernel runs (unimatrix.ops.suffix_automaton.kernels).

After a token the place where Ukkonen's construction stands is the longest suffix that occurred before. Its
occurrences begin where the leaves below that place do, so the newest of them is the answer. Leaves come in
order: a new one is the newest below every node on its way to the root. That way is made one path of a
link-cut tree (Sleator and Tarjan's `access`), which costs O(log n), amortised, on any input; all nodes of a
path have the same newest leaf, which is kept with the path's top splay node.

Nodes count from 1, the root, which is on no path. A child is a node, or ~leaf; leaf s is the suffix that
begins at token s. The edges lie in an open table by node and first token, with their hash beside each, so
that a look rarely leaves the table. They lie in the order of their hashes, nearly, so that a larger table is
filled from end to end.

Letters: r a row's registers; v, p, g, m nodes, s a leaf, i a token, h a hash.
"""

import numba
import numpy as np

from unimatrix.ops.suffix_automaton.state import (
    AT_LENGTH,
    AT_NODE,
    AT_TOKEN,
    BUILT,
    EDGES,
    LEAVES,
    MIN_SLOTS,
    NODE_WORDS,
    NODES,
    NODES_ROOM,
    SLOTS,
    SLOTS_ROOM,
)

# numbers of a node. START: a leaf below it; DEPTH: how many tokens lead to it; LINK: the node of all of them
# but the first; of the link-cut tree: LEFT (nearer the root), RIGHT, UP, NEWEST
START, DEPTH, PARENT, LINK, LEFT, RIGHT, UP, NEWEST = range(NODE_WORDS)
ROOT = 1
FULL, OF = 3, 4  # at most so much of the table is taken


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
def spread(r, edges, table, slots):
    """The edges of another table in this one, with so many slots."""
    table[:slots, 0] = 0
    for k in range(len(edges)):
        if edges[k, 0] != 0:
            _put_hashed(table, slots, np.uint64(np.uint32(edges[k, 1])), edges[k, 0])
    r[SLOTS] = slots


@numba.njit
def plant(r, nodes, table):
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
def read_token(r, tokens, leaves, nodes, table):
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
def lacks_room(r, table):
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
        spread(r, table[: r[SLOTS]].copy(), table, slots)
    return False
