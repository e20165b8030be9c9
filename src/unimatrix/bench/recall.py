"""Time of a whole training step on associative recall, against the Transformer's; and how it grows with T.

Three measurements in one run: the paper's recall setting (32 sequences of 128 tokens), long sequences (2 of
4,096), and SparsePointer's time per token from 1,024 to 16,384 tokens. Eagerly and under torch.compile; the
better counts. Before anything is timed, the fast forms must equal the reference.

Letters: T tokens per sequence.
"""

import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from unimatrix.bench.equality import as_loops, check_compiled, check_equality, room_to_compile
from unimatrix.bench.throughput import BASELINE, runnable_modes
from unimatrix.bench.timing import Timing, time_in_turns
from unimatrix.data.tasks import RecallConfig
from unimatrix.data.tasks.recall import make
from unimatrix.evals.provenance import provenance
from unimatrix.extras import needs
from unimatrix.models import LanguageModel, build_language_model
from unimatrix.ops import backends_of

DEFAULT_MODELS = ("unimatrix-core", "unimatrix-assoc", "unimatrix-sparse-pointer")
DEFAULT_LENGTHS = (1024, 2048, 4096, 8192, 16_384)
SETTINGS = {"recall": (32, 128), "long": (2, 4096)}
LONG_BATCH = 2
GROWING = "unimatrix-sparse-pointer"  # whose time per token is followed over T


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A training step of one model: batch sequences of length tokens, in one form and mode."""

    setting: str
    model: str
    form: str
    batch: int
    length: int
    mode: str
    timing: Timing
    us_per_token: float
    backends: dict[str, str]  # the form that each of its parts ran


def run(
    out: Path,
    *,
    models: Sequence[str] = DEFAULT_MODELS,
    lengths: Sequence[int] = DEFAULT_LENGTHS,
    modes: Sequence[str] = ("eager", "compile"),
    seconds: float = 10.0,
    device: str = "cpu",
    say: Callable[[str], None] = print,
) -> Path:
    """Measure, print a line per model, write OUT/recall.json and the plot; returns the JSON's path.

    Args:
        models: preset names, each compared with the Transformer.
        lengths: over which SparsePointer's time per token is followed; none leaves that out.
        seconds: time spent on one comparison, shared by all candidates.
    Raises:
        UserError: a length too short for the task, or a fast form that does not equal its reference.
    """
    for package in ("altair", "vl_convert"):  # before anything is timed
        needs(package)
    for length in lengths:
        RecallConfig(length=length)  # one that is too short is refused before anything is timed
    modes = runnable_modes(modes, say)
    out.mkdir(parents=True, exist_ok=True)
    names = [BASELINE, *(name for name in models if name != BASELINE)]
    equality = {name: check_equality(name, device=device) for name in (*names, GROWING)}
    for name, difference in equality.items():
        say(f"{name}: fast form against reference, largest difference of logits {difference:.1e}")
    rows: list[Row] = []
    for setting, (batch, length) in SETTINGS.items():
        with room_to_compile(len(names)) if "compile" in modes else nullcontext():
            rows += measure(setting, names, batch, length, modes, seconds=seconds, device=device)
        for line in _lines(rows, setting):
            say(line)
    rows += _follow(lengths, seconds=seconds, device=device)
    growth = _growth(rows)
    for row in growth:
        say(
            f"T {row['length']:>6,}: {row['us_per_token']:.2f} us/token, "
            f"{row['over_shortest']:.2f} of that at the shortest"
        )
    result = {
        "benchmark": "recall",
        **provenance(device),
        "equality": equality,
        "modes": modes,
        "rows": [asdict(row) for row in rows],
        "ratios": ratios(rows),
        "growth": growth,
    }
    path = out / "recall.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    from unimatrix.bench.plot import plot_recall

    plot_recall(result, out)
    return path


def measure(
    setting: str,
    names: Sequence[str],
    batch: int,
    length: int,
    modes: Sequence[str],
    *,
    forms: Sequence[str] = ("fast",),
    rounds: int = 7,
    seconds: float,
    device: str = "cpu",
) -> list[Row]:
    """Training steps of all models, forms ("loop" in eager mode alone) and modes, in turns."""
    task = RecallConfig(length=length)
    candidates: dict[tuple[str, str, str], Callable[[], object]] = {}
    timed: dict[tuple[str, str], LanguageModel] = {}
    for name, form in ((name, form) for name in names for form in forms):
        torch.manual_seed(0)
        model = build_language_model(name, vocab_size=task.vocab_size, max_positions=length).to(device)
        if form == "loop" and not as_loops(model):
            continue
        timed[name, form] = model
        for mode in modes if form == "fast" else ("eager",):
            call = torch.compile(model, dynamic=False) if mode == "compile" else model
            if mode == "compile":
                ids = make(task, seed=0, step=0, batch_size=batch).input_ids.to(device)
                check_compiled(call, model, torch.cat([ids, ids[:, :1]], dim=1), name)
            candidates[name, form, mode] = _training_step(call, model, task, batch, device)
    timings = time_in_turns(
        candidates, seconds=seconds, min_rounds=rounds, warmup=min(3, rounds), device=device
    )
    return [
        _row(setting, name, form, batch, length, mode, timing, timed[name, form])
        for (name, form, mode), timing in timings.items()
    ]


def _follow(lengths: Sequence[int], *, seconds: float, device: str) -> list[Row]:
    """Eager training steps over the length; all lengths take turns, so that drift hits them alike."""
    candidates: dict[str, Callable[[], object]] = {}
    parts: dict[str, LanguageModel] = {}
    for length in lengths:
        task = RecallConfig(length=length)
        torch.manual_seed(0)
        model = build_language_model(GROWING, vocab_size=task.vocab_size, max_positions=length).to(device)
        parts[str(length)] = model
        candidates[str(length)] = _training_step(model, model, task, LONG_BATCH, device)
    if not candidates:
        return []
    timings = time_in_turns(candidates, seconds=seconds * len(candidates), device=device)
    return [
        _row("growth", GROWING, "fast", LONG_BATCH, int(key), "eager", timing, parts[key])
        for key, timing in timings.items()
    ]


def _row(
    setting: str,
    model: str,
    form: str,
    batch: int,
    length: int,
    mode: str,
    timing: Timing,
    timed: LanguageModel,
) -> Row:
    return Row(
        setting=setting,
        model=model,
        form=form,
        batch=batch,
        length=length,
        mode=mode,
        timing=timing,
        us_per_token=1e6 * timing.median_s / (batch * length),
        backends=backends_of(timed),
    )


def _training_step(
    call: Any, model: LanguageModel, task: RecallConfig, batch: int, device: str
) -> Callable[[], object]:
    """Forward, loss of the answer, backward, AdamW, on one batch of the task."""
    model.train()
    data = make(task, seed=0, step=0, batch_size=batch)
    inputs, labels = data.input_ids.to(device), data.labels.flatten().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)

    def step() -> object:
        logits, _ = call(inputs)
        F.cross_entropy(logits.flatten(0, 1), labels).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return None

    return step


def ratios(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """For each setting: a model's time over the Transformer's, each at its better mode."""
    found = []
    for setting in SETTINGS:
        mine = [row for row in rows if row.setting == setting]
        base = _best(mine, BASELINE)
        found += [
            {
                "setting": setting,
                "model": name,
                "ratio": _best(mine, name).timing.median_s / base.timing.median_s,
                "mode": _best(mine, name).mode,
                "baseline_mode": base.mode,
            }
            for name in dict.fromkeys(row.model for row in mine)
            if name != BASELINE
        ]
    return found


def _best(rows: Sequence[Row], name: str) -> Row:
    return min((row for row in rows if row.model == name), key=lambda row: row.timing.median_s)


def _lines(rows: Sequence[Row], setting: str) -> list[str]:
    mine = [row for row in rows if row.setting == setting]
    base = _best(mine, BASELINE).timing.median_s
    lines = []
    for name in dict.fromkeys(row.model for row in mine):
        best = _best(mine, name)
        each = ", ".join(
            f"{row.mode} {1e3 * row.timing.median_s:.1f} ms" for row in mine if row.model == name
        )
        ratio = best.timing.median_s / base
        lines.append(
            f"{best.batch} x {best.length:<5} {name:<25} {each:<36} {ratio:.2f} of the Transformer's time"
        )
    return lines


def _growth(rows: Sequence[Row]) -> list[dict[str, Any]]:
    mine = sorted((row for row in rows if row.setting == "growth"), key=lambda row: row.length)
    return [
        {
            "length": row.length,
            "us_per_token": row.us_per_token,
            "over_shortest": row.us_per_token / mine[0].us_per_token,
        }
        for row in mine
    ]
