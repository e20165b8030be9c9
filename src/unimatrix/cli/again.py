"""The commands that a command names, as one types them: with the modules that this one imported first."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager

_imported: list[str] = []


@contextmanager
def imported(module: str) -> Iterator[None]:
    """While a command runs that `--import MODULE` stands before: its parts are known to no other process."""
    _imported.append(module)
    try:
        yield
    finally:
        _imported.pop()


def command(*words: str) -> str:
    """`unimatrix WORDS`, for a shell."""
    first = [word for module in _imported for word in ("--import", module)]
    return shlex.join(["unimatrix", *first, *words])
