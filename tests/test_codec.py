"""The codec: what is written comes back equal; what does not fit is one line that names file and field."""

import itertools
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unimatrix import codec
from unimatrix.codec import (
    MAX_DEPTH,
    check_can_be_written,
    check_file,
    decode,
    encode,
    parse_json,
    read_json,
    read_json_lines,
    read_record,
)
from unimatrix.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Round:
    kind: ClassVar[str] = "round"
    radius: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Square:
    kind: ClassVar[str] = "square"
    side: int = 2

    def __post_init__(self) -> None:
        if self.side < 1:
            raise UserError(f"side: expected at least 1, got {self.side}")


@dataclass(frozen=True, kw_only=True)
class Drawing:
    name: str
    shape: Round | Square = Round()
    behind: Round | Square | None = None
    only: Square | None = None
    steps: tuple[int, ...] = ()
    pair: tuple[float, float] = (0.0, 1.0)
    cells: tuple[tuple[int, int], ...] = ()
    curve: list[list[float]] | None = None
    sizes: Mapping[str, int] | None = None
    mode: Literal["fast", "slow"] = "fast"
    on: bool = False
    anything: Any = None


WHOLE = Drawing(
    name="ä",
    shape=Square(side=3),
    behind=Round(radius=2.5),
    only=Square(),
    steps=(1, 2),
    pair=(3, 4.5),
    cells=((1, 2), (3, 4)),
    curve=[[1, 2.0], []],
    sizes={"a": 1},
    mode="slow",
    on=True,
    anything={"x": [None, 1]},
)


@pytest.mark.parametrize("drawing", [Drawing(name=""), WHOLE], ids=["defaults", "whole"])
def test_what_is_encoded_comes_back_equal(drawing: Drawing, tmp_path: Path) -> None:
    path = tmp_path / "drawing.json"
    path.write_text(json.dumps(encode(drawing)), encoding="utf-8")
    assert read_record(Drawing, path) == drawing


def test_a_kind_comes_first() -> None:
    assert list(encode(Square())) == ["kind", "side"]


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({}, "name: expected this field, got none"),
        ([], "expected an object with fields, got []"),
        (None, "expected an object with fields, got None"),
        ({"name": 3}, "name: expected a text, got 3"),
        ({"name": "", "nmae": ""}, "unknown field 'nmae'; did you mean name?"),
        ({"name": "", "on": 1}, "on: expected true or false, got 1"),
        ({"name": "", "steps": "12"}, "steps: expected whole numbers, got '12'"),
        ({"name": "", "steps": [1, True]}, "steps[1]: expected a whole number, got True"),
        ({"name": "", "steps": [1, 2.0]}, "steps[1]: expected a whole number, got 2.0"),
        ({"name": "", "pair": [1]}, "pair: expected 2 numbers, got [1]"),
        ({"name": "", "cells": 1}, "cells: expected groups of 2 numbers, got 1"),
        ({"name": "", "cells": [[1, 2], [3]]}, "cells[1]: expected 2 numbers, got [3]"),
        ({"name": "", "cells": [[1, "x"]]}, "cells[0][1]: expected a whole number, got 'x'"),
        ({"name": "", "curve": [[1], [2, "x"]]}, "curve[1][1]: expected a number, got 'x'"),
        ({"name": "", "sizes": {"a": "b"}}, "sizes.a: expected a whole number, got 'b'"),
        ({"name": "", "sizes": []}, "sizes: expected an object with fields, got []"),
        ({"name": "", "mode": "quick"}, "mode: expected one of fast, slow, got 'quick'"),
        ({"name": "", "mode": ["fast"]}, "mode: expected one of fast, slow, got ['fast']"),
        ({"name": "", "shape": None}, "shape: expected an object with a kind among round, square, got None"),
        (
            {"name": "", "shape": {"kind": "oval"}},
            "shape: expected an object with a kind among round, square, got 'oval'",
        ),
        (
            {"name": "", "shape": {"kind": {}}},
            "shape: expected an object with a kind among round, square, got {}",
        ),
        ({"name": "", "behind": {"side": 1}}, "kind among round, square or None, got None"),
        (
            {"name": "", "shape": {"kind": "square", "side": "1"}},
            "shape.side: expected a whole number, got '1'",
        ),
        ({"name": "", "shape": {"kind": "square", "side": 0}}, "shape: side: expected at least 1, got 0"),
        ({"name": "", "only": {"kind": "round"}}, "got 'round'"),
        ({"name": "", "pair": [1, float("inf")]}, "pair[1]: expected a number, got inf"),
    ],
)
def test_what_does_not_fit_is_named_with_its_place(values: Any, complaint: str) -> None:
    with pytest.raises(UserError, match=re.escape(complaint)) as caught:
        decode(Drawing, values, where="d.json")
    assert str(caught.value).startswith("d.json: ")
    assert "\n" not in str(caught.value)


def test_a_programming_error_stays_loud() -> None:
    @dataclass(frozen=True)
    class Broken:
        x: int = 0

        def __post_init__(self) -> None:
            raise ZeroDivisionError

    with pytest.raises(Exception) as caught:  # noqa: PT011 (cattrs' own group)
        decode(Broken, {}, where="b")
    assert not isinstance(caught.value, UserError)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "expected JSON, got none at column 1"),
        (b'{\n "a": 1\n "b"}', "at line 3, column 2"),
        (b"\xff", "expected UTF-8, got byte 0xff"),
        (b"[NaN]", "finite, got NaN"),
        (b"[-Infinity]", "finite, got -Infinity"),
        (b"[1e999]", "finite, got 1e999"),
        (b"[" + b"9" * 5000 + b"]", "at most 64 digits, got 5000"),
        (b'{"a": 1, "a": 2}', "got 'a' twice"),
        (b'["\\ud800"]', "texts in Unicode"),
        (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), f"at most {MAX_DEPTH} deep"),
        (b'{"a":' * 200_000, f"at most {MAX_DEPTH} deep"),
    ],
)
def test_what_is_no_json_is_one_line(data: bytes, complaint: str) -> None:
    with pytest.raises(UserError, match=re.escape(complaint)) as caught:
        parse_json(data, where="f.json")
    assert str(caught.value).startswith("f.json: ")
    assert "\n" not in str(caught.value)


def test_depth_is_counted_without_off_by_one() -> None:
    parse_json(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH, where="f.json")


def test_what_is_no_file_is_called_what_it_is(tmp_path: Path) -> None:
    fifo, dangling, null = tmp_path / "fifo", tmp_path / "dangling", tmp_path / "null"
    os.mkfifo(fifo)
    dangling.symlink_to(tmp_path / "nowhere")
    null.symlink_to("/dev/null")
    found = {fifo: "a FIFO", dangling: "a link to", null: "a device", tmp_path: "a folder"}
    for path, words in found.items():
        with pytest.raises(UserError, match=words):
            read_json(path)
    with pytest.raises(UserError, match="missing"):
        read_json(tmp_path / "absent")
    with pytest.raises(UserError, match="cannot be read"):
        read_json(Path("\0"))


def test_a_file_that_may_not_be_read_is_none_that_is_missing(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "secret"
    path.touch()
    check_file(path)
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may read all
    with pytest.raises(UserError, match=r"secret: cannot be read \(Permission denied\)$"):
        check_file(path)


def test_where_no_file_can_come_to_be_is_told_before(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").touch()
    check_can_be_written(tmp_path / "file")
    check_can_be_written(tmp_path / "new")
    check_can_be_written(tmp_path / "a" / "b" / "new", appends=True)
    for path, words in (
        (tmp_path / "a" / "new", "expected a folder that is there, got"),
        (tmp_path / "file" / "new", "expected a folder that is there, got"),
        (tmp_path, "expected a file, got a folder"),
    ):
        with pytest.raises(UserError, match=words):
            check_can_be_written(path)
    with pytest.raises(UserError, match=r"expected a folder that is there, got .*file$"):
        check_can_be_written(tmp_path / "file" / "b" / "new", appends=True)
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)  # root may write all
    for path in ("file", "new"):
        with pytest.raises(UserError, match=rf"{path}: cannot be written \(Permission denied\)$"):
            check_can_be_written(tmp_path / path)
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)  # a folder that is read-only
    check_can_be_written(tmp_path / "file", appends=True)
    for path, appends in (("file", False), ("new", True)):
        with pytest.raises(UserError, match=rf"{path}: cannot be written"):
            check_can_be_written(tmp_path / path, appends=appends)


def test_a_line_that_was_cut_short_is_one_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    for whole, torn in itertools.product((b"", b'{"a": 1}\n'), (b"", b"{", b'{"a')):
        path.write_bytes(whole + torn)
        assert len(list(read_json_lines(path))) == whole.count(b"\n")
    # whole, as editors leave it that write no last line break
    for begun in (b"", b'{"a": 1}\n', b'{"a": 1}\r\n'):
        path.write_bytes(begun + b'{"a": 2}')
        assert [value["a"] for _, value in read_json_lines(path)] == [1, 2][-1 - begun.count(b"\n") :]
    for text in (b"a note", b'{"a": 1}\nbehind it', b"[1"):  # it would be cut off
        path.write_bytes(text)
        with pytest.raises(UserError, match=r"rows, line \d: expected an object with fields, got"):
            list(read_json_lines(path))


def test_a_file_of_lines_may_grow_and_a_line_may_not(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "rows"
    monkeypatch.setattr(codec, "MAX_BYTES", 100)
    path.write_bytes(b'{"a": 1}\n' * 1000)
    assert len(list(read_json_lines(path))) == 1000
    with path.open("ab") as file:
        file.write(b'{"a": "' + b"x" * 100 + b'"}\n')
    with pytest.raises(UserError, match="rows, line 1001: expected at most 100 bytes, got more"):
        list(read_json_lines(path))


def test_a_file_beyond_the_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "big.json"
    with path.open("wb") as file:
        file.truncate(2**40)  # a sparse file
    with pytest.raises(UserError, match="expected at most"):
        read_json(path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def complaint(call: Callable[[], Any]) -> str:
    """What a call is refused with, checked to be one line; empty if it is not refused."""
    try:
        call()
    except UserError as error:
        text = str(error)
    else:
        return ""
    assert text.splitlines() == [text]
    return text


@given(st.dictionaries(st.sampled_from([*Drawing.__dataclass_fields__, "x"]), json_values))
def test_any_json_value_is_a_record_or_one_line(values: dict[str, Any]) -> None:
    if not complaint(lambda: decode(Drawing, values, where="d")):
        drawing = decode(Drawing, values, where="d")
        assert decode(Drawing, encode(drawing), where="d") == drawing


@given(st.binary() | st.text().map(str.encode) | json_values.map(lambda v: json.dumps(v).encode()))
def test_any_bytes_are_json_or_one_line(data: bytes) -> None:
    complaint(lambda: parse_json(data, where="f"))
