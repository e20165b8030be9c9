"""The memories as mixers against their formulas, written out once more in the plainest way."""

import pytest
import torch
import torch.nn.functional as F
from tolerances import assert_close

from unimatrix.mixers import AssociativeMemory, SlotMemory
from unimatrix.mixers.pointer import pointer_votes
from unimatrix.mixers.previous import none_before, shift


def randomise(module: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return module.double().requires_grad_(False)


def slot_memory(**settings) -> SlotMemory:
    given = {"num_slots": 4, "top_k": None, "width": 5, "match_threshold": 0.99, "pointer": True}
    return randomise(SlotMemory(12, **(given | {"write_gate": True} | settings)))


def test_associative_memory_is_its_formula():
    memory = randomise(AssociativeMemory(12, temperature=3.0))
    u = torch.randn(1, 9, 12, dtype=torch.float64)
    q, kappa, nu, gate = (memory.qkvg.weight @ u[0].T).T.chunk(4, dim=1)
    expected = torch.zeros(9, 12, dtype=torch.float64)
    for t in range(1, 9):
        cosines = torch.stack([F.cosine_similarity(q[t], kappa[i], dim=0) for i in range(t)])
        weights = (3.0 * cosines).softmax(0)
        read = sum(weights[i] * nu[i + 1] for i in range(t))
        expected[t] = torch.sigmoid(gate[t] + memory.gate_bias) * read
    y, state = memory(u)
    assert_close(y[0], expected, "output")
    assert state.keys.shape == state.values.shape == (1, 8, 12)


def test_slot_memory_binds_a_token_to_the_one_before_it():
    memory = slot_memory()
    x = torch.randn(1, 7, 12, dtype=torch.float64)
    ids = torch.tensor([[3, 4, 5, 3, 6, 5, 3]])
    x = x[:, ids[0]]  # a token's embedding is the same wherever it stands
    recalled, state = memory(x, ids)
    u = F.layer_norm(x[0], (12,), memory.norm.weight, memory.norm.bias)
    query, key, value = (memory.qkv.weight @ u.T).T.chunk(3, dim=1)
    strength = torch.sigmoid(u @ memory.write_gate.weight[0] + memory.write_gate.bias)
    held: dict[int, tuple] = {}  # by the token that is the key
    for t in range(7):
        if t > 0 and strength[t] > 0.5:
            held[int(ids[0, t - 1])] = (key[t - 1], value[t], int(ids[0, t]), strength[t])
        read = torch.zeros(5, dtype=torch.float64)
        if held:
            scores = torch.stack([query[t] @ k / 5**0.5 + torch.log(s) for k, _, _, s in held.values()])
            read = sum(w * v for w, (_, v, _, _) in zip(scores.softmax(0), held.values(), strict=True))
        assert_close(recalled.context[0, t], memory.out.weight @ read, "output")
    kept = {token for token in state.slots.token_ids[0].tolist() if token >= 0}
    assert kept == {token for _, _, token, _ in held.values()}
    assert recalled.strength[0, 0] == 0, "before the first token there is no key"


@pytest.mark.parametrize("top_k", [None, 2])
def test_votes_add_the_weights_up_by_token(top_k):
    memory = slot_memory(write_gate=False, top_k=top_k)
    x, ids = torch.randn(2, 6, 12, dtype=torch.float64), torch.randint(0, 9, (2, 6))
    recalled, _ = memory(x, ids)
    assert recalled.reads.weights.shape == (2, 6, top_k or 4)
    h = torch.randn(2, 6, 12, dtype=torch.float64)
    votes = pointer_votes(memory.pointer_gate, h, recalled.reads.weights, recalled.reads.token_ids, 9)
    gate = torch.sigmoid(h @ memory.pointer_gate.weight[0] + memory.pointer_gate.bias)
    for b in range(2):
        for t in range(6):
            expected = torch.zeros(9, dtype=torch.float64)
            for weight, token in zip(
                recalled.reads.weights[b, t], recalled.reads.token_ids[b, t], strict=True
            ):
                if token >= 0:
                    expected[token] += gate[b, t] * weight
            assert_close(votes[b, t], expected, "output")


def test_without_a_gate_every_token_is_written():
    memory = slot_memory(write_gate=False, num_slots=8)
    x, ids = torch.randn(1, 6, 12, dtype=torch.float64), torch.arange(6)[None]
    recalled, state = memory(x, ids)
    assert recalled.strength[0].tolist() == [0, 1, 1, 1, 1, 1]
    assert (state.slots.token_ids[0] >= 0).sum() == 5


@pytest.mark.parametrize("masked", [False, True])
def test_shift_gives_the_real_token_before(masked):
    x = torch.arange(1.0, 7.0)[None, :, None]
    mask = torch.tensor([[False, True, False, True, True, False]]) if masked else None
    before, present, carry = shift(x, none_before(x), mask)
    if masked:
        assert before[0, present[0], 0].tolist() == [2, 2, 4, 5]
        assert present[0].tolist() == [False, False, True, True, True, True]
        assert carry.vector.tolist() == [[5.0]]
    else:
        assert before[0, 1:, 0].tolist() == [1, 2, 3, 4, 5]
        assert present[0].tolist() == [False] + [True] * 5
        assert carry.vector.tolist() == [[6.0]]
    after, present, _ = shift(x[:, :1], carry, None)
    assert after.flatten().tolist() == carry.vector.flatten().tolist()
    assert present.all()
