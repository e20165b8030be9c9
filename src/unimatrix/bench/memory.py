"""Peak memory of a model's forward pass and of its training step, every model in a process of its own.

On a CPU the process first does the same pass on a few tokens, which loads and compiles all code, and gives
free memory back. Then the peak of its resident size is reset, and the model is built and does its pass: what
counts is the peak (VmHWM of /proc/self/status) over the resident size (VmRSS) right before. Where a peak
cannot be reset (no Linux), it is getrusage's ru_maxrss over what that was before: what was taken and freed
before can then hide a part. The kernel's counts are exact to some hundred KiB. On a GPU it is torch's own
counter, torch.cuda.max_memory_allocated.
"""

import ctypes
import gc
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from unimatrix.bench import worker
from unimatrix.bench.processes import in_fresh_processes
from unimatrix.errors import UserError
from unimatrix.evals.provenance import provenance
from unimatrix.models import build, parameter_count, preset_config

PASSES: tuple[worker.Pass, ...] = ("forward", "training")
BATCH, LENGTH = 8, 512
_WARM_LENGTH = 8
_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESIDENT = "peak resident size of a fresh process"
METHODS = {
    "VmHWM": f"{_RESIDENT} (VmHWM, reset right before) over its resident size right before (VmRSS)",
    "ru_maxrss": f"{_RESIDENT} (ru_maxrss) over what it was right before",
    "cuda": "torch.cuda.max_memory_allocated of a fresh process, reset right before, over memory_allocated",
}


def run(
    out: Path,
    *,
    models: Sequence[str],
    passes: Sequence[worker.Pass] = PASSES,
    batch: int = BATCH,
    length: int = LENGTH,
    device: str = "cpu",
    say: Callable[[str], None] = print,
) -> Path:
    """Measure, print a line per row, write OUT/memory.json; returns its path."""
    out.mkdir(parents=True, exist_ok=True)
    rows = measure(models=models, passes=passes, batch=batch, length=length, device=device)
    for row in rows:
        say(
            f"{row['model']:<26} {row['what']:<8} {batch} x {length}: {row['taken_bytes'] / 2**20:7.1f} MiB "
            f"taken (from {row['before_bytes'] / 2**20:.1f} to {row['peak_bytes'] / 2**20:.1f})"
        )
    say(f"Method: {METHODS[rows[0]['method']]}")
    path = out / "memory.json"
    result = {"benchmark": "memory", **provenance(device), "methods": METHODS, "rows": rows}
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return path


def measure(
    *,
    models: Sequence[str],
    passes: Sequence[worker.Pass] = PASSES,
    batch: int = BATCH,
    length: int = LENGTH,
    device: str = "cpu",
) -> list[dict[str, Any]]:
    """A row for each model and pass, of a process for each model; on a CPU two run side by side."""
    if not (models and passes):
        raise UserError("bench memory: expected at least one model and pass")
    if not device.startswith(("cpu", "cuda")):
        raise UserError(f"device: expected cpu or cuda, whose peaks are counted, got {device}")
    same = {"passes": passes, "batch": batch, "length": length, "device": device}
    calls = [{"model": model} | same for model in models]
    found = in_fresh_processes(peaks, calls, at_once=2 if device == "cpu" else 1, weighed=True)
    return [row for rows in found for row in rows]


def peaks(
    *, model: str, passes: Sequence[worker.Pass], batch: int, length: int, device: str
) -> list[dict[str, Any]]:
    """The rows of one model, measured in this process, which should be a fresh one.

    before_bytes, peak_bytes: as `METHODS[method]` says; taken_bytes: the difference, which holds the weights.
    """
    config = preset_config(model, max_positions=None)

    def work(what: worker.Pass, length: int) -> int:
        made = build(config).to(device)
        ids = torch.randint(0, config.vocab_size, (batch, length + 1), device=device)
        worker.PASSES[what](made, made, ids)()
        return parameter_count(made)

    rows = []
    for what in passes:
        work(what, _WARM_LENGTH)
        with measured_peak(device) as found:
            parameters = work(what, length)
        about = {"model": model, "what": what, "batch": batch, "length": length, "parameters": parameters}
        rows.append(about | found)
    return rows


@contextmanager
def measured_peak(device: str = "cpu") -> Iterator[dict[str, Any]]:
    """After the block the dict holds its method, and before_bytes, peak_bytes and taken_bytes."""
    found: dict[str, Any] = {}
    gc.collect()
    method, before, now = _begin(device)
    yield found
    peak_bytes = now()
    found |= {
        "method": method,
        "before_bytes": before,
        "peak_bytes": peak_bytes,
        "taken_bytes": peak_bytes - before,
    }


def _begin(device: str) -> tuple[str, int, Callable[[], int]]:
    """The method that works here, the bytes before, and how the peak is read."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return "cuda", torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated
    if _STATUS.exists():
        # memory that was freed and kept would be taken again without being seen
        if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
            trim(0)
        try:
            _RESET.write_text("5", encoding="ascii")
        except OSError:
            pass  # not allowed here: the other way below
        else:
            return "VmHWM", _status("VmRSS"), lambda: _status("VmHWM")
    return "ru_maxrss", _largest(), _largest


def _status(field: str) -> int:
    """Bytes, from the kernel's account of this process."""
    lines = _STATUS.read_text(encoding="ascii").splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(f"{field}:")))


def _largest() -> int:
    import resource  # not on every system

    # bytes on macOS, kibibytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
