"""What a table of the paper is: one value, from which running, judging, drawing and reporting all follow.

A further table is a further module that builds such a value, and one line in `catalogue.TABLES`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from unimatrix.paper.claims import Claim
from unimatrix.paper.results import Samples

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

    from unimatrix.paper.figures import Style


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One model of a table: the experiment that trains it, and what the paper prints for it."""

    experiment: str
    label: str
    paper: Mapping[str, float]
    paper_parameters: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """One measured column: the field of a result it shows (and the paper's value of that key)."""

    key: str
    title: str
    digits: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One picture of a table. draw returns None where the samples hold nothing to draw."""

    name: str
    title: str
    caption: str
    draw: "Callable[[Table, Samples, Style], Drawing | None]"


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """One table of the paper, whole.

    protocol: how each run is trained and measured, a sentence each, for the report.
    """

    name: str
    title: str
    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    claims: tuple[Claim, ...]
    figures: tuple[Figure, ...]
    protocol: tuple[str, ...]

    @property
    def experiments(self) -> tuple[str, ...]:
        """The names of the experiments, in the table's order."""
        return tuple(row.experiment for row in self.rows)
