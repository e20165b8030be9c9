"""A table with its results, judged and put into words, once: the terminal and the report both show this."""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from unimatrix.data import wikitext
from unimatrix.lab.claims import OUTCOMES, SEEDS_FOR_A_CLAIM, Claim, Outcome, Verdict
from unimatrix.lab.committed import Agreement
from unimatrix.lab.identity import BESIDES_THE_NUMBERS, resolve, run_identity
from unimatrix.lab.intervals import Interval, mean_interval
from unimatrix.lab.results import GaveUp, Result, Samples, WithLost
from unimatrix.lab.study import Baseline, Row, Study
from unimatrix.train.config import Experiment

NOTHING = "\N{EN DASH}"
# beside a row, below a verdict, among the cautions
SHOWN = "shown, not trained here"
ON_SHOWN = "Rests on the project's own runs, which are shown and were not trained here."
_SHOWN_INSTEAD = "Not trained here but shown from the project's own runs"
# ours and the paper's, counted each
_MOST_COLUMNS_SIDE_BY_SIDE = 6
# what is explained where it first stands: the word as it is written, and in plain words what it means
TERMS = {
    "BPB": "bits per byte: how many bits the model needs, on average, to tell the next byte of a text. Fewer "
    "are better; a model that knows nothing needs 8.",
    "PPL": "perplexity per byte, 2 to the power of BPB: among how many equally likely bytes the model still "
    "wavers. Lower is better.",
    "accuracy": "in how many of a hundred sequences the model's likeliest answer is the right one. Higher is "
    "better.",
    "Eval. loss": "how surprised the model is by the right answer, in nats. Lower is better.",
}
_OVER = {
    "seed": "the seeds (runs that differ in their random start, batches and dropout)",
    "repeat": "the repeats of a measurement (the same once more, in fresh processes)",
}
HOW_TO_READ_CLAIMS = (
    "Below each claim stand its numbers: the difference of the two sides, averaged over the seeds (or the "
    "repeats of a measurement), with its 95 % interval, and what is claimed of it. “Claimed: at or below 0” "
    "means that the left side is claimed to be no larger than the right one, and the claim counts as "
    "reproduced only where the whole interval lies there."
)
RULE = (
    "For each claim: the difference of the two models seed by seed (both trained with the same seed), or of "
    "a model and a fixed number, and the 95 % Student-t interval of its mean. Reproduced: the whole interval "
    "lies on the claim's side. Not reproduced: it lies on the other side. Undecided: anything else, and "
    'always with fewer than two seeds. So "at least" asks for more than a mean that reaches the number: for '
    "its whole interval. A claim about named seeds is decided as it was made, by the side on which the "
    "difference lies in each of them. Parameter counts are decided exactly. "
    "Of what is timed or weighed a repeat stands where a seed does."
)
SCOPE = (
    "The intervals speak of the seeds only (initialisation, batches, dropout); of what is timed, of repeats "
    "on one machine. Where a text is read, every run reads the same one, and "
    "nothing is said of other texts; where a task draws its sequences, each seed draws its own, to train and "
    "to evaluate on. The intervals are not corrected for the number of claims, nor of the "
    "comparisons within one."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One measured column of one row: the paper's number and ours, as text and as what is drawn of them.

    exact: of a baseline.
    """

    paper: str
    ours: str
    interval: Interval | None = None
    values: tuple[float, ...] = ()
    printed: float | None = None
    exact: float | None = None

    @property
    def numbers(self) -> tuple[float, ...]:
        """All that is drawn of it, for a scale that holds them."""
        ends = (self.printed, self.exact)
        bounds = (self.interval.low, self.interval.high) if self.interval and self.interval.n > 1 else ()
        return (*self.values, *bounds, *(end for end in ends if end is not None))

    @property
    def stacked(self) -> tuple[str, ...]:
        """Ours, and below it the paper's, if it prints one."""
        return (self.ours,) if self.paper == NOTHING else (self.ours, self.paper)


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One row: counts (ours None before its first run), cells in the order of the table's columns.

    name: its experiment's; a baseline's label. num_seeds: that all of its experiments have (of what was
    measured: repeats); None for a baseline, whose values are exact. shown: some of its numbers are of the
    project's own runs, not trained here.
    """

    name: str
    label: str
    group: str
    parameters: int | None
    paper_parameters: int | None
    cells: tuple[Cell, ...]
    num_seeds: int | None
    shown: bool = False

    @property
    def says_something(self) -> bool:
        """Whether there is a number in it, ours or the paper's."""
        return any(cell.numbers for cell in self.cells)

    @property
    def seeds_text(self) -> str:
        """How many seeds stand behind the numbers; a dash for a baseline."""
        return NOTHING if self.num_seeds is None else str(self.num_seeds)

    @property
    def parameters_text(self) -> str:
        """Our count, and the paper's where it prints another."""
        if self.parameters is None:
            return NOTHING
        equal = self.paper_parameters in (None, self.parameters)
        return f"{self.parameters:,}" + ("" if equal else f" (paper {self.paper_parameters:,})")


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """All that is said of one study.

    printed: for each column, whether the paper prints any value of it.
    traced: what the table's look into a model found, if one was taken.
    cautions: what keeps these numbers from being the paper's experiment, each one plain sentence.
    facts: how it was measured, (name, value) pairs.
    shown: the experiments that were not trained here; the project's own runs stand in for them.
    agreements: one's own numbers, each beside the project's.
    waits: nothing of it has run yet. unmeasured: of one that does not wait, the rows that wait; lines holds
    those of them alone that the paper prints something for.
    gave_up: its runs that could not go on, which no number counts.
    """

    study: Study
    samples: Samples
    lines: tuple[Line, ...]
    printed: tuple[bool, ...]
    verdicts: tuple[tuple[Claim, Verdict], ...]
    cautions: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    traced: Any = None
    shown: tuple[str, ...] = ()
    agreements: tuple[Agreement, ...] = ()
    waits: bool = False
    unmeasured: tuple[str, ...] = ()
    gave_up: tuple[GaveUp, ...] = ()

    @property
    def lost(self) -> str:
        """A sentence of the runs that could not go on; nothing where there are none."""
        names = _named_experiments(self.study)
        runs = (f"{names[run.experiment]}, seed {run.seed} ({run.reason})" for run in self.gave_up)
        return f"Could not go on, and in no number: {'; '.join(runs)}." if self.gave_up else ""

    @property
    def counted(self) -> bool:
        """Whether the paper prints the parameters in this table: else they stand among the facts."""
        return any(row.paper_parameters is not None for row in self.study.trained)

    @property
    def stacked(self) -> bool:
        """Whether the paper's values stand below ours: beside them so many columns would be too wide."""
        columns = len(self.printed) + sum(self.printed)
        return any(self.printed) and columns > _MOST_COLUMNS_SIDE_BY_SIDE

    @property
    def num_seeds(self) -> int | None:
        """How many seeds every row has; None where they differ, or where there is no such row."""
        numbers = {line.num_seeds for line in self.lines if line.num_seeds is not None}
        return numbers.pop() if len(numbers) == 1 else None

    @property
    def counts(self) -> tuple[tuple[Outcome, int], ...]:
        """How many claims have which outcome, without the outcomes that none has."""
        outcomes = [verdict.outcome for _, verdict in self.verdicts]
        return tuple((outcome, outcomes.count(outcome)) for outcome in OUTCOMES if outcome in outcomes)


def interval_text(interval: Interval | None, *, digits: int) -> str:
    """ "5.115 +- 0.021" (mean and half the 95 % interval), the bare value for one seed, a dash for none."""
    if interval is None:
        return NOTHING
    if interval.n < 2:
        return f"{interval.mean:,.{digits}f}"
    return f"{interval.mean:,.{digits}f} ± {interval.half_width:,.{digits}f}"


def how_to_read(summaries: Iterable[Summary]) -> str:
    """What stands behind the numbers of a page: means over seeds, over repeats, or over either."""
    nouns = {summary.study.noun for summary in summaries if summary.study.trained} or {"seed"}
    over = ", or over ".join(words for noun, words in _OVER.items() if noun in nouns)
    each = " or ".join(f"{noun}s" for noun in _OVER if noun in nouns)
    return (
        f"Ours is the mean over {over} ± half of the 95 % interval: where the mean of many more {each} would "
        "lie, most likely. The drawing below a number shows the same: the line is the interval, the dot the "
        f"mean, the small dots the {each}, the diamond the paper's value; one scale for each column."
    )


def summarise(
    study: Study,
    samples: Samples,
    *,
    traced: Any = None,
    shown: Collection[str] = (),
    gave_up: Sequence[GaveUp] = (),
) -> Summary:
    """Judge a table on its samples and put it into words; runs that are missing are said to be.

    shown: the experiments whose samples are the project's own runs; of other studies' are passed over.
    gave_up: runs of the study that are not among the samples as they could not go on.
    """
    samples = WithLost(samples, gave_up)
    shown = tuple(name for name in study.names if name in shown)
    runs = [run for name in study.names for run in _runs(samples, name)]
    lines = (
        _line(study, row, samples, shown) if isinstance(row, Row) else _baseline_line(study, row, samples)
        for row in study.rows
    )
    return Summary(
        study=study,
        samples=samples,
        lines=tuple(line for line in lines if line.parameters is not None or line.says_something),
        printed=tuple(any(column.key in row.paper for row in study.trained) for column in study.columns),
        verdicts=tuple((claim, _judged(claim, samples, shown)) for claim in study.claims),
        cautions=(
            *_cautions(study, samples, runs),
            *([f"{_SHOWN_INSTEAD}: {', '.join(shown)}."] if shown else ()),
        ),
        facts=tuple(_facts(study, samples, runs)),
        traced=traced,
        shown=shown,
        # a drawing needs no run
        waits=bool(study.trained) and not runs,
        unmeasured=_unmeasured(study, samples) if runs else (),
        gave_up=tuple(gave_up),
    )


def _unmeasured(study: Study, samples: Samples) -> tuple[str, ...]:
    """The rows that no run stands behind: by their labels where these wait in every group, else by names."""
    waiting = [row for row in study.trained if not any(_runs(samples, run.name) for run in row.experiments)]
    known = {row.label for row in study.trained if row not in waiting}
    return tuple(dict.fromkeys(row.name if row.label in known else row.label for row in waiting))


def _judged(claim: Claim, samples: WithLost, shown: Sequence[str]) -> Verdict:
    """The verdict; it rests on shown runs if it would be another, or have other numbers, without them."""
    verdict = claim.judge(samples)
    if not shown or claim.judge(samples.without(shown)) == verdict:
        return verdict
    return replace(verdict, details=(*verdict.details, ON_SHOWN), on_shown=True)


def _runs(samples: Samples, experiment: str) -> list[Result]:
    return list(samples.get(experiment, {}).values())


def _named_experiments(study: Study) -> dict[str, str]:
    """Experiment -> its row's name, with the column that it is for if it is not the row's own.

    One that measures several such columns goes by its own name.
    """
    names = {row.experiment.name: row.name for row in study.trained}
    for row in study.trained:
        measured = [found.name for found in row.elsewhere.values()]
        for key, found in row.elsewhere.items():
            name = found.name
            several = measured.count(name) > 1
            names.setdefault(name, name if several else f"{row.name}, {study.column(key).title}")
    return names


def _line(study: Study, row: Row, samples: Samples, shown: Collection[str]) -> Line:
    runs = _runs(samples, row.experiment.name)
    cells = []
    for column in study.columns:
        values = column.values(row, samples)
        interval = mean_interval(values) if values else None
        printed = row.paper.get(column.key)
        cells.append(
            Cell(
                paper=NOTHING if printed is None else f"{printed:,.{column.digits}f}",
                ours=interval_text(interval, digits=column.digits),
                interval=interval,
                values=values,
                printed=printed,
            )
        )
    return Line(
        name=row.experiment.name,
        label=row.label,
        group=row.group,
        parameters=runs[-1].parameters if runs else None,
        paper_parameters=row.paper_parameters,
        cells=tuple(cells),
        num_seeds=min(len(_runs(samples, found.name)) for found in row.experiments),
        shown=any(found.name in shown for found in row.experiments),
    )


def _baseline_line(study: Study, row: Baseline, samples: Samples) -> Line:
    values = row.exact(samples)
    known = [(values.get(column.key), column.digits) for column in study.columns]
    return Line(
        name=row.label,
        label=row.label,
        group=row.group,
        parameters=None,
        paper_parameters=None,
        cells=tuple(
            Cell(paper=NOTHING, ours=NOTHING if value is None else f"{value:,.{digits}f}", exact=value)
            for value, digits in known
        ),
        num_seeds=None,
    )


def is_partial(data: Mapping[str, Any]) -> bool:
    """The validation text is the paper's, the training text not the whole of it."""
    train = data["train"]
    whole = train["bytes"] == wikitext.OFFICIAL_TRAIN_BYTES and train["sha256"].startswith(
        wikitext.OFFICIAL_TRAIN_SHA256_START
    )
    return data["is_paper_corpus"] and not whole


def data_cautions(data: Mapping[str, Any]) -> list[str]:
    """What to know of the data before comparing with the paper; nothing for the paper's corpus, whole."""
    if data.get("kind") in ("task", "measurement"):
        return list(data["notes"])
    if not data["is_paper_corpus"]:
        return list(data["notes"])
    if is_partial(data):
        return [
            f"The training text is partial: {data['train']['bytes']:,} of WikiText-2 raw's "
            f"{wikitext.OFFICIAL_TRAIN_BYTES:,} bytes. The validation text is the paper's, whole."
        ]
    return []


def _cautions(study: Study, samples: Samples, runs: list[Result]) -> Iterable[str]:
    if not study.trained:
        return
    if not runs:
        yield "No run has finished yet."
        return
    yield from dict.fromkeys(caution for run in runs for caution in data_cautions(run.data))
    names = _named_experiments(study)
    for recipe in study.experiments:
        name = names[recipe.name]
        differences = _recipe_differences(recipe, next(iter(_runs(samples, recipe.name)), None))
        if differences:
            yield f"{name} did not run with the paper's recipe: {', '.join(differences)}."
    counts = {name: len(_runs(samples, experiment)) for experiment, name in names.items()}
    # those that wait are listed by themselves
    counts = {name: count for name, count in counts.items() if count}
    fewest, most = min(counts.values()), max(counts.values())
    if fewest < most:
        fewer = ", ".join(f"{name} {count}" for name, count in counts.items() if count < most)
        yield f"Of most models there are {most} {study.noun}s, of these fewer: {fewer}."
    if fewest < SEEDS_FOR_A_CLAIM and study.claims:
        yield (
            f"n = {fewest} {study.noun}{'' if fewest == 1 else 's'}: every verdict on measured numbers is "
            f"provisional; a claim needs at least {SEEDS_FOR_A_CLAIM} {study.noun}s."
        )


def _flat(config: Mapping[str, Any], before: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    flat: dict[tuple[str, ...], Any] = {}
    for key, value in config.items():
        path = (*before, key)
        flat |= _flat(value, path) if isinstance(value, Mapping) else {path: value}
    return flat


def _recipe_differences(experiment: Experiment, run: Result | None) -> list[str]:
    if run is None or run.identity == run_identity(
        experiment.to_dict(), resolve(experiment), run.data, device=run.device
    ):
        return []
    # of the run as it reads today: settings that came after it stand at what it had
    recipe, found = (_flat(one.to_dict()) for one in (experiment, Experiment.from_dict(run.config)))
    # the device is the machine's, not the recipe's
    paths = [path for path in recipe | found if not BESIDES_THE_NUMBERS.union({"device"}) & {*path}]
    return [
        f"{path[-1]} {found.get(path, 'none')} (recipe: {recipe.get(path, 'none')})"
        for path in paths
        if found.get(path) != recipe.get(path)
    ] or ["a setting that its preset has changed since"]


def _distinct(runs: Iterable[Result], read: Callable[[Result], Any]) -> str:
    return "; ".join(dict.fromkeys(str(read(run)) for run in runs)) or NOTHING


def _facts(study: Study, samples: Samples, runs: list[Result]) -> Iterable[tuple[str, str]]:
    if not runs:
        return
    dates = sorted(run.date_utc for run in runs)
    if study.measurement is not None:
        yield "Repeats", str(len({run.seed for run in runs}))
    else:
        yield "Seeds", ", ".join(str(seed) for seed in sorted({run.seed for run in runs}))
        yield "Data", _distinct(runs, lambda run: run.data["name"])
    texts = [run for run in runs if run.on_text]
    tasks = [run for run in runs if not run.on_text and not run.was_measured]
    if texts:
        yield "Training text", _distinct(texts, lambda run: _text_fact(run.data["train"]))
        for split, name in (("valid", "Validation text"), ("test", "Test text")):
            of = [run for run in texts if run.config.get("loop", {}).get("eval_split", "valid") == split]
            if of:
                yield name, _distinct(of, lambda run: _text_fact(run.data["valid"]))
    if tasks:
        yield "Task", _task_fact(tasks)
        yield "First batch, sha256", _distinct(tasks, lambda run: run.data["train"]["sha256"])
    yield "Machine", _distinct(runs, lambda run: run.machine)
    finished = {
        name: found
        for experiment, name in _named_experiments(study).items()
        if (found := _runs(samples, experiment))
    }
    yield "Parameters", ", ".join(f"{name} {found[-1].parameters:,}" for name, found in finished.items())
    yield "Device, threads", _distinct(runs, lambda run: f"{run.device}, {run.threads} threads")
    yield "Versions", _distinct(runs, lambda run: ", ".join(f"{k} {v}" for k, v in run.versions.items()))
    yield "Commit", _distinct(runs, lambda run: run.git_commit)
    yield "Date (UTC)", dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    if study.measurement is not None:
        return
    yield "Backend", _distinct(runs, lambda run: run.backend)
    yield "Training time", f"{math.fsum(run.seconds for run in runs):.0f} s over {len(runs)} runs"
    speeds = (
        f"{name} {math.fsum(run.tokens_per_second for run in found) / len(found):,.0f}"
        for name, found in finished.items()
    )
    yield "Tokens/s in training", ", ".join(speeds)


def _task_fact(runs: Sequence[Result]) -> str:
    """The tasks' settings by name, each with every value that a run has."""
    values: dict[str, dict[str, None]] = {}
    for run in runs:
        for name, value in run.config["task"].items():
            text = " ".join(map(str, value)) or "none" if isinstance(value, list | tuple) else str(value)
            values.setdefault(name, {})[text] = None
    return ", ".join(f"{name} {' or '.join(found)}" for name, found in values.items())


def _text_fact(split: Mapping[str, Any]) -> str:
    return f"{split['bytes']:,} bytes, sha256 {split['sha256']}"
