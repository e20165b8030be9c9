"""Tokens read into a store by an op's compiled loops: who owns which store, and how it grows.

A call without a state, or at the newest length of one, appends in place. Of an older handle the tokens are
copied, and its index is built anew; so is one that an op finds in the place of its own. Where a call forgets,
at a document's start and where a capacity is full, it goes on in a store of its own with what is left of its
tokens. Room is taken for an eighth more than is needed.

Letters: B batch, T time.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from unimatrix.errors import UserError
from unimatrix.ops.internals import watched
from unimatrix.ops.operator import LIBRARY
from unimatrix.ops.threads import threads_for
from unimatrix.ops.token_store.state import (
    BASE,
    BUILT,
    COUNT,
    HELD,
    INDEX,
    MIN_SLOTS,
    MOST_TOKENS,
    NO_INDEX,
    NODES,
    REGISTERS,
    SLOTS,
    SLOTS_ROOM,
    TOKENS_ROOM,
    TokenStoreState,
    check_ids,
    new_store,
    one_at_a_time,
    words,
)

WORK = 64  # of a token, in multiply-adds: what decides whether a second thread pays
MOST_READ = 2**62
Rooms = tuple[int, int, int]  # for so many tokens, nodes and slots


class Index(NamedTuple):
    """What an op keeps over its tokens, and how it reads on.

    op: its name. mark: see unimatrix.ops.token_store.state. read: imports its loop, and numba with it, which
    takes `settings` behind all else.
    rooms: of so many tokens of a text. grown: nodes and slots of a store that has no room for the next token,
    by its registers and the tokens that there will be room for. most: for so many more tokens of any input.
    out: the shape of what `read` fills for [B, T] tokens; answers: the outputs in it.
    """

    op: str
    mark: int
    read: Callable[[], Any]
    rooms: Callable[[int], Rooms]
    grown: Callable[[Tensor, int], tuple[int, int]]
    most: Callable[[int], Rooms]
    out: Callable[[int, int], tuple[int, ...]]
    answers: Callable[[np.ndarray], tuple[Tensor, ...]]
    settings: tuple[Any, ...] = ()


@cache
def _loops() -> Any:
    from unimatrix.ops.token_store import loops

    return loops


def read_on(
    index: Index,
    tokens: Tensor,
    mask: Tensor | None,
    starts: Tensor | None,
    state: TokenStoreState | None,
    capacity: int,
    *,
    own: bool = False,
) -> tuple[tuple[Tensor, ...], TokenStoreState]:
    """An op's answers, and the state after; on the host, in the store where that may be.

    own: whether nobody else has the store.
    """
    # a decoding step is 20 us in all, and each function of torch's one of them: hence numpy
    batch, time = tokens.shape
    if state is None:
        own = True
        registers, store = new_store(batch, index.mark, *index.rooms(min(time, capacity or time)))
        length = registers[:, COUNT].clone()
    else:
        length, registers, store = state
    no_flags = np.empty((batch, 0), np.bool_)
    given, real, starting = (
        no_flags if x is None else x.cpu().contiguous().numpy() for x in (tokens, mask, starts)
    )
    done, count, gone = np.zeros(batch, np.int64), np.empty(batch, np.int64), np.empty(batch, np.int64)
    out = np.empty(index.out(batch, time), np.int64)
    loops, read, threads = _loops(), index.read(), threads_for(WORK * tokens.numel()) if batch > 1 else 1
    with one_at_a_time():
        length, registers, store = (x.contiguous() for x in (length, registers, store))
        while True:
            handle = (length.numpy(), registers.numpy(), store.numpy())
            came = read(
                threads,
                own,
                *handle,
                given,
                real,
                starting,
                done,
                capacity,
                out,
                count,
                gone,
                *index.settings,
            )
            if came == loops.READ:
                return index.answers(out), TokenStoreState(torch.from_numpy(count), registers, store)
            if came == loops.WRONG_ID:
                check_ids(tokens, mask)
            if came == loops.STRANGE:
                raise _strange(index)
            more = time - int(done.min())
            if came == loops.SHARED:
                registers, store = _own(index, registers, store, count, gone, more, capacity)
            else:
                registers, store = _grown(index, registers, store, more, capacity)
            own = True


def _strange(index: Index) -> UserError:
    return UserError(f"state: expected one that {index.op} returned, got other numbers in it")


def slots_for(entries: int) -> int:
    """Of a table that has room for so many entries."""
    return max(MIN_SLOTS, -(-4 * entries // 3) + 1)


def eighth_more(needed: int, most: int) -> int:
    """So that not every token grows the store; but no more than any input needs."""
    return max(needed, min(needed + needed // 8, most))


def _own(
    index: Index,
    registers: Tensor,
    store: Tensor,
    count: np.ndarray,
    gone: np.ndarray,
    more: int,
    capacity: int,
) -> tuple[Tensor, Tensor]:
    """What later tokens need of a handle, in a store of its own with room for `more`; see loops.move."""
    numbers = registers.numpy()
    held = int((count - numbers[:, BASE] - gone.clip(0)).max())
    tokens = min(held + max(more, held // 8), MOST_TOKENS)
    if capacity:
        tokens = min(tokens, max(held, capacity))
    tokens, nodes, slots = index.rooms(tokens)
    with_index = numbers[gone < 0]
    if len(with_index) and nodes:
        nodes = max(nodes, eighth_more(int(with_index[:, NODES].max()), tokens + MIN_SLOTS))
    if len(with_index):
        slots = max(slots, int(with_index[:, SLOTS].max()))
    return _moved(index, registers, store, (tokens, nodes, slots), count, gone)


def _grown(index: Index, registers: Tensor, store: Tensor, more: int, capacity: int) -> tuple[Tensor, Tensor]:
    """The same in a larger store: for `more` tokens or, where those are few, an eighth more."""
    (tokens, nodes, slots), held = _rooms_of(registers), int(registers[:, HELD].max())
    if held + more > tokens:
        tokens = max(held + more, min(held + held // 8, MOST_TOKENS))
        if capacity:  # no more are held at a time
            tokens = min(tokens, max(held, capacity))
    if tokens > MOST_TOKENS:
        raise UserError(
            f"tokens: expected at most {MOST_TOKENS:,} in a row without a capacity, got {tokens:,}"
        )
    more_nodes, more_slots = index.grown(registers, tokens)
    rooms = (tokens, max(nodes, more_nodes), max(slots, more_slots))
    count = registers[:, COUNT].numpy()
    return _moved(index, registers, store, rooms, count, np.full_like(count, -1))


def _rooms_of(registers: Tensor) -> Rooms:
    """How many tokens, nodes and slots there is room for, the same in every row."""
    tokens, nodes, slots = registers[:, TOKENS_ROOM : SLOTS_ROOM + 1].amax(0).tolist()
    return tokens, nodes, slots


def _moved(
    index: Index, registers: Tensor, store: Tensor, rooms: Rooms, count: np.ndarray, gone: np.ndarray
) -> tuple[Tensor, Tensor]:
    """What later tokens need, in a store with other rooms; see loops.move."""
    after, larger = new_store(len(registers), index.mark, *rooms)
    _loops().move(1, registers.numpy(), store.numpy(), count, gone, after.numpy(), larger.numpy())
    return after, larger


def per_token(registers: Tensor, at: int, otherwise: float) -> float:
    """How many nodes or entries a token has had; `otherwise` where few tokens were read."""
    most, built = int(registers[:, at].max()), int(registers[:, BUILT].max())
    return most / built if built > MIN_SLOTS else otherwise


# ---- in a file


def compact(state: TokenStoreState) -> TokenStoreState:
    """The same without its index and without room to spare: what is kept in a file."""
    with one_at_a_time():
        length, registers = state.length.clone(), state.registers.clone()
        registers[:, HELD] = length - registers[:, BASE]
        registers[:, COUNT] = length
        held = int(registers[:, HELD].max()) if len(registers) else 0
        fresh, _ = new_store(len(registers), NO_INDEX, held, 0, 0)
        fresh[:, : HELD + 1] = registers[:, : HELD + 1]
        held_tokens = state.store[:, :held].masked_fill(~_is_held(registers, held), 0)
    return TokenStoreState(length, fresh, held_tokens)


def _is_held(registers: Tensor, held: int) -> Tensor:
    """[B, held] bool, where a row's store holds a token."""
    return torch.arange(held, device="cpu") < registers[:, HELD, None]


def is_compact(state: TokenStoreState, *, vocab_size: int) -> bool:
    """Whether tensors of the right dtypes are what `compact` gives, of tokens below vocab_size.

    Such a state can be read on from whoever made it: its index is built from its tokens.
    """
    length, registers, store = state
    if store.dim() != 2 or registers.shape != (len(store), REGISTERS) or length.shape != (len(store),):
        return False
    held = store.shape[1]
    fresh, _ = new_store(len(registers), NO_INDEX, held, 0, 0)
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


# ---- as an operator


def operator(
    op: str,
    index_of: Callable[..., Index],
    answers: Callable[..., tuple[Tensor, ...]],
    *,
    outputs: int,
    settings: str = "",
) -> Callable[..., tuple[tuple[Tensor, ...], TokenStoreState]]:
    """`read_on` of an op, and where operators are followed an operator of torch's instead.

    It is called with tokens, mask, starts, state, capacity and the op's settings.

    Args:
        index_of: the index, by the settings. answers: empty tensors like its answers, by the tokens and the
            settings. outputs: how many. settings: their schema, each with a comma in front.
    """

    def shapes(tokens: Tensor, mask: Any, starts: Any, length: Any, registers: Any, store: Any, *more: Any):
        batch, time = tokens.shape
        index = index_of(*more[1:])
        room = words(index.mark, *index.most(time)) + (0 if store is None else store.shape[1])
        return (
            *answers(tokens, *more[1:]),
            torch.empty(batch, dtype=torch.int64, device="cpu"),
            torch.empty(batch, REGISTERS, dtype=torch.int64, device="cpu"),
            torch.empty(batch, room, dtype=torch.int32, device="cpu"),
        )

    def run(tokens: Tensor, mask: Any, starts: Any, length: Any, registers: Any, store: Any, *more: Any):
        """`read_on` with new tensors of shapes that do not depend on the numbers."""
        batch, time = tokens.shape
        index, capacity = index_of(*more[1:]), more[0]
        rooms = index.most(time)
        if store is None or not batch:
            registers, store = new_store(batch, index.mark, *rooms)
            state = TokenStoreState(registers[:, COUNT].clone(), registers, store)
        else:
            with one_at_a_time():
                length, registers, store = (x.contiguous() for x in (length, registers, store))
                count = length.numpy()
                if not _loops().are_sound(1, registers.numpy(), count, store.shape[1]):
                    raise _strange(index)
                n, m, h = (room + more for room, more in zip(_rooms_of(registers), rooms, strict=True))
                other = (length != registers[:, COUNT]) | (registers[:, INDEX] != index.mark)
                gone = np.where(other.numpy(), 0, -1)
                state = TokenStoreState(length, *_moved(index, registers, store, (n, m, h), count, gone))
        found, state = read_on(index, tokens, mask, starts, state, capacity, own=True)
        return (*(x.to(tokens.device) for x in found), *state)

    def vmap(info: Any, in_dims: tuple[Any, ...], *given: Any) -> tuple[Any, Any]:
        """The examples as more rows of the batch."""
        size, batch = info.batch_size, 0
        rows = []
        for x, dim in zip(given, in_dims, strict=True):
            if isinstance(x, Tensor):
                x = x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)
                batch, x = x.shape[1], x.flatten(0, 1)
            rows.append(x)
        found = call(*rows)
        return tuple(y.unflatten(0, (size, batch)) for y in found), (0,) * len(found)

    name = f"{op}_forward"
    LIBRARY.define(
        f"{name}(Tensor tokens, Tensor? mask, Tensor? starts, Tensor? length, Tensor? registers,"
        f" Tensor? store, int capacity{settings}) -> ({', '.join(['Tensor'] * (outputs + 3))})"
    )
    LIBRARY.impl(name, run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"unimatrix::{name}", shapes, lib=LIBRARY)
    torch.library.register_vmap(f"unimatrix::{name}", vmap, lib=LIBRARY)
    call = getattr(torch.ops.unimatrix, name)

    def read(
        tokens: Tensor,
        mask: Tensor | None,
        starts: Tensor | None,
        state: TokenStoreState | None,
        capacity: int | None,
        *more: Any,
    ) -> tuple[tuple[Tensor, ...], TokenStoreState]:
        most = min(capacity or 0, MOST_READ)
        if not (watched(tokens) or tokens.is_meta):
            return read_on(index_of(*more), tokens, mask, starts, state, most)
        found = call(tokens, mask, starts, *(state or (None, None, None)), most, *more)
        return found[:outputs], TokenStoreState(*found[outputs:])

    return read
