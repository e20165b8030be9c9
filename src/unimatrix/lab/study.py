"""What a table of the paper is: one value, from which running, judging, drawing and reporting all follow.

A further table is a further module that builds such a value, and one line in `studies.catalogue.STUDIES`.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unimatrix.lab.answers import NOT_MEASURED, Answer
from unimatrix.lab.claims import Claim
from unimatrix.lab.results import Samples, metric_by_seed
from unimatrix.train.config import Experiment

if TYPE_CHECKING:
    from unimatrix.lab.charts import Drawing


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One model of a table: the experiment that trains it, and what the paper prints for it, if anything.

    elsewhere: column key -> another experiment, for columns that a second training of the model measures.
    group: the heading that it stands under with its neighbours, such as the recipe they share; "" for none.
    """

    experiment: Experiment
    label: str
    paper: Mapping[str, float] = field(default_factory=dict)
    paper_parameters: int | None = None
    elsewhere: Mapping[str, Experiment] = field(default_factory=dict)
    group: str = ""

    @property
    def experiments(self) -> tuple[Experiment, ...]:
        """All experiments behind the row, each once, its own first."""
        return _each_once((self.experiment, *self.elsewhere.values()))

    def measured_in(self, key: str) -> Experiment:
        """The experiment that measures a column."""
        return self.elsewhere.get(key, self.experiment)

    def changed(self, change: Callable[[Experiment], Experiment]) -> "Row":
        """The same row of experiments that were changed."""
        elsewhere = {key: change(found) for key, found in self.elsewhere.items()}
        return replace(self, experiment=change(self.experiment), elsewhere=elsewhere)

    @property
    def name(self) -> str:
        """The label, told apart from equal ones of other groups."""
        return f"{self.label} ({self.group})" if self.group else self.label


@dataclass(frozen=True, kw_only=True, slots=True)
class Baseline:
    """A row that nothing is trained for: its values are known exactly, by the keys of some columns.

    short: what it is called in a figure's legend. of_text: the metrics of any run on a text that tell its
    values for that text, by the columns' keys; none where runs differ, as of two releases of a program.
    """

    label: str
    short: str
    values: Mapping[str, float] = field(default_factory=dict)
    of_text: Mapping[str, str] = field(default_factory=dict)
    group: str = ""

    def exact(self, samples: Samples) -> dict[str, float]:
        """Its values, by the columns' keys."""
        runs = [run.metrics for runs in samples.values() for run in runs.values()]
        told = {key: [run[metric] for run in runs if metric in run] for key, metric in self.of_text.items()}
        return {**self.values} | {key: found[0] for key, found in told.items() if len(set(found)) == 1}


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """One measured column.

    key: its name, under which rows hold the paper's value, another experiment, or what is known exactly.
    axis: what an axis of this column is called in a figure, with its unit.
    metric: the metric it shows; "" where that has the column's own name.
    seed: the one seed whose value it shows; None shows all seeds together.
    made: what is made of the metric, if something else is shown, such as perplexity of bits per byte.
    """

    key: str
    title: str
    digits: int
    axis: str
    metric: str = ""
    seed: int | None = None
    made: Callable[[float], float] | None = None

    def by_seed(self, row: Row, samples: Samples) -> dict[int, float]:
        """What the column shows of that row: seed -> number, of the seeds that have run."""
        found = metric_by_seed(samples, row.measured_in(self.key).name, self.metric or self.key)
        shown = {seed: value for seed, value in found.items() if self.seed in (None, seed)}
        return shown if self.made is None else {seed: self.made(value) for seed, value in shown.items()}

    def values(self, row: Row, samples: Samples) -> tuple[float, ...]:
        """The numbers of `by_seed` alone."""
        return tuple(self.by_seed(row, samples).values())


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One picture of a table. draw returns None where the samples hold nothing to draw."""

    name: str
    title: str
    caption: str
    draw: "Callable[[Study, Samples], Drawing | None]"


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspection:
    """A look into one trained model of a table, taken after training and drawn in the report.

    experiment: whose model; the one of the first seed is looked into.
    trace: the checkpoint's folder in, a `record` out; kept in OUT/inspections.
    draw: makes the picture of what `trace` gave.
    """

    experiment: Experiment
    name: str
    title: str
    caption: str
    record: type
    trace: Callable[[Path], Any]
    draw: "Callable[[Any], Drawing]"


@dataclass(frozen=True, kw_only=True, slots=True)
class Taken:
    """The numbers of one row in one repeat, by the metrics' names; parameters: of the model."""

    parameters: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """How a study's rows are measured.

    take: the kind of device in, what was measured out, by the names of the rows' experiments; each call is a
        repeat, in processes of its own.
    version: raised by hand where the same rows come to be measured in another way.
    """

    name: str
    take: Callable[[str], Mapping[str, Taken]]
    repeats: int
    version: int = 1


def _not_measured(_samples: Samples) -> str:
    return NOT_MEASURED


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """One table of the paper, whole.

    title: "Table 1: ..."; what stands before the colon is its short name.
    protocol: how each run is trained and measured, a sentence each, for the report.
    question: what the study asks, one plain sentence.
    answer: samples in, one plain sentence out, made of the verdicts and the numbers.
    paper: the parts of the paper that it stands for ("Section 5.1, Table 1, Figure 2"); "" for none.
    measurement: how the rows are measured, of a study that trains nothing.
    threads: that each of its runs computes with, on a CPU; one of several has the machine to itself.
    text: the name of the one text that it is of; "" for whatever text is asked for.
    seeds: the first ones of its runs, where these are others than everyone's.
    each_text: a report shows it once for every text that it has runs on, not for the newest alone.
    """

    name: str
    title: str
    rows: tuple[Row | Baseline, ...]
    columns: tuple[Column, ...]
    claims: tuple[Claim, ...]
    figures: tuple[Figure, ...]
    protocol: tuple[str, ...]
    inspection: Inspection | None = None
    question: str = ""
    answer: Answer = _not_measured
    paper: str = ""
    measurement: Measurement | None = None
    threads: int = 1
    text: str = ""
    seeds: tuple[int, ...] = ()
    each_text: bool = False

    def of(self, text: str, *, further: bool = False) -> "Study":
        """The same study of one text alone, which its title names.

        further: beside the study of another text: then its own name and its figures' name the text, too.
        """
        # by a function: a text is called as its folder is, and that may look like a group of a pattern
        title = re.sub(r"(?=( \([^()]*\))?:)", lambda _: f", {text}", self.title, count=1)
        if not further:
            return replace(self, title=title, text=text)
        short = re.sub(r"[^\w.-]+", "-", text)
        if short != text:  # two texts may come to one name
            short += f"-{hashlib.sha256(text.encode()).hexdigest()[:4]}"
        figures = tuple(replace(figure, name=f"{figure.name}-{short}") for figure in self.figures)
        return replace(self, name=f"{self.name}-{text}", title=title, text=text, figures=figures)

    def is_of(self, text: str) -> bool:
        """Whether runs on the text of that name are this study's."""
        return self.text in ("", text)

    @property
    def short(self) -> str:
        """What the table is called in a sentence."""
        return self.title.partition(":")[0]

    @property
    def noun(self) -> str:
        """What is averaged over: a training's "seed", or a measurement's "repeat"."""
        return "seed" if self.measurement is None else "repeat"

    @property
    def trained(self) -> tuple[Row, ...]:
        """The rows that runs stand behind, without the baselines."""
        return tuple(row for row in self.rows if isinstance(row, Row))

    @property
    def experiments(self) -> tuple[Experiment, ...]:
        """What is trained, each experiment once, in the order of the rows."""
        return () if self.measurement else self._of_rows

    @property
    def names(self) -> tuple[str, ...]:
        """The experiments' names, by which results are kept."""
        return tuple(found.name for found in self._of_rows)

    @property
    def timed(self) -> frozenset[str]:
        """The trained experiments that nothing should run beside, by name: whose seconds a column shows.

        All of them, where a run has several threads.
        """
        if self.threads > 1:
            return frozenset(found.name for found in self.experiments)
        shown = [column.key for column in self.columns if (column.metric or column.key).startswith("seconds")]
        timed = {row.measured_in(key).name for row in self.trained for key in shown}
        return frozenset(timed & {found.name for found in self.experiments})

    @property
    def _of_rows(self) -> tuple[Experiment, ...]:
        return _each_once(found for row in self.trained for found in row.experiments)

    def with_experiments(self, change: Callable[[Experiment], Experiment]) -> "Study":
        """The same study of experiments that were changed: by all their names they stay what they were."""
        rows = tuple(row.changed(change) if isinstance(row, Row) else row for row in self.rows)
        look = self.inspection
        if look is not None:
            look = replace(look, experiment=change(look.experiment))
        return replace(self, rows=rows, inspection=look)

    def column(self, key: str) -> Column:
        """The column of that key, which must be there."""
        return next(column for column in self.columns if column.key == key)


def _each_once(experiments: Iterable[Experiment]) -> tuple[Experiment, ...]:
    return tuple({found.name: found for found in experiments}.values())
