"""Where a number comes from: commit, versions and machine, as they are written beside every result."""

import importlib.metadata
import os
import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy
import torch


@cache
def git_commit() -> str:
    """The commit this package's sources stand at, with "-dirty" if tracked files differ; else "unknown".

    Of the first time that this process asks: what runs is what was there then, whatever is committed since.
    "unknown" covers an installed package too, even one inside some other project's checkout: only a checkout
    that tracks this very file is ours.
    """
    here = Path(__file__).resolve()

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)
        commit = git("rev-parse", "HEAD")
        dirty = git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return commit + ("-dirty" if dirty else "")


def _version_of(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def versions() -> dict[str, str]:
    """The versions that numbers depend on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "numba": _version_of("numba"),
        "unimatrix": _version_of("unimatrix-lm"),
    }


def machine(device: str) -> str:
    """The accelerator's name, or the processor's, with the operating system."""
    if device.startswith("cuda") and torch.cuda.is_available():
        name = torch.cuda.get_device_name(device)
    else:
        name = _processor_name()
    return f"{name}, {os.cpu_count()} CPU threads, {platform.system()} {platform.machine()}"


def _processor_name() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def now_utc() -> str:
    """The time now, UTC, to the second, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def provenance(device: str) -> dict[str, Any]:
    """Everything above in one JSON-able dict: commit, date, machine, threads, device, versions."""
    return {
        "commit": git_commit(),
        "date": now_utc(),
        "machine": machine(device),
        "threads": torch.get_num_threads(),
        "device": device,
        "versions": versions(),
    }
