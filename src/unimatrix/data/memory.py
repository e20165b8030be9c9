"""Whether sizes that are asked for can fit into memory at all, told before anything is allocated."""

import os
from functools import cache
from pathlib import Path

from unimatrix.errors import UserError

# where a container's limit stands, in either version of Linux's control groups
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


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
