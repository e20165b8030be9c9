"""A state owns what it keeps and no more, stays as it was, and can be gone back to."""

import io

import pytest
import torch
from torch import Tensor
from trained_size import ALL_PRESETS, random_ids, trained_size

import unimatrix
from unimatrix.errors import UserError
from unimatrix.models import (
    language_model,
    move_state,
    peer_presets,
    select_batch,
    state_bytes,
    task_presets,
)
from unimatrix.ops import TokenStoreState

LENGTHS = (0, 1, 2, 5, 2048 + 7)


def tensors(state: object) -> list[Tensor]:
    if isinstance(state, Tensor):
        return [state]
    parts = state.values() if isinstance(state, dict) else () if state is None else state
    return [tensor for part in parts for tensor in tensors(part)]


def unmoved(state: object) -> list[Tensor]:
    """The tensors that stay as they are: an automaton's store may go on, its handle says how far it goes."""
    if isinstance(state, TokenStoreState):
        return [state.length]
    if isinstance(state, Tensor):
        return [state]
    parts = state.values() if isinstance(state, dict) else () if state is None else state
    return [tensor for part in parts for tensor in unmoved(part)]


def owned_bytes(state: object) -> int:
    """Bytes of the memory that a state keeps alive."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in tensors(state)}
    return sum(storage.nbytes() for storage in storages.values())


@pytest.mark.parametrize("name", [*ALL_PRESETS, "typed-latent", *peer_presets()])
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("how", ["evaluation", "training", "no gradients", "padded", "holes", "continued"])
def test_a_state_owns_its_memory_and_no_more(name, length, how):
    torch.manual_seed(0)
    model = unimatrix.build(name, max_positions=None).train(how == "training")
    ids, mask, state = random_ids(2, length, below=53), None, None
    if how in ("padded", "holes") and length:
        if name == "mamba2" and how == "holes":
            return
        mask = torch.ones(2, length, dtype=torch.bool)
        mask[0, : length // 2] = False
        if how == "holes":
            mask[1, length // 2 :: 2] = False
    if how == "continued":
        state = model(ids[:, :7])[1]
    with torch.set_grad_enabled(how in ("training", "continued")):
        state = model(ids, state, mask=mask)[1]
    if state is None:
        assert (name, how) == ("mamba2", "training")
        return
    assert owned_bytes(state) == state_bytes(state)
    file = io.BytesIO()
    torch.save(state, file)
    assert len(file.getvalue()) < state_bytes(state) + 1000 * (1 + len(tensors(state)))


@pytest.mark.parametrize("name", ALL_PRESETS)
def test_a_state_shares_nothing_with_what_was_given(name):
    """Neither with the mask nor with the ids: whoever writes into these does not change what was read."""
    model = trained_size(name)
    ids, mask = random_ids(2, 9, below=53), torch.ones(2, 9, dtype=torch.bool)
    mask[0, 0] = False
    state = model(ids, mask=mask)[1]
    expected = model(ids[:, :4].clone(), state)[0]
    more = ids[:, :4].clone()
    ids.fill_(7)
    mask.fill_(False)
    assert torch.equal(model(more, state)[0], expected)


def places(state: object, *, text: bool = False) -> set[tuple[str, bool]]:
    """On which devices tensors lie, each with whether it is of a text that is kept."""
    if isinstance(state, Tensor):
        return {(state.device.type, text)}
    parts = state.values() if isinstance(state, dict) else () if state is None else state
    text = text or isinstance(state, TokenStoreState)
    return set().union(*(places(part, text=text) for part in parts))


@pytest.mark.parametrize("name", [*ALL_PRESETS, *peer_presets()])
def test_a_state_moves_and_the_text_that_it_keeps_stays_on_the_host(name):
    model = trained_size(name)
    ids = random_ids(2, 9, below=53)
    with torch.no_grad():
        state = model(ids)[1]
        assert places(move_state(state, "meta")) <= {("meta", False), ("cpu", True)}
        assert places(move_state(state, "meta")) >= {("meta", False)}
        again = move_state(move_state(state, "cpu"), torch.device("cpu"))
        assert torch.equal(model(ids[:, :4], again)[0], model(ids[:, :4], state)[0])


def test_what_is_no_state_is_named():
    class Cache:
        state = None

    for wrong in (Cache(), "x", 5, [None]):
        for call in (state_bytes, lambda state: move_state(state, "cpu")):
            with pytest.raises(UserError, match=r"^state: expected one that a model returned \(of a cache"):
                call(wrong)
    state = trained_size("unimatrix-core")(random_ids(2, 3))[1]
    for wrong in ([1, 0], torch.tensor([True, False]), torch.zeros(1, 1, dtype=torch.int64), None):
        with pytest.raises(UserError, match=r"^index: expected numbers of rows in one dimension, int64, got"):
            select_batch(state, wrong)


@pytest.mark.parametrize("name", [*ALL_PRESETS, *task_presets(), *peer_presets()])
@pytest.mark.parametrize("pieces", [False, True])
@torch.no_grad()
def test_one_can_go_back_to_an_older_state(name, pieces, monkeypatch):
    """What assisted decoding does: read ahead, throw it away, go on from before."""
    if pieces:
        monkeypatch.setattr(language_model, "PIECE_TOKENS", 8)
    torch.manual_seed(0)
    model = unimatrix.build(name).eval() if name in ("mamba2", "typed-latent") else trained_size(name)
    ids, other = random_ids(2, 40, below=53), 52 - random_ids(2, 40, below=53)
    states = [model(ids[:, :10])[1]]
    kept = [[tensor.clone() for tensor in unmoved(states[0])]]
    expected = [model(ids[:, 10:13], states[0])[0]]
    for step in range(4):  # a few tokens at a time, one at a time, and none
        ahead = other[:, 10 + step : 10 + step + (5, 1, 1, 0)[step]]
        states.append(model(ahead, states[-1])[1])
        kept.append([tensor.clone() for tensor in unmoved(states[-1])])
        expected.append(model(ids[:, 10:13], states[-1])[0])
    for state, before, logits in reversed(list(zip(states, kept, expected, strict=True))):
        assert all(map(torch.equal, unmoved(state), before))
        assert torch.equal(model(ids[:, 10:13], state)[0], logits)
    # what was thrown away leaves no trace
    assert torch.equal(model(ids[:, 10:13], model(ids[:, :10])[1])[0], expected[0])
