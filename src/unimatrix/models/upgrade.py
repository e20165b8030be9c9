"""What earlier versions wrote, as this one reads it: the configuration of a model.

Until 0.1 a model was one kind of block, with a field for each thing that it could have besides. Weights have
the names that they had (what did change is `unimatrix.mixers.upgrade_weights`).
"""

from collections.abc import Mapping
from typing import Any

from unimatrix.errors import UserError, shown

MAX_DEPTH = 2**12  # a model's order says for each step which layer it applies

_THEN = {
    "mixer",
    "feed_forward",
    "depth",
    "shared_depth",
    "routing",
    "memory",
    "deep_embed",
    "step_embeddings",
}
_THEN |= {"convolution"}
_ONCE = ("routing", "deep_embed", "step_embeddings", "memory", "convolution")
_NOW = {"layers", "order", "parts", "norm"}


def upgrade_config(values: Mapping[str, Any]) -> dict[str, Any]:
    """A model config's JSON values in this version's form; what has it stays as it is.

    Raises:
        UserError: a depth that is none. All else is left for the config itself to refuse.
    """
    if not _THEN & set(values) or _NOW & set(values):
        return dict(values)  # of both forms: what was a field then is an unknown setting now
    then = dict(values)
    depth, shared = then.pop("depth", 3), then.pop("shared_depth", False)
    if not isinstance(depth, int) or isinstance(depth, bool) or not 1 <= depth <= MAX_DEPTH:
        raise UserError(f"depth: expected a whole number from 1 to {MAX_DEPTH:,}, got {shown(depth)}")
    if not isinstance(shared, bool):
        raise UserError(f"shared_depth: expected true or false, got {shown(shared)}")
    layer = {
        "mixer": then.pop("mixer", {"kind": "attention"}),
        "feed_forward": _feed_forward(then.pop("feed_forward", {"kind": "mlp"})),
    }
    once = {name: part for name in _ONCE if (part := then.pop(name, None)) not in (None, False)}
    if once.get("step_embeddings") is True:
        once["step_embeddings"] = {"kind": "step_embeddings"}
    memory = once.get("memory")
    if isinstance(memory, Mapping) and memory.get("kind") == "associative":
        layer["associations"] = once.pop("memory")
    # under the name that its weights have
    parts = {("steps" if name == "step_embeddings" else name): part for name, part in once.items()}
    if then.get("head") is None:
        then["head"] = {"kind": "tied"}
    layers, order = ([layer], [0] * depth) if shared else ([layer] * depth, list(range(depth)))
    return {"layers": layers, "order": order, "parts": parts} | then


def _feed_forward(values: Any) -> Any:
    if isinstance(values, Mapping) and values.get("kind") == "recurrent_ffn":
        return {"local": values.get("local_width") is not None} | dict(values)
    return values
