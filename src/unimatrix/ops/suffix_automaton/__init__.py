"""An exact suffix automaton (ROSA): where the longest suffix that ends at a token occurred before.

`reference` is the definition by brute force, `compiled` a CPU loop over a suffix tree that grows online. Both
agree exactly (tests/ops/test_suffix_automaton.py).
"""

from unimatrix.ops.backend import NUMBA_INSTALLED, Backend, BackendChoice, choose_backend
from unimatrix.ops.shapes import TokenIds, TokenMask
from unimatrix.ops.suffix_automaton.compiled import suffix_automaton_compiled
from unimatrix.ops.suffix_automaton.reference import suffix_automaton_reference
from unimatrix.ops.suffix_automaton.state import SuffixMatch
from unimatrix.ops.token_store import TokenStoreState
from unimatrix.ops.token_store.arguments import check_reading

__all__ = ["SuffixMatch", "suffix_automaton"]


def suffix_automaton(
    tokens: TokenIds,
    state: TokenStoreState | None = None,
    *,
    mask: TokenMask | None = None,
    starts: TokenMask | None = None,
    capacity: int | None = None,
    backend: Backend | BackendChoice = "auto",
) -> tuple[SuffixMatch, TokenStoreState]:
    """What followed the longest suffix that occurred before, of every position, exactly and online.

    Source: RWKV-8's ROSA; the paper's first open problem. Of position i of a row x, over all suffixes of
    x[..i] that end at an earlier j too: the longest, of its earlier occurrences the newest,

        length = max m >= 1 with x[j-m+1..j] = x[i-m+1..i] for some j < i;  position = j + 1;  token = x[j+1]

    Args:
        tokens: [B, T] int64, ids from 0 to 2^31 - 1, any T >= 0.
        state: what an earlier call returned for the tokens before; None starts afresh. What it says never
            changes: its store may go on growing, but a call from an older state takes a copy.
        mask: [B, T] bool; False positions are no tokens, and nothing is pointed at for them.
        starts: [B, T] bool; at a True position, a masked one too, all before is forgotten: nothing later
            points there. Positions still count from the row's first token.
        capacity: how many of the newest tokens an answer stands on at most, from 2 on; None is all of them.
            Whenever half of it has been read, the half before the last is forgotten and the tree built
            anew over the rest, so that the last capacity / 2 tokens are always there; a token costs twice
            as much on average, that one as much as all. The same in every call on one state.
        backend: "auto" takes the compiled form. It runs on the host, for tensors on any device.

    Returns:
        SuffixMatch(token, length, position), [B, T] int64 each, -1, 0, -1 where nothing occurred before; the
        state after the last position. It lies on the host: 8 bytes a token, 32 for each node of a tree that
        has at most one a token and about 0.65 on text, and 11 to 16 for each of its edges. Every row is as
        large as the longest.

    Raises:
        UserError: a wrong shape or dtype, an id out of range, a capacity under 2, a state that is
            none of this op's, a backend that is unknown or cannot run here.

    O(n log n) for n tokens on any input. Integers in and out: no gradient. Where operators are followed
    (torch.compile, export, vmap) the size of the state after a call may not depend on the tokens: each call
    copies the state into one with room for any T tokens more, at most 64 bytes for each and 768 for the call,
    whatever the capacity. So decode token by token outside of it.
    """
    check_reading(tokens, state, mask, starts, capacity)
    numba = None if NUMBA_INSTALLED else "numba is not installed (pip install numba)"
    form = choose_backend(
        "suffix_automaton",
        backend,
        preferred="reference" if numba else "compiled",
        problems={"compiled": numba, "chunked": "it has no such form"},
    )
    run = suffix_automaton_reference if form == "reference" else suffix_automaton_compiled
    found, state = run(tokens, state, mask, starts, capacity)
    if tokens.device.type != "cpu":
        found = SuffixMatch(*(x.to(tokens.device) for x in found))
    return found, state
