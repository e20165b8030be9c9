"""What the figures of a page are made of, as it stands in the page: short. page.js makes of it what it was.

Records become columns, a number is written in as many digits as a reader is ever told, and what stands in
several places (a run's name, the colours of a study's rows, a whole layer) stands once, as {"$": its number}.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

_DIGITS = 7  # of a number; a tooltip tells at most six
_LEAST = 24  # characters of what is worth a place of its own


def columns(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The records as {"rows": how many, "columns": name -> its values}; null where a record has none.

    Where that is shorter, values are {"of": the different ones, "at": which one stands in each row}, and a
    column of one value {"of": [it]}.
    """
    names = list(dict.fromkeys(name for record in records for name in record))
    found = {name: [_short(record.get(name)) for record in records] for name in names}
    return {"rows": len(records), "columns": {name: _column(values) for name, values in found.items()}}


def shared(part: Any) -> dict[str, Any]:
    """{"shared": [...], "whole": ...}: the same value; what stands twice in it is {"$": its place in shared}.

    A value must have no key "$" of its own.
    """
    texts: Counter[str] = Counter()
    _count(part, texts)
    places: dict[str, int] = {}
    kept: list[Any] = []

    def told(value: Any) -> Any:
        text = _text(value)
        if texts[text] < 2 or len(text) < _LEAST:
            return inner(value)
        if text not in places:
            places[text] = len(kept)
            kept.append(None)
            kept[places[text]] = inner(value)
        return {"$": places[text]}

    def inner(value: Any) -> Any:
        if isinstance(value, dict):
            assert "$" not in value
            return {name: told(one) for name, one in value.items()}
        return [told(one) for one in value] if isinstance(value, list) else value

    whole = inner(part)
    return {"shared": kept, "whole": whole}


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _count(part: Any, texts: Counter[str]) -> None:
    """How often each text stands there; within what was seen before nothing is counted again."""
    text = _text(part)
    texts[text] += 1
    if texts[text] > 1:
        return
    for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        _count(inner, texts)


def _short(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    near = float(f"{value:.{_DIGITS}g}")
    return int(near) if near.is_integer() else near


def _column(values: list[Any]) -> Any:
    different = list({_text(value): value for value in values}.values())
    if len(different) == 1:
        return {"of": different}
    number = {_text(value): place for place, value in enumerate(different)}
    told = {"of": different, "at": [number[_text(value)] for value in values]}
    return min(values, told, key=lambda one: len(_text(one)))
