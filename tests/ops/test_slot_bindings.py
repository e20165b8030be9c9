"""What a write to the slot memory does, followed by hand: keys are unit vectors, so cosines are 0 or 1."""

import pytest
import torch

from unimatrix.ops import slot_memory
from unimatrix.ops.slot_memory import EMPTY, empty_state

FORMS = ("reference", "chunked", "compiled")


def bind(tokens: list[tuple[int, int]], backend: str, *, num_slots: int, strengths=None, **options):
    """Bind (kind of key, token id) one after the other; the reads and the last state of the one row."""
    kinds = torch.tensor([[kind for kind, _ in tokens]])
    key = torch.eye(16, dtype=torch.float64)[kinds]
    ids = torch.tensor([[token for _, token in tokens]])
    strength = torch.ones(1, len(tokens), dtype=torch.float64)
    if strengths is not None:
        strength = torch.tensor([strengths], dtype=torch.float64)
    value = ids[..., None].double()
    return slot_memory(100 * key, key, value, ids, strength, num_slots=num_slots, backend=backend, **options)


@pytest.mark.parametrize("backend", FORMS)
def test_the_newest_binding_of_a_key_wins(backend):
    reads, last = bind([(0, 5), (1, 6), (0, 7)], backend, num_slots=4)
    assert last.token_ids.tolist() == [[7, 6, EMPTY, EMPTY]]
    assert last.values[0, :2, 0].tolist() == [7.0, 6.0]
    assert last.ages.tolist() == [[0, 1, EMPTY, EMPTY]]
    assert reads.context[0, :, 0].tolist() == pytest.approx([5, 6, 7], abs=1e-9)
    assert reads.token_ids[0].tolist() == [
        [5, EMPTY, EMPTY, EMPTY],
        [5, 6, EMPTY, EMPTY],
        [7, 6, EMPTY, EMPTY],
    ]


@pytest.mark.parametrize("backend", FORMS)
def test_a_full_memory_gives_up_what_was_not_written_for_the_longest_time(backend):
    # key 0 is bound again at the third write, so that key 1 is the oldest when key 3 comes
    _, last = bind([(0, 5), (1, 6), (0, 7), (2, 8), (3, 9)], backend, num_slots=3)
    assert last.token_ids.tolist() == [[7, 9, 8]]
    assert last.ages.tolist() == [[2, 0, 1]]


@pytest.mark.parametrize("backend", FORMS)
def test_a_gate_at_one_half_writes_nothing(backend):
    reads, last = bind([(0, 5), (1, 6), (2, 7)], backend, num_slots=3, strengths=[0.5, 0.500001, 0.1])
    assert last.token_ids.tolist() == [[6, EMPTY, EMPTY]]
    assert reads.weights[0].tolist() == [[0, 0, 0], [1, 0, 0], [1, 0, 0]]
    assert reads.context[0, 0, 0].item() == 0.0


@pytest.mark.parametrize("backend", FORMS)
def test_one_slot_holds_the_last_binding(backend):
    reads, last = bind([(kind % 3, kind) for kind in range(10)], backend, num_slots=1)
    assert last.token_ids.tolist() == [[9]]
    assert reads.token_ids[0, :, 0].tolist() == list(range(10))


@pytest.mark.parametrize("backend", FORMS)
@pytest.mark.parametrize("threshold", [0.6, 0.9])
def test_the_threshold_says_which_keys_are_one(backend, threshold):
    key = torch.tensor([[[1.0, 0.0], [0.8, 0.6]]], dtype=torch.float64)  # cosine 0.8
    ids = torch.tensor([[3, 4]])
    ones = torch.ones(1, 2, dtype=torch.float64)
    _, last = slot_memory(key, key, key, ids, ones, num_slots=2, match_threshold=threshold, backend=backend)
    assert last.token_ids.tolist() == ([[4, EMPTY]] if threshold < 0.8 else [[3, 4]])
    if threshold < 0.8:
        assert last.keys[0, 0].tolist() == [0.8, 0.6]


@pytest.mark.parametrize("backend", FORMS)
def test_ties_go_to_the_lowest_slot(backend):
    given = empty_state(1, 4, 2, 1, dtype=torch.float64)
    # four slots with one and the same key, written at one and the same time
    given = given._replace(
        keys=torch.tensor([[[1.0, 0.0]] * 4], dtype=torch.float64),
        values=torch.arange(4, dtype=torch.float64).view(1, 4, 1),
        token_ids=torch.tensor([[1, 2, 3, 4]]),
        strengths=torch.ones(1, 4, dtype=torch.float64),
        ages=torch.full((1, 4), 7),
    )
    key = torch.tensor([[[3.0, 0.0], [0.0, 1.0]]], dtype=torch.float64)
    ones = torch.ones(1, 2, dtype=torch.float64)
    ids = torch.tensor([[8, 9]])
    value = torch.full((1, 2, 1), 8.0, dtype=torch.float64)
    zero = torch.zeros_like(key)  # a query that scores all slots alike
    reads, last = slot_memory(zero, key, value, ids, ones, num_slots=4, top_k=2, state=given, backend=backend)
    # the first write matches all four and takes slot 0, the second one none and takes the oldest, slot 1
    assert last.token_ids.tolist() == [[8, 9, 3, 4]]
    assert reads.weights[0].tolist() == [[0.5, 0.5]] * 2
    assert reads.slots is not None
    assert reads.slots[0].tolist() == [[0, 1]] * 2
    assert reads.token_ids[0].tolist() == [[8, 2], [8, 9]]


@pytest.mark.parametrize("backend", FORMS)
def test_where_fewer_are_held_than_read_the_lowest_empty_slots_make_up_the_number(backend):
    given = empty_state(1, 6, 2, 1, dtype=torch.float64)
    held = torch.tensor([False, True, False, False, True, False])
    given = given._replace(
        keys=torch.where(held[:, None], torch.tensor([1.0, 0.0], dtype=torch.float64), given.keys),
        token_ids=torch.where(held, 7, EMPTY)[None],
        strengths=held.double()[None],
        ages=torch.where(held, 3, EMPTY)[None],
    )
    query = torch.tensor([[[1.0, 0.0]] * 3], dtype=torch.float64)
    mask = torch.tensor([[True, False, True]])
    reads, last = slot_memory(
        query, -query, query[..., :1], torch.tensor([[3, 4, 5]]), torch.tensor([[0.2, 0.2, 0.9]]).double(),
        num_slots=6, top_k=4, state=given, mask=mask, backend=backend,
    )  # fmt: skip
    assert reads.slots is not None
    assert reads.slots[0].tolist() == [[0, 1, 2, 4], [0, 1, 2, 3], [0, 1, 2, 4]]
    assert reads.token_ids[0].tolist() == [[EMPTY, 7, EMPTY, 7], [EMPTY] * 4, [5, 7, EMPTY, 7]]
    assert (reads.weights[0] > 0).tolist() == [
        [False, True, False, True],
        [False] * 4,
        [True, True, False, True],
    ]
    assert last.ages.tolist() == [[0, 5, EMPTY, EMPTY, 5, EMPTY]]


@pytest.mark.parametrize("backend", FORMS)
def test_where_every_slot_is_read_they_stand_in_their_order(backend):
    reads, _ = bind([(0, 5), (1, 6), (0, 7)], backend, num_slots=4)
    assert reads.slots is None
    assert torch.equal(
        reads.weights, bind([(0, 5), (1, 6), (0, 7)], backend, num_slots=4, top_k=4)[0].weights
    )


@pytest.mark.parametrize("backend", FORMS)
def test_a_zero_key_matches_nothing(backend):
    zero = torch.zeros(1, 3, 2, dtype=torch.float64)
    _, last = slot_memory(
        zero, zero, zero, torch.tensor([[1, 2, 3]]), torch.ones(1, 3, dtype=torch.float64), num_slots=4,
        match_threshold=-1.0, backend=backend,
    )  # fmt: skip
    assert last.token_ids.tolist() == [[1, 2, 3, EMPTY]]
