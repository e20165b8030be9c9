"""Small models and texts for the clients of the field, and a place on the disk for what they write."""

import os
import random
from collections.abc import Callable, Iterator

import pytest
import torch

from unimatrix.hf import UniMatrixForCausalLM
from unimatrix.models import LanguageModel, build, presets

PRESETS = sorted(presets())
SMALL = {"d_model": 16, "num_heads": 2, "depth": 2}
WIDTHS = {
    name: SMALL | ({"state_dim": 8} if "state_dim" in preset.__code__.co_varnames else {})
    for name, preset in presets().items()
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """These models are far too small to share out, and threads that wait for each other cost seconds."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=PRESETS)
def preset(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def make_language_model() -> Callable[..., LanguageModel]:
    def make(preset: str, *, seed: int = 0, **overrides) -> LanguageModel:
        torch.manual_seed(seed)
        model = build(preset, **WIDTHS[preset] | overrides)
        # fresh weights leave the logits to rounding; wide ones make every part count
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
        return model.eval()

    return make


@pytest.fixture
def make_model(make_language_model) -> Callable[..., UniMatrixForCausalLM]:
    return lambda *args, **kwargs: UniMatrixForCausalLM.from_language_model(
        make_language_model(*args, **kwargs)
    )


@pytest.fixture
def texts() -> list[str]:
    """Sentences of a pattern that a few steps can learn."""
    draw = random.Random(0)
    return [
        f"{draw.choice(['one', 'two', 'three'])} and {draw.choice(['four', 'five'])} again" for _ in range(16)
    ]


@pytest.fixture
def offline(tmp_path) -> dict[str, str]:
    """The environment for a process of its own: no network, its files in the test's folder."""
    here = {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    return os.environ | here | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
