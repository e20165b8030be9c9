"""The speed figure: tokens per second over the sequence length, forward and training side by side."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

# Okabe and Ito's colours, told apart with any colour vision; markers differ as well
COLOURS = ("#555b64", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
TITLES = {"forward": "Forward pass", "training": "Training step"}


def plot_throughput(result: Mapping[str, Any], out: Path) -> list[Path]:
    """Write OUT/throughput.png and .svg from the JSON of unimatrix.bench.throughput; returns their paths."""
    rows = result["rows"]
    passes = list(dict.fromkeys(row["what"] for row in rows))
    models = list(dict.fromkeys(row["model"] for row in rows))
    peers = list(result.get("peer_equality", ()))  # older results know no peers
    compared = [name for name in models if name not in peers][-1]  # the model whose ratios are written
    if compared == models[0]:
        compared = models[-1]
    figure = Figure(figsize=(5.2 * len(passes), 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(1, len(passes), squeeze=False, sharey=True)
    for axes, what in zip(grid[0], passes, strict=True):
        for number, model in enumerate(models):
            best: dict[int, float] = {}
            for row in rows:
                if (row["model"], row["what"]) == (model, what):
                    best[row["length"]] = max(best.get(row["length"], 0.0), row["tokens_per_s"])
            axes.plot(
                list(best),
                list(best.values()),
                color=COLOURS[number % len(COLOURS)],
                marker=MARKERS[number % len(MARKERS)],
                linestyle="--" if model in peers else "-",
                label=f"{model} (peer)" if model in peers else model,
            )
        for ratio in (r for r in result["ratios"] if r["what"] == what and r["model"] == compared):
            top = max(
                row["tokens_per_s"] for row in rows if (row["length"], row["what"]) == (ratio["length"], what)
            )
            axes.annotate(
                f"{ratio['ratio']:.2g}x",
                (ratio["length"], top),
                textcoords="offset points",
                xytext=(0, 8),
                ha="center",
                fontsize=9,
            )
        lengths = sorted({row["length"] for row in rows})
        axes.set_xscale("log", base=2)
        axes.set_xticks(lengths, [f"{length:,}" for length in lengths])
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value / 1000:,g}k")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.margins(y=0.15)
        axes.set_title(TITLES[what], loc="left")
        axes.set_xlabel("sequence length (tokens)")
        axes.grid(axis="y", color="#e3e6ea", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("tokens per second")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    # below the panels, where it covers no line
    figure.legend(handles, labels, frameon=False, loc="outside lower center", ncols=2 * len(passes))
    figure.suptitle(
        f"numbers: {compared} over {models[0]}, each at the better of eager and torch.compile\n"
        f"{result['machine']} · {result['threads']} threads used · torch {result['versions']['torch']}",
        fontsize=9,
        x=0.01,
        ha="left",
    )
    paths = [out / f"throughput.{kind}" for kind in ("png", "svg")]
    for path in paths:
        figure.savefig(path, dpi=160)
    return paths


def plot_recall(result: Mapping[str, Any], out: Path) -> list[Path]:
    """Write OUT/recall.png and .svg from the JSON of unimatrix.bench.recall; returns their paths."""
    settings = list(dict.fromkeys(row["setting"] for row in result["rows"] if row["setting"] != "growth"))
    panels = len(settings) + bool(result["growth"])
    figure = Figure(figsize=(4.3 * panels, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(1, panels, squeeze=False)[0]
    for axes in grid:
        axes.spines[["top", "right"]].set_visible(False)
    for axes, setting in zip(grid, settings, strict=False):
        _plot_steps(axes, [row for row in result["rows"] if row["setting"] == setting])
    if result["growth"]:
        axes = grid[-1]
        lengths = [row["length"] for row in result["growth"]]
        costs = [row["us_per_token"] for row in result["growth"]]
        axes.plot(lengths, costs, color=COLOURS[1], marker="o")
        axes.set_xscale("log", base=2)
        axes.set_xticks(lengths, [f"{length:,}" for length in lengths])
        axes.set_ylim(0, 1.25 * max(costs))
        axes.set_title("SparsePointer over the length", loc="left", fontsize=10)
        axes.set_xlabel("sequence length (tokens)")
        axes.set_ylabel("us per token, training step")
    figure.suptitle(
        f"{result['machine']} · {result['threads']} threads used · torch {result['versions']['torch']}",
        fontsize=9,
        x=0.01,
        ha="left",
    )
    paths = [out / f"recall.{kind}" for kind in ("png", "svg")]
    for path in paths:
        figure.savefig(path, dpi=160)
    return paths


def _plot_steps(axes: Any, rows: list[Mapping[str, Any]]) -> None:
    """A bar per model: its training step at the better mode, and its ratio to the first one's."""
    best: dict[str, float] = {}
    for row in rows:
        best[row["model"]] = min(best.get(row["model"], float("inf")), 1e3 * row["timing"]["median_s"])
    first = next(iter(best.values()))
    axes.barh(list(best), list(best.values()), color=[COLOURS[0], *[COLOURS[1]] * (len(best) - 1)])
    for place, value in enumerate(best.values()):
        axes.text(value, place, f" {value:.0f} ms, {value / first:.2f}", va="center", fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.45 * max(best.values()))
    axes.set_xlabel("ms per training step")
    axes.set_title(f"{rows[0]['batch']} x {rows[0]['length']:,} tokens", loc="left", fontsize=10)
