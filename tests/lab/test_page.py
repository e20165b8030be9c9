"""What is said of a table: the summary, the terminal, the figures and the page."""

import dataclasses
import io
import re
from html.parser import HTMLParser

import pytest
from rich.console import Console

from unimatrix.lab.claims import SEEDS_FOR_A_CLAIM
from unimatrix.lab.intervals import mean_interval
from unimatrix.lab.page import render_report, write_report
from unimatrix.lab.terminal import print_summaries
from unimatrix.lab.words import NOTHING, interval_text, summarise
from unimatrix.studies.paper.claims import PAPER
from unimatrix.studies.paper.text import TABLE1

SEEDS = (7, 11, 13, 17, 19)
TRANSFORMER, CORE, ROSA, DISCOVERY = TABLE1.names


@pytest.fixture
def full(samples):
    """Five seeds of all four models, with curves."""
    values = {
        name: {seed: mean + 0.002 * number for number, seed in enumerate(SEEDS)}
        for name, mean in ((TRANSFORMER, 5.12), (CORE, 5.08), (ROSA, 5.081), (DISCOVERY, 5.11))
    }
    curve = [[10, 7.0], [40, 5.9], [80, 5.1]]
    return {
        name: {seed: dataclasses.replace(run, curve=curve) for seed, run in runs.items()}
        for name, runs in samples(values).items()
    }


def with_data(table, **changes):
    return {
        name: {seed: dataclasses.replace(run, data=run.data | changes) for seed, run in runs.items()}
        for name, runs in table.items()
    }


def printed(summary, width=80):
    page = io.StringIO()
    print_summaries(Console(width=width, file=page), [summary])
    return page.getvalue()


def test_a_whole_run_on_the_papers_corpus_needs_no_caution(full) -> None:
    summary = summarise(TABLE1, full)
    assert summary.cautions == ()
    assert [line.num_seeds for line in summary.lines] == [5, 5, 5, 5]
    assert summary.lines[0].cells[0].paper == "5.124"
    assert summary.lines[0].cells[0].ours == "5.124 ± 0.004"


def test_another_corpus_is_said_to_be_once_and_plainly(full) -> None:
    note = "This is not the paper's corpus."
    summary = summarise(TABLE1, with_data(full, is_paper_corpus=False, notes=[note], name="embedded"))
    assert summary.cautions == (note,)
    assert render_report([summary], PAPER).count(note.replace("'", "&#39;")) == 1


def test_a_partial_training_text_is_labelled(full) -> None:
    summary = summarise(TABLE1, with_data(full, train={"sha256": "ab" * 32, "bytes": 1_002_133}))
    (caution,) = summary.cautions
    assert caution.startswith("The training text is partial: 1,002,133 of WikiText-2 raw's 10,940,747 bytes")


def test_fewer_than_five_seeds_are_called_provisional(full) -> None:
    few = {name: {seed: runs[seed] for seed in SEEDS[:2]} for name, runs in full.items()}
    (caution,) = summarise(TABLE1, few).cautions
    assert caution.startswith("n = 2 seeds: ")
    assert f"at least {SEEDS_FOR_A_CLAIM} seeds" in caution


def test_another_recipe_is_named(full) -> None:
    run = full[CORE][7]
    config = run.config | {"loop": run.config["loop"] | {"steps": 2}}
    full[CORE] = {seed: dataclasses.replace(run, config=config) for seed, run in full[CORE].items()}
    (caution,) = summarise(TABLE1, full).cautions
    assert caution == "UniMatrix-Core did not run with the paper's recipe: steps 2 (recipe: 80)."


def test_missing_runs_are_counted_and_nothing_is_invented(full) -> None:
    del full[DISCOVERY]
    summary = summarise(TABLE1, full)
    assert summary.lines[3].cells[0].ours == NOTHING
    assert summary.lines[3].parameters_text == NOTHING
    assert any("UniMatrix-Discovery 0" in caution for caution in summary.cautions)
    assert summarise(TABLE1, {}).cautions == ("No run has finished yet.",)
    assert "No run has finished yet." in render_report([summarise(TABLE1, {})], PAPER)


def test_a_count_that_differs_from_the_papers_shows_both(full) -> None:
    full[CORE] = {seed: dataclasses.replace(run, parameters=83_141) for seed, run in full[CORE].items()}
    assert summarise(TABLE1, full).lines[1].parameters_text == "83,141 (paper 83,140)"


def test_interval_text_for_none_one_and_two_values() -> None:
    assert interval_text(None, digits=3) == NOTHING
    assert interval_text(mean_interval([5.0]), digits=3) == "5.000"
    assert interval_text(mean_interval([5.0, 5.1]), digits=3) == "5.050 ± 0.635"


def test_the_terminal_fits_eighty_columns_and_shows_everything(full) -> None:
    text = printed(summarise(TABLE1, full))
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    for row in TABLE1.rows:
        assert row.label in text
        assert f"{row.paper['bpb']:.3f}" in text
    assert text.count("reproduced") == len(TABLE1.claims)


class References(HTMLParser):
    """Collects every tag, and every address that a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append(tag)
        names = ("src", "srcset", "href", "data", "poster", "action")
        self.addresses += [value for name, value in attrs if name in names]


def test_the_page_is_one_file_without_outside_references(tmp_path, full) -> None:
    page = write_report([summarise(TABLE1, full)], PAPER, tmp_path)
    text = page.read_text(encoding="utf-8")
    references = References()
    references.feed(text)
    outside = [address for address in references.addresses if not address.startswith("#")]
    assert len(outside) == 4
    assert all(address.startswith("data:image/svg+xml;base64,") for address in outside)
    assert {f'id="{address[1:]}"' in text for address in references.addresses if address[0] == "#"} == {True}
    assert not {"script", "link", "iframe", "object", "embed"} & set(references.tags)
    assert "url(" not in text
    assert "@import" not in text
    assert not re.search(r"https?://", text)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["figures", "report.html"]


def test_the_page_says_all_that_it_must(full) -> None:
    text = render_report([summarise(TABLE1, full)], PAPER)
    for words in ("fewer than two seeds", "speak of the seeds only", "0123456789abcdef", "CC BY 4.0"):
        assert words in text
    assert 'name="viewport"' in text
    assert "prefers-color-scheme: dark" in text
    assert full[CORE][7].data["train"]["sha256"] in text
    for claim in TABLE1.claims:
        assert claim.statement.replace("'", "&#39;") in text


def test_the_page_escapes_what_it_is_given(full) -> None:
    evil = "<script>alert(1)</script>"
    table = with_data(full, name=evil, notes=[evil], is_paper_corpus=False)
    text = render_report([summarise(TABLE1, table)], PAPER)
    assert evil not in text
    assert "&lt;script&gt;" in text
