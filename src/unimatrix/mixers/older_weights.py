"""Weights of earlier versions under the names of this one."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from unimatrix.mixers.spectral import singular_vectors

_JOINT = "dqkv.weight"
_DIVIDED = ".parametrizations.weight.original"
_VECTORS = {".parametrizations.weight.0._u": ".u", ".parametrizations.weight.0._v": ".v"}


def upgrade_weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Named tensors of a model (or of its optimiser, "exp_avg/<parameter>") as this version names them.

    What has this version's names stays as it is. Until 0.1 the matrix state kept d beside q, k, v in one
    matrix where it mixes no rules, and a spectrally normalised matrix was PyTorch's parametrisation of a
    Linear, whose singular vectors could be far behind: they are found anew.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        mixer = name.removesuffix(_JOINT)
        if name.endswith(_JOINT) and mixer + "rules.weight" not in tensors:
            # an optimiser's count of steps is one number
            rows = len(tensor) // 4 if tensor.dim() else 0
            found[mixer + "d.weight"] = tensor[:rows].clone() if rows else tensor.clone()
            found[mixer + "qkv.weight"] = tensor[rows:].clone() if rows else tensor.clone()
        elif name.endswith(_DIVIDED):
            found[name.removesuffix(_DIVIDED) + ".original"] = tensor
        elif (end := name[name.rfind(".parametrizations") :]) in _VECTORS:
            weight = tensors.get(name.removesuffix(end) + _DIVIDED)
            if weight is not None and not weight.is_meta:
                tensor = singular_vectors(weight)[0 if end.endswith("_u") else 1].to(tensor.dtype)
            found[name.removesuffix(end) + _VECTORS[end]] = tensor
        else:
            found[name] = tensor
    return found


def upgrade_before_loading(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """A load_state_dict pre-hook: `upgrade_weights` of what is the module's own."""
    # a mixer's that mixes rules, in a state dict without the rules, looks like an earlier version's
    keeps = prefix + _JOINT if getattr(module, "qkv", None) is None else None
    own = {
        name: state_dict.pop(name) for name in list(state_dict) if name.startswith(prefix) and name != keeps
    }
    state_dict.update(upgrade_weights(own))
