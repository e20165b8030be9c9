"""A saved folder of an earlier version, in which some weights have other names, as one of this version."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from unimatrix.models import upgrade_weights

_WEIGHTS = "model.safetensors"


@contextmanager
def in_this_versions_names(path_or_name: Any) -> Iterator[Any]:
    """The folder itself, or where its weights have names of an earlier version a copy that has this one's.

    A name on the hub, and a file that cannot be read, are left to transformers.
    """
    weights = Path(str(path_or_name)) / _WEIGHTS
    if not weights.is_file() or not _older(weights):
        yield path_or_name
        return
    with tempfile.TemporaryDirectory() as place:
        for path in weights.parent.glob("*.json"):
            shutil.copy(path, place)
        save_file(upgrade_weights(load_file(weights)), Path(place) / _WEIGHTS, metadata={"format": "pt"})
        yield place


def _older(weights: Path) -> bool:
    try:
        with safe_open(weights, framework="pt") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError):
        return False
    named = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    return upgrade_weights(named).keys() != named.keys()
