"""The slot memory as a compiled CPU loop: the slots of a batch row stay in the cache, token after token.

A write costs N cosines of E numbers, a read N scores and N weighted values: at the paper's 32 slots and 16
numbers about 1,500 multiply-adds a token. The loops are numba's (unimatrix.ops.slot_memory.kernels). They
hang on an operator that autograd and torch.compile know; one call a model, so its dispatch costs nothing.

Letters: B batch, T time, N slots, E width of keys and queries, W width of values.
"""

from typing import Any

import torch
from torch import Tensor

from unimatrix.ops.derivatives import plain_gradients, plain_gradients_wanted
from unimatrix.ops.shapes import check_range
from unimatrix.ops.slot_memory.reference import slot_memory_reference
from unimatrix.ops.slot_memory.state import Rules, SlotMemoryState, SlotReads, Writes
from unimatrix.ops.threads import threads_for


def slot_memory_compiled(
    writes: Writes, state: SlotMemoryState, rules: Rules
) -> tuple[SlotReads, SlotMemoryState]:
    """Arguments as in `slot_memory`, already checked."""
    context, weights, read_ids, *last, _, _ = torch.ops.unimatrix.slot_memory_forward(
        *writes, *state, rules.top_k, rules.match_threshold, rules.write_threshold
    )
    return SlotReads(context, weights, read_ids), SlotMemoryState(*last)


def _forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    token_ids: Tensor,
    strength: Tensor,
    real: Tensor | None,
    keys: Tensor,
    values: Tensor,
    slot_ids: Tensor,
    strengths: Tensor,
    ages: Tensor,
    top_k: int,
    match_threshold: float,
    write_threshold: float,
) -> tuple[Tensor, ...]:
    from unimatrix.ops.slot_memory import kernels

    state = tuple(_copy(x) for x in (keys, values, slot_ids, strengths, ages))
    outputs = _outputs(query, value, keys)
    given = [query, key, value, token_ids, strength, _no_mask(query) if real is None else real]
    rules = [top_k, match_threshold, write_threshold]
    wrong = kernels.forward(
        threads_for(query.numel() * keys.shape[1]),
        *[_array(x) for x in given],
        *rules,
        *[x.numpy() for x in (*state, *outputs)],
    )
    if wrong:
        check_range("write_strength", strength, 0.0, 1.0, real)
    reads, decisions = outputs[:3], outputs[3:]
    return (*reads, *state, *decisions)


def _backward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    strength: Tensor,
    keys: Tensor,
    values: Tensor,
    strengths: Tensor,
    weights: Tensor,
    slot_of: Tensor,
    replaced: Tensor,
    grad_context: Tensor,
    grad_weights: Tensor,
    grad_keys: Tensor,
    grad_values: Tensor,
    grad_strengths: Tensor,
) -> tuple[Tensor, ...]:
    from unimatrix.ops.slot_memory import kernels

    grads = tuple(x.new_empty(x.shape) for x in (query, key, value, strength))
    grad_state = tuple(_copy(x) for x in (grad_keys, grad_values, grad_strengths))
    given = (query, key, value, strength, keys, values, strengths, weights, slot_of, replaced)
    arrays = [_array(x) for x in (*given, grad_context, grad_weights)]
    kernels.backward(
        threads_for(query.numel() * keys.shape[1]), *arrays, *[x.numpy() for x in (*grad_state, *grads)]
    )
    return (*grads, *grad_state)


def _outputs(query: Tensor, value: Tensor, keys: Tensor) -> tuple[Tensor, ...]:
    """Room for context, weights, read_ids, slot_of and replaced."""
    batch, length, _ = query.shape
    slots = keys.shape[1]
    return (
        value.new_empty(batch, length, value.shape[-1]),
        query.new_empty(batch, length, slots),
        query.new_empty((batch, length, slots), dtype=torch.int64),
        query.new_empty((batch, length), dtype=torch.int64),
        query.new_empty((batch, length), dtype=torch.int64),
    )


def _copy(x: Tensor) -> Tensor:
    return x.detach().clone(memory_format=torch.contiguous_format)


def _array(x: Tensor) -> Any:
    return x.detach().contiguous().numpy()


def _no_mask(query: Tensor) -> Tensor:
    return query.new_empty((0, 0), dtype=torch.bool)


def _forward_shapes(*arguments: Any) -> tuple[Tensor, ...]:
    query, _, value, _, _, _, *state, _top_k, _match, _write = arguments
    *reads, slot_of, replaced = _outputs(query, value, state[0])
    return (*reads, *(x.new_empty(x.shape) for x in state), slot_of, replaced)


def _backward_shapes(*arguments: Any) -> tuple[Tensor, ...]:
    query, key, value, strength, keys, values, strengths, *_ = arguments
    return tuple(x.new_empty(x.shape) for x in (query, key, value, strength, keys, values, strengths))


_library = torch.library.Library("unimatrix", "FRAGMENT")
_library.define(
    "slot_memory_forward(Tensor query, Tensor key, Tensor value, Tensor token_ids, Tensor strength, "
    "Tensor? real, Tensor keys, Tensor values, Tensor slot_ids, Tensor strengths, Tensor ages, int top_k, "
    "float match_threshold, float write_threshold) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)
_library.define(
    "slot_memory_backward(Tensor query, Tensor key, Tensor value, Tensor strength, Tensor keys, "
    "Tensor values, Tensor strengths, Tensor weights, Tensor slot_of, Tensor replaced, Tensor grad_context, "
    "Tensor grad_weights, Tensor grad_keys, Tensor grad_values, Tensor grad_strengths) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)
_library.impl("slot_memory_forward", _forward, "CPU")
_library.impl("slot_memory_backward", _backward, "CPU")
torch.library.register_fake("unimatrix::slot_memory_forward", _forward_shapes, lib=_library)
torch.library.register_fake("unimatrix::slot_memory_backward", _backward_shapes, lib=_library)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.top_k, ctx.match_threshold, ctx.write_threshold = inputs
    _, weights, _, *_, slot_of, replaced = output
    ctx.save_for_backward(*tensors, weights, slot_of, replaced)


def _differentiate(ctx: Any, *grad_outputs: Tensor | None) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors  # asked for once: torch.utils.checkpoint recomputes at the first look
    arguments, decisions = saved[:11], saved[11:]
    no_rules = (None, None, None)
    if plain_gradients_wanted(*grad_outputs):

        def plain(*arguments: Any) -> tuple[Tensor, ...]:
            rules = Rules(len(arguments[6][0]), ctx.top_k, ctx.match_threshold, ctx.write_threshold)
            reads, last = slot_memory_reference(
                Writes(*arguments[:6]), SlotMemoryState(*arguments[6:]), rules
            )
            return *reads, *last

        needed = ctx.needs_input_grad[:11]
        return (*plain_gradients(plain, arguments, needed, grad_outputs[:8]), *no_rules)
    query, key, value, _, strength, _, keys, values, _, strengths, _ = arguments
    grad_context, grad_weights, _, grad_keys, grad_values, _, grad_strengths, *_ = grad_outputs
    run = torch.ops.unimatrix.slot_memory_backward
    query, key, value, strength, keys, values, strengths = run(
        *(query, key, value, strength, keys, values, strengths),
        *decisions,
        *(grad_context, grad_weights, grad_keys, grad_values, grad_strengths),
    )
    return (query, key, value, None, strength, None, keys, values, None, strengths, None, *no_rules)


torch.library.register_autograd(
    "unimatrix::slot_memory_forward", _differentiate, setup_context=_remember, lib=_library
)
