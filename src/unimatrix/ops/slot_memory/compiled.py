"""The slot memory as a compiled CPU loop: the slots of a batch row stay in the cache, token after token.

A write costs N cosines of E numbers, a read N scores and N weighted values: at the paper's 32 slots and 16
numbers about 1,500 multiply-adds a token. Of many slots k are read: then 2 N E multiply-adds of bounds in
float32, 32 tokens at once, and a look at some 8 k slots in float64. The loops are numba's
(unimatrix.ops.slot_memory.kernels).

Letters: B batch, T time, N slots, k slots that are read, E width of keys and queries, W width of values.
"""

from functools import cache
from typing import Any

from torch import Tensor

from unimatrix.ops.operator import Operator
from unimatrix.ops.slot_memory.reference import slot_memory_reference
from unimatrix.ops.slot_memory.state import Rules, SlotMemoryState, SlotReads, Writes, rooms


def slot_memory_compiled(
    writes: Writes, state: SlotMemoryState, rules: Rules
) -> tuple[SlotReads, SlotMemoryState]:
    """Arguments as in `slot_memory`, already checked."""
    context, weights, read_ids, slots, *last = _scan(
        *writes, *state, rules.top_k, rules.match_threshold, rules.write_threshold
    )
    reads = SlotReads(context, weights, read_ids, slots if rules.top_k < rules.num_slots else None)
    return reads, SlotMemoryState(*last)


@cache
def _loops() -> Any:
    from unimatrix.ops.slot_memory import kernels

    return kernels


def _shapes(*arguments: Any) -> tuple[Tensor, ...]:
    query, _, value, _, _, _, _, *state, top_k, _match, _write, _keep = arguments
    *reads, slot_of, replaced = rooms(query, value, state[0], top_k)
    return (*reads, *(x.new_empty(x.shape) for x in state), slot_of, replaced)


def _plain(*arguments: Any) -> tuple[Tensor, ...]:
    *tensors, top_k, match_threshold, write_threshold = arguments
    writes, state = Writes(*tensors[:7]), SlotMemoryState(*tensors[7:])
    rules = Rules(state.keys.shape[1], top_k, match_threshold, write_threshold)
    reads, last = slot_memory_reference(writes, state, rules)
    slots = reads.token_ids[..., :0] if reads.slots is None else reads.slots
    return reads.context, reads.weights, reads.token_ids, slots, *last


_scan = Operator(
    "slot_memory",
    "Tensor query, Tensor key, Tensor value, Tensor token_ids, Tensor strength, Tensor? real, "
    "Tensor? starts, Tensor keys, Tensor values, Tensor slot_ids, Tensor strengths, Tensor ages, "
    "int top_k, float match_threshold, float write_threshold",
    outputs="context weights read_ids read_slots last_keys last_values last_ids last_strengths last_ages",
    kept="slot_of replaced",
    loops=_loops,
    shapes=_shapes,
    plain=_plain,
    constant="token_ids real starts slot_ids ages",
    backward_takes="query key value token_ids strength real starts keys values slot_ids strengths ages "
    "weights read_slots slot_of replaced",
)
