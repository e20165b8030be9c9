"""Which form of an op runs: asked for by name, or chosen, and always recorded.

An explicit backend that cannot run raises; "auto" takes what the op prefers and never falls back silently:
`chosen_backends()` tells what ran, and every result row carries it.
"""

import importlib.util
from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor

from unimatrix.codec import near_names, shown
from unimatrix.errors import UserError
from unimatrix.ops.internals import differentiating

Backend = Literal["auto", "reference", "chunked", "compiled", "triton"]
BACKENDS: tuple[str, ...] = get_args(Backend)

NUMBA_INSTALLED = importlib.util.find_spec("numba") is not None

_chosen: dict[str, str] = {}


def choose_backend(op: str, asked: str, *, preferred: str, problems: Mapping[str, str | None]) -> str:
    """Resolve `asked` for `op`; `problems` says for each form why it cannot run here (None: it can)."""
    if not isinstance(asked, str) or asked not in BACKENDS:
        near = near_names(asked, BACKENDS, most=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"backend: expected one of {', '.join(BACKENDS)}, got {shown(asked)}{hint}")
    form = preferred if asked == "auto" else asked
    problem = problems.get(form)
    if problem is not None:
        raise UserError(f"backend {form!r} of {op} cannot run here: {problem}")
    if not torch.compiler.is_exporting():  # of an exported model's side effects torch warns
        _chosen[op] = form
    return form


def loops_problem(x: Tensor) -> str | None:
    """Why numba's loops cannot run on tensors like x; None if they can."""
    if x.device.type != "cpu":
        return f"it runs on the CPU, the tensors are on {x.device}"
    if not NUMBA_INSTALLED:
        return "numba is not installed (pip install numba)"
    if not torch.compiler.is_compiling() and differentiating():
        return "derivatives of torch.func and forward mode go through plain torch alone"
    return None


def chosen_backends() -> dict[str, str]:
    """The form that each op last ran in this process, by op name: {"matrix_state": "compiled"}."""
    return dict(_chosen)
