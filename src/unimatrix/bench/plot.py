"""The speed figure: tokens per second over the sequence length, forward and training side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from unimatrix.bench.throughput import named

# Okabe and Ito's colours, told apart with any colour vision; markers differ as well
COLOURS = ("#555b64", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GRID = "#e3e6ea"
TITLES = {"forward": "Forward pass", "training": "Training step"}


def plot_throughput(result: Mapping[str, Any], out: Path) -> list[Path]:
    """Write OUT/throughput.png and .svg from the JSON of unimatrix.bench.throughput; returns their paths.

    A line per model over the length; with more models than colours a row per model, a mark per length.
    """
    rows = result["rows"]
    passes = list(dict.fromkeys(row["what"] for row in rows))
    models = list(dict.fromkeys(named(row) for row in rows))
    peers = list(result.get("peer_equality", ()))  # older results know no peers
    # the model whose ratios are written
    compared = [row["model"] for row in rows if row["model"] not in peers and named(row) == row["model"]][-1]
    if compared == models[0]:
        compared = models[-1]
    in_rows = len(models) > len(COLOURS)
    figure = Figure(
        figsize=(max(6.8, 5.2 * len(passes)), 1.8 + 0.3 * len(models) if in_rows else 4.0),
        layout="constrained",
    )
    FigureCanvasAgg(figure)
    grid = figure.subplots(1, len(passes), squeeze=False, sharey=True)
    for axes, what in zip(grid[0], passes, strict=True):
        best = _best_of(rows, what)
        names = {model: f"{model} (peer)" if model in peers else model for model in models}
        if in_rows:
            _plot_rows(axes, best, names)
        else:
            _plot_lines(axes, best, names)
            _write_ratios(axes, best, [r for r in result["ratios"] if named(r) == compared], what)
        axes.set_title(TITLES[what], loc="left")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    # below the panels, where it covers no line
    columns = len(handles) if in_rows else max(3, 2 * len(passes))
    figure.legend(handles, labels, frameon=False, loc="outside lower center", ncols=columns)
    each = "each at the better of eager and torch.compile"
    figure.suptitle(
        f"{each if in_rows else f'numbers: {compared} over {models[0]}, {each}'}\n"
        f"{result['machine']} · {result['threads']} threads used · torch {result['versions']['torch']}",
        fontsize=9,
        x=0.01,
        ha="left",
    )
    return _save(figure, out, "throughput")


def _best_of(rows: Sequence[Mapping[str, Any]], what: str) -> dict[str, dict[int, float]]:
    """model -> length -> tokens per second at its better mode."""
    best: dict[str, dict[int, float]] = {}
    for row in rows:
        if row["what"] == what:
            mine = best.setdefault(named(row), {})
            mine[row["length"]] = max(mine.get(row["length"], 0.0), row["tokens_per_s"])
    return best


def _plot_lines(axes: Any, best: Mapping[str, Mapping[int, float]], names: Mapping[str, str]) -> None:
    for number, (model, speeds) in enumerate(best.items()):
        axes.plot(
            list(speeds),
            list(speeds.values()),
            color=COLOURS[number],
            marker=MARKERS[number],
            linestyle="-" if names[model] == model else "--",
            label=names[model],
        )
    lengths = sorted({length for speeds in best.values() for length in speeds})
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, [f"{length:,}" for length in lengths])
    axes.set_xlabel("sequence length (tokens)")
    axes.set_yscale("log")
    _thousands(axes.yaxis)
    axes.margins(y=0.15)
    axes.grid(axis="y", color=GRID, linewidth=0.6)
    if axes.get_subplotspec().is_first_col():
        axes.set_ylabel("tokens per second")


def _plot_rows(axes: Any, best: Mapping[str, Mapping[int, float]], names: Mapping[str, str]) -> None:
    places = range(len(best))
    lengths = sorted({length for speeds in best.values() for length in speeds})
    for number, length in enumerate(lengths):
        axes.plot(
            [speeds[length] for speeds in best.values()],
            places,
            color=COLOURS[number % len(COLOURS)],
            marker=MARKERS[number % len(MARKERS)],
            linestyle="",
            label=f"T = {length:,}",
        )
    axes.set_yticks(places, [names[model] for model in best])
    axes.set_ylim(len(best) - 0.5, -0.5)
    axes.set_xscale("log")
    _thousands(axes.xaxis)
    axes.set_xlabel("tokens per second")
    axes.grid(color=GRID, linewidth=0.6)


def _write_ratios(
    axes: Any, best: Mapping[str, Mapping[int, float]], ratios: Sequence[Mapping[str, Any]], what: str
) -> None:
    """Each ratio of that pass above the highest point of its length."""
    for ratio in (ratio for ratio in ratios if ratio["what"] == what):
        length = ratio["length"]
        axes.annotate(
            f"{ratio['ratio']:.2g}x",
            (length, max(speeds[length] for speeds in best.values())),
            textcoords="offset points",
            xytext=(0, 8),
            ha="center",
            fontsize=9,
        )


def _thousands(axis: Any) -> None:
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(lambda value, _: f"{value / 1000:,g}k")
    axis.set_minor_formatter(NullFormatter())


def _save(figure: Figure, out: Path, name: str) -> list[Path]:
    paths = [out / f"{name}.{kind}" for kind in ("png", "svg")]
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
    return _save(figure, out, "recall")


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
