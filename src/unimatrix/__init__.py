"""UniMatrix: sequence models with an associative state.

>>> import torch, unimatrix
>>> model = unimatrix.build("unimatrix-core")
>>> logits, state = model(torch.tensor([[104, 105]]))
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unimatrix.errors import UserError
    from unimatrix.mixers import parts, register
    from unimatrix.models import LanguageModel, ModelConfig, build, presets, state_bytes

__version__ = "0.1.0"

__all__ = [
    "LanguageModel",
    "ModelConfig",
    "UserError",
    "build",
    "parts",
    "presets",
    "register",
    "state_bytes",
]

_HOMES = {
    "LanguageModel": "unimatrix.models",
    "ModelConfig": "unimatrix.models",
    "UserError": "unimatrix.errors",
    "build": "unimatrix.models",
    "parts": "unimatrix.mixers",
    "presets": "unimatrix.models",
    "register": "unimatrix.mixers",
    "state_bytes": "unimatrix.models",
}


def __getattr__(name: str) -> Any:
    # on demand, so that `unimatrix --help` need not wait for torch
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'unimatrix' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
