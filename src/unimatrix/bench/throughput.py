"""Tokens per second of whole models over the sequence length: a forward pass, and a whole training step.

The paper's scale: D 64, H 4, L 3, batch 8 (2 at 8192). Every candidate runs eagerly and under torch.compile;
the better counts. A model with recurrences can also be timed in the form that the paper timed, a loop over
the tokens in Python. Before anything is timed, the model's fast form must equal its reference form. A peer, a
model that others wrote, takes its turns beside ours; its checks are in unimatrix.bench.equality.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unimatrix.bench import worker
from unimatrix.bench.ceiling import Ceiling, measure_ceiling
from unimatrix.bench.equality import (
    as_loops,
    check_compiled,
    check_models,
    compiled_peer_problem,
    compiler_errors,
    room_to_compile,
)
from unimatrix.bench.processes import over_repeats, repeated
from unimatrix.bench.timing import Timing, time_in_turns
from unimatrix.errors import UserError
from unimatrix.evals.provenance import provenance
from unimatrix.extras import needs
from unimatrix.models import build, build_language_model, peer_presets
from unimatrix.ops import backends_of

BASELINE = "transformer"
DEFAULT_LENGTHS = (64, 128, 256, 512, 2048, 8192)
MODES = ("eager", "compile")
FORMS = ("fast", "loop")
# a training step is a forward pass and two of its size backwards
FORWARD_PASSES: dict[worker.Pass, int] = {"forward": 1, "training": 3}
PASSES = tuple(FORWARD_PASSES)
TURN_SECONDS = 0.03


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One model at one length in one form, pass and mode.

    form: "fast" as a model runs by itself, "loop" with its recurrences as a loop over tokens in Python.
    ceiling_share: None where it is not counted, of a peer and of a loop.
    """

    model: str
    form: str
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
    passes: Sequence[worker.Pass] = PASSES,
    modes: Sequence[str] = MODES,
    forms: Sequence[str] = ("fast",),
    repeats: int = 1,
    seconds: float = 6.0,
    device: str = "cpu",
    say: Callable[[str], None] = print,
) -> Path:
    """`measure` so many times, write OUT/throughput.json and the plot; returns the JSON's path.

    Args:
        repeats: 1 measures in this process, more measure in a fresh process each; then medians over them
            count, with the least and the greatest beside.
    """
    for package in ("altair", "vl_convert"):  # before anything is timed
        needs(package)
    out.mkdir(parents=True, exist_ok=True)
    modes = runnable_modes(modes, say)
    found = repeated(
        measure,
        repeats,
        models=models,
        lengths=lengths,
        passes=passes,
        modes=modes,
        forms=forms,
        seconds=seconds,
        device=device,
        say=say,
    )
    result = {"benchmark": "throughput", **provenance(device), "repeats": repeats, "modes": modes, **found[0]}
    for key, measured in MEASURED.items():
        result[key] = over_repeats([one[key] for one in found], measured)
    path = out / "throughput.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    from unimatrix.bench.plot import plot_throughput

    plot_throughput(result, out)
    return path


# the lists of a result, and the number in each that is measured
MEASURED = {"rows": "tokens_per_s", "ratios": "ratio", "peer_ratios": "ratio", "flatness": "ratio"}


def measure(
    *,
    models: Sequence[str],
    lengths: Sequence[int],
    passes: Sequence[worker.Pass] = PASSES,
    modes: Sequence[str] = MODES,
    forms: Sequence[str] = ("fast",),
    rounds: int = 7,
    ceilings: bool = True,
    seconds: float = 6.0,
    device: str = "cpu",
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Measure once, and say a line per length.

    Args:
        models: names of presets() and of peer_presets(), each compared with the Transformer, and ours also
            with every peer.
        lengths: tokens per sequence; the batch is 8, and 2 from 8192 tokens on.
        forms: "loop" adds, of the models with recurrences, the form that the paper timed; in eager mode.
        rounds: how often all candidates take their turns at least.
        ceilings: whether the models' bare products are timed too, a second for each model and length.
        seconds: time spent on one length and pass, shared by all candidates, if the rounds leave any.
    Raises:
        UserError: a wrong length, pass, mode or form; a fast form that does not equal its reference; a peer
            that gives other logits one token at a time.
    """
    _check(lengths, passes, modes, forms)
    ours = list(dict.fromkeys([BASELINE, *(name for name in models if name not in peer_presets())]))
    peers = list(dict.fromkeys(name for name in models if name in peer_presets()))
    equality, peer_equality = check_models(ours, peers, device=device, say=say)
    rows: list[Row] = []
    left_out: list[LeftOut] = []
    for length in lengths:
        for what in passes:
            with room_to_compile(len(ours) + len(peers)) if "compile" in modes else nullcontext():
                found, without = _measure(
                    [*ours, *peers],
                    length,
                    what,
                    modes,
                    forms,
                    rounds=rounds,
                    ceilings=ceilings,
                    seconds=seconds,
                    device=device,
                )
            for one in without:
                say(f"T {length:>5}  {what:<8}  {one.model} in eager mode alone: {one.why}")
            rows += found
            left_out += without
            say(_line(found, ours, peers))
    return {
        "equality": equality,
        "peer_equality": peer_equality,
        "rows": [asdict(row) for row in rows],
        "left_out": [asdict(one) for one in left_out],
        "ratios": ratios(rows),
        "peer_ratios": peer_ratios(rows, ours, peers),
        "flatness": flatness(rows),
    }


def how_run(result: Mapping[str, Any]) -> str:
    """In what mode a model ran, in words: "at the better of eager and torch.compile"."""
    words = {"eager": "eager", "compile": "torch.compile"}
    modes = [words[mode] for mode in result.get("modes", words)]  # older results, of both, do not say so
    return f"at the better of {' and '.join(modes)}" if len(modes) > 1 else f"in {modes[0]} mode"


def runnable_modes(modes: Sequence[str], say: Callable[[str], None]) -> list[str]:
    """The modes without "compile" where torch.compile finds no C++ compiler, said aloud."""
    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("g++", "clang++", "c++", "cl")), None)
    if "compile" in modes and compiler is None:
        say("no C++ compiler found (g++ or clang++): torch.compile is left out, eager mode alone is measured")
        return [mode for mode in modes if mode != "compile"] or ["eager"]
    return list(modes)


def _measure(
    names: Sequence[str],
    length: int,
    what: worker.Pass,
    modes: Sequence[str],
    forms: Sequence[str],
    *,
    rounds: int,
    ceilings: bool,
    seconds: float,
    device: str,
) -> tuple[list[Row], list[LeftOut]]:
    batch = 8 if length < 8192 else 2
    ids = torch.randint(0, 256, (batch, length + 1), generator=torch.Generator().manual_seed(0)).to(device)
    candidates: dict[tuple[str, str, str], Callable[[], object]] = {}
    counted: dict[tuple[str, str], Ceiling] = {}
    ran: dict[tuple[str, str, str], dict[str, str]] = {}
    left_out = []
    for name, form in ((name, form) for name in names for form in forms):
        torch.manual_seed(0)
        peer = name in peer_presets()
        model: Any = (build if peer else build_language_model)(name, max_positions=length).to(device)
        if form == "loop":
            if not as_loops(model):
                continue
            calls = {"eager": worker.PASSES[what](model, model, ids)}
        elif peer:
            calls, why = _peer_calls(model, ids, what, modes)
            if why is not None:
                left_out.append(LeftOut(model=name, length=length, what=what, mode="compile", why=why))
        else:
            calls = {mode: _call(name, model, ids, what, mode) for mode in modes}
            if ceilings:
                counted[name, form] = measure_ceiling(model, batch, length, device=device)
        for mode, call in calls.items():
            candidates[name, form, mode] = call
            call()
            ran[name, form, mode] = backends_of(model)  # now: the next mode may run other forms
    timings = time_in_turns(
        candidates,
        seconds=seconds,
        min_rounds=rounds,
        warmup=min(3, rounds),
        turn_s=min(TURN_SECONDS, seconds),
        device=device,
    )
    rows = [
        Row(
            model=name,
            form=form,
            length=length,
            batch=batch,
            what=what,
            mode=mode,
            timing=timing,
            tokens_per_s=batch * length / timing.median_s,
            ceiling_share=counted[name, form].share(timing.median_s, passes=FORWARD_PASSES[what])
            if (name, form) in counted
            else None,
            backends=ran[name, form, mode],
        )
        for (name, form, mode), timing in timings.items()
    ]
    return rows, left_out


def _call(name: str, model: Any, ids: torch.Tensor, what: worker.Pass, mode: str) -> Callable[[], object]:
    call = torch.compile(model, dynamic=False) if mode == "compile" else model
    if mode == "compile":
        check_compiled(call, model, ids, name)
    return worker.PASSES[what](call, model, ids)


def _peer_calls(
    peer: nn.Module, ids: torch.Tensor, what: worker.Pass, modes: Sequence[str]
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
            call = worker.PASSES[what](compiled, peer, ids)
            call()  # what a backward pass needs is compiled here, and may fail here
        except compiler_errors() as error:
            why = f"torch.compile failed, {type(error).__name__}: {' '.join(str(error).split()):.200}"
        else:
            if why is None:
                calls["compile"] = call
    if "eager" in modes or why is not None:
        calls["eager"] = worker.PASSES[what](peer, peer, ids)
    return calls, why


def ratios(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """For each length and pass: a model's tokens/s over the Transformer's, each at its better mode."""
    return [
        {
            "model": row.model,
            "form": row.form,
            "length": row.length,
            "what": row.what,
            "ratio": row.tokens_per_s / base.tokens_per_s,
            "mode": row.mode,
            "baseline_mode": base.mode,
        }
        for row, base in _beside(rows, BASELINE)
        if row.model != BASELINE
    ]


def peer_ratios(rows: Sequence[Row], ours: Sequence[str], peers: Sequence[str]) -> list[dict[str, Any]]:
    """For each length and pass: each of our models' tokens/s over each peer's, each at its better mode."""
    return [
        {
            "model": row.model,
            "form": row.form,
            "peer": peer,
            "length": row.length,
            "what": row.what,
            "ratio": row.tokens_per_s / base.tokens_per_s,
            "mode": row.mode,
            "peer_mode": base.mode,
        }
        for peer in peers
        for row, base in _beside(rows, peer)
        if row.model in ours
    ]


def flatness(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """For each model, form and pass: tokens/s at the longest length over that at the shortest."""
    lengths = sorted({row.length for row in rows})
    at = {(row.model, row.form, row.what, row.length): row.tokens_per_s for row in _best(rows)}
    return [
        {
            "model": model,
            "form": form,
            "what": what,
            "length": lengths[-1],
            "over_length": lengths[0],
            "ratio": at[model, form, what, lengths[-1]] / at[model, form, what, lengths[0]],
        }
        for model, form, what in dict.fromkeys((row.model, row.form, row.what) for row in rows)
    ]


def _best(rows: Sequence[Row]) -> list[Row]:
    """Of the rows that differ in mode alone the quickest."""
    best: dict[tuple[int, str, str, str], Row] = {}
    for row in rows:
        key = row.length, row.what, row.model, row.form
        if key not in best or row.tokens_per_s > best[key].tokens_per_s:
            best[key] = row
    return list(best.values())


def _beside(rows: Sequence[Row], name: str) -> Iterator[tuple[Row, Row]]:
    """Every best row, and beside it that of the fast form of a model `name` at the same length and pass."""
    best = _best(rows)
    bases = {(row.length, row.what): row for row in best if (row.model, row.form) == (name, "fast")}
    return ((row, bases[row.length, row.what]) for row in best)


def named(row: Mapping[str, Any]) -> str:
    """What a row's model is called in tables and plots: with its form, if that is not the fast one."""
    return row["model"] if row.get("form", "fast") == "fast" else f"{row['model']} ({row['form']})"


def _line(rows: Sequence[Row], ours: Sequence[str], peers: Sequence[str]) -> str:
    """All models at the one length and pass of `rows`."""
    parts = [f"T {rows[0].length:>5}  {rows[0].what:<8}"]
    over = {(one["model"], one["form"]): [f"{one['ratio']:.2f}x"] for one in ratios(rows)}
    for one in peer_ratios(rows, ours, peers):
        over.setdefault((one["model"], one["form"]), []).append(f"{one['ratio']:.2f}x {one['peer']}")
    for row in _best(rows):
        quotients = over.get((row.model, row.form), [])
        share = "-" if row.ceiling_share is None else f"{row.ceiling_share:.0%}"
        parts.append(
            f"{named(asdict(row))} {row.tokens_per_s:>9,.0f} tok/s "
            f"({row.mode}, {share} of the products' ceiling)"
            f"{' = ' if quotients else ''}{', '.join(quotients)}"
        )
    return "  ".join(parts)


def _check(
    lengths: Sequence[int], passes: Sequence[worker.Pass], modes: Sequence[str], forms: Sequence[str]
) -> None:
    for length in lengths:
        if length < 1:
            raise UserError(f"lengths: expected at least 1, got {length}")
    for kind, values, known in (("passes", passes, PASSES), ("modes", modes, MODES), ("forms", forms, FORMS)):
        for value in values:
            if value not in known:
                raise UserError(f"{kind}: expected one of {', '.join(known)}, got {value!r}")
    if "fast" not in forms:
        raise UserError("forms: expected fast among them, which all others are compared with")
    if not (lengths and passes and modes):
        raise UserError("bench throughput: expected at least one length, pass and mode")
