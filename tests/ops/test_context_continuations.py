"""Continuations of contexts against brute force: any input, pieces, masks, documents, older handles."""

import contextlib
import copy
import itertools
import pickle
import threading

import numpy as np
import pytest
import torch
from torch import Tensor
from words import INPUTS, drawn

from unimatrix import UserError
from unimatrix.models import select_batch
from unimatrix.ops import TokenStoreState, context_continuations, suffix_automaton
from unimatrix.ops.context_continuations import kernels
from unimatrix.ops.token_store import loops, reading
from unimatrix.ops.token_store.reading import compact
from unimatrix.ops.token_store.state import (
    BEGAN,
    INDEX,
    REGISTERS,
    SLOTS,
    TOKENS_ROOM,
    mark_of,
    one_at_a_time,
    words,
)

FORMS = ("reference", "compiled")
STRANGE = r"^state: expected one that context_continuations returned"
ORDERS = (1, 2, 5)


def definition(row: list[int], orders: tuple[int, ...], k: int) -> list[list[list[int]]]:
    """Of every place, straight from the sentence that defines them."""
    return [
        [
            (
                [row[j + 1] for j in range(i - 1, -1, -1) if j >= o - 1 and row[j - o + 1 : j + 1] == context]
                if len(context := row[max(0, i - o + 1) : i + 1]) == o
                else []
            )[:k]
            for o in orders
        ]
        for i in range(len(row))
    ]


def without_none(found: Tensor) -> list[list[list[int]]]:
    assert found.dtype == torch.int64
    # nothing stands behind the first -1
    assert not bool((found[..., :-1] < found[..., 1:].clamp_max(0)).any())
    return [[[x for x in order if x != -1] for order in place] for place in found.tolist()]


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("backend", FORMS)
def test_it_is_the_definition(name, backend):
    tokens = INPUTS[name]
    found, state = context_continuations(tokens, orders=ORDERS, continuations=3, backend=backend)
    assert found.shape == (*tokens.shape, 3, 3)
    for b, row in enumerate(tokens.tolist()):
        assert without_none(found[b]) == definition(row, ORDERS, 3)
    assert state.length.tolist() == [tokens.shape[1]] * len(tokens)


@pytest.mark.parametrize("seed", range(3))
def test_pieces_masks_documents_capacities_orders_and_older_handles(seed):
    """One at random after the other; every older handle says later what it said at first, more than once."""
    torch.manual_seed(seed)
    for trial in range(60):
        rows, symbols = (1, 2, 5)[trial % 3], (1, 2, 3, 20, 50_257)[trial % 5]
        n = int(torch.randint(0, 90, ()))
        tokens = torch.randint(0, symbols, (rows, n))
        mask = torch.rand(rows, n) > (0.0, 0.3, 0.9)[trial % 3] if trial % 2 else None
        starts = torch.rand(rows, n) < (0.0, 0.05, 0.3)[trial % 3] if trial % 4 < 2 else None
        capacity = (None, 2, 3, 4, 7, 16, 64)[trial % 7]
        k = (1, 4, 9)[trial % 3]
        some = ((2,), (1, 2, 3, 4, 5, 6, 127), (1, 3))

        def read(
            start, stop, state, orders, tokens=tokens, backend="compiled", m=mask, s=starts, c=capacity, k=k
        ):
            here = [None if x is None else x[:, start:stop] for x in (m, s)]
            return context_continuations(
                tokens[:, start:stop],
                state,
                orders=orders,
                continuations=k,
                mask=here[0],
                starts=here[1],
                capacity=c,
                backend=backend,
            )

        orders = some[trial % 2]
        whole, _ = read(0, n, None, orders, backend="reference")
        cuts = [0, *sorted(torch.randint(0, n + 1, (4,)).tolist()), n]
        state, found, handles = None, [], []
        for number, (start, stop) in enumerate(itertools.pairwise(cuts)):
            handles.append((state, start))
            if state is not None and number == 2:
                state = compact(state)  # as from a file
            if state is not None and number == 3:
                state = TokenStoreState(*(x.index_select(0, torch.arange(rows)) for x in state))
            if number == 1:
                # whose index is of other orders, or a tree
                here = [None if x is None else x[:, :start] for x in (mask, starts)]
                other = suffix_automaton(tokens[:, :start], mask=here[0], starts=here[1], capacity=capacity)[
                    1
                ]
                state = other if trial % 2 else read(0, start, None, some[2])[1]
            piece, state = read(start, stop, state, orders, backend=FORMS[number == 4 or trial % 9 > 0])
            found.append(piece)
        assert torch.equal(torch.cat(found, 1), whole)
        for handle, start in handles:
            other = torch.cat([tokens[:, :start], torch.randint(0, symbols, (rows, n - start))], dim=1)
            for again in (tokens, other, tokens):
                expected, _ = read(0, n, None, orders, tokens=again, backend="reference")
                got, _ = read(start, n, handle, orders, tokens=again)
                assert torch.equal(got, expected[:, start:])


def test_the_future_changes_nothing():
    tokens = drawn(3, n=120)
    whole, _ = context_continuations(tokens)
    for stop in (1, 50, 119):
        other = torch.cat([tokens[:, :stop], drawn(3, n=120 - stop, seed=stop)], dim=1)
        assert torch.equal(context_continuations(other)[0][:, :stop], whole[:, :stop])


@pytest.mark.parametrize("hashes", ["all alike", "alike but for the order", "two of a length"])
def test_contexts_with_the_same_hash_are_told_apart(hashes, monkeypatch):
    """The loops in Python, with hashes that tell nothing."""
    tokens, n, slots = drawn(3, n=80, rows=1)[0].numpy(), 80, 1024
    made = {
        "all alike": lambda s, token: np.uint64(0),
        "alike but for the order": lambda s, token: np.uint64(5 << 32),
        "two of a length": lambda s, token: np.uint64(2**62 + 2**33 * (int(token) % 2)),
    }
    for name in ("_find", "_answer", "_read_token"):
        monkeypatch.setattr(kernels, name, getattr(kernels, name).py_func)
    monkeypatch.setattr(kernels, "_longer", made[hashes])
    if hashes == "all alike":
        monkeypatch.setattr(kernels, "ORDERS_MASK", 0)
        monkeypatch.setattr(kernels.np, "int32", lambda x: 0)
    registers = np.zeros(REGISTERS, np.int64)
    held, links = tokens.astype(np.int64), np.zeros((n, 3), np.int64)
    table = np.zeros((slots, 2), np.int64)
    registers[SLOTS] = slots
    found = np.zeros((n, 3, 4), np.int64)
    for i in range(n):
        kernels._read_token(registers, held, links, table, np.array((1, 2, 4)))
        kernels._answer(registers, held, links, found[i])
    expected, _ = context_continuations(torch.from_numpy(tokens)[None], orders=(1, 2, 4), backend="reference")
    assert found.tolist() == expected[0].tolist()


def test_appending_is_in_place_and_an_older_handle_takes_a_copy():
    tokens = drawn(4, n=400, rows=1)
    _, state = context_continuations(tokens)
    _, later = context_continuations(tokens[:, :1], state)  # the first token more: a store with room
    _, longer = context_continuations(tokens[:, :1], later)
    assert longer.store.data_ptr() == later.store.data_ptr()
    _, branch = context_continuations(tokens[:, 1:2], later)
    assert branch.store.data_ptr() != later.store.data_ptr()
    _, other = context_continuations(tokens[:, :1], longer, orders=(2, 3))
    assert other.store.data_ptr() != longer.store.data_ptr()


def num_bytes(state: TokenStoreState) -> int:
    return sum(x.numel() * x.element_size() for x in state)


def test_a_store_takes_the_bytes_that_are_promised(real_corpus):
    def bytes_per_token(tokens: Tensor, pieces: int) -> float:
        state = None
        for piece in tokens.chunk(pieces, dim=1):
            _, state = context_continuations(piece, state)
        return num_bytes(state) / tokens.shape[1]

    text = torch.from_numpy(real_corpus.split("train")[:200_000].astype("int64"))[None]
    for pieces in (1, 7, 400):
        assert bytes_per_token(text, pieces) <= 40
    for name in ("one symbol", "fibonacci", "thue-morse"):
        assert bytes_per_token(INPUTS[name].repeat(1, 100), 37) <= 32
    for symbols in (2, 4, 259, 8_192, 50_257):
        assert bytes_per_token(drawn(symbols, n=40_000, rows=1), 37) <= 72


@pytest.mark.parametrize("capacity", [64, 1000])
def test_a_capacity_bounds_the_store_of_one_long_call(capacity):
    for tokens in (torch.zeros(1, 40_000, dtype=torch.int64), drawn(9_999, n=40_000, rows=1)):
        _, state = context_continuations(tokens, capacity=capacity)
        assert num_bytes(state) <= 72 * capacity + 1024


@pytest.mark.parametrize("fullgraph", [False, True])
def test_it_compiles_and_maps(fullgraph):
    tokens = drawn(3, n=40, rows=4)
    mask = torch.rand(4, 40) > 0.2
    whole, _ = context_continuations(tokens, mask=mask)

    def in_two(tokens, mask):
        first, state = context_continuations(tokens[:, :17], mask=mask[:, :17])
        second, _ = context_continuations(tokens[:, 17:], state, mask=mask[:, 17:])
        return torch.cat([first, second], 1)

    torch.compiler.reset()
    compiled = torch.compile(in_two, backend="aot_eager", fullgraph=fullgraph)
    assert torch.equal(compiled(tokens, mask), whole)
    mapped = torch.func.vmap(in_two)(tokens.view(2, 2, 40), mask.view(2, 2, 40))
    assert torch.equal(mapped.flatten(0, 1), whole)


@pytest.mark.parametrize("backend", FORMS)
def test_empty_batches_and_texts(backend):
    for shape in ((0, 5), (2, 0), (0, 0)):
        tokens = torch.zeros(shape, dtype=torch.int64)
        found, state = context_continuations(tokens, orders=(1,), backend=backend)
        assert found.shape == (*shape, 1, 4)
        more = torch.zeros(shape[0], 3, dtype=torch.int64)
        again, _ = context_continuations(more, state, orders=(1,), backend=backend)
        assert again[:, :, 0, 0].tolist() == [[-1, 0, 0]] * shape[0]


@pytest.mark.parametrize("backend", FORMS)
def test_wrong_arguments_are_named(backend):
    tokens = drawn(4, n=5)
    _, state = context_continuations(tokens)
    ones = torch.ones(2, 5, dtype=torch.bool)
    negative = tokens.clone()
    negative[1, 2] = -1
    wrong = [("tokens", {"tokens": value}) for value in (None, tokens[0], tokens.int(), negative)]
    wrong += [("mask", {"mask": value}) for value in (ones.long(), ones[:1], True)]
    wrong += [("starts", {"starts": ones[:, :4]}), ("capacity", {"capacity": 1})]
    wrong += [
        ("orders", {"orders": value})
        for value in (
            None, 3, "23", (), (0,), (-1, 2), (2, 2), (3, 2), (2.0,), (True,), (128,), (2**70,), range(1, 9)
        )
    ]  # fmt: skip
    wrong += [("continuations", {"continuations": value}) for value in (0, -1, 65, 2.0, "4", True, None)]
    wrong += [("backend", {"backend": value}) for value in ("chunked", "compield", None)]
    wrong += [("state", {"state": value}) for value in (0, tuple(state), torch.zeros(2))]
    wrong += [("state.registers", {"state": state._replace(registers=state.registers[:, :3])})]
    for name, change in wrong:
        with pytest.raises(UserError, match=rf"^{name}\b") as caught:
            context_continuations(**{"tokens": tokens, "backend": backend} | change)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kept", [lambda state: state, compact])
def test_a_state_that_is_none_is_refused_before_it_is_read(kept):
    """Numbers that no call returned would send the loop outside its memory."""
    tokens = drawn(4, n=50)
    state = kept(context_continuations(tokens)[1])
    for at in range(REGISTERS):
        for value in (-1, 2**40, 2**62, -(2**62)):
            if at == BEGAN and value < 0:
                continue
            strange = state.registers.clone()
            strange[1, at] = value
            with pytest.raises(UserError, match=STRANGE):
                context_continuations(tokens, state._replace(registers=strange))
    for mark in (1, 3, mark_of((2,)), mark_of((2, 3, 4, 5, 6)), mark_of((3, 2)), mark_of((2, 3, 4, 6)) + 1):
        strange = state.registers.clone()
        strange[1, INDEX] = mark
        with pytest.raises(UserError, match=STRANGE):
            context_continuations(tokens, state._replace(registers=strange))
    for length in (-1, 51, 2**62):
        with pytest.raises(UserError, match=STRANGE):
            context_continuations(tokens, state._replace(length=torch.tensor([50, length])))
    with pytest.raises(UserError, match=STRANGE):
        context_continuations(tokens, state._replace(store=state.store[:, :-1].contiguous()))
    strange = state.registers.clone()
    strange[1, SLOTS] = 2**40
    with pytest.raises(UserError, match=STRANGE):
        torch.ops.unimatrix.context_continuations_forward(
            tokens, None, None, state.length, strange, state.store, 0, [2, 3, 4, 6], 4
        )


@pytest.mark.parametrize("seed", range(2))
def test_a_table_of_any_numbers_leads_nowhere_outside_its_store(seed):
    """The registers as they were: refused or answered, soon, and nothing else is written."""
    torch.manual_seed(seed)
    tokens, answered = torch.randint(0, 3, (2, 200)), 0
    _, state = context_continuations(tokens)
    rooms, size = int(state.registers[0, TOKENS_ROOM]), state.store.shape[1]
    for trial in range(150):
        around = torch.full((4, size), 77, dtype=torch.int32)
        strange = state._replace(registers=state.registers.clone(), store=around[1:3])
        strange.store.copy_(state.store)
        table = strange.store[:, rooms:]
        altered = torch.rand(table.shape) < (1.0, 0.3, 0.02)[trial % 3]
        values = torch.randint(-(2**31), 2**31, table.shape, dtype=torch.int32)
        small = torch.randint(-250, 250, table.shape, dtype=torch.int32)
        table[altered] = (values if trial % 2 else small)[altered]
        with contextlib.suppress(UserError):
            for _ in range(3):
                _, strange = context_continuations(torch.randint(0, 3, (2, 7)), strange)
            answered += 1
        assert bool((around[0] == 77).all() and (around[3] == 77).all())
    assert answered < 150


def test_rooms_are_counted_alike_on_both_sides():
    marks = {0: 1, 1: 2, mark_of((1,)): 2, mark_of((2, 3, 4, 6)): 5, mark_of((1, 2, 3, 4, 5, 6, 127)): 8}
    for mark, each in marks.items():
        assert loops.token_words.py_func(mark) == each
        assert words(mark, 10, 0, 7) == 10 * each + 14


@pytest.mark.parametrize(
    "copied",
    [
        copy.deepcopy,
        compact,
        lambda state: pickle.loads(pickle.dumps(state)),
        lambda state: select_batch(state, torch.tensor([1, 0])),
    ],
)
def test_a_state_is_copied_while_nobody_appends_to_it(copied):
    _, state = context_continuations(drawn(4, n=50))
    made = []
    thread = threading.Thread(target=lambda: made.append(copied(state)))
    with one_at_a_time():  # as whoever appends has it
        thread.start()
        thread.join(0.2)
        assert not made
    thread.join()
    assert made[0].length.tolist() == [50, 50]


def test_a_handle_that_two_threads_go_on_from_is_read_by_one_at_a_time(monkeypatch):
    """Between the look at a handle and the copy of its store nobody else may append to it."""
    tokens = drawn(4, n=100)
    _, handle = context_continuations(tokens)
    grown, threads = reading._grown, []

    def while_another_waits(*arguments):
        if not threads:
            ids = torch.tensor([[2], [3]])
            threads.append(threading.Thread(target=context_continuations, args=(ids, handle)))
            threads[0].start()
            threads[0].join(0.2)
        return grown(*arguments)

    monkeypatch.setattr(reading, "_grown", while_another_waits)
    many = drawn(4, n=100, seed=1)
    _, state = context_continuations(many, handle)
    threads[0].join()
    assert state.length.tolist() == [200, 200]
    expected, _ = context_continuations(many, compact(handle))
    assert torch.equal(context_continuations(many, handle)[0], expected)


def test_a_number_out_of_range_is_told_with_its_range():
    with pytest.raises(UserError, match=r"^continuations: expected 1 to 64, got 65$"):
        context_continuations(torch.zeros(1, 3, dtype=torch.int64), continuations=65)
