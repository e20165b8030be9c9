"""Small models and texts for the clients of the field, and a place on the disk for what they write."""

import os
import random
from collections.abc import Callable

import pytest
from small_models import one_thread, preset, small_model
from transformers import TrainerCallback

from unimatrix.hf import UniMatrixForCausalLM

__all__ = ["one_thread", "preset"]


@pytest.fixture
def make_model() -> Callable[..., UniMatrixForCausalLM]:
    return lambda name, **overrides: UniMatrixForCausalLM.from_language_model(small_model(name, **overrides))


class GradientKeeper(TrainerCallback):
    """Keeps the gradients of a step of transformers' Trainer."""

    def on_pre_optimizer_step(self, args, state, control, *, model, **kwargs) -> None:
        self.gradients = [parameter.grad for parameter in model.parameters()]
        self.gradients = [None if gradient is None else gradient.clone() for gradient in self.gradients]


@pytest.fixture
def keeper() -> GradientKeeper:
    return GradientKeeper()


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
