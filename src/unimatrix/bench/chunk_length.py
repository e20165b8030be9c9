"""Time of the chunked matrix state over its chunk length: where matrix_state's default comes from."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from unimatrix.bench.timing import time_in_turns
from unimatrix.evals.provenance import provenance
from unimatrix.ops import matrix_state

DEFAULT_CHUNK_LENGTHS = (16, 32, 64, 128)


def run(
    out: Path,
    *,
    lengths: Sequence[int] = (128, 512, 2048),
    chunk_lengths: Sequence[int] = DEFAULT_CHUNK_LENGTHS,
    seconds: float = 4.0,
    device: str = "cpu",
    say: Callable[[str], None] = print,
) -> Path:
    """Forward and backward of the op alone, batch 8, H 4, S 16; writes OUT/chunk_length.json."""
    out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for length in lengths:
        calls = {str(chunk): _pass(length, chunk, device) for chunk in chunk_lengths}
        for chunk, timing in time_in_turns(calls, seconds=seconds, device=device).items():
            rows.append({"length": length, "chunk_len": int(chunk), "median_ms": timing.median_s * 1e3})
        say(
            f"T {length:>5}  "
            + "  ".join(
                f"C {row['chunk_len']}: {row['median_ms']:.2f} ms" for row in rows if row["length"] == length
            )
        )
    path = out / "chunk_length.json"
    result = {"benchmark": "chunk-length", **provenance(device), "rows": rows}
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return path


def _pass(length: int, chunk_len: int, device: str) -> Callable[[], object]:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(8, length, 4, 16, generator=generator).to(device).requires_grad_() for _ in range(3)
    )
    log_retention = F.logsigmoid(torch.randn(8, length, 4, generator=generator)).to(device).requires_grad_()
    inputs = (q, k, v, log_retention)

    def both() -> object:
        y, _ = matrix_state(*inputs, backend="chunked", chunk_len=chunk_len)
        return torch.autograd.grad(y.sum(), inputs)

    return both
