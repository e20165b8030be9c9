"""Files that are there whole or not at all, whenever a kill or a full disk comes."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from unimatrix.codec import is_whole_object

try:
    import fcntl
except ImportError:  # Windows, where two processes may append to one file and lose a line
    fcntl = None


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Replace a JSON file atomically: a reader finds the old contents or the new."""
    replace_file(path, (json.dumps(values, indent=1) + "\n").encode())


def replace_file(path: Path, data: bytes) -> None:
    """Replace any file likewise."""
    with replacing(path) as partial:
        partial.write_bytes(data)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Likewise, by whoever writes files on their own: into this one, which takes the other's place."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.touch()
        mode = partial.stat().st_mode
        yield partial
        # some write for the owner alone; a file follows the umask like any other
        partial.chmod(mode)
        flush(partial)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def append_lines(path: Path, lines: bytes) -> None:
    """Append to a file of lines and wait until they are on the disk, in a folder that is made if need be.

    A last line without its line break, of an earlier kill, is cut off first; a whole object that has lost its
    line break alone gets it back. Processes that append to one file wait for each other.

    Raises:
        OSError: the folder cannot be written, or the disk is full; the lines before stay whole.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # without a buffer, which would write what did not fit once more when the file is closed
    with open(path, "a+b", buffering=0) as file:
        if fcntl is not None:
            with suppress(OSError):  # a file system that has no locks
                fcntl.flock(file, fcntl.LOCK_EX)
        end = file.seek(0, os.SEEK_END)
        torn = _last_line(file, end)
        whole = end - len(torn)
        if is_whole_object(torn):
            whole, lines = end, b"\n" + lines
        file.truncate(whole)
        try:
            left = memoryview(lines)
            while left:
                left = left[file.write(left) :]
            os.fsync(file.fileno())
        except OSError:
            # a half-written line would be dropped at the next reading anyway; leave none behind
            file.truncate(whole)
            raise


def _last_line(file: BinaryIO, end: int) -> bytes:
    """What follows the last line break of a file of so many bytes."""
    tail = b""
    while end and b"\n" not in tail:
        begin = max(0, end - 65_536)
        file.seek(begin)
        tail, end = file.read(end - begin) + tail, begin
    return tail[tail.rfind(b"\n") + 1 :]


def flush(path: Path) -> None:
    """fsync of a file or a folder: a rename is only worth something once what it names is on the disk."""
    if os.name == "nt" and path.is_dir():
        # Windows has no handle on a folder to flush
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
