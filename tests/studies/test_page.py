"""The page of all studies on the committed rows: its size, and what its figures are like."""

import json
from collections.abc import Iterator

import pytest
from drawn import figures_of

from unimatrix.lab.committed import COMMITTED, committed_rows
from unimatrix.lab.look import read_trace
from unimatrix.lab.newest import newest, on_each_text
from unimatrix.lab.page import render_report
from unimatrix.lab.words import summarise
from unimatrix.studies.catalogue import ALL
from unimatrix.studies.paper.claims import PAPER


@pytest.fixture(scope="module")
def page() -> str:
    """Of every study, on its newest committed rows."""
    rows = committed_rows()
    summaries = []
    studies = [told for study in ALL.values() for told in on_each_text(study, rows)]
    for study in studies:
        samples = newest(study, rows)
        look = study.inspection
        traced = None if look is None else read_trace(COMMITTED, look, samples)
        summaries.append(summarise(study, samples, traced=traced))
    return render_report(summaries, PAPER)


def test_the_page_of_all_studies_is_small(page) -> None:
    assert len(page.encode()) < 2_000_000


def scales(part: object) -> Iterator[dict]:
    """Every scale of a specification."""
    if isinstance(part, dict):
        if isinstance(part.get("scale"), dict):
            yield part["scale"]
        part = list(part.values())
    for inner in part if isinstance(part, list) else ():
        yield from scales(inner)


def test_no_axis_of_logarithms_is_drawn_out_to_whole_powers(page) -> None:
    found = [scale for scale in scales(figures_of(page)["specs"]) if scale.get("type") == "log"]
    assert found
    assert [scale for scale in found if scale.get("nice") is not False] == [], json.dumps(found)


def test_no_caption_has_a_mark_with_nothing_before_it() -> None:
    captions = [figure.caption for study in ALL.values() for figure in study.figures]
    assert captions
    assert [caption for caption in captions if "; ." in caption or " ." in caption] == []
