"""A model and a text small enough that a whole run takes a fraction of a second."""

import io

import pytest
import torch
from rich.console import Console

from unimatrix.data import Corpus
from unimatrix.train import Experiment, LoopConfig, ModelChoice, OptimConfig


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Models this small gain nothing from a second thread, and lose much where the cores are shared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def text(real_corpus):
    """The first bytes of a real text."""
    train, valid, test = (real_corpus.split(name) for name in ("train", "valid", "test"))
    return Corpus(name="short", train=train[:20_000], valid=valid[:1_000], test=test[:1_000])


@pytest.fixture
def tiny():
    """tiny(steps=..., lr=..., preset=..., ...): an experiment from settings by their flat names."""

    def make(*, preset="transformer", dropout=0.1, d_model=16, max_positions=16, name="tiny", **settings):
        optim_fields = OptimConfig.__dataclass_fields__
        optim = {field: value for field, value in settings.items() if field in optim_fields}
        loop = {"steps": 6, "batch_size": 4, "seq_len": 16, "tracker": "none", "device": "cpu"}
        loop |= {field: value for field, value in settings.items() if field not in optim_fields}
        return Experiment(
            name=name,
            model=ModelChoice(
                preset=preset,
                dropout=dropout,
                max_positions=max_positions,
                changes={"d_model": d_model, "num_heads": 2, "depth": 2},
            ),
            optim=OptimConfig(**optim),
            loop=LoopConfig(**loop),
        )

    return make


@pytest.fixture
def console():
    """A console that is no terminal; `console.file.getvalue()` is what was written to it."""
    return Console(file=io.StringIO(), width=100)
