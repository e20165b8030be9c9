"""What the files of a saved model must hash to: written last into a checkpoint, looked at by all who load it.

checksums.json    {"files": {name: {"sha256": hex digest, "bytes": size}}}
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from unimatrix.codec import read_record
from unimatrix.errors import UserError, shown

CHECKSUMS = "checksums.json"


def write_checksums(folder: Path) -> None:
    """Write the checksums of every file in the folder."""
    files = {
        path.name: {"sha256": _sha256(path), "bytes": path.stat().st_size}
        for path in sorted(folder.iterdir())
    }
    (folder / CHECKSUMS).write_text(json.dumps({"files": files}, indent=1) + "\n", encoding="utf-8")


@dataclass(frozen=True, kw_only=True, slots=True)
class Checksum:
    sha256: str
    bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Checksums:
    """checksums.json, by the names of the files."""

    files: Mapping[str, Checksum]


def verify_checksums(
    folder: Path,
    *,
    names: Collection[str] | None = None,
    must_list: Collection[str] = (),
    advice: str = "",
) -> None:
    """Compare the files with their checksums.

    Args:
        names: look at these files only, where they are listed; None at all that are.
        must_list: files whose checksum has to be there.
        advice: put at the end of the complaint.
    Raises:
        UserError: a file missing, cut short or changed (names it), or the checksums themselves unreadable.
    """
    listed = folder / CHECKSUMS
    try:
        expected = read_record(Checksums, listed).files
    except UserError as error:
        reason = str(error).removeprefix(f"{listed}: ")
        raise UserError(f"{listed}: expected the checksums of a checkpoint ({reason}){advice}") from error
    for name in must_list:
        if name not in expected:
            raise UserError(f"{listed}: expected the checksum of {name}, got none{advice}")
    for name, entry in expected.items():
        if names is not None and name not in names:
            continue
        if Path(name).name != name:
            raise UserError(f"{listed}: expected names of files beside it, got {shown(name)}{advice}")
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path}: missing from its checkpoint{advice}")
        size = path.stat().st_size
        if size < entry.bytes:
            raise UserError(f"{path}: cut short, {size} of {entry.bytes} bytes{advice}")
        if size > entry.bytes or _sha256(path) != entry.sha256:
            raise UserError(f"{path}: wrong checksum, the file was changed or damaged{advice}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
