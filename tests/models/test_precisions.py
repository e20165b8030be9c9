"""Every preset in half precision, by autocast and by its weights, and in double: gradients, and decoding."""

import pytest
import torch
from torch import Tensor, nn
from trained_size import ALL_PRESETS, random_ids, trained_size

from unimatrix.models import LanguageModel

IDS = random_ids(2, 24, below=53)
MASK = torch.ones(2, 24, dtype=torch.bool)
MASK[0, :3] = False
AUTOCAST = ("autocast bfloat16", "autocast float16")
PRECISIONS = (*AUTOCAST, "bfloat16", "float16", "float64")
NAMES = (*ALL_PRESETS, "lstm")  # of the peers the one whose cell is none of the ops


def results(model: LanguageModel) -> tuple[Tensor, Tensor]:
    """Finite logits of a text read in two parts, and all gradients, in one vector each."""
    first, state = model(IDS[:, :20], mask=MASK[:, :20])
    last, _ = model(IDS[:, 20:], state)
    logits = torch.cat([first, last], dim=1)[:, 3:]
    logits = logits[torch.isfinite(logits)]
    nn.functional.mse_loss(logits.float(), torch.ones_like(logits, dtype=torch.float32)).backward()
    grads = [parameter.grad.flatten().double() for parameter in model.parameters()]
    assert all(parameter.grad.dtype == parameter.dtype for parameter in model.parameters())
    return logits.detach().double(), torch.cat(grads)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_any_precision_is_close_to_float32(name, precision):
    expected = results(trained_size(name).requires_grad_(True).train())
    model = trained_size(name).requires_grad_(True).train()
    dtype = getattr(torch, precision.removeprefix("autocast "))
    if precision in AUTOCAST:
        with torch.autocast("cpu", dtype=dtype):
            got = results(model)
    else:
        got = results(model.to(dtype))
    for mine, theirs in zip(got, expected, strict=True):
        assert mine.shape == theirs.shape
        assert torch.isfinite(mine).all()
        similar = nn.functional.cosine_similarity(mine, theirs, dim=0)
        assert similar > (0.98 if dtype == torch.bfloat16 else 0.999 if dtype == torch.float16 else 0.999999)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_a_state_made_under_autocast_goes_on_under_it(name, dtype):
    model = trained_size(name)
    whole = model(IDS)[0].float()
    with torch.autocast("cpu", dtype=dtype):
        _, state = model(IDS[:, :12])
        steps = []
        for t in range(12, 24):
            logits, state = model(IDS[:, t : t + 1], state)
            steps.append(logits.float())
    expected = whole[:, 12:]
    real = torch.isfinite(expected)
    assert nn.functional.cosine_similarity(torch.cat(steps, 1)[real], expected[real], dim=0) > 0.99
