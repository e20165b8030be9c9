"""What followed a text's newest tokens where they stood before: the k newest continuations of a context.

`reference` is the definition by brute force, `compiled` a CPU loop over a table of contexts that is appended
to. Both agree exactly (tests/ops/test_context_continuations.py).
"""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor

from unimatrix.errors import UserError, shown
from unimatrix.ops.backend import NUMBA_INSTALLED, Backend, BackendChoice, choose_backend
from unimatrix.ops.context_continuations.compiled import context_continuations_compiled
from unimatrix.ops.context_continuations.reference import context_continuations_reference
from unimatrix.ops.shapes import TokenIds, TokenMask, check_count
from unimatrix.ops.token_store import TokenStoreState
from unimatrix.ops.token_store.arguments import check_reading
from unimatrix.ops.token_store.state import MOST_ORDER, MOST_ORDERS

__all__ = ["MOST_CONTINUATIONS", "check_orders", "context_continuations"]

MOST_CONTINUATIONS = 64


def context_continuations(
    tokens: TokenIds,
    state: TokenStoreState | None = None,
    *,
    orders: Sequence[int] = (2, 3, 4, 6),
    continuations: int = 4,
    mask: TokenMask | None = None,
    starts: TokenMask | None = None,
    capacity: int | None = None,
    backend: Backend | BackendChoice = "auto",
) -> tuple[Tensor, TokenStoreState]:
    """The tokens that followed the newest o tokens where these stood before, newest first, for several o.

    Of position i of a row x and an order o, over the places j < i where the same o tokens end:

        found[i, o] = x[j_1 + 1], x[j_2 + 1], ..., x[j_k + 1]     of all j with x[j-o+1..j] = x[i-o+1..i]
                                                                  the k newest, j_1 > j_2 > ... > j_k

    One token may come several times: how often is evidence, and the k newest different ones tell less of a
    text (docs/log.md).

    Args:
        tokens: [B, T] int64, ids from 0 to 2^31 - 1, any T >= 0.
        state: what an earlier call returned for the tokens before, of `suffix_automaton` too; None starts
            afresh. What it says never changes: its store may go on growing, but a call from an older state
            takes a copy. So does one with other orders, which builds its own table of contexts, and one after
            a state that came from a file.
        orders: how many tokens a context has, each; from 1 to 127, rising, at most 7 of them.
        continuations: k, from 1 to 64.
        mask: [B, T] bool; False positions are no tokens, and nothing followed them.
        starts: [B, T] bool; at a True position, a masked one too, all before is forgotten.
        capacity: how many of the newest tokens an answer stands on at most, from 2 on; None is all of them.
            As of `suffix_automaton`: the last capacity / 2 are always there.
        backend: "auto" takes the compiled form. It runs on the host, for tensors on any device.

    Returns:
        [B, T, orders, continuations] int64, -1 where there is none; the state after the last position. It
        lies on the host: 4 bytes a token, 4 more for each order, and 11 for each different context.

    Raises:
        UserError: a wrong shape or dtype, orders or numbers out of range, an id out of range, a capacity
            under 2, a state that is none of such an op's, a backend that is unknown or cannot run here.

    A token costs the sum of orders and of continuations, expected over the hashes of contexts; every context
    that a hash leads to is compared with the tokens. Integers in and out: no gradient. Where operators are
    followed (torch.compile, export, vmap) each call copies the state, as of `suffix_automaton`: decode token
    by token outside of it.
    """
    orders = check_orders(orders)
    check_count("continuations", continuations, MOST_CONTINUATIONS)
    check_reading(tokens, state, mask, starts, capacity)
    numba = None if NUMBA_INSTALLED else "numba is not installed (pip install numba)"
    form = choose_backend(
        "context_continuations",
        backend,
        preferred="reference" if numba else "compiled",
        problems={"compiled": numba, "chunked": "it has no such form"},
    )
    run = context_continuations_reference if form == "reference" else context_continuations_compiled
    found, state = run(tokens, state, mask, starts, capacity, orders, continuations)
    return found.to(tokens.device), state


def check_orders(orders: object) -> tuple[int, ...]:
    """Lengths of contexts as a tuple; a UserError unless they are whole numbers, rising, few and small."""
    given = tuple(orders) if isinstance(orders, Sequence) else ()
    whole = all(type(order) is int and 1 <= order <= MOST_ORDER for order in given)
    rising = whole and all(a < b for a, b in pairwise(given))
    if not rising or not 1 <= len(given) <= MOST_ORDERS:
        raise UserError(
            f"orders: expected 1 to {MOST_ORDERS} rising lengths from 1 to {MOST_ORDER}, got {shown(orders)}"
        )
    return given
