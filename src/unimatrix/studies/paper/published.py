"""Every number that the paper prints, read from published.json beside this file.

The numbers are the paper's, arXiv:2604.25930v1, licensed CC BY 4.0. They are never edited here: where ours
differ, ours stand beside them.
"""

import functools
import json
from collections.abc import Iterator
from importlib import resources
from typing import Any

Path = tuple[str | int, ...]

ON_TEXT = "language_model_vocab259_positions128"
ON_RECALL = "recall_vocab64_positions128"
ON_TRIPLES = "triple_interaction_vocab53_positions49"


class Printed(float):
    """A number that the paper prints; path: where it stands in published.json."""

    path: Path


class PrintedCount(int):
    """A whole number that the paper prints, likewise."""

    path: Path


@functools.cache
def read(name: str) -> dict[str, Any]:
    """The whole of a file beside this one. Callers read it and never write to it: it is one shared object."""
    text = resources.files("unimatrix.studies.paper").joinpath(name).read_text(encoding="utf-8")
    return json.loads(text)


def published() -> dict[str, Any]:
    """The whole of published.json."""
    return read("published.json")


def printed(*keys: str | int) -> Printed:
    """One printed number, by its path: printed("table1_bpb", "transformer", "val_bpb").

    A place in a list goes by its number, or by the name that the table's _columns give it. What is made of it
    keeps its path, so that a test can tell which numbers are shown somewhere.

    Raises:
        KeyError: the paper prints no such number.
    """
    value, path = _found(keys)
    number = Printed(value)
    number.path = path
    return number


def printed_parameters(model: str, *, setting: str = ON_TEXT) -> PrintedCount:
    """The paper's parameter count of a model in one of its settings; a KeyError if it prints none."""
    value, path = _found(("parameters", setting, model))
    number = PrintedCount(value)
    number.path = path
    return number


def _found(keys: tuple[str | int, ...]) -> tuple[Any, Path]:
    value: Any = published()
    columns: list[str] = []
    path: Path = ()
    for key in keys:
        if isinstance(value, dict):
            if key not in value:
                raise KeyError(".".join(map(str, keys)))
            place = key
        else:
            place = columns.index(key) if isinstance(key, str) else key
        value, path = value[place], (*path, place)
        if isinstance(value, dict):
            columns = value.get("_columns", columns)
    return value, path


def every_path(value: Any = None, path: Path = ()) -> Iterator[Path]:
    """The paths of all numbers that the paper prints."""
    value = published() if value is None else value
    if isinstance(value, int | float):
        yield path
    elif isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            if not str(key).startswith("_"):
                yield from every_path(inner, (*path, key))
