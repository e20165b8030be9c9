"""What the suffix automaton keeps and returns: the tuples all forms exchange, and where each number lies.

A state is a handle on a store that only grows, and a length. A call at the newest length appends to the store
in place; the older handles on it still know how many of its tokens are theirs, and whoever goes on from one
gets a store of their own. So no handle ever says anything else than it did.

Letters: B batch, T time.
"""

import os
import threading
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unimatrix.errors import UserError

NONE = -1  # token and position where nothing occurred before

# The registers of a row, int64. COUNT: real tokens of the row so far; BASE: how many of them came before the
# first that the store holds; BEGAN: before the document that it is in; HELD: tokens in the store. The tree
# (`unimatrix.ops.suffix_automaton.tree`) stands on the first BUILT of them.
COUNT, BASE, BEGAN, HELD, BUILT = range(5)
# of the tree: its nodes, the slots of its table that are in use, its edges, its leaves, and the place that it
# stands at: a node, the token that the edge from it begins with, how far down that edge
NODES, SLOTS, EDGES, LEAVES, AT_NODE, AT_TOKEN, AT_LENGTH = range(5, 12)
# how many tokens, nodes and slots the store has room for
TOKENS_ROOM, NODES_ROOM, SLOTS_ROOM = range(12, 15)
# 1 once a number in the store led outside it: no call left it so
STRAY = 15
REGISTERS = 16

TOKEN_WORDS, NODE_WORDS, SLOT_WORDS = 2, 8, 2  # int32 for each token, node and slot
WORD_BYTES = 4
MOST_TOKENS = 2**31 - 1  # in a store, whose numbers are int32
MIN_NODES, MIN_SLOTS = 8, 64  # of a row that has a tree
MOST_ID = 2**31 - 1


# Whether a handle is the newest is asked, and a store appended to or copied, by one thread at a time.
_locks = [threading.RLock()]


def one_at_a_time() -> Any:
    """The lock, for a with statement."""
    return _locks[0]


def _in_child() -> None:
    """The thread that had the lock is not in the child."""
    _locks[0] = threading.RLock()


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_in_child)


class SuffixMatch(NamedTuple):
    """What the longest suffix that occurred before points at, of every position; [B, T] int64 each."""

    token: Tensor  # the token that stands at `position`; -1 for none
    length: Tensor  # of that suffix, in real tokens; 0 for none
    position: Tensor  # where its most recent earlier occurrence ended, plus 1, in the row's real tokens; -1


class SuffixAutomatonState(NamedTuple):
    """A handle on all that was read. On the host, whatever the device of the model."""

    length: Tensor  # [B] int64, real tokens of each row so far
    registers: Tensor  # [B, REGISTERS] int64, of the store: it may have gone on since
    store: Tensor  # [B, words] int32: tokens, and the tree over them

    def rows(self, index: Tensor) -> "SuffixAutomatonState":
        """A state of its own whose row n is row index[n] of this; index: [B'] int64.

        While another thread appends to the store its tensors do not go together: copy them here.
        """
        with one_at_a_time():
            return SuffixAutomatonState(*(x.index_select(0, index.to(x.device)) for x in self))

    def __reduce__(self) -> tuple[Any, ...]:
        # by the copy module, multiprocessing, torch.save; a layout has descriptions in the tensors' places
        with one_at_a_time():
            return SuffixAutomatonState, tuple(x.clone() if isinstance(x, Tensor) else x for x in self)


def words(tokens: int, nodes: int, slots: int) -> int:
    """int32 that a row takes with room for so many."""
    return TOKEN_WORDS * tokens + NODE_WORDS * nodes + SLOT_WORDS * slots


def new_store(batch: int, tokens: int, nodes: int, slots: int) -> tuple[Tensor, Tensor]:
    """Registers and store of rows that hold nothing, with room for so many tokens, nodes and slots."""
    registers = torch.zeros(batch, REGISTERS, dtype=torch.int64, device="cpu")
    for at, room in ((TOKENS_ROOM, tokens), (NODES_ROOM, nodes), (SLOTS_ROOM, slots)):
        registers[:, at] = room
    return registers, torch.empty(batch, words(tokens, nodes, slots), dtype=torch.int32, device="cpu")


def check_ids(tokens: Tensor, mask: Tensor | None) -> None:
    """Raise a UserError for an id out of range; masked positions may hold anything."""
    wrong = (tokens < 0) | (tokens > MOST_ID)
    if mask is not None:
        wrong &= mask
    if wrong.any():
        raise UserError(f"tokens: expected ids from 0 to {MOST_ID}, got {int(tokens[wrong][0])}")
