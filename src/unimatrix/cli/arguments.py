"""What the commands' options have in common: reading them with tyro, and choosing a text."""

import contextlib
import dataclasses
import io
import math
import os
import re
import sys
import types
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import tyro

from unimatrix.codec import described, is_utf8
from unimatrix.errors import MAX_DIGITS, UserError, home_expanded, near_names, shown

if TYPE_CHECKING:
    from unimatrix.data import Corpus

Options = TypeVar("Options")

# sources that are names, not paths
SOURCE_NAMES = ("auto", "wikitext-2-raw", "embedded")

DataSource = Annotated[
    str | None,
    tyro.conf.arg(
        metavar="SOURCE",
        help="The text: auto (WikiText-2 from the hub, or without network Python's own sources), "
        "wikitext-2-raw, embedded, a file, or a folder.",
    ),
]
DataDir = Annotated[
    Path | None,
    tyro.conf.arg(metavar="DIR", help="A folder holding train.txt, valid.txt and test.txt."),
]


def parse(
    options: type[Options],
    arguments: Sequence[str],
    *,
    command: str,
    about: str,
    default: Options | None = None,
) -> Options:
    """Read a command's options.

    Args:
        about: shown by --help above the options.
        default: values of the options that are not given, instead of the type's own.
    Raises:
        UserError: an unknown option, or a value that does not fit.
        SystemExit: code 0, after --help.
    """
    if not {"-h", "--help"} & set(arguments):
        _check(options if default is None else default, arguments, command=command)
    try:
        # what goes wrong now is told by the exceptions behind the exit
        with contextlib.redirect_stderr(io.StringIO()):
            return tyro.cli(
                options,
                prog=f"unimatrix {command}",
                description=about,
                args=arguments,
                default=tyro.MISSING_NONPROP if default is None else default,
                # a part that may be there or not (a task) is options or none, by the default; no subcommand
                config=(
                    tyro.conf.FlagCreatePairsOff,
                    tyro.conf.OmitArgPrefixes,
                    tyro.conf.AvoidSubcommands,
                ),
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        behind: BaseException | None = stop
        while behind is not None and not isinstance(behind, UserError):
            behind = behind.__cause__ or behind.__context__
        raise UserError(str(behind or f"{command}: see unimatrix {command} --help")) from None
    finally:
        sys.stdout.flush()


def _check(options: Any, arguments: Sequence[str], *, command: str) -> None:
    """Raise a UserError, in our own words, unless every option is known and has the values that it takes."""
    fields = {field.name: field for field in option_fields(options)}
    named = {field.option: field.hint for field in fields.values() if not field.positional}
    loosely = [field for field in fields.values() if field.positional]
    most = sys.maxsize if any(_several(field.hint) for field in loosely) else len(loosely)
    left = list(arguments)
    loose: list[str] = []
    while left:
        word = left.pop(0)
        if not _is_option(word):
            _check_no_nul(word, command)
            loose.append(word)
            continue
        name, equals, value = word.partition("=")
        name = name.replace("_", "-")
        if name not in named:
            raise UserError(f"{command}: unknown option {shown(name)}; {_options_like(name, named, command)}")
        words = [value] if equals else _take(left, named[name])
        for one in words:
            _check_no_nul(one, name)
        problem = _problem(named[name], words)
        if problem is not None:
            got = " ".join(words)
            other = bool(left) and left[0].partition("=")[0].replace("_", "-") not in named
            dashed = other and not words and str in (named[name], *get_args(named[name]))
            hint = f"; write a text that begins with - as {name}=TEXT" if dashed else ""
            raise UserError(f"{name}: {problem}, got {shown(got) if words else 'none'}{hint}")
    needed = [name for name, field in fields.items() if field.positional and field.default is MISSING]
    if len(loose) > most:
        raise UserError(
            f"{command}: expected options, got {shown(loose[most])}; see unimatrix {command} --help"
        )
    if len(loose) < len(needed):
        raise UserError(f"{command}: expected one {needed[len(loose)]}; see unimatrix {command} --help")


@dataclass(frozen=True, slots=True)
class OptionField:
    """One option: the field that it sets, its type, whether it stands without --, its default or MISSING."""

    name: str
    hint: Any
    positional: bool
    default: Any

    @property
    def option(self) -> str:
        """As it is written; a flag that is on is switched off by its negation."""
        return f"--{'no-' if self.hint is bool and self.default is True else ''}{self.name.replace('_', '-')}"


def option_fields(options: Any) -> Iterator[OptionField]:
    """All options of a dataclass, or of an instance of one and of the settings nested in it."""
    hints = get_type_hints(options if isinstance(options, type) else type(options), include_extras=True)
    for field in dataclasses.fields(options):
        hint, marks = hints[field.name], ()
        if get_origin(hint) is Annotated:
            hint, *marks = get_args(hint)
        value = field.default if isinstance(options, type) else getattr(options, field.name)
        if dataclasses.is_dataclass(value):
            yield from option_fields(value)
        elif get_origin(hint) is not Mapping and not any(
            map(dataclasses.is_dataclass, (hint, *get_args(hint)))
        ):
            if tyro.conf.UseAppendAction in marks:  # each time one more
                hint = get_args(hint)[0]
            yield OptionField(field.name, hint, tyro.conf.Positional in marks, value)


def _check_no_nul(word: str, where: str) -> None:
    if "\0" in word:
        raise UserError(f"{where}: expected a text without NUL, got {shown(word)}")


def _options_like(name: str, named: Collection[str], command: str) -> str:
    near = near_names(name, named)
    return f"did you mean {' or '.join(near)}?" if near else f"see unimatrix {command} --help"


def _is_option(word: str) -> bool:
    """Whether a word names an option; a negative number is a value."""
    return word.startswith("-") and word != "-" and not _NUMBER.fullmatch(word)


def _take(left: list[str], hint: Any) -> list[str]:
    """The words that belong to an option of this type, removed from those that are left."""
    wanted = 0 if hint is bool else 1
    for option in get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,):
        if get_origin(option) is tuple:
            arguments = get_args(option)
            wanted = len(left) if arguments[-1] is Ellipsis else len(arguments)
    words = []
    while left and len(words) < wanted and not _is_option(left[0]):
        words.append(left.pop(0))
    return words


def _several(hint: Any) -> bool:
    return get_origin(hint) is tuple and get_args(hint)[-1] is Ellipsis


def _problem(hint: Any, words: Sequence[str]) -> str | None:
    """What was expected, if the words do not fit the type; None if they do."""
    if hint is bool:  # a flag
        return "expected nothing behind it" if words else None
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if any(_fits(option, words) for option in options):
        return None
    (option,) = [option for option in options if option is not type(None)]
    if get_origin(option) is tuple and get_args(option)[-1] is Ellipsis and not words:
        return "expected at least one"
    return f"expected {_DESCRIBED.get(option) or described(option)}"


def _fits(option: Any, words: Sequence[str]) -> bool:
    arguments = get_args(option)
    if get_origin(option) is tuple:
        several = arguments[-1] is Ellipsis
        if several and get_origin(arguments[0]) is tuple:  # groups of so many words each
            size = len(get_args(arguments[0]))
            groups = [words[at : at + size] for at in range(0, len(words), size)]
            return bool(groups) and all(_fits(arguments[0], group) for group in groups)
        kinds = [arguments[0]] * len(words) if several else arguments
        return len(words) == len(kinds) > 0 and all(map(_fits, kinds, ([word] for word in words)))
    if len(words) != 1:
        return False
    (word,) = words
    if option in (int, float):
        if not _NUMBER.fullmatch(word) or len(word) > MAX_DIGITS:
            return False
        return math.isfinite(float(word)) if option is float else word.lstrip("+-").isdigit()
    if get_origin(option) is Literal:
        return word in arguments
    words_of = {bool: ("True", "False"), type(None): ("None",)}
    return (
        word in words_of[option] if option in words_of else (option is str or (word != "" and is_utf8(word)))
    )


_DESCRIBED = {Path: "a path in UTF-8", bool: "True or False"}

# as written everywhere: neither a NaN nor another script's digits
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def choose_corpus(data: str | None, data_dir: Path | None, *, otherwise: str) -> "tuple[str, Corpus]":
    """The source that --data and --data-dir ask for (else `otherwise`), and its corpus.

    Raises:
        UserError: both are given, or there is no such text.
    """
    from unimatrix.data import load_corpus, load_data_dir  # with torch, which not every command needs

    if data is not None and data_dir is not None:
        raise UserError("--data and --data-dir: expected one of the two, got both")
    if data_dir is not None:
        return in_full(data_dir, is_folder=True), load_data_dir(data_dir)
    if data is None:
        check_still_there(otherwise)
    source = otherwise if data is None else in_full(data)
    return source, load_corpus(source)


def in_full(source: str | Path, *, is_folder: bool = False) -> str:
    """A path in full, so that whoever goes on finds it from another folder; the name of a source stays.

    is_folder: it is one, though it be called as a source is.
    """
    if not is_folder and (not str(source) or source in SOURCE_NAMES):
        return str(source)
    path = home_expanded(source, what="data")
    try:
        there = is_folder or path.is_file() or path.is_dir()
        return str(path.resolve()) if there else str(source)
    except (OSError, ValueError, RuntimeError):  # of what is no path loading tells
        return str(source)


def check_still_there(source: str) -> None:
    """Raise a UserError where a run's own text, a path of its time, is gone."""
    if source not in SOURCE_NAMES and os.path.isabs(source) and not os.path.lexists(source):
        raise UserError(
            f"data: the text that the run was trained on, {source!r}, is not there any more; expected "
            "it with --data"
        )


def option_value(arguments: Sequence[str], option: str) -> str | None:
    """The last value of `--option value` or `--option=value` among raw arguments; None without it."""
    value = None
    for position, argument in enumerate(arguments):
        name, equals, rest = argument.partition("=")
        if name.replace("_", "-") == option:
            value = rest if equals else next(iter(arguments[position + 1 : position + 2]), None)
    return value


def is_given(arguments: Sequence[str], option: str) -> bool:
    """Whether `--option` is among raw arguments, in any spelling that tyro takes."""
    return option in {argument.partition("=")[0].replace("_", "-") for argument in arguments}
