"""What the commands' options have in common: reading them with tyro, and choosing a text."""

import contextlib
import io
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import tyro

from unimatrix.data import Corpus, load_corpus, load_data_dir
from unimatrix.errors import UserError

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
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
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
        raise UserError(f"{command}: {_in_one_line(complaint.getvalue())}") from None
    finally:
        sys.stdout.flush()


def _in_one_line(box: str) -> str:
    """The message that tyro draws in a box, without the box."""
    rows = [row.strip("│ ") for row in box.splitlines() if not row.startswith(("╭", "╰"))]
    rows = [row for row in rows if row.strip("─- ")]
    # where stdout shows no lines there is no frame either, and the title is a row
    words = " ".join(rows if "╭" in box else rows[1:])
    words = re.sub(r"^Error parsing [a-z_.]+: ", "", words)
    words = re.sub(r"Perhaps you meant: ", "; perhaps you meant ", words)
    words = re.sub(r" *For full helptext, (?:see|run) (unimatrix [a-z -]+ --help)$", r" (see \1)", words)
    return re.sub(r" +;", ";", words) or " ".join(box.split())


def choose_corpus(data: str | None, data_dir: Path | None, *, otherwise: str) -> tuple[str, Corpus]:
    """The source that --data and --data-dir ask for (else `otherwise`), and its corpus.

    Raises:
        UserError: both are given, or there is no such text.
    """
    if data is not None and data_dir is not None:
        raise UserError("--data and --data-dir: expected one of the two, got both")
    if data_dir is not None:
        return str(data_dir), load_data_dir(data_dir)
    source = otherwise if data is None else data
    return source, load_corpus(source)


def option_value(arguments: Sequence[str], option: str) -> str | None:
    """The last value of `--option value` or `--option=value` among raw arguments; None without it."""
    value = None
    for position, argument in enumerate(arguments):
        name, equals, rest = argument.partition("=")
        if name == option:
            value = rest if equals else next(iter(arguments[position + 1 : position + 2]), None)
    return value


def is_given(arguments: Sequence[str], option: str) -> bool:
    """Whether `--option` is among raw arguments, in any spelling that tyro takes."""
    return option in {argument.partition("=")[0].replace("_", "-") for argument in arguments}
