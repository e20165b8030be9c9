"""How long what is left will take."""

import pytest

from unimatrix.lab.training import seconds_left

EXPECTED = {"short": 10.0, "long": 100.0}


def test_it_is_what_runs_took_elsewhere_scaled_by_this_machine() -> None:
    assert seconds_left([], ["short", "long"], EXPECTED) == 110.0
    # twice as slow here
    assert seconds_left([("short", 20.0)], ["long", "short"], EXPECTED) == pytest.approx(220.0)
    assert seconds_left([("short", 20.0), ("long", 90.0)], ["long"], EXPECTED) == pytest.approx(100.0)


def test_a_run_that_nobody_knows_takes_what_runs_take_here() -> None:
    assert seconds_left([], ["new"], {}) is None
    assert seconds_left([("new", 4.0)], ["new", "other"], {}) == 8.0
    assert seconds_left([], ["new"], EXPECTED) == 55.0
    assert seconds_left([("short", 5.0)], ["new", "long"], EXPECTED) == pytest.approx(55.0)


def test_side_by_side_it_is_shared_but_never_shorter_than_the_longest() -> None:
    assert seconds_left([], ["short"] * 8, EXPECTED, jobs=2) == 40.0
    assert seconds_left([], ["long", "short"], EXPECTED, jobs=4) == 100.0
    assert seconds_left([], [], EXPECTED, jobs=4) == 0.0


def test_what_is_timed_runs_after_the_others() -> None:
    both = ["short", "short", "long"]
    assert seconds_left([], both, EXPECTED, jobs=2, alone={"long"}) == 110.0
    assert seconds_left([], both, EXPECTED, jobs=2, alone={"long", "short"}) == 120.0
