"""What a state looks like: its own nested tuples with a description in each tensor's place."""

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from unimatrix.errors import UserError, UserTypeError
from unimatrix.ops.shapes import under_autocast


class Kept(NamedTuple):
    """One tensor of a state, batch first.

    shape: without the batch; None is any size. dtype: of its own, or the model's ("stream"), or the one sums
    are kept in ("sums": float32, float64 in a float64 model). optional: None may stand in its place. ids: of
    tokens, or -1 for none. host: it lies in the CPU's memory, wherever the model is.
    """

    shape: tuple[int | None, ...]
    dtype: torch.dtype | Literal["stream", "sums"]
    optional: bool = False
    ids: bool = False
    host: bool = False


def kept(
    shape: tuple[int | None, ...],
    dtype: Any,
    *,
    optional: bool = False,
    ids: bool = False,
    host: bool = False,
) -> Any:
    """A `Kept`, where a state's type has a tensor."""
    return Kept(shape, dtype, optional, ids, host)


class _Given(NamedTuple):
    """What a state has to go with."""

    batch: int
    device: torch.device
    dtypes: dict[str, torch.dtype | None]


def check_state(state: Any, layout: Any, inputs: Tensor, dtype: torch.dtype) -> None:
    """Raise a UserError unless a state is one of this model, for these inputs [B, ...]; looks at no value.

    Args:
        layout: the state with a `Kept` for each tensor, and None where the model has no such part.
        dtype: of the model's weights.
    """
    device = inputs.device
    sums = torch.float64 if dtype == torch.float64 else torch.float32
    # under autocast a state has the dtype that the products were made in
    stream = None if under_autocast(device) else dtype
    dtypes = {"stream": stream, "sums": sums}
    _check(("state",), state, layout, _Given(inputs.shape[0], device, dtypes))


_named_for_export: set[type] = set()


def name_for_export(layout: Any) -> None:
    """Give the tuples of a state names: a model that torch.export has taken with its state is then saved."""
    if isinstance(layout, dict):
        for part in layout.values():
            name_for_export(part)
    elif isinstance(layout, tuple) and type(layout) is not Kept:
        for part in layout:
            name_for_export(part)
        kind = type(layout)
        if hasattr(kind, "_fields") and kind not in _named_for_export:
            _named_for_export.add(kind)
            ours = kind.__module__.partition(".")[0] == "unimatrix"
            name = f"unimatrix.{kind.__name__}" if ours else f"{kind.__module__}.{kind.__qualname__}"
            pytree._register_namedtuple(kind, serialized_type_name=name)


def _check(place: tuple[Any, ...], value: Any, layout: Any, given: _Given) -> None:
    if type(layout) is Kept:
        if value is None and layout.optional:
            return
        if not isinstance(value, Tensor):
            raise UserTypeError(f"{_named(place)}: expected a tensor, got {_kind(value)}")
        shape, (batch, device, dtypes) = value.shape, given
        wanted = layout.shape
        if len(shape) != len(wanted) + 1 or any(
            w is not None and w != got for w, got in zip(wanted, shape[1:], strict=True)
        ):
            sizes = ", ".join("any" if size is None else str(size) for size in (batch, *wanted))
            raise UserError(
                f"{_named(place)}: expected one of this model, shape [{sizes}], got {list(shape)}"
            )
        if shape[0] != batch:
            raise UserError(f"{_named(place)}: expected as many rows as the inputs, {batch}, got {shape[0]}")
        dtype = dtypes[layout.dtype] if isinstance(layout.dtype, str) else layout.dtype
        if dtype is not value.dtype and (dtype is not None or not value.is_floating_point()):
            raise UserTypeError(f"{_named(place)}: expected {_short(dtype)}, got {_short(value.dtype)}")
        if layout.host:
            if value.device.type != "cpu":
                raise UserError(f"{_named(place)}: expected it on the host, cpu, got {value.device}")
        elif value.device != device:
            raise UserError(
                f"{_named(place)}: expected it where the inputs are, {device}, got {value.device}"
            )
    elif layout is None:
        if value is not None:
            raise UserTypeError(f"{_named(place)}: expected none in this model, got {_kind(value)}")
    elif isinstance(layout, dict):
        if not isinstance(value, dict) or value.keys() != layout.keys():
            got = sorted(value) if isinstance(value, dict) else _kind(value)
            raise UserTypeError(f"{_named(place)}: expected the parts {sorted(layout)}, got {got}")
        for name, expected in layout.items():
            _check((*place, name), value[name], expected, given)
    else:
        if type(value) is not type(layout) or len(value) != len(layout):
            expected = type(layout).__name__ if hasattr(layout, "_fields") else f"tuple of {len(layout)}"
            raise UserTypeError(
                f"{_named(place)}: expected a {expected}, as this model returns it, got {_kind(value)}"
            )
        names = getattr(layout, "_fields", range(len(layout)))
        for name, part, expected in zip(names, value, layout, strict=True):
            if part is not None or expected is not None:
                _check((*place, name), part, expected, given)


def _named(place: tuple[Any, ...]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)[1:]


def _kind(value: Any) -> str:
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return f"a tuple of {len(value)}"
    return "None" if value is None else f"a {type(value).__name__}"


def _short(dtype: torch.dtype | None) -> str:
    return "floating point" if dtype is None else str(dtype).removeprefix("torch.")
