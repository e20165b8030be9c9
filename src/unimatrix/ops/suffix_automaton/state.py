"""What the suffix automaton returns, and the registers of its tree (see unimatrix.ops.token_store.state).

Letters: B batch, T time.
"""

from typing import NamedTuple

from torch import Tensor

from unimatrix.ops.token_store.state import OWN

# of the tree: its leaves, and the place that it stands at: a node, the token that the edge from it begins
# with, how far down that edge
LEAVES, AT_NODE, AT_TOKEN, AT_LENGTH = range(OWN, OWN + 4)
MIN_NODES = 8  # of a row that has a tree


class SuffixMatch(NamedTuple):
    """What the longest suffix that occurred before points at, of every position; [B, T] int64 each."""

    token: Tensor  # the token that stands at `position`; -1 for none
    length: Tensor  # of that suffix, in real tokens; 0 for none
    position: Tensor  # where its most recent earlier occurrence ended, plus 1, in the row's real tokens; -1
