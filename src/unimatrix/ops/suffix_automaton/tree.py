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

A store comes back from outside with every call, and may hold anything by then. So no number in it is an
index before a look at whether it lies inside (`within`), and no walk is longer than there are nodes or slots;
a row in which one would be is marked, and its state refused. Whatever else is wrong in a store makes wrong
answers alone.

Letters: r a row's registers; v, p, g, m nodes, s a leaf, i a token, h a hash.
"""

import numba
import numpy as np

from unimatrix.ops.suffix_automaton.state import AT_LENGTH, AT_NODE, AT_TOKEN, LEAVES
from unimatrix.ops.token_store.state import BUILT, ENTRIES, NODE_WORDS, NODES, NODES_ROOM, SLOTS, STRAY
from unimatrix.ops.token_store.table import clear, is_full, lacks_slots, place_of, put_hashed, within

# numbers of a node. START: a leaf below it; DEPTH: how many tokens lead to it; LINK: the node of all of them
# but the first; of the link-cut tree: LEFT (nearer the root), RIGHT, UP, NEWEST
START, DEPTH, PARENT, LINK, LEFT, RIGHT, UP, NEWEST = range(NODE_WORDS)
ROOT = 1


@numba.njit
def _hash(node, token):
    h = np.uint64(node) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(token) * np.uint64(0xC2B2AE3D27D4EB4F)
    h ^= h >> np.uint64(29)
    h *= np.uint64(0xBF58476D1CE4E5B9)
    return h >> np.uint64(32)


@numba.njit
def _child(child, num_leaves, num_nodes):
    """A leaf or node that the store gives, where there is one; else node 0, which is none."""
    return ~within(~child, num_leaves) if child < 0 else within(child, num_nodes)


@numba.njit
def _find(tokens, leaves, nodes, table, slots, node, token):
    """The slot of the edge from a node that begins with a token, or the empty slot where it would stand.

    As many as there are slots, which is none, in a table that has neither.
    """
    h = _hash(node, token)
    tag = np.int32(h)
    at = place_of(h, slots)
    wrapped = False
    while True:
        if table[at, 0] == 0:
            return at
        if table[at, 1] == tag:
            child = _child(table[at, 0], len(leaves), len(nodes))
            above = leaves[~child] if child < 0 else nodes[child, PARENT]
            if above == node:
                start = ~child if child < 0 else nodes[child, START]
                # the token that the edge begins with
                if tokens[within(start + nodes[node, DEPTH], len(tokens))] == token:
                    return at
        at += np.uint64(1)
        if at == np.uint64(slots):
            if wrapped:
                return at
            at = np.uint64(0)
            wrapped = True


@numba.njit
def plant(r, nodes, table):
    """A tree without a token."""
    r[BUILT] = 0
    r[NODES] = ROOT + 1
    r[LEAVES] = 0
    r[AT_NODE] = ROOT
    r[AT_TOKEN] = 0
    r[AT_LENGTH] = 0
    for k in range(NODE_WORDS):
        nodes[ROOT, k] = 0
    nodes[ROOT, LINK] = ROOT
    clear(r, table)


@numba.njit
def _above(nodes, v):
    """The node above v in the splay tree of its path; 0 where v is the top."""
    up = within(nodes[v, UP], len(nodes))
    return up if nodes[up, LEFT] == v or nodes[up, RIGHT] == v else np.int64(0)


@numba.njit
def _rotate(nodes, v, p):
    """v in the place of p, the node above it."""
    g = within(nodes[p, UP], len(nodes))
    if g != 0 and nodes[g, LEFT] == p:
        nodes[g, LEFT] = v
    elif g != 0 and nodes[g, RIGHT] == p:
        nodes[g, RIGHT] = v
    else:  # p was the top
        nodes[v, NEWEST] = nodes[p, NEWEST]
    if nodes[p, LEFT] == v:
        between = within(nodes[v, RIGHT], len(nodes))
        nodes[p, LEFT] = between
        nodes[v, RIGHT] = p
    else:
        between = within(nodes[v, LEFT], len(nodes))
        nodes[p, RIGHT] = between
        nodes[v, LEFT] = p
    if between:
        nodes[between, UP] = p
    nodes[p, UP] = v
    nodes[v, UP] = g


@numba.njit
def _splay(nodes, v):
    """Make v the top of its path's splay tree; whether it came to that."""
    for _ in range(len(nodes)):
        p = _above(nodes, v)
        if p == 0:
            return True
        g = _above(nodes, p)
        if g == 0:
            _rotate(nodes, v, p)
        elif (nodes[g, LEFT] == p) == (nodes[p, LEFT] == v):
            _rotate(nodes, p, g)
            _rotate(nodes, v, p)
        else:
            _rotate(nodes, v, p)
            _rotate(nodes, v, g)
    return False


@numba.njit
def _newest_from(nodes, v, s):
    """Say of all nodes from v to the root that the newest leaf below them is s; whether it came to that."""
    below = np.int64(0)
    top = np.int64(v)
    for _ in range(len(nodes)):
        if top == 0 or not _splay(nodes, top):
            break
        cut = within(nodes[top, RIGHT], len(nodes))
        if cut:
            nodes[cut, NEWEST] = nodes[top, NEWEST]
        nodes[top, RIGHT] = below
        below = top
        top = within(nodes[top, UP], len(nodes))
    came = top == 0 and _splay(nodes, v)
    nodes[v, NEWEST] = s
    return came


@numba.njit
def _newest(nodes, child):
    """The newest leaf below a child."""
    if child < 0:
        return np.int64(~child)
    _splay(nodes, child)
    return np.int64(nodes[child, NEWEST])


@numba.njit
def _split(r, tokens, leaves, nodes, table, slot, child, length):
    """A node on the edge to a child, in a slot of the table, so many tokens down from where it begins."""
    p, m = r[AT_NODE], r[NODES]
    start = ~child if child < 0 else np.int64(nodes[child, START])
    path = 0 if p == ROOT else p
    if child < 0:
        leaves[start] = m
    else:
        _splay(nodes, child)
        above = within(nodes[child, LEFT], len(nodes))
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
    put_hashed(table, r[SLOTS], _hash(m, tokens[within(start + depth, len(tokens))]), child)
    r[NODES] += 1
    r[ENTRIES] += 1
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
        begins = tokens[within(r[AT_TOKEN], len(tokens))]
        slot = _find(tokens, leaves, nodes, table, r[SLOTS], node, begins)
        if slot == np.uint64(r[SLOTS]):
            r[STRAY] = 1
            break
        child = _child(table[slot, 0], len(leaves), len(nodes))
        parent = node
        if child != 0:
            if child > 0:
                edge = nodes[child, DEPTH] - nodes[node, DEPTH]
                if edge <= 0:
                    r[STRAY] = 1
                    break
                if length >= edge:
                    r[AT_NODE] = child
                    r[AT_TOKEN] += edge
                    r[AT_LENGTH] -= edge
                    continue
                start = np.int64(nodes[child, START])
            else:
                start = ~child
            if tokens[within(start + nodes[node, DEPTH] + length, len(tokens))] == token:
                if unlinked:
                    nodes[unlinked, LINK] = node
                r[AT_LENGTH] += 1
                newest = _newest(nodes, child)
                break
            parent = _split(r, tokens, leaves, nodes, table, slot, child, length)
        s = r[LEAVES]
        leaves[s] = parent
        put_hashed(table, r[SLOTS], _hash(parent, token), ~s)
        r[LEAVES] += 1
        r[ENTRIES] += 1
        if parent != ROOT and not _newest_from(nodes, parent, s):
            r[STRAY] = 1
            break
        if unlinked:
            nodes[unlinked, LINK] = parent
        unlinked = parent if child != 0 else 0
        pending -= 1
        if node != ROOT:
            r[AT_NODE] = within(nodes[node, LINK], len(nodes))
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
    edges = r[ENTRIES] + 2 * most
    return is_full(edges, r[SLOTS]) and lacks_slots(r, table, edges)
