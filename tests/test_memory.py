"""unimatrix.memory: what there is of it, and that processes of our own keep what they free."""

import json
import os
import platform
import subprocess
import sys
import types

import pytest

from unimatrix import memory
from unimatrix.bench.processes import in_fresh_processes
from unimatrix.errors import UserError
from unimatrix.memory import KEPT_BY_ENVIRONMENT


def test_memory_is_known_and_said_in_words():
    there = memory.host_bytes()
    assert there is None or there > 2**27
    assert memory.in_words(1) == "0.0 KiB"
    assert memory.in_words(3 * 2**29) == "1.5 GiB"
    assert memory.in_words(10**30) == "867,361,737,988.4 EiB"
    memory.check_fits(10**30, what="x", there=None)
    memory.check_fits(5, what="x", there=5)
    with pytest.raises(UserError, match=r"^x: needs at least 2.0 GiB of memory, there are 1.0 GiB$"):
        memory.check_fits(2**31, what="x", there=2**30)


# of a block that glibc gives back at once by itself
BLOCK_BYTES = 2**26
ROUNDS = 8
COUNTED = f"""
import ctypes, json, resource
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({ROUNDS}):
    block = ctypes.create_string_buffer({BLOCK_BYTES})  # written, all of it
    del block
print(json.dumps([kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before]))
"""
STARTS = {
    "by_itself": "kept = None",
    "told": "from unimatrix.memory import keep_freed_memory\nkept = keep_freed_memory()",
    "a_command": "from unimatrix.cli import main\nkept = main(['train', '--resume']) == 2",
    "a_worker": """
from multiprocessing import Pipe
from unimatrix.lab import workers
workers._end_with_parent = lambda: None
ours, theirs = Pipe()
ours.close()
workers._work(theirs, None, None)
kept = True
""",
}
GLIBC = sys.platform == "linux" and platform.libc_ver()[0] == "glibc"


def _faults(start: str, **environment: str) -> tuple[bool | None, int]:
    """What a fresh process that began so said, and how many pages it then asked for in a few large blocks."""
    clean = {name: value for name, value in os.environ.items() if name not in memory._TOLD_BY}
    done = subprocess.run(
        [sys.executable, "-c", STARTS[start] + COUNTED],
        env=clean | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    kept, faults = json.loads(done.stdout.splitlines()[-1])
    return kept, faults


def _faults_here() -> int:
    found: dict = {"kept": None, "print": lambda line: found.update(told=line)}
    exec(COUNTED, found)
    return json.loads(found["told"])[1]


def test_a_process_of_a_measurement_keeps_it_but_where_memory_is_measured(monkeypatch):
    for name in memory._TOLD_BY:
        monkeypatch.delenv(name, raising=False)
    (timed,), (weighed,) = (
        in_fresh_processes(_faults_here, [{}], weighed=weighed) for weighed in (False, True)
    )
    pages = BLOCK_BYTES // os.sysconf("SC_PAGE_SIZE")
    assert timed < 2 * pages or not GLIBC
    assert weighed > (ROUNDS - 1) * pages or weighed < pages


@pytest.mark.parametrize("start", [name for name in STARTS if name != "by_itself"])
def test_processes_of_our_own_keep_what_they_free(start):
    pages = BLOCK_BYTES // os.sysconf("SC_PAGE_SIZE")
    kept, faults = _faults(start)
    if start == "told":
        assert kept is GLIBC
    _, elsewhere = _faults("by_itself")
    if GLIBC:
        # the first block's pages are asked for, no other's; where huge pages are usual that is next to none
        assert faults < 2 * pages
        assert elsewhere > (ROUNDS - 1) * pages or elsewhere < pages
    else:
        assert faults > 0


def test_what_the_environment_says_goes_first():
    for name, value in KEPT_BY_ENVIRONMENT.items():
        assert _faults("told", **{name: value})[0] is False
    if GLIBC:
        pages = BLOCK_BYTES // os.sysconf("SC_PAGE_SIZE")
        assert _faults("by_itself", **KEPT_BY_ENVIRONMENT)[1] < 2 * pages


def test_an_older_glibc_that_takes_no_such_bound_gets_the_most_that_it_takes(monkeypatch):
    asked = []

    def mallopt(what, size):
        asked.append((what, size))
        return int(what != memory._MMAP_THRESHOLD or size <= 2**25)

    for name in memory._TOLD_BY:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: types.SimpleNamespace(mallopt=mallopt))
    assert memory.keep_freed_memory()
    assert asked == [(-3, 2**30), (-3, 2**25), (-1, 2**30)]
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: types.SimpleNamespace(mallopt=lambda *_: 0))
    assert not memory.keep_freed_memory()
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: types.SimpleNamespace())
    assert not memory.keep_freed_memory()
