"""What studies draw themselves with: unimatrix.lab.charts, imported when something is drawn.

So that a study can be described, and its experiments trained, without the packages that draw. Arguments are
those of the functions there.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from unimatrix.evals.inspection import Traced
from unimatrix.lab.results import Result, Samples

if TYPE_CHECKING:
    from unimatrix.lab.charts import Drawing
    from unimatrix.lab.study import Study


def draw_metric(study: "Study", samples: Samples, **settings: Any) -> "Drawing | None":
    """One column, a line for each row."""
    from unimatrix.lab import charts

    return charts.draw_metric(study, samples, **settings)


def draw_panels(study: "Study", samples: Samples, **settings: Any) -> "Drawing | None":
    """Several columns side by side."""
    from unimatrix.lab import charts

    return charts.draw_panels(study, samples, **settings)


def draw_over(study: "Study", samples: Samples, **settings: Any) -> "Drawing | None":
    """Several columns over a number that rows have."""
    from unimatrix.lab import charts

    return charts.draw_over(study, samples, **settings)


def draw_training_length(study: "Study", samples: Samples, **settings: Any) -> "Drawing | None":
    """Bits per byte over steps or seconds."""
    from unimatrix.lab import charts

    return charts.draw_training_length(study, samples, **settings)


def draw_over_columns(study: "Study", samples: Samples, **settings: Any) -> "Drawing | None":
    """Rows over a number that columns have, such as the length of a sequence."""
    from unimatrix.lab import charts

    return charts.draw_over_columns(study, samples, **settings)


def draw_gap(study: "Study", samples: Samples, **settings: Any) -> "Drawing | None":
    """The difference of two rows seed by seed."""
    from unimatrix.lab import charts

    return charts.draw_gap(study, samples, **settings)


def draw_over_cost(study: "Study", samples: Samples, **settings: Any) -> "Drawing | None":
    """A column of rows over what a token costs each model."""
    from unimatrix.lab import charts

    return charts.draw_over_cost(study, samples, **settings)


def draw_search(rows: Mapping[str, Sequence[Result]], **settings: Any) -> "Drawing | None":
    """Every run of a search."""
    from unimatrix.lab import charts

    return charts.draw_search(rows, **settings)


def draw_slots(traced: Traced) -> "Drawing":
    """What a slot memory holds."""
    from unimatrix.lab import charts

    return charts.draw_slots(traced)
