"""Checks of settings: each kind of annotation, and one line that says what was expected."""

import dataclasses
from typing import ClassVar, Literal

import pytest

from unimatrix.data.settings import check_positive, check_range, check_types
from unimatrix.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    kind: ClassVar[str] = "not a field"
    number: int = 1
    share: float = 0.5
    name: str = "x"
    flag: bool = False
    mode: Literal["one", "two"] = "one"
    pair: tuple[float, float] = (0.0, 1.0)
    several: tuple[int, ...] = ()
    perhaps: int | None = None


@pytest.mark.parametrize(
    "changed",
    [{}, {"share": 1}, {"several": (1, 2, 3)}, {"perhaps": 3}, {"mode": "two"}, {"pair": (1, 2)}],
)
def test_what_fits_passes(changed):
    check_types(Settings(**changed))


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"number": 1.0}, "number: expected a whole number, got 1.0"),
        ({"number": True}, "number: expected a whole number, got True"),
        ({"share": float("inf")}, "share: expected a number, got inf"),
        ({"share": False}, "share: expected a number, got False"),
        ({"name": None}, "name: expected a text, got None"),
        ({"flag": 0}, "flag: expected true or false, got 0"),
        ({"mode": "three"}, "mode: expected one of one, two, got 'three'"),
        ({"pair": (1.0,)}, "pair: expected 2 numbers, got (1.0,)"),
        ({"several": (1, 2.5)}, "several: expected whole numbers, got (1, 2.5)"),
        ({"several": 1}, "several: expected whole numbers, got 1"),
        ({"perhaps": "no"}, "perhaps: expected a whole number or None, got 'no'"),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(changed, expected):
    with pytest.raises(UserError) as caught:
        check_types(Settings(**changed))
    assert str(caught.value) == expected


def test_ranges():
    check_positive(Settings(), "number", "share", "perhaps")
    check_range(Settings(), "share", low=0.5, below=1.0)
    for values, name in (({"number": 0}, "number"), ({"perhaps": -1}, "perhaps")):
        with pytest.raises(UserError, match=f"^{name}: expected a positive number, got"):
            check_positive(Settings(**values), name)
    with pytest.raises(UserError, match=r"^share: expected at least 0 and below 0.5, got 0.5$"):
        check_range(Settings(), "share", low=0.0, below=0.5)
    with pytest.raises(UserError, match=r"^number: expected at least 2, got 1$"):
        check_range(Settings(), "number", low=2)
