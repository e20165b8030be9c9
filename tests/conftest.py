"""What all tests share: real text where there is some, one thread per worker, tests for an accelerator."""

import os
import signal
from collections.abc import Iterator

import pytest
import torch

from unimatrix.data import Corpus, load_corpus


def pytest_configure(config: pytest.Config) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)  # the workers share the cores, and so do the processes that they start
        os.environ["OMP_NUM_THREADS"] = "1"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without a CUDA device the tests marked gpu are left out, one by one, and counted as deselected."""
    if torch.cuda.is_available():
        return
    left_out = [item for item in items if item.get_closest_marker("gpu")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("gpu")]


@pytest.fixture(scope="session")
def real_corpus() -> Corpus:
    """The folder that UNIMATRIX_DATA_DIR names (train.txt, valid.txt, test.txt), else the embedded text."""
    return load_corpus(os.environ.get("UNIMATRIX_DATA_DIR", "embedded"))


@pytest.fixture
def pythons_own_handler() -> Iterator[None]:
    """Ctrl-C as Python starts: who began the tests may ignore it (nohup), a library may have changed it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, signal.SIG_DFL if before is None else before)
