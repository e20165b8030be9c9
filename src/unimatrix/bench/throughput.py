"""Tokens per second of whole models over the sequence length: a forward pass, and a whole training step.

The paper's scale: D 64, H 4, L 3, batch 8 (2 at 8192). Every candidate runs eagerly and under torch.compile;
the better counts. Before anything is timed, the model's fast form must equal its reference form.
"""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from unimatrix.bench.ceiling import measure_ceiling
from unimatrix.bench.timing import Timing, time_in_turns
from unimatrix.errors import UserError
from unimatrix.evals.provenance import provenance
from unimatrix.mixers import MatrixStateMixer, TripleLatentMixer
from unimatrix.models import LanguageModel, build_language_model
from unimatrix.ops import chosen_backends

BASELINE = "transformer"
DEFAULT_LENGTHS = (64, 128, 256, 512, 2048, 8192)
PASSES = ("forward", "training")
MODES = ("eager", "compile")
# a training step is a forward pass and two of its size backwards
FORWARD_PASSES = {"forward": 1, "training": 3}
EQUALITY_TOLERANCE = 1e-4  # largest difference of logits of order 1, float32, between fast and reference form


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One model at one length in one pass and mode."""

    model: str
    length: int
    batch: int
    what: str
    mode: str
    timing: Timing
    tokens_per_s: float
    ceiling_share: float


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
        models: preset names, each compared with the Transformer.
        lengths: tokens per sequence; the batch is 8, and 2 from 8192 tokens on.
        seconds: time spent on one length and pass, shared by all candidates.
    Raises:
        UserError: a wrong length, pass or mode; a fast form that does not equal its reference.
    """
    _check(lengths, passes, modes)
    modes = runnable_modes(modes, say)
    out.mkdir(parents=True, exist_ok=True)
    names = [BASELINE, *(name for name in models if name != BASELINE)]
    differences = {name: check_equality(name, device=device) for name in names}
    for name, difference in differences.items():
        say(f"{name}: fast form against reference, largest difference of logits {difference:.1e}")
    rows: list[Row] = []
    for length in lengths:
        for what in passes:
            rows += _measure(names, length, what, modes, seconds=seconds, device=device)
            say(_line(rows, names, length, what))
    result = {
        "benchmark": "throughput",
        **provenance(device),
        "backends": chosen_backends(),
        "equality": differences,
        "modes": modes,
        "rows": [asdict(row) for row in rows],
        "ratios": ratios(rows, names),
    }
    path = out / "throughput.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    from unimatrix.bench.plot import plot_throughput

    plot_throughput(result, out)
    return path


def check_equality(name: str, *, device: str = "cpu") -> float:
    """Largest difference between a preset's logits in its fast form and in float64; raises if too large."""
    torch.manual_seed(0)
    model = build_language_model(name, max_positions=None).to(device).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4.0)  # weights of trained size: every part of the model has its say
    exact = build_language_model(name, max_positions=None)
    exact.load_state_dict(model.state_dict())
    exact = exact.double().eval()
    ids = torch.randint(0, 256, (2, 300), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        fast = model(ids.to(device))[0].double().cpu()
        difference = (fast - _reference_logits(exact, ids)).abs().max().item()
    if not difference <= EQUALITY_TOLERANCE:
        raise UserError(
            f"{name}: the fast form differs from the reference by {difference:.1e}; nothing is timed"
        )
    return difference


def check_compiled(call: Any, model: LanguageModel, ids: torch.Tensor, name: str) -> None:
    """What torch.compile made of a model gives the model's logits; raises if not."""
    model.eval()
    with torch.no_grad():
        difference = (call(ids[:, :-1])[0] - model(ids[:, :-1])[0]).abs().max().item()
    if not difference <= EQUALITY_TOLERANCE:
        raise UserError(
            f"{name} under torch.compile differs from eager mode by {difference:.1e}; nothing is timed"
        )


def runnable_modes(modes: Sequence[str], say: Callable[[str], None]) -> list[str]:
    """The modes without "compile" where torch.compile finds no C++ compiler, said aloud."""
    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("g++", "clang++", "c++", "cl")), None)
    if "compile" in modes and compiler is None:
        say("no C++ compiler found (g++ or clang++): torch.compile is left out, eager mode alone is measured")
        return [mode for mode in modes if mode != "compile"] or ["eager"]
    return list(modes)


def _reference_logits(model: LanguageModel, ids: torch.Tensor) -> torch.Tensor:
    for block in model.blocks:
        if isinstance(block.mixer, MatrixStateMixer | TripleLatentMixer):
            block.mixer.backend = "reference"
    if model.memory is not None:
        model.memory.backend = "reference"
    return model(ids)[0]


def _measure(
    names: Sequence[str], length: int, what: str, modes: Sequence[str], *, seconds: float, device: str
) -> list[Row]:
    batch = 8 if length < 8192 else 2
    torch.compiler.reset()
    ids = torch.randint(0, 256, (batch, length + 1), generator=torch.Generator().manual_seed(0)).to(device)
    candidates: dict[str, Callable[[], object]] = {}
    ceilings = {}
    for name in names:
        torch.manual_seed(0)
        model = build_language_model(name, max_positions=length).to(device)
        ceilings[name] = measure_ceiling(model, batch, length, device=device)
        for mode in modes:
            call = torch.compile(model, dynamic=False) if mode == "compile" else model
            if mode == "compile":
                check_compiled(call, model, ids, name)
            candidates[f"{name}/{mode}"] = _PASSES[what](call, model, ids)
    timings = time_in_turns(candidates, seconds=seconds, device=device)
    rows = []
    for key, timing in timings.items():
        name, mode = key.split("/")
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
            )
        )
    return rows


def _forward_pass(call: Any, model: LanguageModel, ids: torch.Tensor) -> Callable[[], object]:
    model.eval()
    inputs = ids[:, :-1].contiguous()

    def forward() -> object:
        with torch.no_grad():
            return call(inputs)

    return forward


def _training_step(call: Any, model: LanguageModel, ids: torch.Tensor) -> Callable[[], object]:
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


_PASSES: dict[str, Callable[[Any, LanguageModel, torch.Tensor], Callable[[], object]]] = {
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


def _best(rows: Sequence[Row], name: str, length: int, what: str) -> Row:
    mine = [row for row in rows if (row.model, row.length, row.what) == (name, length, what)]
    return max(mine, key=lambda row: row.tokens_per_s)


def _line(rows: Sequence[Row], names: Sequence[str], length: int, what: str) -> str:
    best = {name: _best(rows, name, length, what) for name in names}
    parts = [f"T {length:>5}  {what:<8}"]
    for name in names:
        row = best[name]
        ratio = row.tokens_per_s / best[BASELINE].tokens_per_s
        parts.append(
            f"{name} {row.tokens_per_s:>9,.0f} tok/s ({row.mode}, {row.ceiling_share:.0%} of the products'"
            f" ceiling){'' if name == BASELINE else f' = {ratio:.2f}x'}"
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
