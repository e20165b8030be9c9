"""Which form of an op runs: asked for by name, or chosen, and always recorded.

An explicit backend that cannot run raises; "auto" takes what the op prefers and never falls back silently:
`chosen_backends()` tells what ran, and every result row carries it.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Literal, get_args

from unimatrix.errors import UserError

Backend = Literal["auto", "reference", "chunked", "compiled", "triton"]
BACKENDS: tuple[str, ...] = get_args(Backend)

_chosen: dict[str, str] = {}


def choose_backend(op: str, asked: str, *, preferred: str, problems: Mapping[str, str | None]) -> str:
    """Resolve `asked` for `op`; `problems` says for each form why it cannot run here (None: it can)."""
    if asked not in BACKENDS:
        near = get_close_matches(str(asked), BACKENDS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"backend: expected one of {', '.join(BACKENDS)}, got {asked!r}{hint}")
    form = preferred if asked == "auto" else asked
    problem = problems.get(form)
    if problem is not None:
        raise UserError(f"backend {form!r} of {op} cannot run here: {problem}")
    _chosen[op] = form
    return form


def chosen_backends() -> dict[str, str]:
    """The form that each op last ran in this process, by op name: {"matrix_state": "compiled"}."""
    return dict(_chosen)
