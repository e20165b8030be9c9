"""The surprise store as a compiled CPU loop: a token is decided on, stored and reads before the next one.

A decision costs R comparisons and N, a read N scores of E numbers and N weighted values. The loops are
numba's (unimatrix.ops.surprise_store.kernels).

Letters: B batch, T time, N entries, E width of keys and queries, W width of values, R newest surprises.
"""

from functools import cache
from typing import Any

from torch import Tensor

from unimatrix.ops.operator import Operator
from unimatrix.ops.surprise_store.reference import surprise_store_reference
from unimatrix.ops.surprise_store.state import (
    POLICIES,
    Offers,
    Rules,
    StoreReads,
    SurpriseStoreState,
    read_rooms,
)


def surprise_store_compiled(
    offers: Offers, state: SurpriseStoreState, rules: Rules
) -> tuple[StoreReads, SurpriseStoreState]:
    """Arguments as in `surprise_store`, already checked."""
    numbers = (rules.top_k, POLICIES.index(rules.policy), rules.rate, rules.start)
    context, weights, read_ids, *last = _scan(*offers, *state, *numbers)
    return StoreReads(context, weights, read_ids), SurpriseStoreState(*last)


@cache
def _loops() -> Any:
    from unimatrix.ops.surprise_store import kernels

    return kernels


def _shapes(*arguments: Any) -> tuple[Tensor, ...]:
    query, _, value, *_ = arguments
    state, top_k = arguments[8:15], arguments[15]
    *reads, sources, last = read_rooms(query, value, state[0], top_k)
    return (
        *reads,
        *(x.new_empty(x.shape) for x in state),
        sources if arguments[-1] else sources[:, :0],
        last,
    )


def _plain(*arguments: Any) -> tuple[Tensor, ...]:
    *tensors, top_k, policy, rate, start = arguments
    offers, state = Offers(*tensors[:8]), SurpriseStoreState(*tensors[8:])
    rules = Rules(state.keys.shape[1], top_k, POLICIES[policy], rate, start)
    reads, last = surprise_store_reference(offers, state, rules)
    return *reads, *last


_scan = Operator(
    "surprise_store",
    "Tensor query, Tensor key, Tensor value, Tensor token_ids, Tensor levels, Tensor? real, Tensor? allowed, "
    "Tensor? starts, Tensor keys, Tensor values, Tensor held_ids, Tensor priorities, Tensor recent, "
    "Tensor seen, Tensor mixed, int top_k, int policy, float rate, int start",
    outputs="context weights read_ids last_keys last_values last_ids last_priorities last_recent last_seen "
    "last_mixed",
    kept="sources last",
    loops=_loops,
    shapes=_shapes,
    plain=_plain,
    constant="token_ids levels real allowed starts held_ids priorities recent seen mixed",
    backward_takes="query key value token_ids levels real allowed starts keys values held_ids priorities "
    "recent seen mixed weights sources last",
)
