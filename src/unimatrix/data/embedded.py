"""The corpus that is already there: Python's own standard-library sources.

It needs no network and no download, and it is the same bytes for everyone with the same Python version.
Nothing is cached on disk: reading it anew takes a fraction of a second.
"""

import hashlib
import platform
import sysconfig
from pathlib import Path

import numpy as np

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


def read_embedded(folder: Path | None = None) -> tuple[dict[Split, np.ndarray], str]:
    """The standard library's sources (or `folder`'s, for tests), split by file into train, valid and test.

    Returns:
        {"train" | "valid" | "test": [N] uint8}, and the corpus's name with the Python version.
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
    splits = {split: np.frombuffer(b"".join(texts), dtype=np.uint8) for split, texts in parts.items()}
    return splits, f"python-stdlib-{platform.python_version()}"


def _source_files(root: Path) -> list[Path]:
    """Every .py file that belongs to the library itself, in one order on every machine."""
    chosen = []
    for path in root.rglob("*.py"):
        relative = path.relative_to(root)
        folders = relative.parts[:-1]
        # config-3.11-x86_64-linux-gnu and the like: written by the build, not by the authors
        machine_made = any(part in _LEFT_OUT_FOLDERS or part.startswith("config-") for part in folders)
        if not machine_made and not path.name.startswith(_LEFT_OUT_PREFIXES) and path.is_file():
            chosen.append((relative.as_posix(), path))
    return [path for _, path in sorted(chosen)]


def _split_of(text: bytes) -> Split:
    share = int.from_bytes(hashlib.sha256(text).digest()[:8], "big") % _SPLIT_PARTS
    if share > 1:
        return "train"
    return "valid" if share == 0 else "test"
