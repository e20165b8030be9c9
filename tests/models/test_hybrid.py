"""The hybrid: matrix-state layers and one of attention, each with its own state."""

import pytest
import torch
from tolerances import assert_close
from trained_size import random_ids, trained_size

import unimatrix
from unimatrix import UserError
from unimatrix.mixers import AttentionState, MatrixStateMixerState


def test_each_layer_carries_its_own_kind_of_state():
    model = trained_size("unimatrix-hybrid", max_positions=None)
    kinds = [AttentionState if i == 1 else MatrixStateMixerState for i in range(3)]
    for length in (1, 60):
        _, state = model(random_ids(2, length))
        assert [type(step["mixer"]) for step in state.steps] == kinds
        assert state.steps[1]["mixer"].k.shape[2] == length
    assert not model.config.recurrent
    assert len({id(block) for block in model.blocks}) == 3


def test_pieces_padding_and_steps_give_the_whole():
    model = trained_size("unimatrix-hybrid")
    ids, mask = random_ids(3, 40), torch.ones(3, 40, dtype=torch.bool)
    mask[0, :9] = mask[1, 20:24] = False
    whole, _ = model(ids, mask=mask)
    state, pieces = None, []
    for start, stop in ((0, 1), (1, 17), (17, 40)):
        logits, state = model(ids[:, start:stop], state, mask=mask[:, start:stop])
        pieces.append(logits)
    assert_close(torch.cat(pieces, 1)[mask], whole[mask], "logits")


def test_its_depth_is_what_its_layers_say():
    with pytest.raises(UserError, match="depth: expected a model whose layers are alike"):
        unimatrix.build("unimatrix-hybrid", depth=4)
    longer = unimatrix.build("unimatrix-hybrid", order=(0, 1, 2, 0, 1, 2))
    assert longer.config.depth == 6
    assert len(longer.blocks) == 3
