"""Files are replaced whole or not at all."""

import json
import os
import subprocess
import sys

import pytest

from unimatrix import atomic
from unimatrix.atomic import append_lines, replacing, write_json


def test_json_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    write_json(path, {"a": 1})

    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic, "flush", full)
    with pytest.raises(OSError, match="No space"):
        write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [found.name for found in tmp_path.iterdir()] == ["run.json"]


def test_a_file_follows_the_umask_whoever_writes_it(tmp_path):
    before = os.umask(0o027)
    try:
        with replacing(tmp_path / "file") as partial:
            partial.unlink()
            os.close(os.open(partial, os.O_CREAT | os.O_WRONLY, 0o600))
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_what_is_stopped_leaves_the_file_that_was_there(tmp_path):
    path = tmp_path / "file"
    path.write_text("before")

    def stopped(stop):
        with replacing(path) as partial:
            partial.write_text("half")
            raise stop

    for stop in (KeyboardInterrupt, OSError):
        with pytest.raises(stop):
            stopped(stop)
        assert path.read_text() == "before"
        assert [found.name for found in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("begun", [b"", b'{"row": 0}\n'])
def test_what_stands_before_a_new_line_is_whole(tmp_path, begun):
    """A row that has lost its line break alone is one; a piece of a row is cut off, wherever it ends."""
    path, row = tmp_path / "rows", '{"row": {"é": [1, 2.5]}}'.encode()
    for end in range(len(row) + 1):
        path.write_bytes(begun + row[:end])
        append_lines(path, b'{"row": 2}\n')
        kept = row + b"\n" if end == len(row) else b""
        assert path.read_bytes() == begun + kept + b'{"row": 2}\n'


@pytest.mark.parametrize("length", [0, 1, 65_530, 65_536, 65_537, 200_000])
def test_the_last_line_is_found_however_long_it_is(tmp_path, length):
    path = tmp_path / "rows"
    for before in (b"", b"a line\n" * 20_000):
        for torn in (b'{"x": "' + b"y" * length, b'{"x": "' + b"y" * length + b'"}'):
            path.write_bytes(before + torn)
            append_lines(path, b"{}\n")
            kept = torn + b"\n" if torn.endswith(b"}") else b""
            assert path.read_bytes() == before + kept + b"{}\n"


APPEND = """
import sys, time
from pathlib import Path
from unimatrix.atomic import append_lines
path, who = Path(sys.argv[1]), sys.argv[2]
while not path.with_name("go").exists():
    time.sleep(0.001)
for number in range(60):
    append_lines(path, f"{who} {number} {'x' * 3000}\\n".encode())
"""


def test_processes_that_append_to_one_file_lose_no_line(tmp_path):
    """As two terminals do that answer for two models into one file of rows."""
    path = tmp_path / "rows"
    at_work = [subprocess.Popen([sys.executable, "-c", APPEND, path, str(who)]) for who in range(3)]
    (tmp_path / "go").touch()
    assert [process.wait(timeout=300) for process in at_work] == [0, 0, 0]
    lines = path.read_text().splitlines()
    assert {tuple(line.split()[:2]) for line in lines} == {
        (str(who), str(number)) for who in range(3) for number in range(60)
    }
    assert len(lines) == 180
    assert {len(line.split()[2]) for line in lines} == {3000}


FULL = """
import resource, signal, sys
from pathlib import Path
from unimatrix.atomic import append_lines
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (40, 40))
try:
    append_lines(Path(sys.argv[1]), b"x" * 19 + b"\\n" + b"y" * 40 + b"\\n")
except OSError:
    print("full")
"""


def test_lines_that_do_not_fit_on_the_disk_leave_none_of_them_behind(tmp_path):
    path = tmp_path / "rows"
    path.write_bytes(b"before\n")
    done = subprocess.run([sys.executable, "-c", FULL, path], check=True, capture_output=True, text=True)
    assert (done.stdout, path.read_bytes()) == ("full\n", b"before\n")
