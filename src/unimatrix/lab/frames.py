"""Results as tidy data frames, one number a line: for figures, for results.csv, for a notebook.

import pandas, unimatrix.lab.frames as frames, unimatrix.lab.results as results
numbers = frames.frame(results.read_results(Path("reproduction/results.jsonl")))
numbers.query("metric == 'bpb'").groupby("experiment").value.agg(["mean", "std"])
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas

from unimatrix.lab.results import Result, Samples
from unimatrix.lab.study import Study

# a word of a metric's name -> the unit of its values
_UNITS = {"bpb": "bits/byte", "ppl": "perplexity/byte", "loss": "nats", "accuracy": "%", "seconds": "s"}
_UNITS |= {
    "tokens": "tokens/s",
    "slower": "times",
    "flatness": "times",
    "log2": "doublings",
    "tilt": "doublings",
}
_UNITS |= {"first": "ms", "token": "us", "state": "bytes", "forward": "MiB", "training": "MiB"}
_OF_THE_RUN = (
    *("experiment", "model", "seed", "steps", "parameters", "seconds", "tokens_per_second"),
    *("git_commit", "date_utc", "machine", "device", "threads", "backend"),
)
FRAME = (*_OF_THE_RUN, "data", "identity", "metric", "value", "unit")
CURVES = ("experiment", "model", "seed", "identity", "step", "metric", "value", "unit")
STUDY_FRAME = ("study", "group", "row", "column", "paper", *FRAME)


def unit_of(metric: str) -> str:
    """The unit of a metric's values: "bits/byte" of "bpb" and "xz_bpb"; "" of one not known here."""
    return next((_UNITS[word] for word in metric.split("_") if word in _UNITS), "")


def frame(results: Iterable[Result] | Samples) -> pandas.DataFrame:
    """One line per run and metric: what was run (columns as in results.jsonl), metric, value, unit."""
    lines = [
        line | _number(metric, value)
        for run in _runs(results)
        for line in [_run(run)]
        for metric, value in run.metrics.items()
    ]
    return pandas.DataFrame(lines, columns=list(FRAME))


def written(own: Sequence[Result], shown: Sequence[Result]) -> pandas.DataFrame:
    """What results.csv holds: `frame` of the rows whose settings are today's, and where each comes from.

    origin: "own" of what ran here, "shown" of the project's own runs that stand in for what did not.
    """
    rows = [("shown", row) for row in shown if row.is_current]
    rows += [("own", row) for row in own if row.is_current]
    found = frame(row for _, row in rows)
    found.insert(0, "origin", [origin for origin, row in rows for _ in row.metrics])
    return found


def curves(results: Iterable[Result] | Samples) -> pandas.DataFrame:
    """One line per run and evaluation on the way: experiment, seed, step, metric, value, unit."""
    lines = [
        {name: found for name, found in _run(run).items() if name in CURVES}
        | {"step": int(step)}
        | _number("bpb" if run.on_text else "accuracy", value)
        for run in _runs(results)
        for step, value in run.curve
    ]
    return pandas.DataFrame(lines, columns=list(CURVES))


def study_frame(study: Study, samples: Samples) -> pandas.DataFrame:
    """One line per number that a study's table is made of: a row, a column and a seed.

    As `frame`, with study, group and row (as they are labelled), column (its key), and paper: what the paper
    prints there, NaN where it prints nothing. A row that nothing ran for has no line.
    """
    lines: list[dict[str, Any]] = []
    for row in study.trained:
        for column in study.columns:
            place: dict[str, Any] = {"study": study.name, "group": row.group, "row": row.label}
            place |= {"column": column.key, "paper": row.paper.get(column.key)}
            runs = samples.get(row.measured_in(column.key).name, {})
            lines += [
                place | _run(runs[seed]) | _number(column.metric or column.key, value)
                for seed, value in column.by_seed(row, samples).items()
            ]
    return pandas.DataFrame(lines, columns=list(STUDY_FRAME)).astype({"paper": float})


def _runs(results: Iterable[Result] | Samples) -> Iterable[Result]:
    if isinstance(results, Mapping):
        return [run for runs in results.values() for run in runs.values()]
    return results


def _run(run: Result) -> dict[str, Any]:
    line = {name: getattr(run, name) for name in _OF_THE_RUN}
    return line | {"data": run.data["name"], "identity": run.identity}


def _number(metric: str, value: float) -> dict[str, Any]:
    return {"metric": metric, "value": value, "unit": unit_of(metric)}
