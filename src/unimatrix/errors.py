"""The exceptions that mean "the input is at fault, not the program".

Library callers catch them as the ValueError, or TypeError, that they are; the command line prints the message
in one line and exits with code 2. Anything else that escapes is a programming error and stays loud. And how a
value or an unknown name is told in such a line. Importing this module imports nothing else of ours.
"""

import re
import reprlib
from collections.abc import Collection
from difflib import get_close_matches
from itertools import accumulate
from pathlib import Path
from typing import Any

MAX_DIGITS = 64  # of a whole number; Python itself stops at some thousands, in words of its own
_MOST_KNOWN = 80  # characters of names in a complaint


class UserError(ValueError):
    """Bad input from the user: one line that names the thing, what was expected and what came."""


class TrainingStopped(UserError):
    """A run that cannot go on: its loss, its weights or what the model made of them is no longer finite.

    signal: the Ctrl-C, SIGTERM or SIGHUP that came meanwhile.
    """

    signal: int | None = None


class NotFinite(UserError):
    """A number that a model came to is infinite or NaN: its weights, or what it read, are at fault."""


class UserTypeError(UserError, TypeError):
    """A UserError about the type of what came, for callers who catch TypeError."""


def home_expanded(path: str | Path, *, what: str) -> Path:
    """The path, its ~ the home of somebody; a UserError that begins with `what` where there is nobody."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{what}: expected a path, got {shown(str(path))} (there is no such home)") from error


def near_names(name: object, known: Collection[str], *, most: int = 3) -> list[str]:
    """Those of the known names that somebody who wrote `name` may have meant; none if none is near."""
    names, asked = [str(one) for one in known], str(name)
    if len(asked) > 2 * max(map(len, names), default=0):
        return []  # of a text of megabytes this would take seconds to find out
    # a name's own word counts too: "core" is near "unimatrix-core"
    holding = [one for one in names if len(asked) > 2 and asked in re.split(r"[-_.]", one)]
    return list(dict.fromkeys([*get_close_matches(asked, names, n=most, cutoff=0.7), *holding]))[:most]


def did_you_mean(name: object, known: Collection[str], *, also: str = "") -> str:
    """The end of a complaint about an unknown name: the near ones, or as many known ones as a line holds.

    also: what else the name may be, said before a long list.
    """
    near = near_names(name, known)
    if near:
        return f"did you mean {' or '.join(near)}?{also and f' ({also})'}"
    return f"{also}{also and '; '}known: {first_names(known) or 'none'}"


def first_names(names: Collection[str]) -> str:
    """As many of the names as a line holds, one at least, and how many more there are."""
    names = [str(one) for one in names]
    if not names:
        return ""
    held = max(1, sum(length <= _MOST_KNOWN for length in accumulate(len(one) + 2 for one in names)))
    more = [f"and {len(names) - held} more"] if held < len(names) else []
    return ", ".join([*names[:held], *more])


def shown(value: Any) -> str:
    """A value in a complaint: what Python calls it, cut short, on one line."""
    if isinstance(value, int) and abs(value) >= 10**MAX_DIGITS:  # Python itself stops at some thousands
        return f"a number of {value.bit_length()} bits"
    return " ".join(_repr.repr(value).split()) if not isinstance(value, str) else _repr.repr(value)


_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = _repr.maxlong = 60
_repr.maxlevel, _repr.maxdict, _repr.maxlist = 2, 3, 3
