"""Reading a prompt and writing behind it, apart: time to the first token, and time per token by position.

A model with a state of constant size takes the same time for a token wherever it stands; one with a key-value
cache does not. Before anything is timed, each model's logits one token at a time must be those of the whole.
"""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from unimatrix.bench.equality import check_models
from unimatrix.bench.processes import over_repeats, repeated
from unimatrix.bench.timing import time_in_turns
from unimatrix.errors import UserError
from unimatrix.evals.provenance import provenance
from unimatrix.models import build, state_bytes

DEFAULT_POSITIONS = (128, 65_536)
TOKENS_PER_CALL = 16
PREFILL_PIECE = 4096
MEASURED = ("us_per_token", "over_nearest", "first_token_ms")


def run(
    out: Path,
    *,
    models: Sequence[str] = ("unimatrix-core", "transformer"),
    positions: Sequence[int] = DEFAULT_POSITIONS,
    batches: Sequence[int] = (1,),
    repeats: int = 1,
    seconds: float = 6.0,
    device: str = "cpu",
    say: Callable[[str], None] = print,
) -> Path:
    """`measure` so many times, in fresh processes if several, write OUT/decode.json; returns its path."""
    out.mkdir(parents=True, exist_ok=True)
    found = repeated(
        measure,
        repeats,
        models=models,
        positions=positions,
        batches=batches,
        seconds=seconds,
        device=device,
        say=say,
    )
    path = out / "decode.json"
    rows = over_repeats([one["rows"] for one in found], *MEASURED)
    result = {"benchmark": "decode", **provenance(device), "repeats": repeats, **found[0], "rows": rows}
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return path


def measure(
    *,
    models: Sequence[str],
    positions: Sequence[int],
    batches: Sequence[int] = (1,),
    most_tokens: int | None = None,
    rounds: int = 7,
    seconds: float = 6.0,
    device: str = "cpu",
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Measure once, and say a line per model, batch and position.

    first_token_ms: of a prompt of `position` tokens, with the logits of its last alone. us_per_token: of the
    16 tokens behind the next one, read one by one, each the time of one step of the whole batch.

    Args:
        positions: how many tokens come before.
        batches: how many texts at once.
        most_tokens: no prompts of more in all, batch times position; None is no bound.
        rounds: how often all models take their turns at least.
        seconds: time spent on the tokens after one batch of prompts, for each model, if the rounds leave any.
    Raises:
        UserError: nothing to measure, or a model that gives other logits one token at a time.
    """
    if not positions or min(positions) < 1 or not batches or min(batches) < 1:
        raise UserError(
            f"positions and batches: expected at least one of each, each at least 1, "
            f"got {list(positions)} and {list(batches)}"
        )
    _, equality = check_models((), models, device=device, say=say)
    rows: list[dict[str, Any]] = []
    for batch in batches:
        nearest: dict[str, float] = {}
        for position in sorted(positions):
            if most_tokens is not None and batch * position > most_tokens:
                continue
            for row in _measure(models, batch, position, rounds=rounds, seconds=seconds, device=device):
                over = row["us_per_token"] / nearest.setdefault(row["model"], row["us_per_token"])
                rows.append(row | {"over_nearest": over})
                say(
                    f"{row['model']:<24} batch {batch:>2}  position {position:>7,}: first token "
                    f"{row['first_token_ms']:8.1f} ms, then {row['us_per_token']:8.0f} us/token, {over:.2f} "
                    f"of that at {min(positions)}, state {row['state_bytes']:,} bytes"
                )
    return {"equality": equality, "rows": rows}


def _measure(
    models: Sequence[str], batch: int, position: int, *, rounds: int, seconds: float, device: str
) -> list[dict[str, Any]]:
    """All models in turns, on prompts of one shape."""
    ids = torch.randint(0, 256, (batch, position), generator=torch.Generator().manual_seed(0)).to(device)
    prompts: dict[str, Callable[[], object]] = {}
    fresh: dict[str, Callable[[], object]] = {}
    tokens: dict[str, Callable[[], object]] = {}
    sizes: dict[str, int] = {}
    for name in models:
        torch.manual_seed(0)
        model = build(name, max_positions=None).to(device).eval()
        prompts[name] = partial(_read, model, ids)
        _, state = _read(model, ids)
        sizes[name] = state_bytes(state)
        fresh[name], tokens[name] = _decoder(model, state, batch, device)
    # each has just been read: no other warming; a long one takes long, and is read once
    first = time_in_turns(prompts, seconds=seconds, min_rounds=1, warmup=0, device=device)
    each = time_in_turns(
        tokens,
        seconds=seconds * len(models),
        min_rounds=rounds,
        warmup=min(3, rounds),
        before=fresh,
        device=device,
    )
    return [
        {
            "model": name,
            "batch": batch,
            "position": position,
            "first_token_ms": 1e3 * first[name].median_s,
            "us_per_token": 1e6 * each[name].median_s / TOKENS_PER_CALL,
            "state_bytes": sizes[name],
            "calls": each[name].calls,
        }
        for name in models
    ]


@torch.no_grad()
def _read(model: Any, ids: torch.Tensor) -> tuple[torch.Tensor, Any]:
    """The logits behind a prompt, and the state that it leaves."""
    logits, state = torch.empty(0), None
    for piece in ids.split(PREFILL_PIECE, dim=1):
        logits, state = model(piece, state, logits_at=1)
    return logits, state


def _decoder(
    model: Any, state: Any, batch: int, device: str
) -> tuple[Callable[[], None], Callable[[], object]]:
    """What comes before each time, and what is timed.

    Whoever decodes goes on from the newest state. Tokens behind the prompt's own, read again and again, would
    be behind an older one, for which a part that keeps the text makes an index anew.
    """
    token = torch.full((batch, 1), 32, device=device)
    newest = state

    @torch.no_grad()
    def begin() -> None:
        nonlocal newest
        _, newest = model(token, state)

    @torch.no_grad()
    def decode() -> object:
        carried = newest
        for _ in range(TOKENS_PER_CALL):
            _, carried = model(token, carried)
        return carried

    return begin, decode
