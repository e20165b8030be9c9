"""The corpus that is already there: Python's own standard-library sources.

It needs no network and no download, and it is the same bytes for everyone with the same Python version.
Nothing is cached on disk: reading it anew takes a fraction of a second.
"""

import hashlib
import os
import platform
import sysconfig
from pathlib import Path

import numpy as np

from unimatrix.data.documents import begins_of
from unimatrix.data.splits import Split
from unimatrix.errors import UserError

# tests are many and repetitive; site-packages differ from machine to machine; so do the build's own settings
_LEFT_OUT_FOLDERS = {
    *("test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "lib-dynload"),
    *("idlelib", "turtledemo", "lib2to3", "pydoc_data", "ensurepip"),
}
_LEFT_OUT_PREFIXES = ("_sysconfigdata", "sitecustomize", "usercustomize")

# of every 20 files, by the hash of their contents: 1 to valid, 1 to test, 18 to train
_SPLIT_PARTS = 20
# a stripped-down Python ships compiled files only; what is left then is no corpus
_FEWEST_BYTES = 1_000_000


def read_embedded(
    folder: Path | None = None,
) -> tuple[dict[Split, np.ndarray], str, dict[Split, np.ndarray]]:
    """The standard library's sources (or `folder`'s, for tests), split by file into train, valid and test.

    Returns:
        {"train" | "valid" | "test": [N] uint8}, the corpus's name with the Python version, and of each split
        where its files begin, int64.
    Raises:
        UserError: this Python comes without its sources.
    """
    root = Path(sysconfig.get_paths()["stdlib"]) if folder is None else folder
    parts: dict[Split, list[bytes]] = {"train": [], "valid": [], "test": []}
    for path in _source_files(root):
        text = path.read_bytes()
        if text:
            parts[_split_of(text)].append(text)
    total = sum(len(text) for texts in parts.values() for text in texts)
    if folder is None and total < _FEWEST_BYTES:
        raise UserError(
            f"embedded corpus: expected the sources of Python's standard library in {root}, found "
            f"{total:,} bytes; name a text file or a folder instead"
        )
    splits: dict[Split, np.ndarray] = {
        split: np.frombuffer(b"".join(texts), dtype=np.uint8) for split, texts in parts.items()
    }
    begins: dict[Split, np.ndarray] = {
        split: begins_of([len(text) for text in texts]) for split, texts in parts.items()
    }
    return splits, f"python-stdlib-{platform.python_version()}", begins


def _source_files(root: Path) -> list[Path]:
    """Every .py file that belongs to the library itself, in one order on every machine."""
    chosen: list[Path] = []
    for folder, subfolders, files in os.walk(root):
        # cut here, os.walk does not enter them: site-packages alone may hold ten times the library.
        # config-3.11-x86_64-linux-gnu and the like are written by the build, not by the authors
        subfolders[:] = [
            name for name in subfolders if name not in _LEFT_OUT_FOLDERS and not name.startswith("config-")
        ]
        names = (name for name in files if name.endswith(".py") and not name.startswith(_LEFT_OUT_PREFIXES))
        chosen.extend(Path(folder, name) for name in names)
    return sorted(chosen, key=lambda path: path.relative_to(root).as_posix())


def _split_of(text: bytes) -> Split:
    share = int.from_bytes(hashlib.sha256(text).digest()[:8], "big") % _SPLIT_PARTS
    if share > 1:
        return "train"
    return "valid" if share == 0 else "test"
