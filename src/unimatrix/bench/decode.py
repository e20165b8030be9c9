"""Batch-1 decoding: time per token at a near and at a far position of the stream.

A model with a state of constant size takes the same time at both; a key-value cache does not.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from unimatrix.bench.timing import time_in_turns
from unimatrix.errors import UserError
from unimatrix.evals.provenance import provenance
from unimatrix.models import build, state_bytes

DEFAULT_POSITIONS = (128, 65_536)
TOKENS_PER_CALL = 16
PREFILL_PIECE = 4096


def run(
    out: Path,
    *,
    models: Sequence[str] = ("unimatrix-core", "transformer"),
    positions: Sequence[int] = DEFAULT_POSITIONS,
    seconds: float = 6.0,
    device: str = "cpu",
    say: Callable[[str], None] = print,
) -> Path:
    """Measure, print a line per model and position, write OUT/decode.json; returns its path.

    Every call decodes 16 tokens one by one from the state that a prefill of `position` tokens left behind.
    """
    if not positions or min(positions) < 1:
        raise UserError(f"positions: expected at least one, each at least 1, got {list(positions)}")
    out.mkdir(parents=True, exist_ok=True)
    candidates: dict[str, Callable[[], object]] = {}
    sizes: dict[str, int] = {}
    for name in models:
        torch.manual_seed(0)
        model = build(name, max_positions=None).to(device).eval()
        for position in positions:
            state = _prefill(model, position, device)
            sizes[f"{name}/{position}"] = state_bytes(state)
            candidates[f"{name}/{position}"] = _decoder(model, state, device)
    timings = time_in_turns(candidates, seconds=seconds * len(models), device=device)
    rows: list[dict[str, Any]] = []
    for key, timing in timings.items():
        name, position = key.split("/")
        nearest = timings[f"{name}/{min(positions)}"].median_s
        rows.append(
            {
                "model": name,
                "position": int(position),
                "us_per_token": timing.median_s / TOKENS_PER_CALL * 1e6,
                "over_nearest": timing.median_s / nearest,
                "state_bytes": sizes[key],
                "calls": timing.calls,
            }
        )
        say(
            f"{name:<24} position {int(position):>7,}: {rows[-1]['us_per_token']:8.0f} us/token, "
            f"{rows[-1]['over_nearest']:.2f} of that at {min(positions)}, state {sizes[key]:,} bytes"
        )
    path = out / "decode.json"
    result = {"benchmark": "decode", **provenance(device), "rows": rows}
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return path


@torch.no_grad()
def _prefill(model: Any, length: int, device: str) -> Any:
    """The state after `length` tokens, read in pieces."""
    ids = torch.randint(0, 256, (1, length), generator=torch.Generator().manual_seed(0)).to(device)
    state = None
    for piece in ids.split(PREFILL_PIECE, dim=1):
        _, state = model(piece, state)
    return state


def _decoder(model: Any, state: Any, device: str) -> Callable[[], object]:
    token = torch.full((1, 1), 32, device=device)

    @torch.no_grad()
    def decode() -> object:
        carried = state
        for _ in range(TOKENS_PER_CALL):
            _, carried = model(token, carried)
        return carried

    return decode
