"""Loops compiled by numba: for one thread or for several, kept on disk where there is room for them.

Imported only when a kernel runs, so that importing unimatrix.ops does not import numba.

- For one thread there is a loop of its own: no threads are started, so that it works in a forked child, in
  any Python thread, and under every threading layer of numba's.
- Loops on several threads are launched one at a time: numba's workqueue layer ends the process otherwise.
- Machine code is kept under a name made of everything that it depends on. numba's own index asks whether the
  file of the kernel has changed, but constants and helpers come from other files; and two processes that
  compile different signatures at once can leave it pointing at each other's code.
- A cache is an option: without a writable place, with a damaged file, or with a numba whose cache is made of
  other parts (`_Cache` and `_Entries` alone know its private names), the loop is compiled in memory.
"""

import contextlib
import glob
import hashlib
import os
import threading
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import llvmlite
import numba
import torch
from numba.core import caching, config

# where they are gone `_Cache` cannot be made
FunctionCache: Any = getattr(caching, "FunctionCache", object)
IndexDataCacheFile: Any = getattr(caching, "IndexDataCacheFile", object)
SETTINGS: Any = config  # numba's, from its environment variables
_launching = threading.Lock()


class Kernel:
    """A loop over numba.prange, called with the number of threads and then its own arguments."""

    def __init__(self, function: Callable[..., Any], fastmath: set[str] | bool) -> None:
        self._function, self._fastmath = function, fastmath

    def __call__(self, threads: int, *args: Any) -> Any:
        threads = min(threads, SETTINGS.NUMBA_NUM_THREADS)
        if threads == 1:
            return self.serial(*args)
        torchs = torch.get_num_threads()
        with _launching:
            numba.set_num_threads(threads)
            # the first call starts numba's threads, and sets the default of an OpenMP that torch may share
            if torch.get_num_threads() != torchs:
                torch.set_num_threads(torchs)
            return self.parallel(*args)

    @cached_property
    def serial(self) -> Any:
        """The loop for one thread, compiled at its first call."""
        return self._compiled(parallel=False)

    @cached_property
    def parallel(self) -> Any:
        """The loop for several threads, compiled at its first call."""
        return self._compiled(parallel=True)

    def _compiled(self, *, parallel: bool) -> Any:
        # with Python's error model, which parallel loops never have, a division keeps a loop from vectorising
        options = {"parallel": parallel, "fastmath": self._fastmath, "error_model": "numpy"}
        dispatcher: Any = numba.njit(**options)(self._function)
        if SOURCES and (SETTINGS.CACHE_DIR or not os.path.expanduser("~").startswith("~")):
            # numba finds no place to write to, or has become another: compiled in every process that needs it
            with contextlib.suppress(RuntimeError, AttributeError, TypeError):
                dispatcher._cache = _Cache(self._function, f"{SOURCES}-{parallel}")
        return dispatcher


def kernel(function: Any = None, *, fastmath: set[str] | bool = False) -> Any:
    """Decorates a loop over numba.prange; helpers that it calls need numba.njit alone."""
    return partial(kernel, fastmath=fastmath) if function is None else Kernel(function, fastmath)


def _digest_of_sources() -> str:
    """Of all files that a kernel may take a number or a function from; empty where they cannot be read."""
    root = Path(__file__).parent
    digest = hashlib.sha256(f"{numba.__version__} {llvmlite.__version__}".encode())
    files = sorted(root.rglob("*.py"))
    for file in files:
        digest.update(f"\0{file.relative_to(root)}\0".encode() + file.read_bytes())
    return digest.hexdigest() if files else ""


SOURCES = _digest_of_sources()


class _Cache(FunctionCache):
    """numba's cache of a function, at the place that numba finds for it, by files that cannot be stale."""

    def __init__(self, function: Callable[..., Any], stamp: str) -> None:
        super().__init__(function)
        self._cache_file = _Entries(self._cache_path, self._impl.filename_base, stamp)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception:
            # not there or damaged, and a damaged pickle may raise anything: it is compiled and written anew
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        with contextlib.suppress(OSError, AttributeError, TypeError):
            super().save_overload(sig, data)


class _Entries(IndexDataCacheFile):
    """One file for each signature of a function, without an index."""

    def __init__(self, folder: str, base: str, stamp: str) -> None:
        super().__init__(folder, base, stamp)
        self._prefix = f"{base}.{SOURCES[:16]}."
        self._older = f"{glob.escape(base)}.*.nbc"

    def load(self, key: Any) -> Any:
        return self._load_data(self._name(key))

    def save(self, key: Any, data: Any) -> None:
        self._save_data(self._name(key), data)
        for path in Path(self._cache_path).glob(self._older):
            if not path.name.startswith(self._prefix):
                path.unlink(missing_ok=True)

    def _name(self, key: Any) -> str:
        return (
            self._prefix + hashlib.sha256(repr((key, self._source_stamp)).encode()).hexdigest()[:32] + ".nbc"
        )
