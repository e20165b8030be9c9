"""What a table of the paper is: one value, from which running, judging, drawing and reporting all follow.

A further table is a further module that builds such a value, and one line in `catalogue.TABLES`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unimatrix.lab.claims import Claim
from unimatrix.lab.results import Samples, metric_by_seed

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

    from unimatrix.lab.charts import Style


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One model of a table: the experiment that trains it, and what the paper prints for it, if anything.

    elsewhere: column key -> another experiment, for columns that a second training of the model measures.
    group: the heading that it stands under with its neighbours, such as the recipe they share; "" for none.
    """

    experiment: str
    label: str
    paper: Mapping[str, float] = field(default_factory=dict)
    paper_parameters: int | None = None
    elsewhere: Mapping[str, str] = field(default_factory=dict)
    group: str = ""

    @property
    def experiments(self) -> tuple[str, ...]:
        """All experiments behind the row, its own first."""
        return tuple(dict.fromkeys((self.experiment, *self.elsewhere.values())))

    def measured_in(self, key: str) -> str:
        """The experiment that measures a column."""
        return self.elsewhere.get(key, self.experiment)

    @property
    def name(self) -> str:
        """The label, told apart from equal ones of other groups."""
        return f"{self.label} ({self.group})" if self.group else self.label


@dataclass(frozen=True, kw_only=True, slots=True)
class Baseline:
    """A row that nothing is trained for: its values are known exactly, by the keys of some columns.

    short: what it is called in a figure's legend.
    """

    label: str
    short: str
    values: Mapping[str, float]
    group: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """One measured column.

    key: its name, under which rows hold the paper's value, another experiment, or what is known exactly.
    axis: what an axis of this column is called in a figure, with its unit.
    metric: the metric it shows; "" where that has the column's own name.
    seed: the one seed whose value it shows; None shows all seeds together.
    """

    key: str
    title: str
    digits: int
    axis: str
    metric: str = ""
    seed: int | None = None

    def by_seed(self, row: Row, samples: Samples) -> dict[int, float]:
        """What the column shows of that row: seed -> number, of the seeds that have run."""
        found = metric_by_seed(samples, row.measured_in(self.key), self.metric or self.key)
        return {seed: value for seed, value in found.items() if self.seed in (None, seed)}

    def values(self, row: Row, samples: Samples) -> tuple[float, ...]:
        """The numbers of `by_seed` alone."""
        return tuple(self.by_seed(row, samples).values())


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One picture of a table. draw returns None where the samples hold nothing to draw."""

    name: str
    title: str
    caption: str
    draw: "Callable[[Table, Samples, Style], Drawing | None]"


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspection:
    """A look into one trained model of a table, taken after training and drawn in the report.

    experiment: whose model; the one of the first seed is looked into.
    trace: the checkpoint's folder in, a `record` out; kept in OUT/inspections.
    draw: makes the picture of what `trace` gave.
    """

    experiment: str
    name: str
    title: str
    caption: str
    record: type
    trace: Callable[[Path], Any]
    draw: "Callable[[Any, Style], Drawing]"


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """One table of the paper, whole.

    title: "Table 1: ..."; what stands before the colon is its short name.
    protocol: how each run is trained and measured, a sentence each, for the report.
    """

    name: str
    title: str
    rows: tuple[Row | Baseline, ...]
    columns: tuple[Column, ...]
    claims: tuple[Claim, ...]
    figures: tuple[Figure, ...]
    protocol: tuple[str, ...]
    inspection: Inspection | None = None

    @property
    def short(self) -> str:
        """What the table is called in a sentence."""
        return self.title.partition(":")[0]

    @property
    def trained(self) -> tuple[Row, ...]:
        """The rows that runs stand behind, without the baselines."""
        return tuple(row for row in self.rows if isinstance(row, Row))

    @property
    def experiments(self) -> tuple[str, ...]:
        """The names of the experiments, each once, in the table's order."""
        return tuple(dict.fromkeys(name for row in self.trained for name in row.experiments))

    def column(self, key: str) -> Column:
        """The column of that key, which must be there."""
        return next(column for column in self.columns if column.key == key)
