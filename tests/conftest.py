"""What all tests share: real text where there is some, one thread per worker."""

import os
from pathlib import Path

import pytest
import torch

from unimatrix.data import Corpus, load_corpus, load_data_dir


def pytest_configure(config: pytest.Config) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)  # the workers share the cores


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.fixture(scope="session")
def corpus() -> Corpus:
    """The folder that UNIMATRIX_DATA_DIR names (train.txt, valid.txt, test.txt), else the embedded text."""
    folder = os.environ.get("UNIMATRIX_DATA_DIR")
    return load_data_dir(Path(folder)) if folder else load_corpus("embedded")
