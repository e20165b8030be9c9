"""The machine's memory: whether what is asked for can fit at all, told beforehand; keeping what is freed."""

import ctypes
import os
import sys
from functools import cache
from pathlib import Path

from unimatrix.errors import UserError

# where a container's limit stands, in either version of Linux's control groups
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")

KEPT_BYTES = 2**30
# for a process that cannot tell its glibc by itself: no block is the system's own, whatever its size
KEPT_BY_ENVIRONMENT = {"MALLOC_TRIM_THRESHOLD_": str(KEPT_BYTES), "MALLOC_MMAP_MAX_": "0"}
# what a user may have told glibc already
_TOLD_BY = (*KEPT_BY_ENVIRONMENT, "MALLOC_MMAP_THRESHOLD_")
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt's numbers of them
_MOST_IN_OLDER_BYTES = 2**25  # of an older glibc's _MMAP_THRESHOLD


def keep_freed_memory() -> bool:
    """From now on this process keeps what it frees for what it allocates next; whether it will.

    glibc returns large blocks to the system at once, and of the next one every page is asked for and cleared
    anew: that is 6 to 40 % of a training step's time (docs/performance.md). It cannot be undone, so it is for
    commands that train or measure time, for the processes that these start, and for whoever asks. What is
    kept is at most KEPT_BYTES at the heap's end, and all that lies before a block still in use: steps that
    are alike take what the ones before them left, but what grows, such as a cache of keys, may need twice
    the memory. Single blocks of more than KEPT_BYTES still go back, in an older glibc those of more than 32
    MiB. Other C libraries are left alone, and so is glibc where the environment tells it something of this
    kind.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    told = any(name in os.environ for name in _TOLD_BY) or "glibc.malloc." in tunables
    if sys.platform != "linux" or told:
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is None:
        return False
    # the first of the two: the other alone would leave a threshold that no longer grows with what is freed
    sizes = (KEPT_BYTES, _MOST_IN_OLDER_BYTES)
    return any(mallopt(_MMAP_THRESHOLD, size) == 1 for size in sizes) and (
        mallopt(_TRIM_THRESHOLD, KEPT_BYTES) == 1
    )


@cache
def host_bytes() -> int | None:
    """The machine's memory, or the container's where that is less; None where the system does not say."""
    try:
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    for path in _LIMITS:
        try:
            there = min(there, int(Path(path).read_text()))
        except (OSError, ValueError):
            continue
    return there


def check_fits(needed: int, *, what: str, there: int | None) -> None:
    """Raise a UserError, `what` first, where more bytes are needed than are there.

    Args:
        needed: a lower bound. there: `host_bytes()`, or a device's; None is unknown, and enough.
    """
    if there is not None and needed > there:
        raise UserError(f"{what}: needs at least {in_words(needed)} of memory, there are {in_words(there)}")


def in_words(num_bytes: int) -> str:
    """A number of bytes for a person: 1.5 GiB."""
    units = ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
    for power, unit in enumerate(units, start=1):
        if num_bytes < 1024 ** (power + 1) or unit == units[-1]:
            return f"{num_bytes / 1024**power:,.1f} {unit}"
    raise AssertionError("the last unit takes all")
