"""What a person sees of a run: a bar on a terminal, one line now and then everywhere else."""

import datetime
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

# what a timedelta holds; more is as good as for ever
_LONGEST = 86_400.0 * (datetime.timedelta.max.days - 1)
_WIDE = 110  # columns of a terminal on which a long bar leaves room for the figures


class PlainConsole(Console):
    """Prints texts as they are, and leaves to the caller what a reader that went away (`| head`) means."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **settings)

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


class Reporter(Protocol):
    """gone: why nothing can be shown any more (the reader went away, the disk behind it is full), if so."""

    gone: OSError | None

    def advance(self, step: int) -> None:
        """`step` steps are done; called after each."""
        ...

    def measure(
        self, step: int, *, loss: str, lr: float, tokens_per_second: float, seconds_left: float
    ) -> None:
        """Figures of the steps up to `step`, the loss with its unit; called every few steps."""
        ...

    def say(self, text: str) -> None:
        """One line that stays."""
        ...


@contextmanager
def reporting(console: Console, *, name: str, start: int, steps: int) -> Iterator[Reporter]:
    """A reporter for steps start..steps that suits the console: a bar on a terminal, lines elsewhere."""
    if not console.is_terminal:
        yield _Lines(console, steps)
        return
    columns = (
        _CutColumn("{task.description}"),
        BarColumn(bar_width=40 if console.width >= _WIDE else 10),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        _CutColumn("{task.fields[figures]}"),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(name, total=steps, completed=start, figures="")
        yield _Bar(progress, task)


def say(console: Console, text: str) -> None:
    """One line as it is: no markup, no colours by guess, no wrapping."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


class _CutColumn(TextColumn):
    """Text that a narrow terminal cuts off, so that the steps and the time left beside it stay whole."""

    def __init__(self, text: str) -> None:
        super().__init__(text, markup=False, table_column=Column(overflow="ellipsis"))

    def render(self, task: Task) -> Text:
        text = super().render(task)
        text.no_wrap = True  # its column may become narrower; the text stays on one line
        return text


class _Bar:
    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task
        self.gone: OSError | None = None

    def advance(self, step: int) -> None:
        self._progress.update(self._task, completed=step)

    def measure(
        self, step: int, *, loss: str, lr: float, tokens_per_second: float, seconds_left: float
    ) -> None:
        figures = f"loss {loss}  {tokens_per_second:,.0f} tokens/s"
        self._progress.update(self._task, completed=step, figures=figures)

    def say(self, text: str) -> None:
        try:
            say(self._progress.console, text)
        except OSError as error:
            self.gone = error


class _Lines:
    def __init__(self, console: Console, steps: int) -> None:
        self._console = console
        self._steps = steps
        self.gone: OSError | None = None

    def advance(self, step: int) -> None:
        pass

    def measure(
        self, step: int, *, loss: str, lr: float, tokens_per_second: float, seconds_left: float
    ) -> None:
        left = datetime.timedelta(seconds=round(min(seconds_left, _LONGEST)))
        self.say(
            f"step {step}/{self._steps}  loss {loss}  lr {lr:.2e}  "
            f"{tokens_per_second:,.0f} tokens/s  left {left}"
        )

    def say(self, text: str) -> None:
        try:
            say(self._console, text)
        except OSError as error:
            self.gone = error
