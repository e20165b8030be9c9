"""Checks that frozen settings make of themselves: types by their annotations, and ranges.

A value that does not fit raises a UserError of one line: the field's name, what was expected, what came.
"""

import math
import types
from functools import cache
from typing import Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

from unimatrix.codec import decode, described
from unimatrix.errors import UserError, UserTypeError, shown

# the bytes of every matrix can be counted in 64 bits
_MOST_OF = {"vocab_size": 2**31 - 1, "max_positions": 2**31 - 1, "num_heads": 2**16}
_MOST = 2**20

# no count is that large, and arithmetic in floats and in 64 bits is safe below it
_BEYOND = 2**63


def check_types(config: Any) -> None:
    """Every field of a dataclass holds what its annotation says; a whole number for a float becomes one."""
    for name, hint, is_float in _fields(type(config)):
        value = getattr(config, name)
        check_type(name, hint, value)
        if is_float and type(value) is int:
            object.__setattr__(config, name, float(value))


@cache  # annotations are text that is evaluated anew each time, and configs are made by the thousand
def _fields(kind: type) -> tuple[tuple[str, Any, bool], ...]:
    """Name, annotation, and whether a whole number is meant as a float, of each field."""
    hints = {n: hint for n, hint in get_type_hints(kind).items() if get_origin(hint) is not ClassVar}
    return tuple(
        (name, hint, float in (hint, *get_args(hint)) and int not in get_args(hint))
        for name, hint in hints.items()
    )


def check_type(name: str, hint: Any, value: Any) -> None:
    """A value is of a type: a list is no tuple here, and an object's fields are no settings yet."""
    if _plainly(hint, value):
        return  # as presets are made, when only torch and numpy need be there
    try:
        fits = decode(hint, value, where=name) == value
    except UserError:
        fits = False
    if not fits:
        raise UserTypeError(f"{name}: expected {described(hint)}, got {shown(value)}")


def _plainly(hint: Any, value: Any) -> bool:
    """Whether a value is of a type, seen without the codec; False says nothing."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_plainly(option, value) for option in arguments)
    if origin is Literal:
        return isinstance(value, str) and value in arguments
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        return type(value) is tuple and all(_plainly(arguments[0], item) for item in value)
    if hint is float:
        return type(value) is float and math.isfinite(value)
    if hint in (int, bool, str, type(None)):
        return type(value) is hint
    return hasattr(hint, "from_json") and isinstance(value, hint)


def check_positive(config: Any, *names: str) -> None:
    """The named fields are above 0 and, if whole, below 2^63; or None."""
    for name in names:
        value = getattr(config, name)
        if value is not None and value <= 0:
            raise UserError(f"{name}: expected a positive number, got {value}")
        _check_countable(name, value)


def check_range(config: Any, name: str, *, low: float, below: float = math.inf) -> None:
    """low <= field < below and, if whole, below 2^63; or the field is None."""
    value = getattr(config, name)
    _check_countable(name, value)
    if value is not None and not low <= value < below:
        upper = "" if below == math.inf else f" and below {below:g}"
        raise UserError(f"{name}: expected at least {low:g}{upper}, got {value}")


def check_stride(name: str, stride: int, *, window: int) -> None:
    """Windows so far apart have whole strides in common."""
    if not 0 < stride <= window or window % stride:
        raise UserError(f"{name}: expected a divisor of the window, {window}, got {stride}")


def _check_countable(name: str, value: Any) -> None:
    if isinstance(value, int) and value >= _BEYOND:
        raise UserError(f"{name}: expected a number below 2^63, got {shown(value)}")


def check_counts(config: Any, *names: str) -> None:
    """The named fields are whole numbers from 1 to what a model's size may be, or None."""
    for name in names:
        value, most = getattr(config, name), _MOST_OF.get(name, _MOST)
        if value is not None and value < 1:
            raise UserError(f"{name}: expected a whole number of at least 1, got {shown(value)}")
        if value is not None and value > most:
            raise UserError(f"{name}: expected a whole number of at most {most:,}, got {shown(value)}")
