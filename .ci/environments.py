"""The environments that the tests are run in: the lock, and both ends of what pyproject.toml declares.

    python .ci/environments.py lock     renew lock.txt from the newest releases, and run the tests on them
    python .ci/environments.py check    whether .venv is what lock.txt says
    python .ci/environments.py range    run the tests at the lower bounds, the lock, the newest releases, and
                                        on the newest Python; write the table into CONTRIBUTING.md

With --folder the environments and what came of their tests are kept there, so that the rows can be run one at
a time (--only), and a run that was cut off goes on: an environment is used again, with this checkout in it;
a row stands as long as src, pyproject.toml and lock.txt are what they were, unless --only names it.

lock.txt is a file of pip constraints: an exact version of everything that `make setup` installs, whatever the
machine. torch stands there without a local tag, so that the same line gives the CPU build or the CUDA build
that the machine's index offers; the CUDA libraries are pinned by torch itself. This needs Python alone.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "lock.txt"
TABLE = ROOT / "CONTRIBUTING.md"
OURS = "unimatrix-lm"
# installed with every environment, or by torch at the exact versions that it names for the machine
NOT_LOCKED = re.compile(r"pip|wheel|triton|nvidia-.*|cuda-.*|intel-.*|pytorch-triton.*|" + OURS)
# the extras that the library is used with; the others are tools of this repository
RANGED = ("train", "paper", "eval")
SHOWN = ("torch", "transformers", "numba", "numpy", "datasets", "accelerate")
RESULT = "unimatrix-tests.json"  # in an environment's folder: its row of the table
MARKS = ("<!-- range: written by make test-range -->", "<!-- /range -->")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    lock = commands.add_parser("lock", help="renew lock.txt")
    lock.add_argument(
        "--hold", nargs="*", default=[], metavar="NAME", help="keep these at the lock's versions"
    )
    commands.add_parser("check", help="compare .venv with lock.txt")
    ends = commands.add_parser("range", help="run the tests at both ends of the declared range")
    ends.add_argument("--oldest-python", default="python3.11", metavar="PYTHON")
    ends.add_argument("--newest-python", default=newest_python(), metavar="PYTHON")
    ends.add_argument(
        "--only", nargs="*", default=[], metavar="ROW", help="lower, lock, newest, newest-python"
    )
    ends.add_argument(
        "--folder", type=Path, default=None, metavar="DIR", help="keep environments and results there"
    )
    options = parser.parse_args()
    if options.command == "check":
        return check()
    if options.command == "lock":
        return renew(options.hold)
    return test_range(options)


def newest_python() -> str:
    """The newest Python on the PATH that answers."""
    for minor in range(20, 10, -1):
        name = f"python3.{minor}"
        path = shutil.which(name)
        if (
            path
            and not subprocess.run([path, "-c", "import venv"], check=False, capture_output=True).returncode
        ):
            return name
    return sys.executable


def install(folder: Path, *, python: str, constraints: list[str], upgrade_pip: bool = False) -> Path:
    """An environment with this checkout and all that its tests need; its interpreter.

    One that is there already keeps what it holds as far as the constraints allow.
    """
    interpreter = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    fresh = not interpreter.exists()
    if fresh:
        subprocess.run([python, "-m", "venv", folder], check=True)
    pip = [interpreter, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    held = folder / "constraints.txt"
    held.write_text("\n".join(constraints) + "\n", encoding="utf-8")
    if fresh and upgrade_pip:
        subprocess.run([*pip, "--upgrade", "pip"], check=True)
    # the builder is pinned like everything else, so pip must not fetch one of its own
    subprocess.run([*pip, "--constraint", held, "setuptools>=77"], check=True, cwd=ROOT)
    project = ["--no-build-isolation", "--editable", ".[dev]"]
    subprocess.run([*pip, "--constraint", held, *project], check=True, cwd=ROOT)
    return interpreter


def installed(interpreter: Path) -> dict[str, str]:
    """Name -> version of what an environment holds, without local tags."""
    command = [interpreter, "-m", "pip", "list", "--format", "json", "--disable-pip-version-check"]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {canonical(one["name"]): one["version"].partition("+")[0] for one in json.loads(out)}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def locked() -> dict[str, str]:
    """Name -> version of lock.txt."""
    lines = LOCK.read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def check() -> int:
    """Every package of .venv stands in lock.txt at its version."""
    here = installed(Path(sys.executable))
    wanted = locked()
    wrong = {
        name: f"{version}, the lock has {wanted.get(name, 'none')}"
        for name, version in here.items()
        if wanted.get(name) != version and not NOT_LOCKED.fullmatch(name)
    }
    for name, what in sorted(wrong.items()):
        print(f"lock.txt: {name} is {what}; run make lock, or rebuild .venv", file=sys.stderr)
    return bool(wrong)


def renew(hold: list[str]) -> int:
    """Write lock.txt from the newest releases that pyproject.toml allows, then run the tests on them."""
    constraints = [f"{name}=={version}" for name, version in locked().items() if name in hold]
    with tempfile.TemporaryDirectory(prefix="unimatrix-lock-") as folder:
        interpreter = install(Path(folder), python=sys.executable, constraints=constraints)
        versions = installed(interpreter)
        kept = {name: version for name, version in versions.items() if not NOT_LOCKED.fullmatch(name)}
        header = [
            "# The exact version of everything that `make setup` installs, as pip constraints.",
            f"# Written by `make lock` on {datetime.now(UTC):%Y-%m-%d}; see .ci/environments.py.",
        ]
        lines = [f"{name}=={version}" for name, version in sorted(kept.items())]
        LOCK.write_text("\n".join([*header, *lines]) + "\n", encoding="utf-8")
        return run_tests(interpreter)[0]


def run_tests(interpreter: Path) -> tuple[int, str]:
    """All tests in that environment: the exit code and pytest's closing line."""
    command = [interpreter, "-m", "pytest", "-n", "2", "-q"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    last = ""
    assert process.stdout is not None
    for line in process.stdout:
        print(line, end="", flush=True)
        last = line.strip() or last
    return process.wait(), re.sub(r" in [\d.]+s.*", "", last.strip("= "))


def lower_bounds() -> list[str]:
    """The oldest release that pyproject.toml declares of each package that the library or its extras need."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    declared = [*project["dependencies"], *(one for extra in RANGED for one in extras[extra])]
    own = re.compile(rf"{OURS}\[")
    return [re.sub(r">=([\d.]+).*", r"==\1", one) for one in declared if not own.match(one)]


def test_range(options: argparse.Namespace) -> int:
    """The tests in four environments; the table goes into CONTRIBUTING.md once every row stands."""
    if not options.only or "newest-python" in options.only:
        oldest, newest = (python_version(one) for one in (options.oldest_python, options.newest_python))
        if oldest == newest:  # shims of pyenv's stand on the PATH and do not answer
            sys.exit(f"range: no Python newer than {oldest} answers here; name one with --newest-python PATH")
    lock = [f"{name}=={version}" for name, version in locked().items()]
    environments = {
        "lower": ("the declared lower bounds", options.oldest_python, lower_bounds()),
        "lock": ("the lock", options.oldest_python, lock),
        "newest": ("the newest releases", options.oldest_python, []),
        "newest-python": ("the newest releases", options.newest_python, []),
    }
    rows: list[dict[str, str]] = []
    with tempfile.TemporaryDirectory(prefix="unimatrix-range-") as spare:
        for name, (title, python, constraints) in environments.items():
            folder = (options.folder or Path(spare)) / name
            row = None if name in options.only else kept_row(folder)
            if row is None and options.only and name not in options.only:
                continue
            if row is None:
                row = test_row(install(folder, python=python, constraints=constraints, upgrade_pip=True))
                (folder / RESULT).write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")
            rows.append({"environment": title} | row)
            if options.folder is None:
                shutil.rmtree(folder)
    table = [f"| {' | '.join(rows[0])} |", f"|{'---|' * len(rows[0])}"]
    table += [f"| {' | '.join(row.values())} |" for row in rows]
    if len(rows) == len(environments):
        write_table(table)
    print("\n".join(table))
    return any(row["failed"] != "0" for row in rows)


def test_row(interpreter: Path) -> dict[str, str]:
    """What there is in an environment and what came of all tests in it, by the table's columns."""
    of, started = commit(), time.monotonic()
    code, outcome = run_tests(interpreter)
    minutes = (time.monotonic() - started) / 60
    versions = installed(interpreter)
    shown = {package: versions.get(package, "") for package in SHOWN}
    counts = {word: count for count, word in re.findall(r"(\d+) (passed|failed|error)", outcome)}
    wrong = int(counts.get("failed", 0)) + int(counts.get("error", 0))
    # tests that did not end, or of which there are none, are no row of zeros
    failed = (
        str(wrong) if (wrong > 0) == (code != 0) and "passed" in counts else outcome or f"exit code {code}"
    )
    ran = {"passed": counts.get("passed", "0"), "failed": failed, "minutes": f"{minutes:.0f}"}
    return {"Python": python_version(interpreter)} | shown | ran | {"commit": of}


def python_version(interpreter: Path | str) -> str:
    command = [interpreter, "-c", "import platform; print(platform.python_version())"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def kept_row(folder: Path) -> dict[str, str] | None:
    """The result kept beside an environment, unless what it tested is no longer what there is here."""
    try:
        row = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    # a commit with changes has no name that git knows
    command = ["git", "diff", "--quiet", row["commit"], "--", "src", "pyproject.toml", "lock.txt"]
    return None if subprocess.run(command, check=False, cwd=ROOT, capture_output=True).returncode else row


def write_table(table: list[str]) -> None:
    """Put the table between its marks in CONTRIBUTING.md."""
    text = TABLE.read_text(encoding="utf-8")
    before, rest = text.split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    body = "\n".join(["", *table, ""])
    TABLE.write_text(f"{before}{MARKS[0]}{body}{MARKS[1]}{after}", encoding="utf-8")


def commit() -> str:
    """The commit that is checked out, "+" behind it where files were changed since."""
    command = ["git", "describe", "--always", "--abbrev=7", "--dirty=+", "--exclude=*"]
    asked = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    return asked.stdout.strip() or "no commit"


if __name__ == "__main__":
    sys.exit(main())
