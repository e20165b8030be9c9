"""The speed figure: tokens per second over the sequence length, forward and training side by side."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

# Okabe and Ito's colours, told apart with any colour vision; markers differ as well
COLOURS = ("#555b64", "#0072b2", "#d55e00", "#009e73", "#cc79a7")
MARKERS = ("o", "s", "^", "D", "v")
TITLES = {"forward": "Forward pass", "training": "Training step"}


def plot_throughput(result: Mapping[str, Any], out: Path) -> list[Path]:
    """Write OUT/throughput.png and .svg from the JSON of unimatrix.bench.throughput; returns their paths."""
    rows = result["rows"]
    passes = list(dict.fromkeys(row["what"] for row in rows))
    models = list(dict.fromkeys(row["model"] for row in rows))
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
                label=model,
            )
        for ratio in (r for r in result["ratios"] if r["what"] == what and r["model"] == models[-1]):
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
    figure.axes[0].legend(frameon=False, loc="lower left")
    figure.suptitle(
        f"numbers: {models[-1]} over {models[0]}, each at the better of eager and torch.compile\n"
        f"{result['machine']} · {result['threads']} threads used · torch {result['versions']['torch']}",
        fontsize=9,
        x=0.01,
        ha="left",
    )
    paths = [out / f"throughput.{kind}" for kind in ("png", "svg")]
    for path in paths:
        figure.savefig(path, dpi=160)
    return paths
