"""The suffix automaton against brute force: any input, pieces, masks, documents, capacities, old handles."""

import contextlib
import copy
import itertools
import pickle
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from words import INPUTS, drawn, fibonacci

from unimatrix import UserError
from unimatrix.models import select_batch
from unimatrix.ops import SuffixMatch, TokenStoreState, context_continuations, suffix_automaton
from unimatrix.ops.token_store import reading
from unimatrix.ops.token_store.reading import compact
from unimatrix.ops.token_store.state import SLOTS, TOKENS_ROOM, one_at_a_time

FORMS = ("reference", "compiled")
STRANGE = r"^state: expected one that suffix_automaton returned"


def definition(row: list[int]) -> list[tuple[int, int, int]]:
    """token, length, position of every place, straight from the sentence that defines them."""
    found = []
    for i in range(len(row)):
        best = (-1, 0, -1)
        for j in range(i):
            m = 0
            while m <= j and row[j - m] == row[i - m]:
                m += 1
            if m and m >= best[1]:
                best = (row[j + 1], m, j + 1)
        found.append(best)
    return found


def assert_same(got: SuffixMatch, expected: SuffixMatch) -> None:
    for name, x, y in zip(SuffixMatch._fields, got, expected, strict=True):
        assert x.dtype == torch.int64
        assert torch.equal(x, y), name


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("backend", FORMS)
def test_it_is_the_definition(name, backend):
    tokens = INPUTS[name]
    found, state = suffix_automaton(tokens, backend=backend)
    for b, row in enumerate(tokens.tolist()):
        assert list(zip(*(x[b].tolist() for x in found), strict=True)) == definition(row)
    assert state.length.tolist() == [tokens.shape[1]] * len(tokens)
    matched = found.length > 0
    assert torch.equal(tokens.gather(1, found.position.clamp_min(0))[matched], found.token[matched])


@pytest.mark.parametrize("seed", range(4))
def test_pieces_masks_documents_capacities_and_older_handles(seed):
    """One at random after the other; every older handle says later what it said at first, more than once."""
    torch.manual_seed(seed)
    for trial in range(60):
        rows, symbols = (1, 2, 5)[trial % 3], (1, 2, 3, 20, 50_257)[trial % 5]
        n = int(torch.randint(0, 90, ()))
        tokens = torch.randint(0, symbols, (rows, n))
        mask = torch.rand(rows, n) > (0.0, 0.3, 0.9)[trial % 3] if trial % 2 else None
        starts = torch.rand(rows, n) < (0.0, 0.05, 0.3)[trial % 3] if trial % 4 < 2 else None
        capacity = (None, 2, 3, 4, 7, 16, 64)[trial % 7]

        def read(start, stop, state, tokens=tokens, backend="compiled", m=mask, s=starts, c=capacity):
            here = [None if x is None else x[:, start:stop] for x in (m, s)]
            return suffix_automaton(
                tokens[:, start:stop], state, mask=here[0], starts=here[1], capacity=c, backend=backend
            )

        whole, _ = read(0, n, None, backend="reference")
        cuts = [0, *sorted(torch.randint(0, n + 1, (4,)).tolist()), n]
        state, found, handles = None, [], []
        for number, (start, stop) in enumerate(itertools.pairwise(cuts)):
            handles.append((state, start))
            if state is not None and number == 2:
                state = compact(state)  # as from a file
            if state is not None and number == 3:
                state = TokenStoreState(*(x.index_select(0, torch.arange(rows)) for x in state))
            piece, state = read(start, stop, state, backend=FORMS[number == 4 or trial % 9 > 0])
            found.append(piece)
        assert_same(SuffixMatch(*(torch.cat(parts, 1) for parts in zip(*found, strict=True))), whole)
        for handle, start in handles:
            other = torch.cat([tokens[:, :start], torch.randint(0, symbols, (rows, n - start))], dim=1)
            for again in (tokens, other, tokens):
                expected, _ = read(0, n, None, tokens=again, backend="reference")
                got, _ = read(start, n, handle, tokens=again)
                assert_same(got, SuffixMatch(*(x[:, start:] for x in expected)))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 2), max_size=60), st.integers(0, 60))
def test_any_short_word_in_two_pieces(word, cut):
    tokens = torch.tensor([word], dtype=torch.int64)
    first, state = suffix_automaton(tokens[:, :cut])
    second, _ = suffix_automaton(tokens[:, cut:], state)
    both = [torch.cat(parts, dim=1)[0].tolist() for parts in zip(first, second, strict=True)]
    assert list(zip(*both, strict=True)) == definition(word)


def test_the_future_changes_nothing():
    tokens = drawn(3, n=120)
    whole, _ = suffix_automaton(tokens)
    for stop in (1, 50, 119):
        other = torch.cat([tokens[:, :stop], drawn(3, n=120 - stop, seed=stop)], dim=1)
        found, _ = suffix_automaton(other)
        assert_same(SuffixMatch(*(x[:, :stop] for x in found)), SuffixMatch(*(x[:, :stop] for x in whole)))


def test_appending_is_in_place_and_an_older_handle_takes_a_copy():
    tokens = drawn(4, n=400, rows=1)
    _, state = suffix_automaton(tokens)
    _, later = suffix_automaton(tokens[:, :1], state)  # the first token more: a store with room
    _, longer = suffix_automaton(tokens[:, :1], later)
    assert longer.store.data_ptr() == later.store.data_ptr()
    _, branch = suffix_automaton(tokens[:, 1:2], later)
    assert branch.store.data_ptr() != later.store.data_ptr()


def test_a_store_takes_the_bytes_that_are_promised(real_corpus):
    def bytes_per_token(tokens: Tensor, pieces: int) -> float:
        state = None
        for piece in tokens.chunk(pieces, dim=1):
            _, state = suffix_automaton(piece, state)
        return sum(x.numel() * x.element_size() for x in state) / tokens.shape[1]

    text = torch.from_numpy(real_corpus.split("train")[:200_000].astype("int64"))[None]
    for pieces in (1, 7, 400):
        assert bytes_per_token(text, pieces) <= 64
    for name in ("one symbol", "fibonacci", "thue-morse"):
        assert bytes_per_token(INPUTS[name].repeat(1, 100), 37) <= 70
    for symbols in (2, 4, 259, 8_192, 50_257):
        assert bytes_per_token(drawn(symbols, n=40_000, rows=1), 37) <= 70


def test_a_state_may_lie_anyhow_in_memory():
    """Selected rows and columns of larger tensors; the whole still says what it did."""
    tokens = drawn(2, n=60, rows=4)
    _, state = suffix_automaton(tokens)
    expected, _ = suffix_automaton(torch.cat([tokens, tokens], 1), backend="reference")
    for kept in (state, compact(state)):
        spread = TokenStoreState(*(torch.stack([x, x], -1)[..., 0] for x in kept))
        turned = TokenStoreState(kept.length, *(x.T.contiguous().T for x in kept[1:]))
        for rows in (slice(None), slice(None, None, 2), slice(1, 3)):
            for handle in (kept, spread, turned, kept):
                found, _ = suffix_automaton(tokens[rows], TokenStoreState(*(x[rows] for x in handle)))
                assert_same(found, SuffixMatch(*(x[rows, 60:] for x in expected)))


def test_deep_copies_and_threads_of_thought_go_their_own_ways():
    tokens = drawn(2, n=60)
    _, state = suffix_automaton(tokens)
    copied = copy.deepcopy(state)
    expected, _ = suffix_automaton(torch.cat([tokens, tokens], 1), backend="reference")
    for handle in (state, copied, state):
        found, _ = suffix_automaton(tokens, handle)
        assert_same(found, SuffixMatch(*(x[:, 60:] for x in expected)))


@pytest.mark.parametrize("fullgraph", [False, True])
def test_it_compiles_and_maps(fullgraph):
    tokens = drawn(3, n=40, rows=4)
    mask = torch.rand(4, 40) > 0.2
    whole, _ = suffix_automaton(tokens, mask=mask)

    def in_two(tokens, mask):
        first, state = suffix_automaton(tokens[:, :17], mask=mask[:, :17])
        second, _ = suffix_automaton(tokens[:, 17:], state, mask=mask[:, 17:])
        return tuple(torch.cat(parts, 1) for parts in zip(first, second, strict=True))

    torch.compiler.reset()
    compiled = torch.compile(in_two, backend="aot_eager", fullgraph=fullgraph)
    assert_same(SuffixMatch(*compiled(tokens, mask)), whole)
    mapped = torch.func.vmap(in_two)(tokens.view(2, 2, 40), mask.view(2, 2, 40))
    assert_same(SuffixMatch(*(x.flatten(0, 1) for x in mapped)), whole)


@pytest.mark.parametrize("backend", FORMS)
def test_a_capacity_of_more_than_anybody_reads_is_none(backend):
    tokens = drawn(3, n=40)
    whole, _ = suffix_automaton(tokens, backend=backend)
    for capacity in (40, 2**31, 2**63, 10**30):
        found, _ = suffix_automaton(tokens, capacity=2 * capacity, backend=backend)
        assert_same(found, whole)


@pytest.mark.parametrize("backend", FORMS)
def test_empty_batches_and_texts(backend):
    for shape in ((0, 5), (2, 0), (0, 0)):
        found, state = suffix_automaton(torch.zeros(shape, dtype=torch.int64), backend=backend)
        assert all(x.shape == shape for x in found)
        assert state.length.shape == (shape[0],)
        again, _ = suffix_automaton(torch.zeros(shape[0], 3, dtype=torch.int64), state, backend=backend)
        assert again.token.tolist() == [[-1, 0, 0]] * shape[0]


@pytest.mark.parametrize("backend", FORMS)
def test_masked_ids_may_be_anything_and_others_not(backend):
    tokens = drawn(4, n=5)
    for wrong in (-1, 2**31, -(2**62)):
        strange = tokens.clone()
        strange[1, 2] = wrong
        with pytest.raises(UserError, match=rf"^tokens: expected ids from 0 to 2147483647, got {wrong}$"):
            suffix_automaton(strange, backend=backend)
        mask = torch.ones(2, 5, dtype=torch.bool)
        mask[1, 2] = False
        found, _ = suffix_automaton(strange, mask=mask, backend=backend)
        expected, _ = suffix_automaton(tokens, mask=mask, backend="reference")
        assert_same(found, expected)


@pytest.mark.parametrize("backend", FORMS)
def test_wrong_arguments_are_named(backend):
    tokens = drawn(4, n=5)
    _, state = suffix_automaton(tokens)
    ones = torch.ones(2, 5, dtype=torch.bool)
    wrong = [
        ("tokens", {"tokens": value})
        for value in (None, "abc", [[1, 2]], tokens[0], tokens.int(), tokens.float(), tokens[None])
    ]
    wrong += [("mask", {"mask": value}) for value in (ones.long(), ones[:1], True)]
    wrong += [("starts", {"starts": value}) for value in (ones.float(), ones[:, :4], [1])]
    wrong += [("capacity", {"capacity": value}) for value in (0, 1, -3, 2.0, "8", True)]
    wrong += [("backend", {"backend": value}) for value in ("chunked", "compield", None, 3)]
    wrong += [("state", {"state": value}) for value in (0, tuple(state), torch.zeros(2), "x")]
    wrong += [
        ("state.length", {"state": state._replace(length=value)})
        for value in (None, state.length[:1], state.length.int(), state.length.to("meta"))
    ]
    wrong += [("state.store", {"state": state._replace(store=x)}) for x in (None, state.store.long())]
    wrong += [("state.registers", {"state": state._replace(registers=state.registers[:, :3])})]
    for name, change in wrong:
        with pytest.raises(UserError, match=rf"^{name}\b") as caught:
            suffix_automaton(**{"tokens": tokens, "backend": backend} | change)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kept", [lambda state: state, compact])
def test_a_state_that_is_none_is_refused_before_it_is_read(kept):
    """Numbers that no call returned would send the loop outside its memory."""
    tokens = drawn(4, n=50)
    state = kept(suffix_automaton(tokens)[1])
    for at in range(state.registers.shape[1]):
        for value in (-1, 2**40, 2**62, -(2**62)):
            if at in (2,) and value < 0:
                continue
            strange = state.registers.clone()
            strange[1, at] = value
            with pytest.raises(UserError, match=STRANGE):
                suffix_automaton(tokens, state._replace(registers=strange))
    for length in (-1, 51, 2**62):
        with pytest.raises(UserError, match=STRANGE):
            suffix_automaton(tokens, state._replace(length=torch.tensor([50, length])))
    with pytest.raises(UserError, match=STRANGE):
        suffix_automaton(tokens, state._replace(store=state.store[:, :-1].contiguous()))
    strange = state.registers.clone()
    strange[1, SLOTS] = 2**40
    with pytest.raises(UserError, match=STRANGE):
        torch.ops.unimatrix.suffix_automaton_forward(
            tokens, None, None, state.length, strange, state.store, 0
        )


@pytest.mark.parametrize("seed", range(3))
def test_a_tree_of_any_numbers_leads_nowhere_outside_its_store(seed):
    """The registers as they were: refused or answered, soon, and nothing else is written."""
    torch.manual_seed(seed)
    tokens, answered = torch.randint(0, 3, (2, 200)), 0
    _, state = suffix_automaton(tokens)
    rooms, words = int(state.registers[0, TOKENS_ROOM]), state.store.shape[1]
    for trial in range(150):
        around = torch.full((4, words), 77, dtype=torch.int32)
        strange = state._replace(registers=state.registers.clone(), store=around[1:3])
        strange.store.copy_(state.store)
        tree = strange.store[:, rooms:]
        altered = torch.rand(tree.shape) < (1.0, 0.3, 0.02)[trial % 3]
        values = torch.randint(-(2**31), 2**31, tree.shape, dtype=torch.int32)
        small = torch.randint(-250, 250, tree.shape, dtype=torch.int32)
        tree[altered] = (values if trial % 2 else small)[altered]
        with contextlib.suppress(UserError):
            for _ in range(3):
                _, strange = suffix_automaton(torch.randint(0, 3, (2, 7)), strange)
            answered += 1
        assert bool((around[0] == 77).all() and (around[3] == 77).all())
    assert answered < 100


def test_what_is_forgotten_is_not_copied():
    def num_bytes(state):
        return sum(x.numel() * x.element_size() for x in state)

    tokens = drawn(4, n=20_000, rows=1)
    _, long = suffix_automaton(tokens)
    _, handle = suffix_automaton(tokens[:, :1], long)
    assert num_bytes(handle) > 10**6
    more, starts = tokens[:, :6], torch.tensor([[False, False, True, False, False, False]])
    found, state = suffix_automaton(more, handle, starts=starts)
    assert num_bytes(state) < 3000
    expected, _ = suffix_automaton(more[:, 2:])
    assert torch.equal(found.token[:, 2:], expected.token)
    # the tokens before went into the store that the handle is on, which says what it did all the same
    whole, _ = suffix_automaton(torch.cat([tokens, tokens[:, :1], more], 1))
    again, _ = suffix_automaton(more, handle)
    assert_same(again, SuffixMatch(*(x[:, 20_001:] for x in whole)))
    for kept in (compact(handle), handle):  # an older one, and one of a file
        _, state = suffix_automaton(more, kept, starts=torch.ones_like(starts))
        assert num_bytes(state) < 3000
        _, state = suffix_automaton(more, kept, capacity=64)
        assert num_bytes(state) <= 112 * 64 + 1024


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
    _, state = suffix_automaton(drawn(4, n=50))
    made = []
    thread = threading.Thread(target=lambda: made.append(copied(state)))
    with one_at_a_time():  # as whoever appends has it
        thread.start()
        thread.join(0.2)
        assert not made
    thread.join()
    assert type(made[0]) is TokenStoreState
    assert made[0].length.tolist() == [50, 50]


@pytest.mark.parametrize("capacity", [64, 1000])
def test_a_capacity_bounds_the_store_of_one_long_call(capacity):
    fibonacci_word = torch.tensor([fibonacci(40_000)])
    for tokens in (torch.zeros(1, 40_000, dtype=torch.int64), drawn(2, n=40_000, rows=1), fibonacci_word):
        _, state = suffix_automaton(tokens, capacity=capacity)
        assert sum(x.numel() * x.element_size() for x in state) <= 112 * capacity + 1024


def test_a_handle_that_two_threads_go_on_from_is_read_by_one_at_a_time(monkeypatch):
    """Between the look at a handle and the copy of its store nobody else may append to it."""
    tokens = drawn(4, n=100)
    mask = torch.ones(2, 100, dtype=torch.bool)
    mask[1, 50:] = False
    _, handle = suffix_automaton(tokens, mask=mask)
    grown, threads = reading._grown, []

    def while_another_waits(*arguments):
        if not threads:
            ids = torch.tensor([[2], [3]])
            threads.append(threading.Thread(target=suffix_automaton, args=(ids, handle)))
            threads[0].start()
            threads[0].join(0.2)
        return grown(*arguments)

    monkeypatch.setattr(reading, "_grown", while_another_waits)
    one, mine = torch.tensor([[1], [1]]), torch.tensor([[True], [False]])
    _, state = suffix_automaton(one, handle, mask=mine)
    threads[0].join()
    assert state.length.tolist() == [101, 50]
    expected, _ = suffix_automaton(one, compact(handle), mask=mine)
    assert_same(suffix_automaton(one, handle, mask=mine)[0], expected)


@pytest.mark.parametrize("op", [suffix_automaton, context_continuations])
def test_a_store_holds_nothing_of_the_process_beside_what_was_read(op):
    """Its room to spare goes into every copy and file; here torch fills what nobody has written."""
    tokens, more = drawn(4, n=100), drawn(4, n=700, seed=1)
    before = torch.are_deterministic_algorithms_enabled()
    try:
        torch.use_deterministic_algorithms(True)
        _, first = op(tokens)
        _, handle = op(more, first)  # grown
        _, other = op(tokens, first)  # of its own
    finally:
        torch.use_deterministic_algorithms(before)
    for state in (first, handle, other, pickle.loads(pickle.dumps(handle))):
        assert not (state.store == torch.iinfo(torch.int32).max).any()
