"""The numbers of a study as flat records: what its figures draw and tell where one is pointed at."""

from collections.abc import Iterable
from typing import Any

from unimatrix.lab.intervals import mean_interval
from unimatrix.lab.results import Samples
from unimatrix.lab.study import Baseline, Column, Row, Study

Record = dict[str, Any]
NAME = "name"
OURS, SEED, PAPER, EXACT = "ours: mean, 95 % interval", "each seed", "paper", "exact"


def spread(values: Iterable[float]) -> dict[str, float | int | None]:
    """mean, low, high and n of the values; no interval for one of them."""
    interval = mean_interval(list(values))
    bounds = (interval.low, interval.high) if interval.n > 1 else (None, None)
    return {"mean": interval.mean, "low": bounds[0], "high": bounds[1], "n": interval.n}


def records(study: Study, samples: Samples) -> list[Record]:
    """Every number of the study: a record for each mean, seed, printed and exactly known value.

    column: the key. row: its place from the top, from 0. kind: OURS, SEED, PAPER or EXACT; and NAME, once for
    each row that has something in that column, with the group's name as `heading` where one begins.
    """
    found: list[Record] = []
    for column in study.columns:
        group = ""
        for place, row in enumerate(study.rows):
            named = {"column": column.key, "row": place, "label": row.label}
            cell = [named | record for record in _of_cell(row, column, samples)]
            if cell:
                heading = row.group if row.group != group else ""
                found += [named | {"kind": NAME, "heading": heading}, *cell]
                group = row.group
    return found


def _of_cell(row: Row | Baseline, column: Column, samples: Samples) -> Iterable[Record]:
    if isinstance(row, Baseline):
        if (value := row.exact(samples).get(column.key)) is not None:
            yield {"kind": EXACT, "value": value}
        return
    values = column.by_seed(row, samples)
    if values:
        summary = spread(values.values())
        yield {"kind": OURS, "value": summary.pop("mean"), **summary}
    if len(values) > 1:
        runs = samples[row.measured_in(column.key).name]
        for seed, value in values.items():
            yield {"kind": SEED, "value": value, "seed": seed, "run": runs[seed].folder}
    if column.key in row.paper:
        yield {"kind": PAPER, "value": row.paper[column.key]}


def curves(study: Study, samples: Samples, *, fewest: int = 3) -> list[Record]:
    """What runs measured on their way: a record for each point of each seed, with its difference
    to the first row.

    Runs with fewer points than `fewest` have no curve worth a figure; where some rows learn from a text and
    others from a task, the first row that has curves decides which are shown, since they share no scale.
    """
    found: list[Record] = []
    reference: dict[tuple[int, int], float] = {}
    shown = None
    for row in study.trained:
        runs = {s: r for s, r in samples.get(row.experiment.name, {}).items() if len(r.curve) >= fewest}
        on_text = row.experiment.task is None
        if not runs or shown not in (None, on_text):
            continue
        points = {(seed, int(step)): value for seed, run in runs.items() for step, value in run.curve}
        for (seed, step), value in points.items():
            before = None if shown is None else reference.get((seed, step))
            found.append(
                {"series": row.name, "seed": seed, "run": runs[seed].folder, "step": step, "value": value}
                | {"difference": None if before is None else value - before}
            )
        if shown is None:
            reference, shown = points, on_text
    return found


def summarised(points: Iterable[Record], field: str) -> list[Record]:
    """Mean, low, high and n of a field of `curves`, for each series and step, over the seeds that have it."""
    groups: dict[tuple[str, int], list[float]] = {}
    for point in points:
        if point[field] is not None:
            groups.setdefault((point["series"], point["step"]), []).append(point[field])
    return [{"series": series, "step": step} | spread(values) for (series, step), values in groups.items()]
