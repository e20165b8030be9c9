"""A saved folder of an earlier version, in which some weights have other names, as one of this version."""

import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from unimatrix.errors import UserError
from unimatrix.models import upgrade_weights

_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"


@contextmanager
def in_this_versions_names(path_or_name: Any, subfolder: Any = "") -> Iterator[Any]:
    """The folder itself, or where its weights have names of an earlier version a copy that has this one's.

    A name on the hub, other files than these, and one that cannot be read, are left to transformers.
    """
    inside = str(subfolder or "")
    folder = Path(str(path_or_name)) / inside
    files = _files(folder)
    if not _older(files):
        yield path_or_name
        return
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place) / inside
        copy.mkdir(parents=True, exist_ok=True)
        for path in folder.glob("*.json"):
            if path.name != _INDEX:
                shutil.copy(path, copy)
        tensors = {name: tensor for file in files for name, tensor in load_file(file).items()}
        save_file(upgrade_weights(tensors), copy / _WEIGHTS, metadata={"format": "pt"})
        yield place


def check_no_older(name: Any, unexpected: Iterable[str]) -> None:
    """Raise a UserError where weights of an earlier version were not loaded under this one's names."""
    named = {key: torch.empty(4, 1, device="meta") for key in unexpected}
    older = named.keys() - upgrade_weights(named).keys()
    if older:
        raise UserError(
            f"{name}: expected this version's weights, or an earlier one's in a folder's {_WEIGHTS}, got"
            f" {min(older)} of an earlier version; unimatrix.hf.load reads those on the hub too"
        )


def _files(folder: Path) -> list[Path]:
    """Those that hold a folder's weights, as transformers looks for them."""
    if (folder / _WEIGHTS).is_file():
        return [folder / _WEIGHTS]
    try:
        named = json.loads((folder / _INDEX).read_text(encoding="utf-8"))["weight_map"].values()
        return [folder / name for name in sorted(set(named))]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def _older(files: list[Path]) -> bool:
    named: dict[str, torch.Tensor] = {}
    try:
        for path in files:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118
                    named[name] = torch.empty(file.get_slice(name).get_shape(), device="meta")
    except (SafetensorError, OSError):
        return False
    return upgrade_weights(named).keys() != named.keys()
