"""Tokens that were read, kept for whoever asks what came before: the suffix automaton and tables of contexts.

`state` has the handle and where each number lies, `reading` the way around an op's compiled loops (who owns
which store, how it grows), `loops` and `table` what these have in common, `reference` the same in Python.
`votes`, whose loops are `vote_loops`, is what comes of their guesses: how they did, and what they change.
"""

from unimatrix.ops.token_store.state import MOST_TOKENS, NONE, REGISTERS, TokenStoreState

__all__ = ["MOST_TOKENS", "NONE", "REGISTERS", "TokenStoreState"]
