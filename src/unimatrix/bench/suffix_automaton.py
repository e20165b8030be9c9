"""The suffix automaton's speed and bytes, beside rosa-torch's where that is installed, in turns in one run.

Beside it a table of contexts over the same text (`unimatrix.ops.context_continuations`). Whole rows, a
decoding step behind many tokens, one long text in ten parts, and growing words on which other automata are
slow. Before a row is timed its answers must be the definition's on the beginning of the input, and
rosa-torch's on all of it.

Letters: a, b tokens; n tokens of a word.
"""

import importlib.metadata
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unimatrix.bench.timing import time_in_turns
from unimatrix.data import load_corpus
from unimatrix.errors import UserError
from unimatrix.evals.provenance import provenance
from unimatrix.extras import MissingPackage, needs
from unimatrix.models import state_bytes
from unimatrix.ops import context_continuations, suffix_automaton

DEFAULT_LENGTHS = tuple(2**k for k in range(12, 19))
BATCH, SHORT = 32, 128
ROW = 32_768
STEPS = 4  # decoding goes on for a quarter of what was read, so that the store grows at least once
PIECE, PARTS = 4096, 10  # of the long text: read so many tokens at a time, timed in so many parts
SYMBOLS = (2, 4, 259, 8192, 50_257)
DEFINED = 256  # tokens that are compared with the definition, which is quadratic
PEER_MOST = 2**20  # tokens in which rosa-torch is asked: it takes about 420 bytes for each
OURS, PEER = "unimatrix", "rosa-torch"


def run(
    out: Path,
    *,
    data: str = "embedded",
    length: int = 1_000_000,
    lengths: Sequence[int] = DEFAULT_LENGTHS,
    seconds: float = 6.0,
    say: Callable[[str], None] = print,
) -> Path:
    """Measure, print a line per row, write OUT/suffix_automaton.json; returns its path.

    Args:
        data: what `load_corpus` takes; its splits follow each other as one text.
        length: tokens of the long text, one a byte.
        lengths: tokens of the growing words.
        seconds: time spent on one comparison, shared by both.
    Raises:
        UserError: the text is shorter, or answers differ.
    """
    if length < PARTS:
        raise UserError(f"length: expected at least {PARTS}, got {length}")
    corpus = load_corpus(data)
    text = torch.from_numpy(np.concatenate([corpus.train, corpus.valid, corpus.test]).astype(np.int64))
    needed = max(length, ROW + ROW // STEPS, *lengths)
    if len(text) < needed:
        raise UserError(f"data: expected at least {needed:,} bytes, {corpus.name} has {len(text):,}")
    out.mkdir(parents=True, exist_ok=True)
    peer = _peer(say)
    result = {
        "benchmark": "suffix-automaton",
        **provenance("cpu"),
        "data": {"name": corpus.name, "bytes": len(text)},
        "peer": peer.about,
        "rows": _rows(text, peer, seconds=seconds, say=say),
        "steps": [_steps(text, at, peer, say=say) for at in sorted({ROW, length * STEPS // (STEPS + 1)})],
        "long": _long(text[:length], peer, say=say),
        "contexts": _contexts(text, length, seconds=seconds, say=say),
        "growth": [row for n in lengths for row in _growth(text, n, peer, seconds=seconds, say=say)],
    }
    path = out / "suffix_automaton.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return path


class _Peer:
    """rosa-torch, or why it is left out."""

    def __init__(self, rosa: Any, about: dict[str, str]) -> None:
        self._rosa, self.about = rosa, about

    def takes(self, tokens: int) -> bool:
        return self._rosa is not None and tokens <= PEER_MOST

    def state(self, batch: int, length: int) -> Any:
        return self._rosa.init_inference_state(batch, length)

    def read(self, tokens: Tensor) -> Tensor:
        """The answers of rows, from nothing on."""
        return self._rosa.prefill(self.state(*tokens.shape), tokens)

    def step(self, state: Any, token: Tensor) -> Tensor:
        return self._rosa.forward_step(state, token)


def _peer(say: Callable[[str], None]) -> _Peer:
    try:
        needs("rosa")
    except MissingPackage as error:
        say(f"{PEER} is left out: {error}")
        return _Peer(None, {"left_out": str(error)})
    import rosa

    version = importlib.metadata.version(PEER)
    return _Peer(rosa, {"name": PEER, "version": version, "backend": rosa.init_inference_state(1, 1).backend})


def _read(tokens: Tensor) -> tuple[Tensor, Any]:
    found, state = suffix_automaton(tokens)
    return found.token, state


def _check(name: str, tokens: Tensor, peer: _Peer) -> dict[str, int]:
    """How many answers equal the definition's, and the peer's; a UserError if any differs."""
    token, _ = _read(tokens)
    start = tokens[:1, :DEFINED]
    expected = {"the definition": suffix_automaton(start, backend="reference")[0].token}
    if peer.takes(tokens.numel()):
        expected[PEER] = peer.read(tokens)
    for whose, answers in expected.items():
        if not torch.equal(token[: len(answers), : answers.shape[1]], answers):
            raise UserError(f"{name}: the answers differ from those of {whose}; nothing is timed")
    return {whose: answers.numel() for whose, answers in expected.items()}


# ---- rows


def words(text: Tensor, n: int) -> dict[str, Tensor]:
    """[1, n] each: those on which other automata are slow, random ones, and text."""
    found: dict[str, Any] = {
        "a^n": np.zeros(n),
        "a^n b": np.arange(n) == n - 1,
        "Fibonacci": _doubled(n, lambda last, before: before),
        "Thue-Morse": _doubled(n, lambda last, before: 1 - last),
    }
    generator = np.random.default_rng(0)
    found |= {f"random over {symbols:,}": generator.integers(0, symbols, n) for symbols in SYMBOLS}
    tokens = {name: torch.from_numpy(np.asarray(word, np.int64))[None] for name, word in found.items()}
    return tokens | {"text": text[None, :n].contiguous()}


def _doubled(n: int, rest: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
    """A word that begins with 0, 1 and grows by what comes of its last two prefixes."""
    before, last = np.array([0]), np.array([0, 1])
    while len(last) < n:
        before, last = last, np.concatenate([last, rest(last, before)])
    return last[:n]


def _rows(text: Tensor, peer: _Peer, *, seconds: float, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Whole rows, read from nothing on."""
    long = words(text, ROW)
    cases = {
        "random bytes": torch.randint(0, 256, (BATCH, SHORT), generator=torch.Generator().manual_seed(0)),
        **{name: long[name] for name in ("text", "a^n", "Fibonacci")},
    }
    rows: list[dict[str, Any]] = []
    for name, tokens in cases.items():
        equal = _check(name, tokens, peer)
        calls: dict[str, Callable[[], object]] = {OURS: lambda tokens=tokens: _read(tokens)}
        if peer.takes(tokens.numel()):
            calls[PEER] = lambda tokens=tokens: peer.read(tokens)
        timings = time_in_turns(calls, seconds=seconds, turn_s=0.01)
        row = {
            "case": name,
            "batch": tokens.shape[0],
            "length": tokens.shape[1],
            "equal": equal,
            "bytes_per_token": state_bytes(_read(tokens)[1]) / tokens.numel(),
            "ms": {one: 1e3 * timing.median_s for one, timing in timings.items()},
            "low_ms": {one: 1e3 * timing.low_s for one, timing in timings.items()},
            "high_ms": {one: 1e3 * timing.high_s for one, timing in timings.items()},
        }
        rows.append(row | _over(row["ms"]))
        say(
            f"{name:<13} {tokens.shape[0]:>2} x {tokens.shape[1]:>6,}: {_spoken(row['ms'], 'ms')}, "
            f"{row['bytes_per_token']:.1f} bytes a token"
        )
    return rows


def _over(times: Mapping[str, float]) -> dict[str, float]:
    """How many times as fast as the peer."""
    return {"ratio": times[PEER] / times[OURS]} if PEER in times else {}


def _spoken(times: Mapping[str, float], unit: str) -> str:
    said = ", ".join(f"{one} {value:,.2f} {unit}" for one, value in times.items())
    return said + "".join(f" ({ratio:.2f} times as fast)" for ratio in _over(times).values())


# ---- decoding


def _steps(text: Tensor, position: int, peer: _Peer, *, say: Callable[[str], None]) -> dict[str, Any]:
    """Tokens behind a row one by one, each timed by itself, in turns; the slowest grows the store."""
    steps = position // STEPS
    tokens = text[None, : position + steps]
    _, state = _read(tokens[:, :position])
    theirs = peer.state(1, position + steps) if peer.takes(position + steps) else None
    if theirs is not None:
        theirs.prefill(tokens[:, :position])
    spent: dict[str, list[float]] = {OURS: []} | ({} if theirs is None else {PEER: []})
    for at in range(position, position + steps):
        step = tokens[:, at : at + 1]
        start = time.perf_counter()
        found, state = suffix_automaton(step, state)
        spent[OURS].append(time.perf_counter() - start)
        if theirs is not None:
            flat = step[0]
            start = time.perf_counter()
            answer = peer.step(theirs, flat)
            spent[PEER].append(time.perf_counter() - start)
            if not torch.equal(answer, found.token[0]):
                raise UserError(f"a step behind {position:,} tokens: the answers differ from those of {PEER}")
    quartiles = {one: statistics.quantiles(times, n=4) for one, times in spent.items()}
    row = {
        "position": position,
        "steps": steps,
        "us": {one: 1e6 * median for one, (_, median, _) in quartiles.items()},
        "low_us": {one: 1e6 * low for one, (low, _, _) in quartiles.items()},
        "high_us": {one: 1e6 * high for one, (_, _, high) in quartiles.items()},
        "mean_us": {one: 1e6 * statistics.fmean(times) for one, times in spent.items()},
        "slowest_us": {one: 1e6 * max(times) for one, times in spent.items()},
        "bytes_per_token": state_bytes(state) / tokens.numel(),
    }
    say(
        f"a step behind {position:>10,} tokens: {_spoken(row['us'], 'us')}; the slowest of {steps:,} "
        f"{row['slowest_us'][OURS]:,.0f} us, {row['bytes_per_token']:.1f} bytes a token"
    )
    return row | _over(row["us"])


def _long(text: Tensor, peer: _Peer, *, say: Callable[[str], None]) -> dict[str, Any]:
    """One text as a stream, in parts: the last beside the second."""
    equal = _check("the long text", text[None, :PEER_MOST], peer)
    state, spent = None, []
    for part in text[None].tensor_split(PARTS, dim=1):
        start = time.perf_counter()
        for piece in part.split(PIECE, dim=1):
            _, state = suffix_automaton(piece, state)
        spent.append(1e9 * (time.perf_counter() - start) / part.numel())
    size = state_bytes(state) / len(text)
    say(
        f"{len(text):,} tokens of text in {PARTS} parts: {', '.join(f'{ns:,.0f}' for ns in spent)} ns a "
        f"token, the last {spent[-1] / spent[1]:.2f} of the second, {size:.1f} bytes a token"
    )
    return {
        "length": len(text),
        "piece": PIECE,
        "equal": equal,
        "ns_per_token": spent,
        "last_over_second": spent[-1] / spent[1],
        "bytes_per_token": size,
    }


# ---- contexts


def _contexts(text: Tensor, length: int, *, seconds: float, say: Callable[[str], None]) -> dict[str, Any]:
    """A row of text and decoding steps behind many tokens, of the automaton and of contexts, in turns.

    Each answer is compared with the definition's on the beginning of the text, and the steps' with those of
    one call.
    """
    row, position = text[None, :ROW].contiguous(), length * STEPS // (STEPS + 1)
    start = row[:, :DEFINED]
    if not torch.equal(
        context_continuations(row)[0][:, :DEFINED], context_continuations(start, backend="reference")[0]
    ):
        raise UserError("contexts: the answers differ from those of the definition; nothing is timed")
    ops: dict[str, Callable[..., Any]] = {"automaton": suffix_automaton, "contexts": context_continuations}
    timings = time_in_turns(
        {name: lambda op=op: op(row) for name, op in ops.items()}, seconds=seconds, turn_s=0.01
    )
    tokens = text[None, : position + position // STEPS]
    states = {name: op(tokens[:, :position])[1] for name, op in ops.items()}
    spent: dict[str, list[float]] = {name: [] for name in ops}
    answers = []
    for at in range(position, tokens.shape[1]):
        step = tokens[:, at : at + 1]
        for name, op in ops.items():
            began = time.perf_counter()
            answer, states[name] = op(step, states[name])
            spent[name].append(time.perf_counter() - began)
            if name == "contexts":
                answers.append(answer)
    if not torch.equal(torch.cat(answers, 1), context_continuations(tokens)[0][:, position:]):
        raise UserError(f"contexts: steps behind {position:,} tokens differ from one call")
    found = {
        "length": ROW,
        "position": position,
        "ns_per_token": {name: 1e9 * timing.median_s / ROW for name, timing in timings.items()},
        "us": {name: 1e6 * statistics.median(times) for name, times in spent.items()},
        "slowest_us": {name: 1e6 * max(times) for name, times in spent.items()},
        "bytes_per_token": {name: state_bytes(state) / tokens.numel() for name, state in states.items()},
    }
    for what, numbers, unit in (
        (f"text, 1 x {ROW:,}", found["ns_per_token"], "ns a token"),
        (f"a step behind {position:,} tokens", found["us"], "us"),
        ("bytes a token", found["bytes_per_token"], "bytes"),
    ):
        say(f"{what}: " + ", ".join(f"{name} {number:,.1f} {unit}" for name, number in numbers.items()))
    return found


def _growth(
    text: Tensor, n: int, peer: _Peer, *, seconds: float, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """All words of n tokens, in turns."""
    given = words(text, n)
    equal = {name: _check(f"{name}, n = {n:,}", word, peer) for name, word in given.items()}
    calls: dict[str, Callable[[], object]] = {
        name: lambda word=word: _read(word) for name, word in given.items()
    }
    timings = time_in_turns(calls, seconds=seconds, min_rounds=3, warmup=1)
    rows = [
        {
            "case": name,
            "length": n,
            "equal": equal[name],
            "ns_per_token": 1e9 * timings[name].median_s / n,
            "bytes_per_token": state_bytes(_read(word)[1]) / n,
        }
        for name, word in given.items()
    ]
    say(
        f"n {n:>8,}, ns a token (bytes): "
        + ", ".join(f"{r['case']} {r['ns_per_token']:,.0f} ({r['bytes_per_token']:.0f})" for r in rows)
    )
    return rows
