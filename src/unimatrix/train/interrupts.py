"""Ctrl-C, SIGTERM and SIGHUP (a terminal closes) as a wish that the loop grants at the end of its step."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from unimatrix.errors import TrainingStopped

# Windows has no SIGHUP
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))

_ALWAYS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Within the block the first of SIGNALS sets `signal`; a second one acts as it always does.

    Of SIGHUP a second one does nothing: of a terminal that closes both the shell and the system tell. Where
    somebody ignores it (nohup) or handles it, it stays theirs.

    Signals reach Python's main thread only; in another thread the block changes nothing. A TrainingStopped
    that leaves the block has the signal too.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._previous: dict[int, Any] = {}
        self._raises = False

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within this block, where nothing is left to save, the first signal raises KeyboardInterrupt."""
        self._raises = True
        try:
            yield
        finally:
            self._raises = False

    @property
    def wanted(self) -> bool:
        """Whether a signal came."""
        return self.signal is not None

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if number in _ALWAYS or signal.getsignal(number) is signal.SIG_DFL:
                    self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, _kind: object, error: object, _trace: object) -> None:
        self._restore()
        if isinstance(error, TrainingStopped):
            error.signal = error.signal or self.signal

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        previous = self._previous
        self._restore()
        if number not in _ALWAYS:
            self._previous = {number: previous[number]}
            signal.signal(number, signal.SIG_IGN)
        if self._raises:
            raise KeyboardInterrupt

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            # None: the handler before ours was not set by Python
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._previous = {}
