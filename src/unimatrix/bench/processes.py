"""Measurements in fresh processes, and what several of them say together.

How a process happens to lie in memory changes its speed by some hundredths for as long as it lives, and what
it did before stays in its memory; so a measurement is repeated in processes of its own, one after the other.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any

import torch

from unimatrix.errors import UserError


def in_fresh_processes(
    function: Callable[..., Any], calls: Sequence[Mapping[str, Any]], *, at_once: int = 1
) -> list[Any]:
    """What `function` gives for each call's arguments, every call in a new process with as many threads.

    at_once: how many run side by side: 1 where time is measured.

    Raises:
        UserError: a process came to its end without an answer, for lack of memory as a rule.
    """
    with ProcessPoolExecutor(
        max_workers=at_once,
        mp_context=get_context("spawn"),
        max_tasks_per_child=1,
        initializer=torch.set_num_threads,
        initargs=(torch.get_num_threads(),),
    ) as pool:
        answers = [pool.submit(function, **arguments) for arguments in calls]
        try:
            return [answer.result() for answer in answers]
        except BrokenProcessPool as error:
            raise UserError(
                "bench: a process of a measurement was killed; is there enough memory?"
            ) from error


def repeated(
    measure: Callable[..., Any], repeats: int, *, say: Callable[[str], None], **settings: Any
) -> list[Any]:
    """What `measure` gives each time: once in this process, where it says its own lines, or in fresh ones."""
    if repeats < 1:
        raise UserError(f"repeats: expected at least 1, got {repeats}")
    if repeats == 1:
        return [measure(**settings, say=say)]
    found = []
    for number in range(1, repeats + 1):
        found += in_fresh_processes(measure, [settings | {"say": quiet}])
        say(f"{number} of {repeats} repeats measured")
    return found


def quiet(line: str) -> None:
    """Says nothing: a repeat's lines are not for the terminal."""


def over_repeats(repeats: Sequence[Sequence[Mapping[str, Any]]], *measured: str) -> list[dict[str, Any]]:
    """One row for the equal ones of several repeats: of each number in `measured` the median over them.

    NAME_repeats holds every repeat's, in their order; NAME_low and NAME_high are the least and the greatest,
    between which the median of what repeats would give lies with a probability of 1 - 2 / 2^n after n repeats
    (94 % after 5), whatever their distribution. All else is the first repeat's.
    """
    rows = []
    for same in zip(*repeats, strict=True):
        row = dict(same[0])
        for name in measured:
            values = [one[name] for one in same]
            row |= {
                name: statistics.median(values),
                f"{name}_low": min(values),
                f"{name}_high": max(values),
                f"{name}_repeats": values,
            }
        rows.append(row)
    return rows
