"""How far a command is and how long it will take: a bar on a terminal, a line now and then elsewhere.

It knows how much is done and nothing else, and says so by the clock. A run of training
(`unimatrix.train.progress`) tells figures, at steps of its own choosing, and goes on where nobody reads them.
"""

import datetime
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from unimatrix.train.progress import say

LINE_SECONDS = 10.0


@contextmanager
def progress_on_stderr(name: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Within the block, what is called with how many more are done: "read a.txt", 1,000, "bytes"."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(console, name, total, unit).advance
        return
    columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        line = bar.add_task(f"{name}, {unit}", total=total)
        yield lambda more: bar.advance(line, more)


class _Lines:
    def __init__(self, console: Console, name: str, total: int, unit: str) -> None:
        self._console, self._name, self._total, self._unit = console, name, total, unit
        self._done, self._began = 0, time.monotonic()
        self._said = self._began

    def advance(self, more: int) -> None:
        self._done += more
        now = time.monotonic()
        if now - self._said < LINE_SECONDS or not self._done or self._done >= self._total:
            return
        self._said = now
        seconds = (now - self._began) * (self._total - self._done) / self._done
        left = datetime.timedelta(seconds=round(seconds))
        say(self._console, f"{self._name}: {self._done:,} of {self._total:,} {self._unit}, left {left}")
