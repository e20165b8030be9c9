"""The suffix automaton as a compiled CPU loop: who owns which store, and how it grows.

The loops are numba's (unimatrix.ops.suffix_automaton.kernels). A call without a state, or at the newest
length of one, appends in place. Of an older handle the tokens are copied, and its tree is built anew, n log n
for n tokens. Where a call forgets, at a document's start and where a capacity is full, it goes on in a store
of its own with what is left of its tokens.

Bytes: 8 a token, 32 a node of the tree, 8 a slot of its table, which is three quarters full at most; a text
has about 0.65 nodes a token, no input more than 1. Room is taken for an eighth more than is needed.

Letters: B batch, T time.
"""

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unimatrix.errors import UserError
from unimatrix.ops.internals import watched
from unimatrix.ops.operator import LIBRARY
from unimatrix.ops.suffix_automaton.state import (
    BASE,
    BUILT,
    COUNT,
    EDGES,
    HELD,
    LEAVES,
    MIN_NODES,
    MIN_SLOTS,
    MOST_TOKENS,
    NODES,
    REGISTERS,
    SLOTS,
    SLOTS_ROOM,
    TOKENS_ROOM,
    SuffixAutomatonState,
    SuffixMatch,
    check_ids,
    new_store,
    one_at_a_time,
    words,
)
from unimatrix.ops.threads import threads_for

WORK = 64  # of a token, in multiply-adds: what decides whether a second thread pays
MOST_READ = 2**62
NODES_OF_TEXT = 0.7  # for each token


def suffix_automaton_compiled(
    tokens: Tensor,
    state: SuffixAutomatonState | None,
    mask: Tensor | None,
    starts: Tensor | None,
    capacity: int | None,
) -> tuple[SuffixMatch, SuffixAutomatonState]:
    """Arguments as in `suffix_automaton`, already checked."""
    length, registers, store = (None, None, None) if state is None else state
    call = _operator if watched(tokens) or tokens.is_meta else run
    found = call(tokens, mask, starts, length, registers, store, min(capacity or 0, 2**62))
    return SuffixMatch(*found[:3]), SuffixAutomatonState(*found[3:])


@cache
def _kernels() -> Any:
    from unimatrix.ops.suffix_automaton import kernels

    return kernels


def run(
    tokens: Tensor,
    mask: Tensor | None,
    starts: Tensor | None,
    length: Tensor | None,
    registers: Tensor | None,
    store: Tensor | None,
    capacity: int,
    *,
    own: bool = False,
) -> tuple[Tensor, ...]:
    """token, length, position [B, T], and the state after; on the host, in the store where that may be.

    own: whether nobody else has the store.
    """
    # a decoding step is 20 us in all, and each function of torch's one of them: hence numpy
    batch, time = tokens.shape
    if length is None or registers is None or store is None:
        own = True
        registers, store = new_store(batch, *_rooms(min(time, capacity or time)))
        length = registers[:, COUNT].clone()
    no_flags = np.empty((batch, 0), np.bool_)
    given, real, starting = (
        no_flags if x is None else x.cpu().contiguous().numpy() for x in (tokens, mask, starts)
    )
    done, count, gone = np.zeros(batch, np.int64), np.empty(batch, np.int64), np.empty(batch, np.int64)
    out = np.empty((3, batch, time), np.int64)
    kernels, threads = _kernels(), threads_for(WORK * tokens.numel()) if batch > 1 else 1
    with one_at_a_time():
        length, registers, store = (x.contiguous() for x in (length, registers, store))
        while True:
            handle = (length.numpy(), registers.numpy(), store.numpy())
            came = kernels.read(
                threads, own, *handle, given, real, starting, done, capacity, out, count, gone
            )
            if came == kernels.READ:
                return (*map(torch.from_numpy, (*out, count)), registers, store)
            if came == kernels.WRONG_ID:
                check_ids(tokens, mask)
            if came == kernels.STRANGE:
                raise _strange()
            more = time - int(done.min())
            if came == kernels.SHARED:
                registers, store = _own(registers, store, count, gone, more, capacity)
            else:
                registers, store = _grown(registers, store, more, capacity)
            own = True


def _strange() -> UserError:
    return UserError("state: expected one that suffix_automaton returned, got other numbers in it")


def _rooms(tokens: int) -> tuple[int, int, int]:
    """Room for so many tokens of a text, and what a tree over them has as a rule."""
    nodes = MIN_NODES + int(NODES_OF_TEXT * tokens)
    return max(1, tokens), nodes, _slots(tokens + nodes)


def _slots(edges: int) -> int:
    return max(MIN_SLOTS, -(-4 * edges // 3) + 1)


def _own(
    registers: Tensor, store: Tensor, count: np.ndarray, gone: np.ndarray, more: int, capacity: int
) -> tuple[Tensor, Tensor]:
    """What later tokens need of a handle, in a store of its own with room for `more`; see kernels.move."""
    numbers = registers.numpy()
    held = int((count - numbers[:, BASE] - gone.clip(0)).max())
    tokens = min(held + max(more, held // 8), MOST_TOKENS)
    if capacity:
        tokens = min(tokens, max(held, capacity))
    tokens, nodes, slots = _rooms(tokens)
    with_tree = numbers[gone < 0]
    if len(with_tree):
        nodes = max(nodes, _eighth_more(int(with_tree[:, NODES].max()), tokens))
        slots = max(slots, int(with_tree[:, SLOTS].max()))
    return _moved(registers, store, (tokens, nodes, slots), count, gone)


def _grown(registers: Tensor, store: Tensor, more: int, capacity: int) -> tuple[Tensor, Tensor]:
    """The same in a larger store: for `more` tokens or, where those are few, an eighth more."""
    tokens, nodes, slots = _rooms_of(registers)
    held, built, planted, edges = (int(registers[:, at].max()) for at in (HELD, BUILT, NODES, EDGES))
    if held + more > tokens:
        tokens = max(held + more, min(held + held // 8, MOST_TOKENS))
        if capacity:  # no more are held at a time
            tokens = min(tokens, max(held, capacity))
    if tokens > MOST_TOKENS:
        raise UserError(
            f"tokens: expected at most {MOST_TOKENS:,} in a row without a capacity, got {tokens:,}"
        )
    # of the next token: every suffix that is no leaf may become one, with a node and two edges
    pending = int((registers[:, BUILT] - registers[:, LEAVES]).max()) + 3
    expected = planted / built if built > MIN_SLOTS else NODES_OF_TEXT  # nodes of a token
    nodes = max(nodes, int(expected * tokens) + MIN_NODES, _eighth_more(planted + pending, tokens))
    slots = max(
        slots, _slots(tokens + int(expected * tokens)), _slots(_eighth_more(edges + 2 * pending, 2 * tokens))
    )
    count = registers[:, COUNT].numpy()
    return _moved(registers, store, (tokens, nodes, slots), count, np.full_like(count, -1))


def _eighth_more(needed: int, most: int) -> int:
    """So that not every token grows the store, but no input has more than one node, two edges a token."""
    return max(needed, min(needed + needed // 8, most + 2 * MIN_NODES))


def _rooms_of(registers: Tensor) -> tuple[int, int, int]:
    """How many tokens, nodes and slots there is room for, the same in every row."""
    tokens, nodes, slots = registers[:, TOKENS_ROOM : SLOTS_ROOM + 1].amax(0).tolist()
    return tokens, nodes, slots


def _moved(
    registers: Tensor, store: Tensor, rooms: tuple[int, int, int], count: np.ndarray, gone: np.ndarray
) -> tuple[Tensor, Tensor]:
    """What later tokens need, in a store with other rooms; see kernels.move."""
    after, larger = new_store(len(registers), *rooms)
    _kernels().move(1, registers.numpy(), store.numpy(), count, gone, after.numpy(), larger.numpy())
    return after, larger


def compact(state: SuffixAutomatonState) -> SuffixAutomatonState:
    """The same without its tree and without room to spare: what is kept in a file."""
    with one_at_a_time():
        length, registers = state.length.clone(), state.registers.clone()
        registers[:, HELD] = length - registers[:, BASE]
        registers[:, COUNT] = length
        held = int(registers[:, HELD].max()) if len(registers) else 0
        fresh, _ = new_store(len(registers), held, 0, 0)
        fresh[:, : HELD + 1] = registers[:, : HELD + 1]
        held_tokens = state.store[:, :held].masked_fill(~_is_held(registers, held), 0)
    return SuffixAutomatonState(length, fresh, held_tokens)


def _is_held(registers: Tensor, held: int) -> Tensor:
    """[B, held] bool, where a row's store holds a token."""
    return torch.arange(held, device="cpu") < registers[:, HELD, None]


def is_compact(state: SuffixAutomatonState, *, vocab_size: int) -> bool:
    """Whether tensors of the right dtypes are what `compact` gives, of tokens below vocab_size.

    Such a state can be read on from whoever made it: its tree is built from its tokens.
    """
    length, registers, store = state
    if store.dim() != 2 or registers.shape != (len(store), REGISTERS) or length.shape != (len(store),):
        return False
    held = store.shape[1]
    fresh, _ = new_store(len(registers), held, 0, 0)
    fresh[:, : HELD + 1] = registers[:, : HELD + 1]
    if not torch.equal(fresh, registers) or not torch.equal(length, registers[:, COUNT]):
        return False
    count, base, began, here = registers[:, : HELD + 1].T
    ordered = (began >= 0) & (began <= base) & (base <= count) & (here >= 0) & (count == base + here)
    if not bool(ordered.all()) or (int(here.max()) if len(here) else 0) != held:
        return False
    if bool((count > MOST_READ).any()):  # a call more would wrap around
        return False
    return bool(((store >= 0) & (store <= vocab_size - 1) | ~_is_held(registers, held)).all())


def _shapes(
    tokens: Tensor, mask: Any, starts: Any, length: Any, registers: Any, store: Any, capacity: int
) -> Any:
    batch, time = tokens.shape
    room = words(*_most(time)) + (0 if store is None else store.shape[1])
    return (
        *(tokens.new_empty(batch, time) for _ in range(3)),
        torch.empty(batch, dtype=torch.int64, device="cpu"),
        torch.empty(batch, REGISTERS, dtype=torch.int64, device="cpu"),
        torch.empty(batch, room, dtype=torch.int32, device="cpu"),
    )


def _most(time: int) -> tuple[int, int, int]:
    """Room for so many tokens of any input."""
    return time, time + MIN_NODES, max(MIN_SLOTS, 3 * time + 16)


def _run_operator(*arguments: Any) -> tuple[Tensor, ...]:
    """`run` as an operator: it gives new tensors of shapes that do not depend on the numbers."""
    tokens, mask, starts, length, registers, store, capacity = arguments
    batch, time = tokens.shape
    rooms = _most(time)
    if store is None or not batch:
        registers, store = new_store(batch, *rooms)
        length = registers[:, COUNT].clone()
    else:
        with one_at_a_time():
            length, registers, store = (x.contiguous() for x in (length, registers, store))
            count = length.numpy()
            if not _kernels().are_sound(1, registers.numpy(), count, store.shape[1]):
                raise _strange()
            n, m, h = (room + more for room, more in zip(_rooms_of(registers), rooms, strict=True))
            older = count != registers[:, COUNT].numpy()
            registers, store = _moved(registers, store, (n, m, h), count, np.where(older, 0, -1))
    found = run(tokens, mask, starts, length, registers, store, capacity, own=True)
    return (*(x.to(tokens.device) for x in found[:3]), *found[3:])


LIBRARY.define(
    "suffix_automaton_forward(Tensor tokens, Tensor? mask, Tensor? starts, Tensor? length, Tensor? registers,"
    " Tensor? store, int capacity) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)
LIBRARY.impl("suffix_automaton_forward", _run_operator, "CompositeExplicitAutograd")
torch.library.register_fake("unimatrix::suffix_automaton_forward", _shapes, lib=LIBRARY)


def _vmap(info: Any, in_dims: tuple[Any, ...], *given: Any) -> tuple[Any, Any]:
    """The examples as more rows of the batch."""
    size, batch = info.batch_size, 0
    rows = []
    for x, dim in zip(given, in_dims, strict=True):
        if isinstance(x, Tensor):
            x = x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)
            batch, x = x.shape[1], x.flatten(0, 1)
        rows.append(x)
    found = _operator(*rows)
    return tuple(y.unflatten(0, (size, batch)) for y in found), (0,) * len(found)


torch.library.register_vmap("unimatrix::suffix_automaton_forward", _vmap, lib=LIBRARY)
_operator = torch.ops.unimatrix.suffix_automaton_forward
