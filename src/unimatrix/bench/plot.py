"""The speed figures: whole models over the sequence length, and training steps on associative recall."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import altair as alt

from unimatrix.bench.throughput import how_run, named

# Okabe and Ito's colours, told apart with any colour vision; shapes differ as well
COLOURS = ("#555b64", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "triangle-right")
GRID = "#e3e6ea"
TITLES = {"forward": "Forward pass", "training": "Training step"}
FONT = "Liberation Sans, Arial, Helvetica, sans-serif"  # the first comes with vl-convert


def plot_throughput(result: Mapping[str, Any], out: Path) -> list[Path]:
    """Write OUT/throughput.png and .svg from the JSON of unimatrix.bench.throughput; returns their paths."""
    return _save(draw_throughput(result), out, "throughput")


def plot_recall(result: Mapping[str, Any], out: Path) -> list[Path]:
    """Write OUT/recall.png and .svg from the JSON of unimatrix.bench.recall; returns their paths."""
    return _save(draw_recall(result), out, "recall")


def draw_throughput(result: Mapping[str, Any]) -> alt.FacetChart:
    """Tokens per second, a panel per pass.

    A line per model over the length; with more models than colours a row per model, a mark per length.
    """
    rows = result["rows"]
    models = list(dict.fromkeys(named(row) for row in rows))
    peers = list(result.get("peer_equality", ()))  # older results know no peers
    names = {model: f"{model} (peer)" if model in peers else model for model in models}
    points = [
        {"pass": TITLES[what], "model": names[model], "length": length, "speed": speed}
        for (what, model, length), speed in _best_of(rows).items()
    ]
    each = f"each {how_run(result)}"
    if len(models) > len(COLOURS):
        panel = _rows(points, list(names.values()))
    else:
        # the model whose ratios are written
        compared = [row["model"] for row in rows if row["model"] not in peers and named(row) == row["model"]][
            -1
        ]
        if compared == models[0]:
            compared = models[-1]
        each = f"numbers: {compared} over {models[0]}, {each}"
        ratios = [ratio for ratio in result["ratios"] if named(ratio) == compared]
        panel = _lines(points, names, ratios)
    passes = list(dict.fromkeys(point["pass"] for point in points))
    header = alt.Header(title=None, labelAnchor="start", labelFontSize=15)
    return panel.facet(column=alt.Column("pass:N", sort=passes, header=header)).properties(
        title=[each, _machine(result)]
    )


def draw_recall(result: Mapping[str, Any]) -> alt.HConcatChart:
    """A panel of training steps per setting, and one of SparsePointer over the length if it was followed."""
    settings = list(dict.fromkeys(row["setting"] for row in result["rows"] if row["setting"] != "growth"))
    panels = [_steps([row for row in result["rows"] if row["setting"] == setting]) for setting in settings]
    followed = [_growth(result["growth"])] if result["growth"] else []
    return alt.hconcat(*panels, *followed, spacing=30, title=alt.Title(_machine(result), offset=10))


def _best_of(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str, int], float]:
    """Pass, model and length -> tokens per second at the better mode."""
    best: dict[tuple[str, str, int], float] = {}
    for row in rows:
        key = row["what"], named(row), row["length"]
        best[key] = max(best.get(key, 0.0), row["tokens_per_s"])
    return best


def _lines(
    points: Sequence[Mapping[str, Any]], names: Mapping[str, str], ratios: Sequence[Mapping[str, Any]]
) -> alt.LayerChart:
    """A line per model, a peer's dashed; above the highest point of a length its ratio."""
    shown = list(names.values())
    x = _over_length(points)
    y = alt.Y("speed:Q", **_speeds(points))
    told = _told_apart("model", shown, columns=4)
    dashes = [[1, 0] if model == name else [5, 3] for model, name in names.items()]
    dash = alt.StrokeDash("model:N", scale=alt.Scale(domain=shown, range=dashes), legend=None)
    highest: dict[tuple[str, int], float] = {}
    for point in points:
        key = point["pass"], point["length"]
        highest[key] = max(highest.get(key, 0.0), point["speed"])
    written = [
        {"pass": what, "length": length, "top": highest[what, length], "text": _times(ratio["ratio"])}
        for ratio in ratios
        for what, length in [(TITLES[ratio["what"]], ratio["length"])]
    ]
    drawn = alt.Chart().transform_filter("isValid(datum.speed)").encode(x, y)
    texts = alt.Chart().transform_filter("isValid(datum.top)").encode(x, alt.Y("top:Q"), text="text:N")
    return alt.LayerChart(
        data=alt.InlineData(values=[*map(dict, points), *written]),
        layer=[
            drawn.mark_line().encode(told[0], dash),
            drawn.mark_point().encode(*told),
            texts.mark_text(dy=-13),
        ],
        width=400,
        height=260,
    )


def _times(ratio: float) -> str:
    """Two digits, and as many more as lie before the point."""
    return f"{ratio:.0f}x" if ratio >= 99.5 else f"{ratio:.2g}x"


def _rows(points: Sequence[Mapping[str, Any]], shown: Sequence[str]) -> alt.Chart:
    """A row per model, a mark per length."""
    labels = [f"T = {length:,}" for length in sorted({point["length"] for point in points})]
    records = [{**point, "label": f"T = {point['length']:,}"} for point in points]
    return (
        alt.Chart(alt.InlineData(values=records))
        .mark_point()
        .encode(
            alt.X("speed:Q", **_speeds(points)),
            alt.Y("model:N", title=None, sort=list(shown), axis=alt.Axis(grid=True)),
            *_told_apart("label", labels, columns=len(labels)),
        )
        .properties(width=420, height=alt.Step(26))
    )


def _told_apart(field: str, names: Sequence[str], *, columns: int) -> tuple[alt.Color, alt.Shape]:
    """The names by colour and by shape, in their order, with one legend below the panels."""
    legend = alt.Legend(title=None, orient="bottom", columns=columns)

    def scale(values: Sequence[str]) -> alt.Scale:
        chosen = [values[number % len(values)] for number in range(len(names))]
        return alt.Scale(domain=list(names), range=chosen)

    return (
        alt.Color(f"{field}:N", scale=scale(COLOURS), legend=legend),
        alt.Shape(f"{field}:N", scale=scale(SHAPES), legend=legend),
    )


def _over_length(records: Sequence[Mapping[str, Any]]) -> alt.X:
    lengths = sorted({record["length"] for record in records})
    return alt.X(
        "length:Q",
        title="sequence length (tokens)",
        scale=alt.Scale(type="log", base=2, nice=False, padding=20),
        axis=alt.Axis(values=lengths, format=",", grid=False),
    )


def _speeds(points: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Title, scale and axis of the speeds: ticks at 1, 2 and 5 of each power of ten."""
    speeds = [point["speed"] for point in points]
    low, high = min(speeds) / 1.6, max(speeds) * 1.6  # so wide that there is a tick in it
    ticks = [tick for power in range(-3, 12) for tick in (10.0**power * n for n in (1, 2, 5))]
    return {
        "title": "tokens per second",
        "scale": alt.Scale(type="log", domain=[low, high], nice=False),
        "axis": alt.Axis(values=[tick for tick in ticks if low <= tick <= high], format="~s"),
    }


def _steps(rows: Sequence[Mapping[str, Any]]) -> alt.LayerChart:
    """A bar per model: its training step at the better mode, and its ratio to the first one's."""
    best: dict[str, float] = {}
    for row in rows:
        best[row["model"]] = min(best.get(row["model"], float("inf")), 1e3 * row["timing"]["median_s"])
    first = next(iter(best.values()))
    records = [
        {"model": model, "ms": ms, "text": f"{ms:.0f} ms, {ms / first:.2f}", "colour": COLOURS[number > 0]}
        for number, (model, ms) in enumerate(best.items())
    ]
    base = alt.Chart(alt.InlineData(values=records)).encode(
        alt.X(
            "ms:Q",
            title="ms per training step",
            scale=alt.Scale(domain=[0, 1.45 * max(best.values())], nice=False),
            axis=alt.Axis(grid=False, tickCount=5),
        ),
        alt.Y("model:N", title=None, sort=None),
    )
    title = alt.Title(f"{rows[0]['batch']} x {rows[0]['length']:,} tokens", frame="group", fontSize=13)
    bars = base.mark_bar().encode(color=alt.Color("colour:N", scale=None))
    texts = base.mark_text(align="left", dx=4).encode(text="text:N")
    return alt.LayerChart(layer=[bars, texts], width=270, height=220, title=title)


def _growth(growth: Sequence[Mapping[str, Any]]) -> alt.Chart:
    title = alt.Title("SparsePointer over the length", frame="group", fontSize=13)
    costs = [row["us_per_token"] for row in growth]
    return (
        alt.Chart(alt.InlineData(values=[dict(row) for row in growth]))
        .mark_line(color=COLOURS[1], point=alt.OverlayMarkDef(color=COLOURS[1], size=70))
        .encode(
            _over_length(growth),
            alt.Y(
                "us_per_token:Q",
                title="us per token, training step",
                scale=alt.Scale(domain=[0, 1.25 * max(costs)], nice=False),
            ),
        )
        .properties(width=300, height=220, title=title)
    )


def _machine(result: Mapping[str, Any]) -> str:
    return f"{result['machine']} · {result['threads']} threads used · torch {result['versions']['torch']}"


def _save(drawing: alt.FacetChart | alt.HConcatChart, out: Path, name: str) -> list[Path]:
    dressed = drawing.configure(
        font=FONT,
        background="white",
        padding=12,
        view=alt.ViewConfig(stroke=None),
        axis=alt.AxisConfig(
            labelFontSize=12, titleFontSize=12, titleFontWeight="normal", gridColor=GRID, labelLimit=0
        ),
        legend=alt.LegendConfig(labelFontSize=12, labelLimit=0, symbolSize=70, symbolStrokeWidth=0),
        title=alt.TitleConfig(anchor="start", fontSize=12, fontWeight="normal"),
        point=alt.MarkConfig(filled=True, opacity=1, size=70),
        text=alt.MarkConfig(fontSize=12),
    )
    paths = [out / f"{name}.{kind}" for kind in ("png", "svg")]
    for path in paths:
        dressed.save(path, scale_factor=2)
    return paths
