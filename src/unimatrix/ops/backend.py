"""Which form of an op runs: asked for by name, or chosen, and always recorded where it was asked.

An explicit backend that cannot run raises; "auto" takes what the op prefers and never falls back silently: a
module hands its op a `BackendChoice`, which keeps what ran, and every result row carries it.
"""

import importlib
import importlib.util
from collections.abc import Mapping
from contextlib import suppress
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from unimatrix.errors import UserError, near_names, shown
from unimatrix.ops.internals import differentiating, exporting

Backend = Literal["auto", "reference", "chunked", "compiled"]
BACKENDS: tuple[str, ...] = get_args(Backend)

NUMBA_INSTALLED = importlib.util.find_spec("numba") is not None


class BackendChoice:
    """The form that is asked for, and the one that then ran last: what a module hands its op as `backend`."""

    __slots__ = ("asked", "ran")

    def __init__(self, asked: Backend = "auto") -> None:
        if NUMBA_INSTALLED and asked in ("auto", "compiled"):
            # before the first call, which torch.export may trace: some releases let no import through then
            with suppress(ImportError):  # of one that is broken the first call tells
                importlib.import_module("numba")
        self.asked: Backend = asked
        self.ran: str | None = None  # None: it has not run, or only while it was exported

    def __repr__(self) -> str:
        return f"BackendChoice({self.asked!r}, ran={self.ran!r})"


def backends_of(module: nn.Module) -> dict[str, str]:
    """The form that ran last in each part of a model, by its path: {"blocks.0.mixer": "compiled"}."""
    choices = ((path, getattr(part, "backend", None)) for path, part in module.named_modules())
    return {path: c.ran for path, c in choices if isinstance(c, BackendChoice) and c.ran is not None}


def choose_backend(
    op: str, backend: Backend | BackendChoice, *, preferred: str, problems: Mapping[str, str | None]
) -> str:
    """Resolve `backend` for `op`; `problems` says for each form why it cannot run here (None: it can)."""
    asked = backend.asked if isinstance(backend, BackendChoice) else backend
    if not isinstance(asked, str) or asked not in BACKENDS:
        near = near_names(asked, BACKENDS, most=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"backend: expected one of {', '.join(BACKENDS)}, got {shown(asked)}{hint}")
    form = preferred if asked == "auto" else asked
    problem = problems.get(form)
    if problem is not None:
        raise UserError(f"backend {form!r} of {op} cannot run here: {problem}")
    # of an exported model's side effects torch warns
    if isinstance(backend, BackendChoice) and not exporting():
        backend.ran = form
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
