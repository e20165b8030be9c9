"""The recurrent FFNs against their formulas, in pieces, with masks, in every form, with extreme gates."""

import pytest
import torch
from tolerances import assert_close

from unimatrix.errors import UserError
from unimatrix.mixers import RecurrentFFN, RecurrentFFNState

KINDS = pytest.mark.parametrize(
    "settings", [{}, {"query": True}, {"query": True, "local_width": 5}], ids=["plain", "readout", "hybrid"]
)


def randomised(settings: dict, **more) -> RecurrentFFN:
    mixer = RecurrentFFN(12, 7, **settings, **more)
    torch.manual_seed(0)
    for parameter in mixer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return mixer.double().requires_grad_(False)


def random_stream(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def formula(mixer: RecurrentFFN, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[T, D] to [T, D] and the last state [W], token by token, a projection at a time."""
    projections = mixer.project.weight[: mixer.num_gates * 7].split(7)
    s = torch.zeros(7, dtype=x.dtype)
    outputs = []
    for u in x:
        forget, write, output, *query = (weight @ u for weight in projections)
        s = torch.tanh(forget) * s + write
        read = s if not query else query[0] * s
        y = mixer.out.weight @ (output * read)
        if mixer.local_width is not None:
            gate, up = (
                weight @ u for weight in mixer.project.weight[mixer.num_gates * 7 :].split(mixer.local_width)
            )
            local = mixer.down.weight @ (gate * torch.sigmoid(gate) * up)
            share = torch.sigmoid(mixer.mix)
            y = share * y + (1 - share) * local
        outputs.append(y)
    return torch.stack(outputs), s


@KINDS
@pytest.mark.parametrize("backend", ["reference", "chunked", "compiled", "auto"])
def test_every_form_is_the_formula(settings, backend):
    mixer = randomised(settings, backend=backend)
    x = random_stream(3, 19, 12)
    y, state = mixer(x)
    for row in range(3):
        expected, last = formula(mixer, x[row])
        assert_close(y[row], expected, "output")
        assert_close(state.s[row], last, "state")


@KINDS
def test_gradients_are_the_formulas(settings):
    mixer = randomised(settings).requires_grad_(True)
    x = random_stream(1, 15, 12).requires_grad_()
    leaves = [x, *mixer.parameters()]
    weight, weight_state = random_stream(15, 12), random_stream(7)
    y, state = mixer(x)
    got = torch.autograd.grad((y[0] * weight).sum() + state.s[0] @ weight_state, leaves)
    expected_y, last = formula(mixer, x[0])
    expected = torch.autograd.grad((expected_y * weight).sum() + last @ weight_state, leaves)
    for mine, theirs in zip(got, expected, strict=True):
        assert theirs.any()
        assert_close(mine, theirs, "gradient")


@KINDS
@pytest.mark.parametrize("cuts", [(1,), (2, 2, 3, 9), tuple(range(1, 20))], ids=len)
def test_pieces_equal_the_whole(settings, cuts):
    mixer = randomised(settings)
    x = random_stream(2, 20, 12)
    whole, last = mixer(x)
    state, pieces = None, []
    for start, stop in zip((0, *cuts), (*cuts, 20), strict=True):
        y, state = mixer(x[:, start:stop], state)
        pieces.append(y)
    assert_close(torch.cat(pieces, 1), whole, "output")
    assert_close(state.s, last.s, "state")


@KINDS
def test_masked_pieces_equal_the_text_without_its_holes(settings):
    mixer = randomised(settings)
    x = random_stream(3, 20, 12)
    mask = torch.rand(3, 20, generator=torch.Generator().manual_seed(2)) > 0.4
    mask[0, :5] = False
    mask[-1] = False
    state, pieces = None, []
    for start, stop in ((0, 3), (3, 3), (3, 4), (4, 20)):
        y, state = mixer(x[:, start:stop], state, mask=mask[:, start:stop])
        pieces.append(y)
    y = torch.cat(pieces, 1)
    for row in range(3):
        expected, last = mixer(x[row : row + 1, mask[row]])
        assert_close(y[row : row + 1, mask[row]], expected, "output")
        assert_close(state.s[row : row + 1], last.s, "state")


@pytest.mark.parametrize("forget", [40.0, -40.0, 0.0])
def test_gates_at_their_ends(forget):
    """Decays of exactly 1 sum, of exactly -1 alternate, of exactly 0 forget, over a thousand positions."""
    mixer = RecurrentFFN(2, 1).requires_grad_(False)
    mixer.project.weight.copy_(torch.tensor([[forget, 0.0], [0.0, 1.0], [1.0, 0.0]]))
    x = torch.ones(1, 1001, 2)
    _, state = mixer(x)
    assert state.s.item() == 1001.0 if forget > 0 else state.s.item() == 1.0


def test_decays_next_to_one_survive_bfloat16():
    """tanh(4) in bfloat16 is 1: a state that should halve within 1,000 positions would stay as it is."""
    mixer = RecurrentFFN(2, 1).requires_grad_(False)
    mixer.project.weight.copy_(torch.tensor([[4.0, 0.0], [0.0, 1.0], [1.0, 0.0]]))
    mixer = mixer.bfloat16()
    x = torch.tensor([1.0, 0.0], dtype=torch.bfloat16).expand(1, 1000, 2)
    _, state = mixer(x, RecurrentFFNState(torch.ones(1, 1)))
    assert state.s.dtype == torch.float32
    expected = torch.tanh(torch.tensor(4.0)).item() ** 1000
    assert expected < 0.52
    assert state.s.item() == pytest.approx(expected, rel=1e-3)


def test_an_unknown_form_is_refused():
    with pytest.raises(UserError, match="backend"):
        RecurrentFFN(12, 7, backend="fastest")(torch.zeros(1, 1, 12))  # type: ignore[arg-type]
