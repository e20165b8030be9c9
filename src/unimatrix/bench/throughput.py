"""Tokens per second of whole models over the sequence length: a forward pass, and a whole training step.

The paper's scale: D 64, H 4, L 3, batch 8 (2 at 8192). Every candidate runs eagerly and under torch.compile;
the better counts. Before anything is timed, the model's fast form must equal its reference form. A peer,
a model that others wrote, takes its turns beside ours; its checks are in unimatrix.bench.equality.
"""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from unimatrix.bench.ceiling import Ceiling, measure_ceiling
from unimatrix.bench.equality import (
    check_compiled,
    check_equality,
    check_peer_equality,
    compiled_peer_problem,
    compiler_errors,
    room_to_compile,
)
from unimatrix.bench.timing import Timing, time_in_turns
from unimatrix.errors import UserError
from unimatrix.evals.provenance import provenance
from unimatrix.extras import needs
from unimatrix.models import build, build_language_model, peer_presets
from unimatrix.ops import backends_of

BASELINE = "transformer"
DEFAULT_LENGTHS = (64, 128, 256, 512, 2048, 8192)
PASSES = ("forward", "training")
MODES = ("eager", "compile")
# a training step is a forward pass and two of its size backwards
FORWARD_PASSES = {"forward": 1, "training": 3}


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One model at one length in one pass and mode; of a peer the ceiling is not counted: None."""

    model: str
    length: int
    batch: int
    what: str
    mode: str
    timing: Timing
    tokens_per_s: float
    ceiling_share: float | None
    backends: dict[str, str]  # the form that each of its parts ran


@dataclass(frozen=True, kw_only=True, slots=True)
class LeftOut:
    """A mode in which a peer was not timed, and why; it was timed in eager mode alone."""

    model: str
    length: int
    what: str
    mode: str
    why: str


def run(
    out: Path,
    *,
    models: Sequence[str] = ("unimatrix-core",),
    lengths: Sequence[int] = DEFAULT_LENGTHS,
    passes: Sequence[str] = PASSES,
    modes: Sequence[str] = MODES,
    seconds: float = 6.0,
    device: str = "cpu",
    say: Callable[[str], None] = print,
) -> Path:
    """Measure, print a line per length, write OUT/throughput.json and the plot; returns the JSON's path.

    Args:
        models: names of presets() and of peer_presets(), each compared with the Transformer, and ours also
            with every peer.
        lengths: tokens per sequence; the batch is 8, and 2 from 8192 tokens on.
        seconds: time spent on one length and pass, shared by all candidates.
    Raises:
        UserError: a wrong length, pass or mode; a fast form that does not equal its reference; a peer that
            gives other logits one token at a time.
    """
    needs("matplotlib")  # before anything is timed
    _check(lengths, passes, modes)
    modes = runnable_modes(modes, say)
    out.mkdir(parents=True, exist_ok=True)
    ours = list(dict.fromkeys([BASELINE, *(name for name in models if name not in peer_presets())]))
    peers = list(dict.fromkeys(name for name in models if name in peer_presets()))
    equality, peer_equality = _check_models(ours, peers, device=device, say=say)
    rows: list[Row] = []
    left_out: list[LeftOut] = []
    for length in lengths:
        for what in passes:
            with room_to_compile(len(ours) + len(peers)) if "compile" in modes else nullcontext():
                found, without = _measure(
                    [*ours, *peers], length, what, modes, seconds=seconds, device=device
                )
            for one in without:
                say(f"T {length:>5}  {what:<8}  {one.model} in eager mode alone: {one.why}")
            rows += found
            left_out += without
            say(_line(found, ours, peers))
    result = {
        "benchmark": "throughput",
        **provenance(device),
        "equality": equality,
        "peer_equality": peer_equality,
        "modes": modes,
        "rows": [asdict(row) for row in rows],
        "left_out": [asdict(one) for one in left_out],
        "ratios": ratios(rows, [*ours, *peers]),
        "peer_ratios": peer_ratios(rows, ours, peers),
    }
    path = out / "throughput.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    from unimatrix.bench.plot import plot_throughput

    plot_throughput(result, out)
    return path


def _check_models(
    ours: Sequence[str], peers: Sequence[str], *, device: str, say: Callable[[str], None]
) -> tuple[dict[str, float], dict[str, float]]:
    """What `check_equality` found for ours and `check_peer_equality` for peers; said when all hold."""
    equality = {name: check_equality(name, device=device) for name in ours}
    peer_equality = {name: check_peer_equality(name, device=device) for name in peers}
    for name, difference in equality.items():
        say(f"{name}: fast form against reference, largest difference of logits {difference:.1e}")
    for name, difference in peer_equality.items():
        say(f"{name}: one token at a time against the whole, {difference:.1e} of the largest logit")
    return equality, peer_equality


def runnable_modes(modes: Sequence[str], say: Callable[[str], None]) -> list[str]:
    """The modes without "compile" where torch.compile finds no C++ compiler, said aloud."""
    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("g++", "clang++", "c++", "cl")), None)
    if "compile" in modes and compiler is None:
        say("no C++ compiler found (g++ or clang++): torch.compile is left out, eager mode alone is measured")
        return [mode for mode in modes if mode != "compile"] or ["eager"]
    return list(modes)


def _measure(
    names: Sequence[str], length: int, what: str, modes: Sequence[str], *, seconds: float, device: str
) -> tuple[list[Row], list[LeftOut]]:
    batch = 8 if length < 8192 else 2
    ids = torch.randint(0, 256, (batch, length + 1), generator=torch.Generator().manual_seed(0)).to(device)
    candidates: dict[str, Callable[[], object]] = {}
    ceilings: dict[str, Ceiling] = {}
    parts: dict[str, nn.Module] = {}
    left_out = []
    for name in names:
        torch.manual_seed(0)
        if name in peer_presets():
            peer = build(name, max_positions=length).to(device)
            parts[name] = peer
            calls, why = _peer_calls(peer, ids, what, modes)
            if why is not None:
                left_out.append(LeftOut(model=name, length=length, what=what, mode="compile", why=why))
        else:
            model = build_language_model(name, max_positions=length).to(device)
            parts[name] = model
            ceilings[name] = measure_ceiling(model, batch, length, device=device)
            calls = {}
            for mode in modes:
                call = torch.compile(model, dynamic=False) if mode == "compile" else model
                if mode == "compile":
                    check_compiled(call, model, ids, name)
                calls[mode] = _PASSES[what](call, model, ids)
        candidates |= {f"{name}/{mode}": call for mode, call in calls.items()}
    rows = []
    for key, timing in time_in_turns(candidates, seconds=seconds, device=device).items():
        name, mode = key.split("/")
        share = None
        if name in ceilings:
            share = ceilings[name].share(timing.median_s, passes=FORWARD_PASSES[what])
        rows.append(
            Row(
                model=name,
                length=length,
                batch=batch,
                what=what,
                mode=mode,
                timing=timing,
                tokens_per_s=batch * length / timing.median_s,
                ceiling_share=share,
                backends=backends_of(parts[name]),
            )
        )
    return rows, left_out


def _peer_calls(
    peer: nn.Module, ids: torch.Tensor, what: str, modes: Sequence[str]
) -> tuple[dict[str, Callable[[], object]], str | None]:
    """The peer's pass by mode, and why there is none under torch.compile, which may not manage others' code.

    Then there is one in eager mode even if only "compile" was asked for.
    """
    calls: dict[str, Callable[[], object]] = {}
    why = None
    if "compile" in modes:
        compiled = torch.compile(peer, dynamic=False)
        try:
            why = compiled_peer_problem(compiled, peer, ids)
            call = _PASSES[what](compiled, peer, ids)
            call()  # what a backward pass needs is compiled here, and may fail here
        except compiler_errors() as error:
            why = f"torch.compile failed, {type(error).__name__}: {' '.join(str(error).split()):.200}"
        else:
            if why is None:
                calls["compile"] = call
    if "eager" in modes or why is not None:
        calls["eager"] = _PASSES[what](peer, peer, ids)
    return calls, why


def _forward_pass(call: Any, model: nn.Module, ids: torch.Tensor) -> Callable[[], object]:
    model.eval()
    inputs = ids[:, :-1].contiguous()

    def forward() -> object:
        with torch.no_grad():
            return call(inputs)

    return forward


def _training_step(call: Any, model: nn.Module, ids: torch.Tensor) -> Callable[[], object]:
    model.train()
    inputs, labels = ids[:, :-1].contiguous(), ids[:, 1:].reshape(-1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, fused=True)

    def step() -> object:
        logits, _ = call(inputs)
        F.cross_entropy(logits.flatten(0, 1), labels).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return None

    return step


_PASSES: dict[str, Callable[[Any, nn.Module, torch.Tensor], Callable[[], object]]] = {
    "forward": _forward_pass,
    "training": _training_step,
}


def ratios(rows: Sequence[Row], names: Sequence[str]) -> list[dict[str, Any]]:
    """For each length and pass: a model's tokens/s over the Transformer's, each at its better mode."""
    found = []
    for length, what in dict.fromkeys((row.length, row.what) for row in rows):
        best = {name: _best(rows, name, length, what) for name in names}
        found += [
            {
                "model": name,
                "length": length,
                "what": what,
                "ratio": best[name].tokens_per_s / best[BASELINE].tokens_per_s,
                "mode": best[name].mode,
                "baseline_mode": best[BASELINE].mode,
            }
            for name in names
            if name != BASELINE
        ]
    return found


def peer_ratios(rows: Sequence[Row], ours: Sequence[str], peers: Sequence[str]) -> list[dict[str, Any]]:
    """For each length and pass: each of our models' tokens/s over each peer's, each at its better mode."""
    found = []
    for length, what in dict.fromkeys((row.length, row.what) for row in rows):
        best = {name: _best(rows, name, length, what) for name in (*ours, *peers)}
        found += [
            {
                "model": name,
                "peer": peer,
                "length": length,
                "what": what,
                "ratio": best[name].tokens_per_s / best[peer].tokens_per_s,
                "mode": best[name].mode,
                "peer_mode": best[peer].mode,
            }
            for name in ours
            for peer in peers
        ]
    return found


def _best(rows: Sequence[Row], name: str, length: int, what: str) -> Row:
    mine = [row for row in rows if (row.model, row.length, row.what) == (name, length, what)]
    return max(mine, key=lambda row: row.tokens_per_s)


def _line(rows: Sequence[Row], ours: Sequence[str], peers: Sequence[str]) -> str:
    """All models at the one length and pass of `rows`."""
    length, what = rows[0].length, rows[0].what
    best = {name: _best(rows, name, length, what) for name in (*ours, *peers)}
    parts = [f"T {length:>5}  {what:<8}"]
    for name, row in best.items():
        quotients = []
        if name != BASELINE:
            quotients.append(f"{row.tokens_per_s / best[BASELINE].tokens_per_s:.2f}x")
        if name not in peers:
            quotients += [f"{row.tokens_per_s / best[peer].tokens_per_s:.2f}x {peer}" for peer in peers]
        share = "-" if row.ceiling_share is None else f"{row.ceiling_share:.0%}"
        parts.append(
            f"{name} {row.tokens_per_s:>9,.0f} tok/s ({row.mode}, {share} of the products' ceiling)"
            f"{' = ' if quotients else ''}{', '.join(quotients)}"
        )
    return "  ".join(parts)


def _check(lengths: Sequence[int], passes: Sequence[str], modes: Sequence[str]) -> None:
    for length in lengths:
        if length < 1:
            raise UserError(f"lengths: expected at least 1, got {length}")
    for kind, values, known in (("passes", passes, PASSES), ("modes", modes, MODES)):
        for value in values:
            if value not in known:
                raise UserError(f"{kind}: expected one of {', '.join(known)}, got {value!r}")
    if not (lengths and passes and modes):
        raise UserError("bench throughput: expected at least one length, pass and mode")
