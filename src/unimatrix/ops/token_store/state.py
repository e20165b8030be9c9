"""What an op keeps of the tokens that it read: the handle, the lock, and where each number lies.

A state is a handle on a store that only grows, and a length. A call at the newest length appends to the store
in place; the older handles on it still know how many of its tokens are theirs, and whoever goes on from one
gets a store of their own. So no handle ever says anything else than it did.

A store holds tokens and an index over them: a suffix tree, or a table of contexts. What a state says are its
tokens; an index is built from them by whoever needs one that is not there.

Letters: B batch, T time.
"""

import os
import threading
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unimatrix.errors import UserError

NONE = -1  # a token or position where there is none

# The registers of a row, int64. COUNT: real tokens of the row so far; BASE: how many of them came before the
# first that the store holds; BEGAN: before the document that it is in; HELD: tokens in the store. The index
# stands on the first BUILT of them.
COUNT, BASE, BEGAN, HELD, BUILT = range(5)
# of the index: its nodes, the slots of its table that are in use, and how many of those are taken; the four
# behind them are its own
NODES, SLOTS, ENTRIES, OWN = range(5, 9)
# how many tokens, nodes and slots the store has room for
TOKENS_ROOM, NODES_ROOM, SLOTS_ROOM = range(12, 15)
# 1 once a number in the store led outside it: no call left it so
STRAY = 15
# which index it is: NO_INDEX, TREE, or `mark_of` its contexts
INDEX = 16
REGISTERS = 17

NO_INDEX, TREE, CONTEXTS = range(3)
# a mark holds the orders of a table of contexts above its lowest ORDER_BITS, each in as many
ORDER_BITS, MOST_ORDERS = 7, 7
MOST_ORDER = 2**ORDER_BITS - 1

# int32 for each token (of a table of contexts one more for each order), node and slot
TREE_WORDS, NODE_WORDS, SLOT_WORDS = 2, 8, 2
MOST_TOKENS = 2**31 - 1  # in a store, whose numbers are int32
MIN_SLOTS = 64  # of a row that has an index
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


class TokenStoreState(NamedTuple):
    """A handle on all that was read. On the host, whatever the device of the model."""

    length: Tensor  # [B] int64, real tokens of each row so far
    registers: Tensor  # [B, REGISTERS] int64, of the store: it may have gone on since
    store: Tensor  # [B, words] int32: tokens, and the index over them

    def rows(self, index: Tensor) -> "TokenStoreState":
        """A state of its own whose row n is row index[n] of this; index: [B'] int64.

        While another thread appends to the store its tensors do not go together: copy them here.
        """
        with one_at_a_time():
            return TokenStoreState(*(x.index_select(0, index.to(x.device)) for x in self))

    def __reduce__(self) -> tuple[Any, ...]:
        # by the copy module, multiprocessing, torch.save; a layout has descriptions in the tensors' places
        with one_at_a_time():
            return TokenStoreState, tuple(x.clone() if isinstance(x, Tensor) else x for x in self)


def mark_of(orders: tuple[int, ...]) -> int:
    """How the register INDEX says that it is a table of contexts of these orders."""
    return CONTEXTS + sum(order << ORDER_BITS * (1 + at) for at, order in enumerate(orders))


def words(index: int, tokens: int, nodes: int, slots: int) -> int:
    """int32 that a row takes with room for so many and an index of that mark."""
    orders = (index.bit_length() - 1) // ORDER_BITS
    each = 1 if index == NO_INDEX else TREE_WORDS if index == TREE else 1 + orders
    return each * tokens + NODE_WORDS * nodes + SLOT_WORDS * slots


def new_store(batch: int, index: int, tokens: int, nodes: int, slots: int) -> tuple[Tensor, Tensor]:
    """Registers and store of rows that hold nothing, with room for so many tokens, nodes and slots."""
    registers = torch.zeros(batch, REGISTERS, dtype=torch.int64, device="cpu")
    for at, number in ((TOKENS_ROOM, tokens), (NODES_ROOM, nodes), (SLOTS_ROOM, slots), (INDEX, index)):
        registers[:, at] = number
    size = words(index, tokens, nodes, slots)
    # zeros: copies and files have the room behind what it holds too, and nothing else of this process
    return registers, torch.zeros(batch, size, dtype=torch.int32, device="cpu")


def check_ids(tokens: Tensor, mask: Tensor | None) -> None:
    """Raise a UserError for an id out of range; masked positions may hold anything."""
    wrong = (tokens < 0) | (tokens > MOST_ID)
    if mask is not None:
        wrong &= mask
    if wrong.any():
        raise UserError(f"tokens: expected ids from 0 to {MOST_ID}, got {int(tokens[wrong][0])}")
