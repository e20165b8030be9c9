"""Which rows of a results file a report shows: of each study the newest, of some once for every text."""

from collections.abc import Iterable, Sequence

from unimatrix.lab.measured import was_replaced
from unimatrix.lab.results import GaveUp, Result, Samples, latest_identities, select
from unimatrix.lab.study import Study


def newest(study: Study, rows: Iterable[Result]) -> Samples:
    """The study's rows of each experiment's newest settings, all on the text of its newest row."""
    rows = [row for row in rows if study.is_of(row.data["name"]) and not was_replaced(row, [study])]
    return select(rows, latest_identities(rows, study.names))


def on_each_text(study: Study, rows: Sequence[Result], *, first: str | None = None) -> tuple[Study, ...]:
    """The study, and where it is shown for every text and there are rows of several, one for each of them.

    first: the text that comes first and keeps the study's name; without it that of the newest row.
    """
    if not study.each_text:
        return (study,)
    names = set(study.names)
    found = [row.data["name"] for row in reversed(rows) if row.experiment in names and row.on_text]
    texts = dict.fromkeys(found if first is None else [first, *found])
    # rows of old settings alone are not shown
    told = [text for text in texts if text == first or any(newest(study.of(text), rows).values())]
    if len(told) < 2:
        return (study,)
    return tuple(study.of(text, further=number > 0) for number, text in enumerate(told))


def lost_of(study: Study, samples: Samples, lost: Iterable[GaveUp]) -> tuple[GaveUp, ...]:
    """The study's runs that could not go on, of the settings that it shows; those that no row stands for.

    Of an experiment without a row those of its newest settings.
    """
    lost = [run for run in lost if study.is_of(run.data["name"])]
    shown = {name: next(iter(runs.values())).identity for name, runs in samples.items() if runs}
    found = select(lost, latest_identities(lost, study.names) | shown)
    return tuple(
        run
        for name in study.names
        for seed, run in found.get(name, {}).items()
        if seed not in samples.get(name, {})
    )
