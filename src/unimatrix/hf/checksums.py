"""What the files of a saved model must hash to: written last into a checkpoint, looked at by all who load it.

checksums.json    {"files": {name: {"sha256": hex digest, "bytes": size}}}
"""

import hashlib
import json
from collections.abc import Collection
from pathlib import Path

from unimatrix.errors import UserError

CHECKSUMS = "checksums.json"


def write_checksums(folder: Path) -> None:
    """Write the checksums of every file in the folder."""
    files = {
        path.name: {"sha256": _sha256(path), "bytes": path.stat().st_size}
        for path in sorted(folder.iterdir())
    }
    (folder / CHECKSUMS).write_text(json.dumps({"files": files}, indent=1) + "\n", encoding="utf-8")


def verify_checksums(folder: Path, *, names: Collection[str] | None = None, advice: str = "") -> None:
    """Compare the files with their checksums.

    Args:
        names: look at these files only, where they are listed; None at all that are.
        advice: put at the end of the complaint.
    Raises:
        UserError: a file missing, cut short or changed (names it), or the checksums themselves unreadable.
    """
    try:
        files = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))["files"]
        expected = {str(name): (entry["bytes"], entry["sha256"]) for name, entry in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder / CHECKSUMS}: expected the checksums of a checkpoint{advice}") from error
    for name, (num_bytes, digest) in expected.items():
        if names is not None and name not in names:
            continue
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path}: missing from its checkpoint{advice}")
        size = path.stat().st_size
        if size < num_bytes:
            raise UserError(f"{path}: cut short, {size} of {num_bytes} bytes{advice}")
        if size > num_bytes or _sha256(path) != digest:
            raise UserError(f"{path}: wrong checksum, the file was changed or damaged{advice}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
