"""Writes the tables that README.md and the pages of docs/ show, from committed rows.

    python .ci/pages.py           write them all
    python .ci/pages.py --check   say which are not what the rows say, and end with 1 if any is not

A table stands between `<!-- made: NAME -->` and `<!-- /made -->`. Its rows are docs/results and
src/unimatrix/cli/presets.json. Studies are judged by unimatrix.lab, the one place where that is done.
"""

import json
import math
import re
import statistics
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results"
SPEED = RESULTS / "speed"
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
MARKED = re.compile(r"(?<=<!-- made: )([\w-]+) -->\n.*?(?=<!-- /made -->)", re.DOTALL)

# README's table: study, the row's label (its last one), the column, what that is
HEADLINES = (
    ("ablation", "unimatrix", "bpb", "text, 80 steps: bits per byte"),
    ("ablation", "transformer-modern, with that gain", "bpb", "text, 80 steps: bits per byte"),
    ("ablation", "Transformer", "bpb", "text, 80 steps: bits per byte"),
    ("table1", "Transformer", "bpb", "text, 80 steps: bits per byte"),
    ("table2", "Triple-Hybrid", "bpb", "text, 80 steps: bits per byte"),
    ("ablation", "unimatrix", "accuracy_4_pairs", "one of 4 pairs recalled, % right"),
    ("table4", "Transformer", "accuracy", "one of 4 pairs recalled, % right"),
    ("table4", "SparsePointer", "accuracy", "one of 4 pairs recalled, % right"),
)
# a row's label where its group, which this table has not, says what it is
SHOWN = {
    ("ablation", "transformer-modern, with that gain"): "modern Transformer, with that head and gain",
    ("ablation", "Transformer"): "Transformer, with unimatrix's scaled head",
}


def main() -> int:
    stale = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        made = MARKED.sub(lambda found: f"{found[1]} -->\n{BLOCKS[found[1]]()}\n", text)
        if made != text:
            stale.append(page)
            if "--check" not in sys.argv[1:]:
                page.write_text(made, encoding="utf-8")
    for page in stale:
        print(f"{page.name}: {'is not what the rows say' if '--check' in sys.argv[1:] else 'written'}")
    return 1 if stale and "--check" in sys.argv[1:] else 0


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    whole = {" ± ": "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}", "|": "\\|"}

    def written(cell: str) -> str:
        for found, instead in whole.items():
            cell = cell.replace(found, instead)
        return cell

    return "\n".join(f"| {' | '.join(map(written, line))} |" for line in lines)


# ---- presets


def presets() -> str:
    """Every preset with what it is for."""
    rows = json.loads((ROOT / "src/unimatrix/cli/presets.json").read_text(encoding="utf-8"))
    general = [row for row in rows if "task" not in row]
    return table(
        (
            "preset",
            "for",
            "parameters, bytes (V = 259)",
            "recall (V = 64)",
            "state after 128 tokens",
            "after 4,096",
        ),
        (
            (
                f"`{row['name']}`",
                row["use"],
                f"{row['parameters_bytes']:,}",
                f"{row['parameters_recall']:,}",
                *(f"{size:,} B" for size in row["state_bytes"].values()),
            )
            for row in general
        ),
    )


def uses() -> str:
    """The same in short."""
    rows = json.loads((ROOT / "src/unimatrix/cli/presets.json").read_text(encoding="utf-8"))
    return table(
        ("preset", "for", "parameters", "state, 4,096 tokens"),
        (
            (f"`{r['name']}`", r["use"], f"{r['parameters_bytes']:,}", f"{r['state_bytes']['4096']:,} B")
            for r in rows
            if "task" not in r
        ),
    )


# ---- studies


def summaries() -> list[Any]:
    """Every study with the committed rows, judged; read once."""
    if not _summaries:
        from unimatrix.lab.newest import newest, on_each_text
        from unimatrix.lab.results import read_results
        from unimatrix.lab.words import summarise
        from unimatrix.studies.catalogue import ALL

        rows = read_results(RESULTS / "results.jsonl")
        studies = [told for study in ALL.values() for told in on_each_text(study, rows)]
        _summaries.extend(summarise(study, newest(study, rows)) for study in studies)
    return _summaries


_summaries: list[Any] = []


def score() -> str:
    """How many of the paper's claims stand how: the score of the report's first screen."""
    from unimatrix.studies.paper.claims import PAPER

    verdicts = [(summary.study.name, *judged) for summary in summaries() for judged in summary.verdicts]
    standings = [claim.standing for claim in PAPER.judged(verdicts)]
    counts = Counter[str](standings)
    return (
        f"Of the paper's {len(standings)} claims {counts['reproduced']} are reproduced,"
        f" {counts['not reproduced']} are not, {counts['undecided']} are undecided,"
        f" and {counts['open in the paper']} the paper leaves open."
    )


def headlines() -> str:
    """README's table."""
    lines = []
    for name, label, key, what in HEADLINES:
        (summary,) = (one for one in summaries() if one.study.name == name)
        number = [column.key for column in summary.study.columns].index(key)
        row = [row for row in summary.study.trained if row.label == label][-1]
        (line,) = (line for line in summary.lines if line.name == row.experiment.name)
        cell = line.cells[number]
        # of the model that this column measures: a task's has another vocabulary
        runs = summary.samples[row.measured_in(key).name].values()
        (parameters,) = {f"{run.parameters:,}" for run in runs}
        lines.append((what, SHOWN.get((name, label), label), parameters, cell.paper, cell.ours))
    return table(("measured", "model", "parameters", "paper", "ours"), lines)


def studies() -> str:
    """Each study: what it asks, its answer, its table, its verdicts."""
    found = [_study(summary) for summary in summaries() if not summary.waits]
    if waiting := [summary.study.title for summary in summaries() if summary.waits]:
        said = "Studies of which nothing has run yet: " + "; ".join(waiting) + "."
        found += ["## Not measured yet", textwrap.fill(said, 120, break_on_hyphens=False)]
    return "\n\n".join(found) + "\n"


def _study(summary: Any) -> str:
    study = summary.study
    parts = [f"## {study.title}"]
    if study.question:
        said = f"**{study.question}** {study.answer(summary.samples)}"
        parts.append(textwrap.fill(said, 120, break_on_hyphens=False))
    if summary.lines:
        parts.append(_measured(summary))
    if summary.unmeasured:
        said = f"Not measured yet: {'; '.join(summary.unmeasured)}."
        parts.append(textwrap.fill(said, 120, break_on_hyphens=False))
    if summary.verdicts:
        rows = (
            (claim.statement, verdict.text, "<br>".join(verdict.details))
            for claim, verdict in summary.verdicts
        )
        parts.append(table(("claim", "verdict", "evidence"), rows))
    return "\n\n".join(parts)


def _measured(summary: Any) -> str:
    """The rows; the paper's value stands beside ours where it prints any, in one order everywhere."""
    head = ["model", "parameters"]
    for column, printed in zip(summary.study.columns, summary.printed, strict=True):
        head += [f"{column.title}, paper", "ours"] if printed else [column.title]
    rows = []
    for line in summary.lines:
        cells = [f"{line.label} ({line.group})" if line.group else line.label, line.parameters_text]
        for cell, printed in zip(line.cells, summary.printed, strict=True):
            cells += [cell.paper, cell.ours] if printed else [cell.ours]
        rows.append(cells)
    return table(head, rows)


def costs() -> str:
    """What each study's committed runs learned from, how many they are and what they took."""
    lines = []
    for summary in summaries():
        study = summary.study
        runs = [run for name in study.names for run in summary.samples.get(name, {}).values()]
        if not runs or study.measurement is not None:
            continue
        counts = sorted({len(summary.samples[name]) for name in study.names if summary.samples.get(name)})
        hours = sum(run.seconds for run in runs) / 3600
        lines.append(
            (
                f"`{study.name.removesuffix(f'-{study.text}')}`",
                ", ".join(dict.fromkeys(run.data["name"] for run in runs)),
                str(len(runs)),
                " to ".join(map(str, dict.fromkeys((counts[0], counts[-1])))),
                str(study.threads),
                f"{hours:.1f}" if hours >= 0.05 else "under 0.1",
            )
        )
    return table(("study", "learns from", "runs", "seeds", "threads", "hours of training"), lines)


def fights() -> str:
    """The fair fights that have run: a table for each, and how many seeds."""
    from unimatrix.lab.words import NOTHING
    from unimatrix.studies.beyond.fair_fight import WITH

    found = []
    for summary in summaries():
        if not summary.study.name.startswith("fair-fight") or summary.waits:
            continue
        keys = [column.key for column in summary.study.columns]
        of = {
            (line.label, line.group == WITH): dict(zip(keys, line.cells, strict=True))
            for line in summary.lines
        }
        rows = []
        for label in dict.fromkeys(label for label, _ in of):
            plain, voting = (of.get((label, votes), {}) for votes in (False, True))
            cells = [(plain, "bpb"), (plain, "stream_bpb"), (voting, "stream_bpb"), (plain, "seconds")]
            texts = [one[key].ours if key in one else NOTHING for one, key in cells]
            if set(texts) != {NOTHING}:
                rows.append((label, *texts))
        seeds = sorted({len(runs) for runs in summary.samples.values() if runs})
        number = " to ".join(map(str, dict.fromkeys((seeds[0], seeds[-1]))))
        title = summary.study.title.partition(":")[0].replace(" (not in the paper)", "")
        head = (f"{title}, {number} {'seed' if number == '1' else 'seeds'}", "windows of 128", "stream")
        found.append(table((*head, "stream, with votes", "seconds"), rows))
    return "\n\n".join(found)


def searched() -> str:
    """What the fair fight's search came to, by contestant, and the recipes that it chose."""
    from unimatrix.codec import read_record
    from unimatrix.lab.recipes import Best, Recipes, by_contestant
    from unimatrix.lab.results import read_results
    from unimatrix.lab.search import SEARCH, bits
    from unimatrix.studies.beyond.contestants import CONTESTANTS, LEARNING
    from unimatrix.studies.beyond.fights import LABELS, RECIPES

    if not RECIPES.exists():
        return "The search has not been run."
    recipes = read_record(Recipes, RECIPES)
    runs = by_contestant(filter(recipes.is_of, read_results(RESULTS / SEARCH)))

    def recipe(name: str, best: Best) -> list[str]:
        axes = {**LEARNING, **CONTESTANTS[name].axes}
        chosen = [in_words(axes[axis][best.choices[axis]]) for axis in axes]
        return [str(best.experiment.model.changes["d_model"]), *chosen]

    lines, chosen = [], []
    for name, best in sorted(recipes.windows.items(), key=lambda found: found[1].bpb):
        all_bits = [bits(row, "bpb") for row in runs[name]]  # infinite where a run diverged
        least, most = recipes.steps[name]
        cells = [f"{found:.3f}" for found in (best.bpb, min(all_bits[: recipes.budget.drawn]))]
        streams = recipes.streams.get(name)
        middle = statistics.median(all_bits)
        lines.append(
            (
                LABELS[name],
                *cells,
                f"{middle:.3f}" if math.isfinite(middle) else "diverged",
                f"{streams.bpb:.3f}" if streams else "no stream",
                f"{least:,} to {most:,}",
            )
        )
        each = [("windows", recipe(name, best))] + ([("streams", recipe(name, streams))] if streams else [])
        if len(each) == 2 and each[0][1] == each[1][1]:
            each = [("both", each[0][1])]
        chosen += [(LABELS[name], measured, *cells) for measured, cells in each]
    budget = recipes.budget
    head = (
        *("model", f"best of {budget.runs} runs in windows", f"of the {budget.drawn} drawn", "median"),
        *("best as a stream", f"steps in {budget.seconds:g} s"),
    )
    settings = (
        *("model", "best for", "width", "rate", "warm-up, share", "bytes of a step", "of a window", "depth"),
        *("shape", "start (Mamba-2: state)", "scale, or heads"),
    )
    figure = "![Every run of the search, by contestant](results/search.svg)"
    return f"{table(head, lines)}\n\n{figure}\n\n{table(settings, chosen)}"


def in_words(choice: Any) -> str:
    """One choice of a setting: "0.006"; of what it changes in a preset the values: "gated mlp, 4.5, 0.5"."""
    if not isinstance(choice, Mapping):
        return choice.replace("_", " ") if isinstance(choice, str) else f"{choice:g}"
    return ", ".join(map(in_words, choice.values())) or "none"


# ---- speed


def _throughput(path: str) -> list[dict[str, Any]]:
    """The rows of models as they run by themselves, without those that loop over tokens in Python."""
    rows = json.loads((SPEED / path).read_text(encoding="utf-8"))["rows"]
    return [row for row in rows if row.get("form", "fast") == "fast"]


def _at_the_better_mode(path: str) -> dict[tuple[str, str, int], float]:
    """(model, pass, length) -> tokens per second, eager or compiled."""
    best: dict[tuple[str, str, int], float] = {}
    for row in _throughput(path):
        key = (row["model"], row["what"], row["length"])
        best[key] = max(best.get(key, 0.0), row["tokens_per_s"])
    return best


def speed(path: str, *, over: str) -> str:
    """Tokens per second over another model's, each at its better mode, by length."""
    best = _at_the_better_mode(path)
    lengths = sorted({length for _, _, length in best})
    named = dict.fromkeys((model, what) for model, what, _ in best if model != over)
    words = {"forward": "forward", "training": "training step"}
    return table(
        (f"over `{over}`, T", *(f"{length:,}" for length in lengths)),
        (
            (
                f"`{model}`, {words[what]}",
                *(f"{best[model, what, n] / best[over, what, n]:.2f}" for n in lengths),
            )
            for model, what in sorted(named, key=lambda one: [name for name, _ in named].index(one[0]))
        ),
    )


def speed_line() -> str:
    """How fast a training step is, for README."""

    def faster(path: str, model: str, length: int) -> float:
        best = _at_the_better_mode(path)
        return best[model, "training", length] / best["transformer", "training", length]

    ours = [faster("unimatrix/throughput.json", "unimatrix", length) for length in (128, 2048)]
    core = faster("throughput.json", "unimatrix-core", 8192)
    said = (
        f"A training step of `unimatrix` is {ours[0]:.2f} times as fast as a Transformer's of its size at "
        f"128 tokens, {ours[1]:.2f} times at 2,048; Core's, of half the weights, {core:.1f} times at 8,192 "
        "([two CPU threads](docs/performance.md))."
    )
    return textwrap.fill(said, 120, break_on_hyphens=False)


def recall_steps() -> str:
    """A training step on recall, at the better mode."""
    rows = json.loads((SPEED / "recall.json").read_text(encoding="utf-8"))["rows"]
    best: dict[tuple[str, int, int], dict[str, float]] = {}
    for row in rows:
        if row["setting"] != "growth":
            by_model = best.setdefault((row["setting"], row["batch"], row["length"]), {})
            seconds = row["timing"]["median_s"]
            by_model[row["model"]] = min(seconds, by_model.get(row["model"], seconds))
    models = list(next(iter(best.values())))
    head = ["model"]
    for _, batch, length in best:
        head += [f"{batch} x {length:,} tokens", "over the Transformer"]
    lines = []
    for model in models:
        cells = [f"`{model}`"]
        for by_model in best.values():
            cells += [f"{1e3 * by_model[model]:.1f} ms", f"{by_model[model] / by_model['transformer']:.2f}"]
        lines.append(cells)
    return table(head, lines)


def decoding() -> str:
    """Time per token and bytes of state, by position."""
    rows = json.loads((SPEED / "decode.json").read_text(encoding="utf-8"))["rows"]
    return table(
        ("model", "batch", "position", "first token", "per token", "over the nearest position", "state"),
        (
            (
                f"`{row['model']}`",
                str(row.get("batch", 1)),
                f"{row['position']:,}",
                f"{row['first_token_ms']:,.1f} ms" if "first_token_ms" in row else "not measured",
                f"{row['us_per_token']:,.0f} us",
                f"{row['over_nearest']:.2f}",
                f"{row['state_bytes']:,} B",
            )
            for row in rows
        ),
    )


def chunk_lengths() -> str:
    """The chunked form by its chunk length."""
    rows = json.loads((SPEED / "chunk_length.json").read_text(encoding="utf-8"))["rows"]
    chunks = sorted({row["chunk_len"] for row in rows})
    times = {(row["length"], row["chunk_len"]): row["median_ms"] for row in rows}
    return table(
        ("T", *(f"C = {chunk}" for chunk in chunks)),
        (
            (f"{length:,}", *(f"{times[length, chunk]:.1f} ms" for chunk in chunks))
            for length in sorted({length for length, _ in times})
        ),
    )


def automaton() -> str:
    """The suffix automaton beside its peer: rows, then a decoding step."""
    result = json.loads((SPEED / "suffix_automaton.json").read_text(encoding="utf-8"))
    ours, peer = "unimatrix", result["peer"]["name"]

    def line(what: str, times: dict[str, float], unit: str, one: dict[str, Any]) -> tuple[str, ...]:
        cells = (f"{times[name]:,.2f} {unit}" if name in times else "not measured" for name in (ours, peer))
        ratio = f"{one['ratio']:.2f}" if "ratio" in one else ""
        return (what, *cells, ratio, f"{one['bytes_per_token']:.1f}")

    rows = [
        line(f"{row['case']}, {row['batch']} x {row['length']:,}", row["ms"], "ms", row)
        for row in result["rows"]
    ]
    rows += [
        line(f"a step behind {row['position']:,} tokens", row["us"], "us", row) for row in result["steps"]
    ]
    return table(("", "ours", f"{peer} {result['peer']['version']}", "times as fast", "bytes a token"), rows)


def automaton_words() -> str:
    """Nanoseconds a token over the length, of the words on which automata are slow."""
    rows = json.loads((SPEED / "suffix_automaton.json").read_text(encoding="utf-8"))["growth"]
    lengths = sorted({row["length"] for row in rows})
    times = {(row["case"], row["length"]): row["ns_per_token"] for row in rows}
    sizes: dict[str, list[float]] = {}
    for row in rows:
        sizes.setdefault(row["case"], []).append(row["bytes_per_token"])
    return table(
        ("ns a token, n", *(f"{n:,}" for n in lengths), "bytes a token, at most"),
        (
            (case, *(f"{times[case, n]:,.0f}" for n in lengths), f"{max(of):.1f}")
            for case, of in sizes.items()
        ),
    )


def automaton_contexts() -> str:
    """A table of contexts beside the automaton, and on how many answers all agreed."""
    result = json.loads((SPEED / "suffix_automaton.json").read_text(encoding="utf-8"))
    found, each = result["contexts"], ("automaton", "contexts")
    ns, us, size = (
        [found[what][name] for name in each] for what in ("ns_per_token", "us", "bytes_per_token")
    )
    compared = sum(row["equal"][result["peer"]["name"]] for row in result["growth"])
    said = (
        f"A row of {found['length']:,} bytes of text took the automaton {ns[0]:.0f} ns a token and the table "
        f"of contexts {ns[1]:.0f}; a step behind {found['position']:,} tokens {us[0]:.1f} and {us[1]:.1f} "
        f"us; they kept {size[0]:.1f} and {size[1]:.1f} bytes a token. Of the words above "
        f"{compared:,} answers were {result['peer']['name']}'s, each."
    )
    return textwrap.fill(said, 120, break_on_hyphens=False)


def automaton_stream() -> str:
    """One text in parts."""
    long = json.loads((SPEED / "suffix_automaton.json").read_text(encoding="utf-8"))["long"]
    parts = ", ".join(f"{ns:,.0f}" for ns in long["ns_per_token"])
    said = (
        f"{long['length']:,} bytes of text as one stream, in tenths: {parts} ns a token; the last tenth"
        f" {long['last_over_second']:.2f} times the second."
    )
    return textwrap.fill(said, 120, break_on_hyphens=False)


BLOCKS: dict[str, Callable[[], str]] = {
    "presets": presets,
    "uses": uses,
    "score": score,
    "in-short": lambda: f"{score()}\n{speed_line()}",
    "headlines": headlines,
    "studies": studies,
    "costs": costs,
    "fights": fights,
    "search": searched,
    "speed-core": lambda: speed("throughput.json", over="transformer"),
    "speed-unimatrix": lambda: speed("unimatrix/throughput.json", over="transformer"),
    "speed-latent": lambda: speed("latent/throughput.json", over="transformer"),
    "speed-recurrent-ffn": lambda: speed("recurrent-ffn/throughput.json", over="transformer"),
    "speed-mamba2": lambda: speed("all/throughput.json", over="mamba2"),
    "speed-recall": recall_steps,
    "speed-decode": decoding,
    "speed-chunks": chunk_lengths,
    "speed-automaton": automaton,
    "speed-automaton-words": automaton_words,
    "speed-automaton-stream": automaton_stream,
    "speed-automaton-contexts": automaton_contexts,
}

if __name__ == "__main__":
    sys.exit(main())
