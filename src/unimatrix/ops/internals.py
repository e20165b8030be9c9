"""Names that torch keeps to itself and the ops look at: what follows a computation without the dispatcher.

Each stands here once. Where a release lacks one, nobody can say what is under way: `watched` is then always
true, so that every compiled loop goes through its registered operator, whose rules torch applies or refuses.
Forward mode alone goes through an operator unseen: without its level no compiled loop runs.

And what torch's releases call by one name and mean in two ways (`exporting`).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter

_functorch = getattr(torch._C, "_functorch", None)
NAMES: dict[str, Any] = {
    "_len_torch_dispatch_stack": getattr(torch._C, "_len_torch_dispatch_stack", None),
    "_are_functorch_transforms_active": getattr(torch._C, "_are_functorch_transforms_active", None),
    "get_interpreter_stack": getattr(_functorch, "get_interpreter_stack", None),
    "TransformType": getattr(_functorch, "TransformType", None),
    "_has_any_global_hook": getattr(torch.nn.modules.module, "_has_any_global_hook", None),
    "is_legacy_batchedtensor": getattr(_functorch, "is_legacy_batchedtensor", None),
    # a number that changes, not a function
    "_current_level": (lambda: forward_ad._current_level) if hasattr(forward_ad, "_current_level") else None,
}
# `torch.compiler.is_exporting` was always true under torch.compile until torch 2.12; its flag never was
_HAS_FLAG = hasattr(torch.compiler, "_is_exporting_flag")


def exporting() -> bool:
    """Whether torch.export takes the model, and not torch.compile."""
    return torch.compiler._is_exporting_flag if _HAS_FLAG else torch.compiler.is_exporting()


def _no(*_: object) -> bool:
    return False


def missing() -> list[str]:
    """Which of the names this torch has not."""
    return [name for name, found in NAMES.items() if found is None]


_missing = bool(missing())
_depth = NAMES["_len_torch_dispatch_stack"] or _no
_transforms = NAMES["_are_functorch_transforms_active"] or _no
_legacy = NAMES["is_legacy_batchedtensor"] or _no
_level = NAMES["_current_level"] or (lambda: 0)
_tracing = torch.jit.is_tracing  # pyright: ignore[reportPrivateImportUsage]
hooked_everywhere = NAMES["_has_any_global_hook"] or _no  # whether hooks are to see the calls of all modules


def watched(*tensors: Tensor | None) -> bool:
    """Whether somebody follows the operators, and would not see a loop that works on addresses.

    torch.compile and export do, torch.func, torch.jit.trace, a dispatch mode (make_fx, FakeTensorMode), or
    any of the tensors that is its own.
    """
    if torch.compiler.is_compiling() or _depth() > 0 or _transforms() or _missing or _tracing():
        return True
    for x in tensors:
        kind = type(x)
        if kind is Tensor or kind is Parameter or x is None:
            continue
        if kind.__torch_dispatch__ is not Tensor.__torch_dispatch__:  # pyright: ignore[reportAttributeAccessIssue]
            return True
    return False


def plain(dtype: torch.dtype, *tensors: Tensor) -> bool:
    """Whether a loop may read them all by their addresses: numbers of that dtype on the CPU, no subclass."""
    for x in tensors:
        if type(x) is not Tensor and type(x) is not torch.nn.Parameter:
            return False
        if x.dtype != dtype or not x.is_cpu or x.layout != torch.strided or x.is_neg():
            return False
    return True


def transforming() -> bool:
    """Whether a transform of torch.func or forward mode is under way, which a loop would not notice."""
    return _transforms() or _level() >= 0


def differentiating() -> bool:
    """Whether one of them is under way that asks for derivatives: any but torch.func.vmap."""
    return _level() >= 0 or (_transforms() and _any_level(lambda kind, vmap: kind != vmap))


def mapping() -> bool:
    """Whether torch.func.vmap is under way, where no value can be looked at."""
    return _transforms() and _any_level(lambda kind, vmap: kind == vmap)


def _any_level(asked: Callable[[Any, Any], bool]) -> bool:
    """Whether this holds of any transform that is under way, by its kind and vmap's; if unknown, True."""
    stack, kinds = NAMES["get_interpreter_stack"], NAMES["TransformType"]
    return stack is None or kinds is None or any(asked(level.key(), kinds.Vmap) for level in stack() or ())


many_at_once = _legacy  # whether a tensor is a batch of gradients (is_grads_batched) that looks like one
