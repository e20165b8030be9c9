"""How a value and an unknown name are told in a complaint: on one line, and no longer than one."""

import pytest

from unimatrix.errors import did_you_mean, near_names, shown


def test_only_near_names_are_near() -> None:
    assert near_names("nosuch", ["bench", "eval"]) == []
    assert near_names("bnch", ["bench", "eval"]) == ["bench"]
    assert near_names("core", ["unimatrix-core", "transformer"]) == ["unimatrix-core"]
    assert near_names("bench" * 10**6, ["bench", "eval"]) == near_names("x", []) == []


def test_a_complaint_names_as_many_as_a_line_holds() -> None:
    names = [f"a-name-{number}" for number in range(40)]
    assert did_you_mean("zzz", names[:3]) == "known: a-name-0, a-name-1, a-name-2"
    words = did_you_mean("zzz", names)
    assert words.startswith("known: a-name-0, a-name-1, ")
    held = words.count("a-name-")
    assert words.endswith(f"a-name-{held - 1}, and {40 - held} more")
    assert 70 < len(words) < 105
    assert did_you_mean("zzz", []) == "known: none"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (3, "3"),
        ("a text\nof two lines", r"'a text\nof two lines'"),
        (10**64, "a number of 213 bits"),
        ({"a": [1, 2, 3, 4]}, "{'a': [1, 2, 3, ...]}"),
        ([[[[1]]]], "[[[...]]]"),
    ],
)
def test_a_value_is_told_as_python_tells_it_and_cut_short(value, said) -> None:
    assert shown(value) == said


def test_a_number_that_python_itself_does_not_write_is_told() -> None:
    assert shown(-(10**6000)) == "a number of 19932 bits"


def test_whatever_comes_is_told_on_one_short_line() -> None:
    class Wide:
        def __repr__(self) -> str:
            return "wide\n" * 1000

    for value in ("x" * 10**6, list(range(10**5)), {n: n for n in range(1000)}, Wide(), b"y" * 10**6):
        told = shown(value)
        assert len(told) < 80
        assert "\n" not in told
