"""Measurements in fresh processes, and what several of them say together.

How a process happens to lie in memory changes its speed by some hundredths for as long as it lives, and what
it did before stays in its memory; so a measurement is repeated in processes of its own, one after the other.
"""

import signal
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing import active_children, get_context, resource_tracker
from typing import Any

import torch

from unimatrix.errors import UserError
from unimatrix.memory import keep_freed_memory

_POLL_S = 0.01


def in_fresh_processes(
    function: Callable[..., Any],
    calls: Sequence[Mapping[str, Any]],
    *,
    at_once: int = 1,
    weighed: bool = False,
) -> list[Any]:
    """What `function` gives for each call's arguments, every call in a new process with as many threads.

    at_once: how many run side by side: 1 where time is measured. weighed: it is memory that is measured, so
    what is freed goes back to the system; else it is kept, as by the command that trains.
    Whatever is raised meanwhile, Ctrl-C too, ends the processes at once and calls no further ones.

    Raises:
        UserError: a process came to its end without an answer, for lack of memory as a rule.
    """
    others = {*active_children()}
    with ProcessPoolExecutor(
        max_workers=at_once,
        mp_context=get_context("spawn"),
        max_tasks_per_child=1,
        initializer=_begin,
        initargs=(torch.get_num_threads(), weighed),
    ) as pool:
        try:
            with _ctrl_c_held_back():
                answers = [pool.submit(function, **arguments) for arguments in calls]
            return [answer.result() for answer in answers]
        except BrokenProcessPool as error:
            raise UserError(
                "bench: a process of a measurement was killed; is there enough memory?"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            # the pool alone would wait for what is being measured
            while children := {*active_children()} - others:
                for child in children:
                    with suppress(ProcessLookupError):
                        child.kill()
                time.sleep(_POLL_S)
            raise


def _begin(num_threads: int, weighed: bool) -> None:
    torch.set_num_threads(num_threads)
    if not weighed:
        keep_freed_memory()


@contextmanager
def _ctrl_c_held_back() -> Iterator[None]:
    """What is started here never hears Ctrl-C, which a terminal sends to all: its parent ends it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # Python's own helper comes first: its start would let signals through again
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


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
