"""Where compiled loops are kept: never stale, never needed, and no process in another one's way."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import unimatrix
from unimatrix.ops import jit

PACKAGE = Path(unimatrix.__file__).parent
TRIPLE = """
import torch
from unimatrix.ops import triple_latent
torch.manual_seed(0)
a, b, c, d = (torch.randn(2, 40, 2, 4, dtype=torch.{dtype}, requires_grad=True) for _ in range(4))
keep = -torch.rand(2, 40, 2, dtype=torch.{dtype})
y, last = triple_latent(a, b, c, d, keep, keep, backend="compiled")
(y.square().sum() + last.pairs.sum()).backward()
print(float(y.detach().sum()), float(a.grad.sum()), float(b.grad.sum()))
"""
FORWARD = """
import torch
from unimatrix.ops import signed_scan
x = torch.ones(1, 3, 4, dtype=torch.{dtype})
print(signed_scan(x / 2, x, backend="compiled")[1].tolist())
"""


@pytest.fixture
def copy(tmp_path) -> Path:
    """A copy of the package alone, with no machine code beside it."""
    shutil.copytree(PACKAGE, tmp_path / "lib" / "unimatrix", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "lib"


def start(lib: Path, *command: str, **env: str | None) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(lib), "OMP_NUM_THREADS": "1"} | env
    environment = {name: value for name, value in environment.items() if value is not None}
    return subprocess.Popen(
        [sys.executable, *command],
        env=environment,  # type: ignore[arg-type]
        cwd=lib.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(lib: Path, *command: str, **env: str | None) -> str:
    process = start(lib, *command, **env)
    out, err = process.communicate(timeout=170)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    return out


def kept(lib: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in lib.rglob("*.nb?")}


def test_a_constant_from_another_file_makes_code_stale(copy):
    """The triple latent's loops take BLOCK from the matrix state's file; borders are as many as it says."""
    code = TRIPLE.format(dtype="float64")
    before = run(copy, "-c", code)
    first = kept(copy)
    assert first
    assert run(copy, "-c", code) == before
    assert kept(copy) == first
    file = copy / "unimatrix" / "ops" / "matrix_state" / "kernels.py"
    text = file.read_text()
    assert "\nBLOCK = 16 " in text
    file.write_text(text.replace("\nBLOCK = 16 ", "\nBLOCK = 4 "))
    after = [float(number) for number in run(copy, "-c", code).split()]
    assert after == pytest.approx([float(number) for number in before.split()], rel=1e-12)
    assert kept(copy).keys().isdisjoint(first)  # and the old ones are gone


def test_every_file_of_the_ops_is_in_the_stamp(copy):
    code = """
from pathlib import Path
import unimatrix.ops
from unimatrix.ops import jit
seen = {jit.SOURCES}
files = list(Path(unimatrix.ops.__file__).parent.rglob("*.py"))
for file in files:
    file.write_text(file.read_text() + "# changed")
    seen.add(jit._digest_of_sources())
print(len(seen) - len(files))
"""
    assert run(copy, "-c", code).strip() == "1"
    assert jit.SOURCES


def test_numba_has_the_names_that_it_keeps_to_itself():
    """Where one is gone, loops are compiled in every process: see what took its place in jit.py."""

    def function(x):
        return x

    cache = jit._Cache(function, "stamp")
    assert isinstance(cache._cache_file, jit._Entries)
    for name in ("load_overload", "save_overload"):
        assert hasattr(jit.FunctionCache, name), name
    for name in ("_load_data", "_save_data", "_cache_path", "_source_stamp"):
        assert hasattr(cache._cache_file, name), name
    dispatcher = jit.kernel(function).serial
    assert isinstance(dispatcher._cache, jit._Cache)


@pytest.mark.parametrize("gone", ["FunctionCache", "IndexDataCacheFile"])
def test_without_one_of_those_names_loops_are_compiled_all_the_same(copy, gone):
    code = f"""
from numba.core import caching
found = caching.{gone}
del caching.{gone}
from unimatrix.ops import jit
caching.{gone} = found  # numba itself goes on
"""
    assert run(copy, "-c", code + FORWARD.format(dtype="float32")) == "[[1.75, 1.75, 1.75, 1.75]]\n"
    assert not kept(copy)


def nowhere(lib: Path, kind: str) -> tuple[dict[str, str | None], str]:
    """An environment, and first lines of code, in which no folder can be written to, not even by root."""
    for folder in [path for path in lib.rglob("*") if path.is_dir()]:
        (folder / "__pycache__").write_text("a file in place of a folder")
    file = lib / "unimatrix" / "__init__.py"
    none = {"XDG_CACHE_HOME": None, "NUMBA_CACHE_DIR": None}
    if kind == "no home":
        return none | {
            "HOME": None
        }, "import pwd\ndef getpwuid(uid): raise KeyError(uid)\npwd.getpwuid = getpwuid\n"
    if kind == "NUMBA_CACHE_DIR":
        return none | {"HOME": str(file / "home"), "NUMBA_CACHE_DIR": str(file / "cache")}, ""
    return none | {"HOME": str(file / "home")}, ""


@pytest.mark.parametrize("kind", ["read-only", "NUMBA_CACHE_DIR", "no home"])
def test_without_a_writable_place(copy, kind):
    env, first = nowhere(copy, kind)
    command = "import sys; from unimatrix.cli import main; sys.argv[1:] = ['models']; main()"
    printed = run(copy, "-c", first + FORWARD.format(dtype="float32") + command, **env, COLUMNS="200")
    assert printed.startswith("[[1.75, 1.75, 1.75, 1.75]]\n")
    assert "unimatrix-core" in printed
    assert not kept(copy.parent)
    assert [path.name for path in copy.parent.iterdir()] == ["lib"]  # no folder named ~


def test_a_place_of_the_users_own(copy, tmp_path):
    _, _ = nowhere(copy, "read-only")
    run(copy, "-c", FORWARD.format(dtype="float32"), NUMBA_CACHE_DIR=str(tmp_path / "cache"))
    assert kept(tmp_path / "cache")


def test_damaged_files_are_written_anew(copy):
    code = FORWARD.format(dtype="float32")
    expected = run(copy, "-c", code)
    files = kept(copy)
    assert files
    for damaged in (b"", b"garbage", None):
        sizes = {}
        for path in files:
            whole = path.read_bytes()
            path.write_bytes(whole[: len(whole) // 2] if damaged is None else damaged)
            sizes[path] = path.stat().st_size
        assert run(copy, "-c", code) == expected
        assert set(kept(copy)) == set(files)
        # not the bytes of the first time: the compiler's differ a little from run to run
        assert all(path.stat().st_size > size for path, size in sizes.items())
    written = {path: path.read_bytes() for path in files}
    assert run(copy, "-c", code) == expected
    assert {path: path.read_bytes() for path in kept(copy)} == written


def test_a_full_disk_only_costs_the_cache(copy):
    code = """
from unimatrix.ops import jit
def full(self, name, data): raise OSError(28, "No space left on device")
jit._Entries._save_data = full
"""
    assert run(copy, "-c", code + FORWARD.format(dtype="float32")).startswith("[[1.75")
    assert not kept(copy)


def test_processes_that_compile_at_once_do_not_hurt_each_other(copy):
    codes = [FORWARD.format(dtype=dtype) for dtype in ("float32", "float64") for _ in range(2)]
    running = [start(copy, "-c", code) for code in codes]
    for process in running:
        out, err = process.communicate(timeout=170)
        assert (process.returncode, out) == (0, "[[1.75, 1.75, 1.75, 1.75]]\n"), err
    files = kept(copy)
    assert len(files) == 2  # one a signature, and no index that one process writes over the other's
    for code in set(codes):
        assert run(copy, "-c", code) == "[[1.75, 1.75, 1.75, 1.75]]\n"
    assert kept(copy) == files
