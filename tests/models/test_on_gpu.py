"""Every preset on an accelerator says what it says on the CPU, and learns, decodes and moves there."""

import pytest
import torch
from tolerances import assert_close

import unimatrix
from unimatrix.models import peer_presets, select_batch, state_bytes

pytestmark = pytest.mark.gpu

PRESETS = tuple(unimatrix.presets())


@pytest.fixture(autouse=True)
def full_float32():
    """Products of float32 in float32, so that the CPU's numbers are the measure."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


def build(name: str, **overrides):
    torch.manual_seed(0)
    return unimatrix.build(name, **overrides)


def random_ids(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", [*PRESETS, *peer_presets()])
def test_logits_are_the_cpus(name):
    model, ids = build(name).eval(), random_ids(3, 100)
    with torch.no_grad():
        expected, _ = model(ids)
        got, state = model.cuda()(ids.cuda())
        piece, middle = model(ids[:, :37].cuda())
        rest, _ = model(ids[:, 37:].cuda(), middle)
    assert_close(got.cpu(), expected, "logits")
    assert_close(torch.cat([piece, rest], 1).cpu(), expected, "logits")
    assert state_bytes(state) > 0


@pytest.mark.parametrize("name", PRESETS)
def test_padding_changes_nothing(name):
    model, ids = build(name).eval().cuda(), random_ids(2, 40).cuda()
    mask = torch.ones(2, 40, dtype=torch.bool, device="cuda")
    mask[0, :11] = False
    with torch.no_grad():
        got, state = model(ids, mask=mask)
        alone, alone_state = model(ids[:1, 11:])
        after, _ = model(ids[:1, :5], select_batch(state, torch.tensor([0])))
        alone_after, _ = model(ids[:1, :5], alone_state)
    assert_close(got[:1, 11:], alone, "logits", torch.float32)
    assert_close(after, alone_after, "logits", torch.float32)


@pytest.mark.parametrize("name", PRESETS)
def test_gradients_are_the_cpus(name):
    ids = random_ids(4, 65)

    def gradients(device: str) -> dict[str, torch.Tensor]:
        model = build(name, dropout=0.0).to(device)
        logits, _ = model(ids[:, :-1].to(device))
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten().to(device))
        loss.backward()
        return {key: p.grad.cpu() for key, p in model.named_parameters() if p.grad is not None}

    expected, got = gradients("cpu"), gradients("cuda")
    assert expected.keys() == got.keys()
    flat = [torch.cat([grads[key].flatten() for key in expected]) for grads in (got, expected)]
    assert_close(*flat, "gradient")


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_step_under_autocast_is_finite_and_lowers_the_loss(name, dtype):
    model, ids = build(name, dropout=0.0).cuda(), random_ids(8, 65).cuda()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(5):
        with torch.autocast("cuda", dtype):
            logits, _ = model(ids[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", PRESETS)
def test_a_state_moves_to_the_cpu_and_goes_on(name):
    model, ids = build(name).eval(), random_ids(2, 20)
    with torch.no_grad():
        _, state = model(ids)
        expected, _ = model(ids[:, :3], state)
        _, there = model.cuda()(ids.cuda())
        here = _moved(there, "cpu")
        got, _ = model.cpu()(ids[:, :3], here)
    assert_close(got, expected, "logits")


def _moved(state, device):
    if isinstance(state, torch.Tensor):
        return state.to(device)
    if state is None:
        return None
    parts = [_moved(part, device) for part in state]
    return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)


def test_generate_there_equals_generate_here():
    from unimatrix.hf import UniMatrixForCausalLM

    wrapped = UniMatrixForCausalLM.from_language_model(build("unimatrix-core", max_positions=None)).eval()
    ids = random_ids(2, 9)
    expected = wrapped.generate(ids, max_new_tokens=12, do_sample=False)
    got = wrapped.cuda().generate(ids.cuda(), max_new_tokens=12, do_sample=False)
    assert torch.equal(got.cpu(), expected)


@pytest.mark.filterwarnings("ignore:.torch.jit")  # torch's own, all three
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores:UserWarning")
@pytest.mark.parametrize("name", ["unimatrix-core", "triple-hybrid", "recurrent-ffn"])
def test_compiled_there_equals_eager_there(name):
    model, ids = build(name).eval().cuda(), random_ids(2, 64).cuda()
    with torch.no_grad():
        expected, _ = model(ids)
        got, _ = torch.compile(model)(ids)
    assert_close(got, expected, "logits", torch.float32)
