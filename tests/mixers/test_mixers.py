"""The mixers against their formulas, written out once more in the plainest way."""

import pytest
import torch
from tolerances import assert_close

import unimatrix
from unimatrix import UserError
from unimatrix.mixers import (
    MLP,
    CausalAttention,
    DeepEmbed,
    MatrixStateMixer,
    PreviousTokenRouting,
)
from unimatrix.mixers.routing import NO_TOKEN, RoutingState, route_previous_token


def randomise(module: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return module.double().requires_grad_(False)


@pytest.mark.parametrize("output_norm", [False, True])
@pytest.mark.parametrize("rule_mixing", [False, True])
def test_matrix_state_mixer_is_its_formula(rule_mixing, output_norm):
    mixer = randomise(MatrixStateMixer(12, 2, 4, rule_mixing=rule_mixing, output_norm=output_norm))
    u, context = torch.randn(1, 9, 12, dtype=torch.float64), torch.randn(1, 9, 12, dtype=torch.float64)
    weight = mixer.dqkv.weight if rule_mixing else torch.cat([mixer.d.weight, mixer.qkv.weight])
    d, q, k, v = (weight @ u[0].T).T.view(9, 4, 2, 4).unbind(1)
    gates = u[0] @ mixer.gates.weight.T + mixer.gates.bias
    expected = []
    state = torch.zeros(2, 4, 4, dtype=torch.float64)
    for t in range(9):
        for h in range(2):
            rho = torch.sigmoid(gates[t, h])
            outer = torch.outer(k[t, h], v[t, h])
            update = outer
            if rule_mixing:
                pi = (mixer.rules.weight @ u[0, t] + mixer.rules.bias).view(2, 3)[h].softmax(0)
                update = pi[0] * outer + pi[1] * torch.diag(d[t, h]) + pi[2] * (outer + outer.T) / 2
            state[h] = rho * state[h] + (1 - rho) * update
        reads = [state[h] @ q[t, h] for h in range(2)]
        if output_norm:
            reads = [read / (read.square().mean() + 1e-4).sqrt() for read in reads]
        read = torch.cat(reads)
        expected.append(torch.sigmoid(gates[t, 2:]) * (mixer.readout.weight @ read + context[0, t]))
    y, last = mixer(u, context=context)
    assert_close(y[0], torch.stack(expected), "output")
    assert_close(last.matrix[0], state, "state")


def test_without_the_projection_that_no_rule_reads_all_else_is_as_it_was():
    mixer, without = (randomise(MatrixStateMixer(12, 2, 4, idle_diag=idle)) for idle in (True, False))
    assert mixer.state_dict().keys() - without.state_dict().keys() == {"d.weight"}
    without.load_state_dict({name: mixer.state_dict()[name] for name in without.state_dict()})
    u = torch.randn(2, 9, 12, dtype=torch.float64)
    assert torch.equal(mixer(u)[0], without(u)[0])
    for settings in ({"rule_mixing": True}, {"spectral_norm": True}):  # there it is not idle, or among others
        assert MatrixStateMixer(12, 2, 4, idle_diag=False, **settings).dqkv is not None


def test_attention_is_its_formula():
    mixer = randomise(CausalAttention(12, 3))
    x = torch.randn(1, 7, 12, dtype=torch.float64)
    q, k, v = (x[0] @ mixer.qkv.weight.T + mixer.qkv.bias).view(7, 3, 3, 4).unbind(1)
    expected = torch.empty(7, 12, dtype=torch.float64)
    for t in range(7):
        for h in range(3):
            weights = (k[: t + 1, h] @ q[t, h] / 2.0).softmax(0)
            expected[t, 4 * h : 4 * h + 4] = weights @ v[: t + 1, h]
    assert_close(mixer(x)[0][0], expected @ mixer.out.weight.T + mixer.out.bias, "output")


def test_attention_needs_heads_that_divide_the_width():
    with pytest.raises(UserError, match="num_heads: expected a divisor of d_model = 12, got 5"):
        CausalAttention(12, 5)


def test_mlp_is_its_formula():
    mlp = randomise(MLP(6))
    x = torch.randn(5, 6, dtype=torch.float64)
    hidden = x @ mlp.up.weight.T + mlp.up.bias
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
    assert_close(mlp(x), hidden @ mlp.down.weight.T + mlp.down.bias, "output")


def test_deep_embed_scales_by_one_plus_a_product():
    embed = randomise(DeepEmbed(10, 3, 6))
    ids = torch.tensor([[1, 9, 1]])
    factor = embed(ids)
    assert_close(factor[0, 1], 1 + embed.expand.weight @ embed.table.weight[9], "output")
    assert torch.equal(factor[0, 0], factor[0, 2])


def test_routing_points_at_the_previous_real_token():
    ids = torch.tensor([[7, 8, 9, 10], [1, 2, 3, 4]])
    routed, state = route_previous_token(ids, None, None)
    assert routed.tolist() == [[NO_TOKEN, 7, 8, 9], [NO_TOKEN, 1, 2, 3]]
    assert state.last_token.tolist() == [10, 4]
    mask = torch.tensor([[False, True, False, True], [True, False, False, False]])
    routed, state = route_previous_token(ids, RoutingState(torch.tensor([5, NO_TOKEN])), mask)
    assert routed.tolist() == [[5, 5, 8, 8], [NO_TOKEN, 1, 1, 1]]
    assert state.last_token.tolist() == [10, 1]


def test_no_routed_token_contributes_exactly_zero():
    routing = randomise(PreviousTokenRouting(20, 6))
    context, _ = routing(torch.tensor([[3, 4]]))
    assert (context[0, 0] == 0).all()
    expected = routing.project.weight @ routing.table.weight[3] + routing.project.bias
    assert_close(context[0, 1], expected, "output")


@pytest.mark.parametrize("name", ["matrix state", "attention"])
def test_one_token_at_a_time(name):
    mixer = randomise(MatrixStateMixer(12, 2, 4) if name == "matrix state" else CausalAttention(12, 3))
    x = torch.randn(2, 6, 12, dtype=torch.float64)
    whole, _ = mixer(x)
    state = mixer.init_state(2) if isinstance(mixer, MatrixStateMixer) else None
    steps = []
    for t in range(6):
        y, state = mixer(x[:, t : t + 1], state)
        steps.append(y)
    assert_close(torch.cat(steps, 1), whole, "output")


def test_idle_weights_take_part_once_a_call():
    torch.manual_seed(0)
    model, asked = unimatrix.build("unimatrix-core"), []
    model.blocks[0].mixer.d.register_forward_hook(lambda *_: asked.append(1))
    model(torch.randint(0, 256, (2, 8)))[0].sum().backward()
    assert len(model.config.order) > 1
    assert len(asked) == 1
    assert torch.equal(model.blocks[0].mixer.d.weight.grad, torch.zeros_like(model.blocks[0].mixer.d.weight))
