"""Checks that frozen settings make of themselves: types by their annotations, and ranges.

A value that does not fit raises a UserError of one line: the field's name, what was expected, what came.
"""

import math
import types
from typing import Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

from unimatrix.errors import UserError


def check_types(config: Any) -> None:
    """Every field of a dataclass holds what its annotation says."""
    for name, hint in get_type_hints(type(config)).items():
        if get_origin(hint) is ClassVar:
            continue
        value = getattr(config, name)
        if not _fits(hint, value):
            raise UserError(f"{name}: expected {_described(hint)}, got {value!r}")


def check_positive(config: Any, *names: str) -> None:
    """The named fields are above 0, or None."""
    for name in names:
        value = getattr(config, name)
        if value is not None and value <= 0:
            raise UserError(f"{name}: expected a positive number, got {value}")


def check_range(config: Any, name: str, *, low: float, below: float = math.inf) -> None:
    """low <= field < below, or the field is None."""
    value = getattr(config, name)
    if value is not None and not low <= value < below:
        upper = "" if below == math.inf else f" and below {below:g}"
        raise UserError(f"{name}: expected at least {low:g}{upper}, got {value}")


def _fits(hint: Any, value: Any) -> bool:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(option, value) for option in arguments)
    if origin is Literal:
        return isinstance(value, str) and value in arguments
    if origin is tuple and arguments[-1] is Ellipsis:
        return isinstance(value, tuple) and all(_fits(arguments[0], item) for item in value)
    if origin is tuple:
        return isinstance(value, tuple) and len(value) == len(arguments) and all(map(_fits, arguments, value))
    if hint is float:
        # a NaN or an infinity is no setting, and JSON has no word for it
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _described(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_described(option) for option in arguments)
    if origin is Literal:
        return "one of " + ", ".join(arguments)
    if origin is tuple:
        if arguments[-1] is not Ellipsis:
            return f"{len(arguments)} numbers"
        return "texts" if arguments[0] is str else "whole numbers"
    names = {
        int: "a whole number",
        float: "a number",
        str: "a text",
        bool: "true or false",
        type(None): "None",
    }
    return names.get(hint, getattr(hint, "__name__", str(hint)))
