"""Between files and frozen dataclasses: every JSON file that the project reads comes through here.

    values = read_json(path)                      # a JSON value, or a UserError that names the file
    record = decode(Record, values, where=path)   # a Record, or a UserError that names the file and the field
    values = encode(record)                       # the way back

A file is bad input until it is shown to be good: it may be missing, a FIFO, huge, not UTF-8, nested a million
deep, hold a NaN, or hold a text where a number belongs. Each of these is one line. The work is cattrs'; set
here is that nothing is converted (a "3" is no 3, a true is no 1), and that a dataclass with a `kind` carries
it in JSON, which tells one of several apart. Importing this module imports nothing else.
"""

import dataclasses
import errno
import json
import math
import os
import stat
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from unimatrix.errors import MAX_DIGITS, UserError, did_you_mean, shown

Record = TypeVar("Record")

MAX_BYTES = 64 * 2**20
MAX_DEPTH = 64

# what users call them
_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", type(None): "None"}
_FILE_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


def check_file(path: Path) -> None:
    """Raise a UserError unless there is a regular file; what would never end is called what it is."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        dangling = f"a link to {os.readlink(path)}, which is not there" if path.is_symlink() else "missing"
        raise UserError(f"{path}: expected a file, {dangling}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({_reason(error)})") from error
    for is_kind, words in _FILE_KINDS:
        if is_kind(mode):
            raise UserError(f"{path}: expected a file, got {words}")
    if not os.access(path, os.R_OK):  # some readers call it missing, or corrupt
        raise UserError(f"{path}: cannot be read ({os.strerror(errno.EACCES)})")


def check_can_be_written(path: Path, *, appends: bool = False) -> None:
    """Raise a UserError where no file can come to be, before the work that it is to hold is done.

    Args:
        appends: lines are added to it (`unimatrix.atomic.append_lines`), else it is replaced.
    """
    exists = os.path.lexists(path)
    if exists:
        check_file(path)
    folder = path.absolute().parent
    while appends and not os.path.lexists(folder):
        folder = folder.parent
    if not folder.is_dir():
        raise UserError(f"{path}: expected a folder that is there, got {folder}")
    if not os.access(path if exists and appends else folder, os.W_OK):
        raise UserError(f"{path}: cannot be written ({os.strerror(errno.EACCES)})")


def read_bytes(path: Path, *, max_bytes: int = MAX_BYTES) -> bytes:
    """A regular file's contents; a UserError that names it where there is none, or one beyond max_bytes."""
    check_file(path)
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise UserError(f"{path}: expected at most {max_bytes:,} bytes, got {size:,}")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({_reason(error)})") from error


def read_json(path: Path, *, max_bytes: int = MAX_BYTES) -> Any:
    """The JSON value in a file.

    Raises:
        UserError: no such file, or what `parse_json` refuses; it names the file.
    """
    return parse_json(read_bytes(path, max_bytes=max_bytes), where=path)


def read_record(record: type[Record], path: Path) -> Record:
    """The dataclass that a JSON file holds; a UserError names the file and the field."""
    return decode(record, read_json(path), where=path)


def read_json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """A place to complain of and the JSON value of each line, oldest first; none if there is no file.

    A last line without its line break is a whole object that lost nothing else, as some editors leave it, or
    was cut short by a kill or a full disk: that is left out, because whoever wrote it did not finish writing.
    Whoever appends will cut it off, so that it must have begun as an object.

    Raises:
        UserError: a whole line is no JSON value, or the last one no beginning of an object; it names the file
            and the line.
    """
    # a link to nowhere is not "none yet"
    if not os.path.lexists(path):
        return
    check_file(path)
    try:
        with path.open("rb") as file:
            # such files grow with the work: a line has a limit, and the file none
            for number, line in enumerate(iter(lambda: file.readline(MAX_BYTES + 1), b""), start=1):
                where = f"{path}, line {number}"
                if len(line) > MAX_BYTES:
                    raise UserError(f"{where}: expected at most {MAX_BYTES:,} bytes, got more")
                if line.endswith(b"\n") or is_whole_object(line):
                    yield where, parse_json(line.removesuffix(b"\n"), where=where)
                elif not line.startswith(b"{"):
                    raise UserError(f"{where}: expected an object with fields, got another text")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({_reason(error)})") from error


def is_whole_object(line: bytes) -> bool:
    """Whether a line of JSON is an object that ends: one that was cut short anywhere does not."""
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def parse_json(data: bytes | str, *, where: object) -> Any:
    """The JSON value in `data`; `where` is what a complaint begins with: a path, or a path and a line.

    Raises:
        UserError: not UTF-8, not JSON, a key twice, nested deeper than MAX_DEPTH, NaN or an infinity, a
            number of more than MAX_DIGITS digits, a text that is no text (lone surrogates).
    """
    try:
        text = data.decode("utf-8") if isinstance(data, bytes) else data
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: expected UTF-8, got byte {error.object[error.start]:#04x}") from error
    try:
        value = json.loads(
            text,
            parse_constant=_no_constant,
            parse_float=_finite,
            parse_int=_whole,
            object_pairs_hook=_without_repeats,
        )
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}" if "\n" in text else f"column {error.colno}"
        raise UserError(f"{where}: expected JSON, got none at {place}") from error
    except RecursionError:
        raise UserError(f"{where}: expected JSON nested at most {MAX_DEPTH} deep") from None
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    _check_depth_and_texts(value, where)
    return value


def decode(record: type[Record], values: Any, *, where: object) -> Record:
    """The dataclass (or other type of JSON values) that `values` hold, every field checked by its annotation.

    Args:
        record: the type; fields of other dataclasses, Literals, unions with None, unions of dataclasses with
            a `kind`, tuples, lists and mappings are followed. A float field takes a whole number as it is.
        where: what a complaint begins with: a path, "experiment", ...
    Raises:
        UserError: a field is missing, unknown (names the near ones), of another type, or refused by the
            dataclass itself.
    """
    try:
        return _converter().structure(values, record)
    except Exception as error:
        path, message = _first_problem(error)
        if message is None:  # a programming error
            raise
        raise UserError(": ".join([str(where), *([path] if path else []), message])) from error


def encode(value: Any) -> Any:
    """JSON values: dataclasses as objects (with their kind, if they have one, first), tuples as lists.

    What has a `to_json` says itself what it is there.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: encode(getattr(value, field.name)) for field in dataclasses.fields(value)}
        kind = getattr(value, "kind", None)
        return fields if kind is None else {"kind": kind, **fields}
    own: Any = getattr(value, "to_json", None)
    if own is not None:
        return own()
    if isinstance(value, Mapping):
        return {name: encode(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [encode(item) for item in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def described(hint: Any) -> str:
    """A type in a user's words: "a whole number or None"."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(described(option) for option in arguments))
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin is tuple:
        if arguments[-1] is not Ellipsis:
            return f"{len(arguments)} numbers"
        if get_origin(arguments[0]) is Literal:
            return "some of " + ", ".join(map(str, get_args(arguments[0])))
        if get_origin(arguments[0]) is tuple:
            return f"groups of {described(arguments[0])}"
        return "texts" if arguments[0] is str else "whole numbers"
    if origin in (list, Sequence):
        return "a list"
    if origin in (dict, Mapping) or dataclasses.is_dataclass(hint) or _reads_itself(hint):
        return "an object with fields"
    return _WORDS.get(hint, getattr(hint, "__name__", str(hint)))


def _no_constant(name: str) -> Any:
    raise UserError(f"expected numbers that are finite, got {name}")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise UserError(f"expected numbers that are finite, got {digits[:MAX_DIGITS]}")
    return value


def _whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise UserError(f"expected numbers of at most {MAX_DIGITS} digits, got {len(digits)}")
    return int(digits)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        met: set[str] = set()
        twice = next(name for name, _ in pairs if name in met or met.add(name))
        raise UserError(f"expected every field once, got {shown(twice)} twice")
    return values


def _check_depth_and_texts(value: Any, where: object) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                inner.extend(item.keys())
                inner.extend(item.values())
            elif isinstance(item, list):
                inner.extend(item)
            elif isinstance(item, str) and not is_utf8(item):
                raise UserError(f"{where}: expected texts in Unicode, got {shown(item)}")
        if not inner:
            return
        level = inner
    raise UserError(f"{where}: expected JSON nested at most {MAX_DEPTH} deep")


def is_utf8(value: str) -> bool:
    """Whether a text can be written as UTF-8: the path of a file need not be."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


@cache
def _converter() -> Any:
    from cattrs import Converter

    converter = Converter(forbid_extra_keys=True, detailed_validation=True)
    for plain in (bool, int, float, str, type(None)):
        converter.register_structure_hook(plain, _plain)
    converter.register_structure_hook_factory(lambda hint: get_origin(hint) is Literal, _literal_hook)
    converter.register_structure_hook_factory(_holds_items, lambda hint: _items_hook(hint, converter))
    converter.register_structure_hook_factory(_holds_fields, lambda hint: _mapping_hook(hint, converter))
    converter.register_structure_hook_factory(
        dataclasses.is_dataclass, lambda hint: _dataclass_hook(hint, converter)
    )
    converter.register_structure_hook_factory(
        _reads_itself, lambda hint: lambda value, _: hint.from_json(value)
    )
    converter.register_structure_hook_factory(
        lambda hint: get_origin(hint) in (Union, types.UnionType), lambda hint: _union_hook(hint, converter)
    )
    return converter


def fits(value: Any, plain: Any) -> bool:
    """Whether a value is of a plain type (bool, int, float, str, None) as JSON and users mean it.

    A true is no whole number; a whole number is a number; NaN and the infinities are none.
    """
    if plain is float:
        if isinstance(value, int) and not isinstance(value, bool):
            return abs(value) < 2**1023
        return isinstance(value, float) and math.isfinite(value)
    if plain is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, plain)


def _plain(value: Any, hint: Any) -> Any:
    if not fits(value, hint):
        raise UserError(f"expected {_WORDS[hint]}, got {shown(value)}")
    return value


def _literal_hook(hint: Any) -> Callable[[Any, Any], Any]:
    def structure(value: Any, _: Any) -> Any:
        if not any(type(value) is type(option) and value == option for option in get_args(hint)):
            raise UserError(f"expected {described(hint)}, got {shown(value)}")
        return value

    return structure


def _holds_items(hint: Any) -> bool:
    return get_origin(hint) in (tuple, list, Sequence)


def _items_hook(hint: Any, converter: Any) -> Callable[[Any, Any], Any]:
    arguments = get_args(hint)
    fixed = get_origin(hint) is tuple and arguments[-1] is not Ellipsis

    def structure(value: Any, _: Any) -> Any:
        if not isinstance(value, list | tuple) or (fixed and len(value) != len(arguments)):
            raise UserError(f"expected {described(hint)}, got {shown(value)}")
        kinds = arguments if fixed else [arguments[0]] * len(value)
        items = [
            _placed(f"[{place}]", converter, item, kind)
            for place, (item, kind) in enumerate(zip(value, kinds, strict=True))
        ]
        return tuple(items) if get_origin(hint) is tuple else items

    return structure


def _holds_fields(hint: Any) -> bool:
    return get_origin(hint) in (dict, Mapping)


def _mapping_hook(hint: Any, converter: Any) -> Callable[[Any, Any], Any]:
    key_type, value_type = get_args(hint)

    def structure(value: Any, _: Any) -> Any:
        if not isinstance(value, Mapping):
            raise UserError(f"expected an object with fields, got {shown(value)}")
        return {
            _placed("a name", converter, name, key_type): _placed(
                name if str(name).isidentifier() else shown(name), converter, item, value_type
            )
            for name, item in value.items()
        }

    return structure


def _dataclass_hook(hint: Any, converter: Any) -> Callable[[Any, Any], Any]:
    from cattrs.gen import make_dict_structure_fn

    fields = make_dict_structure_fn(hint, converter, _cattrs_forbid_extra_keys=True)
    kind = getattr(hint, "kind", None)
    upgraded = getattr(hint, "upgraded", None)  # what earlier versions wrote, in this one's form
    known = [field.name for field in dataclasses.fields(hint) if field.init]

    def structure(value: Any, _: Any) -> Any:
        if isinstance(value, hint):  # a part that was built already
            return value
        if not isinstance(value, Mapping):
            raise UserError(f"expected an object with fields, got {shown(value)}")
        if upgraded is not None:
            value = upgraded(value)
        if kind is not None and "kind" in value:
            if value["kind"] != kind:
                raise UserError(f"expected kind {kind!r}, got {shown(value['kind'])}")
            value = {name: item for name, item in value.items() if name != "kind"}
        for name in value:
            if name not in known:
                raise UserError(f"unknown field {shown(name)}; {did_you_mean(name, known)}")
        return fields(value, hint)

    return structure


def _reads_itself(hint: Any) -> bool:
    """A class that is no dataclass and knows what JSON values are one of it: `from_json(values)`."""
    return isinstance(hint, type) and not dataclasses.is_dataclass(hint) and hasattr(hint, "from_json")


def _union_hook(hint: Any, converter: Any) -> Callable[[Any, Any], Any]:
    options = get_args(hint)
    kinds = {option.kind: option for option in options if hasattr(option, "kind")}
    rest = [option for option in options if not hasattr(option, "kind") and option is not type(None)]

    def structure(value: Any, _: Any) -> Any:
        if value is None and type(None) in options:
            return None
        if isinstance(value, tuple(kinds.values())):
            return value
        if kinds and not rest:
            kind = value.get("kind") if isinstance(value, Mapping) else None
            if not isinstance(kind, str) or kind not in kinds:
                words = "an object with a kind among " + ", ".join(kinds)
                got = shown(kind) if isinstance(value, Mapping) else shown(value)
                raise UserError(f"expected {words}{' or None' if type(None) in options else ''}, got {got}")
            return converter.structure(value, kinds[kind])
        if len(rest) == 1:
            return converter.structure(value, rest[0])
        for option in rest:
            if option in _WORDS and fits(value, option):
                return value
        for option in rest:
            if option not in _WORDS:
                return converter.structure(value, option)
        raise UserError(f"expected {described(hint)}, got {shown(value)}")

    return structure


class _Placed(Exception):
    """A problem and the place of the item that has it."""

    def __init__(self, place: str, problem: Exception) -> None:
        super().__init__(place)
        self.place, self.problem = place, problem


def _placed(place: str, converter: Any, value: Any, hint: Any) -> Any:
    try:
        return converter.structure(value, hint)
    except Exception as error:
        raise _Placed(place, error) from error


def _first_problem(error: Exception) -> tuple[str, str | None]:
    """(path of the field, message) of the first complaint; no message: it is nobody's bad input."""
    from cattrs import AttributeValidationNote, ClassValidationError

    path: list[str] = []
    while True:
        notes = getattr(error, "__notes__", ())
        path.extend(f".{note.name}" for note in notes if isinstance(note, AttributeValidationNote))
        if isinstance(error, _Placed):
            path.append(error.place if error.place.startswith("[") else f".{error.place}")
            error = error.problem
        elif isinstance(error, ClassValidationError):
            error = error.exceptions[0]
        else:
            break
    where = "".join(path).lstrip(".")
    if isinstance(error, UserError):
        return where, str(error)
    if isinstance(error, KeyError) and path:
        return where, "expected this field, got none"
    return where, None
