"""What is said of a table: the summary, the terminal, the figures and the page."""

import base64
import dataclasses
import gzip
import io
import json
import re
from html.parser import HTMLParser

import altair as alt
import pytest
from drawn import figures_of
from rich.console import Console

from unimatrix.lab.answers import NOT_MEASURED
from unimatrix.lab.claims import SEEDS_FOR_A_CLAIM
from unimatrix.lab.committed import Agreement, committed_rows
from unimatrix.lab.intervals import mean_interval
from unimatrix.lab.newest import newest
from unimatrix.lab.page import (
    _drawing_library,
    drawn_interval,
    render_report,
    shared_cautions,
    shared_protocol,
    write_report,
)
from unimatrix.lab.study import Measurement
from unimatrix.lab.terminal import print_summaries
from unimatrix.lab.words import NOTHING, ON_SHOWN, SHOWN, Cell, interval_text, summarise
from unimatrix.studies.catalogue import ALL
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
    assert summary.unmeasured == ("UniMatrix-Discovery",)
    assert summary.cautions == ()
    assert '<p class="soft">Not measured yet: UniMatrix-Discovery.</p>' in render_report([summary], PAPER)
    assert "Not measured yet: UniMatrix-Discovery" in printed(summary)
    del full[CORE][7]
    (caution,) = summarise(TABLE1, full).cautions[:1]
    assert caution == "Of most models there are 5 seeds, of these fewer: UniMatrix-Core 4."
    assert summarise(TABLE1, {}).cautions == ("No run has finished yet.",)
    assert "No run has finished yet." in render_report([summarise(TABLE1, {})], PAPER)


def test_a_count_that_differs_from_the_papers_shows_both(full) -> None:
    full[CORE] = {seed: dataclasses.replace(run, parameters=83_141) for seed, run in full[CORE].items()}
    assert summarise(TABLE1, full).lines[1].parameters_text == "83,141 (paper 83,140)"


def test_interval_text_for_none_one_and_two_values() -> None:
    assert interval_text(None, digits=3) == NOTHING
    assert interval_text(mean_interval([5.0]), digits=3) == "5.000"
    assert interval_text(mean_interval([5.0, 5.1]), digits=3) == "5.050 ± 0.635"
    assert interval_text(mean_interval([36902.0, 36904.0]), digits=0) == "36,903 ± 13"


def test_the_terminal_fits_eighty_columns_and_shows_everything(full) -> None:
    text = printed(summarise(TABLE1, full))
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    for row in TABLE1.rows:
        assert row.label in text
        assert f"{row.paper['bpb']:.3f}" in text
    assert text.count("reproduced") == len(TABLE1.claims)


def test_no_number_of_any_study_is_cut_in_eighty_columns() -> None:
    """Where they do not fit side by side there are more tables, each with the models' names."""
    rows = committed_rows()
    for study in ALL.values():
        summary = summarise(study, newest(study, rows))
        if summary.waits or not summary.lines:
            continue
        text = printed(summary)
        assert max(map(len, text.splitlines())) <= 80
        tables = text.split("ours: mean ±")[0]
        assert "…" not in tables, study.name
        assert "..." not in tables, study.name
        words = tables.split()
        for line in summary.lines:
            assert set(line.label.split()) <= set(words), study.name
            for cell in line.cells:
                assert set(cell.ours.split()) <= set(words), (study.name, cell.ours)


class Read(HTMLParser):
    """A page as a browser takes it: its tags, the addresses that it would fetch, its text without scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.text = ""
        self.scripts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append(tag)
        names = ("src", "srcset", "href", "data", "poster", "action")
        self.addresses += [value for name, value in attrs if name in names]
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_data(self, data) -> None:
        if self.tags[-1:] == ["script"]:
            self.scripts.append(data)
        elif self.tags[-1:] != ["style"]:
            self.text += data


def test_the_page_is_one_file_without_outside_references(tmp_path, full) -> None:
    page = write_report([summarise(TABLE1, full)], PAPER, tmp_path)
    text = page.read_text(encoding="utf-8")
    read = Read(text)
    assert read.addresses
    assert all(address.startswith("#") for address in read.addresses)
    assert {address[1:] for address in read.addresses} <= set(read.ids)
    assert len(read.ids) == len(set(read.ids))
    assert not {"link", "iframe", "object", "embed", "img"} & set(read.tags)
    ours = text.replace(_drawing_library(), "")
    assert "url(" not in ours
    assert "@import" not in ours
    # the address of the format's own description, which nothing fetches
    assert set(re.findall(r"https?://[^ \"]+", ours)) == {alt.SCHEMA_URL}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["figures", "report.html"]
    assert len(text.encode()) < 2_000_000


def test_the_page_draws_each_figure_of_data_that_stand_in_it_once(full) -> None:
    page = render_report([summarise(TABLE1, full)], PAPER)
    kept = figures_of(page)
    assert set(kept["specs"]) == {"figure2", "table1-curves"}
    assert page.count('data-figure="figure2"') == 2  # in front, and in its study
    assert all("datasets" not in spec for spec in kept["specs"].values())
    named = set(re.findall(r'"name": "(data-[0-9a-f]+)"', json.dumps(kept["specs"])))
    assert named == set(kept["datasets"])
    assert page.count(_drawing_library()) == 1
    scripts = gzip.decompress(base64.b64decode(_drawing_library())).decode()
    assert scripts.count("window.vegaEmbed=") == 1


def test_the_page_says_all_that_it_must(full) -> None:
    text = render_report([summarise(TABLE1, full)], dataclasses.replace(PAPER, claims=()))
    for words in ("fewer than two seeds", "speak of the seeds only", "0123456789abcdef", "CC BY 4.0"):
        assert words in text
    assert 'name="viewport"' in text
    assert full[CORE][7].data["train"]["sha256"] in text
    shown = Read(text).text
    for claim in TABLE1.claims:
        assert claim.statement in shown
    assert TABLE1.question in shown
    assert TABLE1.answer(full) in shown
    for word in ("BPB", "PPL"):
        assert f"<dt>{word}</dt>" in text
    assert "8 claims: 7 reproduced, 1 not reproduced." in shown


def test_every_claim_of_the_paper_stands_there_with_what_it_rests_on(full) -> None:
    text = render_report([summarise(TABLE1, full)], PAPER)
    judged = PAPER.judged([("table1", *found) for found in summarise(TABLE1, full).verdicts])
    shown = text.partition('id="claims"')[2].partition("</section>")[0]
    assert shown.count('class="item claim"') == len(PAPER.claims) > 20
    rests = [found for claim in judged for found in claim.evidence if found.study]
    assert shown.count('<a href="#table1">Table 1</a>') == len(rests) > 0


def test_a_word_is_explained_where_it_first_stands_alone(full) -> None:
    again = dataclasses.replace(TABLE1, name="again", title="Again: BPB")
    text = render_report([summarise(TABLE1, full), summarise(again, full)], PAPER)
    assert text.count("<dt>BPB</dt>") == 1
    assert text.index("<dt>BPB</dt>") < text.index('id="again"')


def test_what_studies_share_of_how_they_were_measured_stands_once(full) -> None:
    other = dataclasses.replace(
        TABLE1, name="other", title="Other: one", protocol=(TABLE1.protocol[0], "Own.")
    )
    summaries = [summarise(TABLE1, full), summarise(other, full)]
    assert shared_protocol(summaries) == {TABLE1.protocol[0]: ["Table 1", "Other"]}
    shown = Read(render_report(summaries, PAPER)).text
    assert shown.count(TABLE1.protocol[0]) == 1
    assert shown.count("Own.") == 1


def test_the_first_findings_are_those_that_the_paper_names(full) -> None:
    tables = [dataclasses.replace(TABLE1, name=name) for name in ("one", "two", "three", "four")]
    summaries = [summarise(table, full) for table in tables]
    paper = dataclasses.replace(PAPER, findings={"three": "three-curves", "absent": "figure2"})
    front = render_report(summaries, paper).partition('id="studies"')[0]
    assert re.findall(r'<h3><a href="#(\w+)">', front) == ["three", "one", "two"]
    assert re.findall(r'data-figure="([\w-]+)"', front)[0] == "three-curves"


def test_every_column_shows_the_papers_value_before_ours(full) -> None:
    text = render_report([summarise(TABLE1, full)], PAPER)
    head = text.partition("<thead>")[2].partition("</thead>")[0]
    assert re.findall(r">(Paper|Ours)<", head) == ["Paper", "Ours"] * 2
    row = text.partition(f'id="table1--{CORE}"')[2].partition("</tr>")[0]
    assert re.findall(r'class="(paper|ours) ?\w*"', row) == ["paper", "ours"] * 2
    assert row.count("<i data-at=") == 2


def test_one_seed_has_no_interval(full) -> None:
    one = {name: {7: runs[7]} for name, runs in full.items()}
    text = render_report([summarise(TABLE1, one)], PAPER)
    drawn = [at.split(";") for at in re.findall(r'data-at="([^"]*)"', text)]
    assert drawn
    assert all(mean and not interval and not seeds for interval, mean, seeds, _, _ in drawn)
    assert "with one start no claim about trained models can be decided" in text


def test_without_any_run_the_page_says_so_and_draws_nothing() -> None:
    text = render_report([summarise(TABLE1, {})], PAPER)
    assert "Not measured yet." in text
    assert figures_of(text)["specs"] == {}
    assert _drawing_library() not in text
    assert Read(render_report([], PAPER)).text


def test_the_page_escapes_what_it_is_given(full) -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    row = dataclasses.replace(TABLE1.rows[1], label=evil, group=evil)
    study = dataclasses.replace(
        TABLE1, title=evil, question=evil, answer=lambda _: evil, rows=(TABLE1.rows[0], row, *TABLE1.rows[2:])
    )
    table = with_data(full, name=evil, notes=[evil], is_paper_corpus=False)
    text = render_report([summarise(study, table)], PAPER)
    assert evil not in text
    tags = Read(text).tags
    assert tags.count("script") == 3
    assert "img" not in tags
    labels = {record.get("label") for rows in figures_of(text)["datasets"].values() for record in rows}
    assert evil in labels


def test_ones_own_numbers_stand_beside_the_projects(full) -> None:
    interval, wide = mean_interval([5.1, 5.12, 5.14]), mean_interval([5.0, 5.1, 5.2])
    found = [
        Agreement(
            study="table1",
            row="Core",
            column="BPB",
            seed=7,
            value=value,
            digits=3,
            ours=interval,
            one_more=wide,
        )
        for value in (5.11, 9.0)
    ]
    text = render_report([dataclasses.replace(summarise(TABLE1, full), agreements=tuple(found))], PAPER)
    assert "project's own: 1 of 2 where one more seed would lie" in text
    shown = Read(text).text
    assert all(f"Core, BPB, seed 7: {one.text}" in shown for one in found)


def test_rows_of_one_name_are_linked_apart(full) -> None:
    study = dataclasses.replace(TABLE1, rows=(TABLE1.rows[0], TABLE1.rows[0]))
    ids = Read(render_report([summarise(study, full)], PAPER)).ids
    assert len(ids) == len(set(ids))
    assert {f"table1--{TRANSFORMER}", f"table1--{TRANSFORMER}-2"} <= set(ids)


def test_studies_of_texts_of_any_names_are_linked_and_drawn_apart(full) -> None:
    """What an address leaves out of their names may be all of them."""
    texts = ("\u6587", "\u672c", "My text", "my-text", "my text")
    studies = [TABLE1, *(TABLE1.of(text, further=True) for text in texts)]
    page = Read(render_report([summarise(study, full) for study in studies], PAPER))
    assert len(page.ids) == len(set(page.ids))
    figures = [figure.name for study in studies for figure in study.figures]
    assert len(figures) == len({name.lower() for name in figures})
    assert {address for address in page.addresses if address[1:] not in page.ids} == set()


@pytest.mark.parametrize(("low", "high", "place"), [(5.0, 6.0, "500"), (5.5, 6.5, "0")])
def test_the_drawing_in_a_cell_has_its_columns_scale(low, high, place) -> None:
    cell = Cell(paper=NOTHING, ours="5.5", interval=mean_interval([5.5]), values=(5.5,))
    assert drawn_interval(cell, (low, high)) == f";{place};;;"
    several = Cell(
        paper="5.5", ours="5.5", interval=mean_interval([5.4, 5.6]), values=(5.4, 5.6), printed=5.9
    )
    interval, mean, seeds, exact, printed = drawn_interval(several, (0.0, 10.0)).split(";")
    assert (mean, seeds, exact, printed) == ("550", "540 560", "", "590")
    assert len(interval.split()) == 2
    assert drawn_interval(cell, (5.5, 5.5)) == ""
    assert drawn_interval(Cell(paper=NOTHING, ours=NOTHING), (5.0, 6.0)) == ""


def measured(runs):
    """The same runs as repeats of a measurement would stand there."""
    return {
        f"speed.{name}": {
            repeat: dataclasses.replace(
                run, experiment=f"speed.{name}", data=run.data | {"kind": "measurement"}
            )
            for repeat, run in enumerate(found.values())
        }
        for name, found in runs.items()
    }


def timed(study):
    """The study as one of a measurement."""
    how = Measurement(name="speed", take=lambda device: {}, repeats=5)
    study = study.with_experiments(lambda one: dataclasses.replace(one, name=f"speed.{one.name}"))
    return dataclasses.replace(study, name="speed", title="Speed: one", measurement=how, claims=())


def test_random_starts_are_of_ones_own_trained_runs_alone(full) -> None:
    one = {name: {7: runs[7]} for name, runs in full.items()}
    everything = one | {CORE: full[CORE]} | measured(full)
    shown = summarise(TABLE1, everything, shown=(CORE, "of another study"))
    assert shown.shown == (CORE,)
    text = render_report([shown, summarise(timed(TABLE1), everything)], PAPER)
    assert "trained here from one random start (a seed)" in text
    assert "with one start no claim about trained models can be decided" in text
    two = {name: {7: runs[7], 11: runs[11]} for name, runs in full.items()}
    assert "from 2 random starts" in render_report([summarise(TABLE1, two)], PAPER)
    mixed = two | {CORE: one[CORE]}
    assert "from 1 to 2 random starts (seeds): with one start no claim" in render_report(
        [summarise(TABLE1, mixed)], PAPER
    )
    assert (
        "random start"
        not in render_report([summarise(timed(TABLE1), measured(full))], PAPER).partition('id="studies"')[0]
    )


def test_what_is_shown_from_the_projects_runs_is_marked_wherever_it_stands(full) -> None:
    summary = summarise(TABLE1, full, shown=(CORE,))
    assert [line.name for line in summary.lines if line.shown] == [CORE]
    resting = [claim.statement for claim, verdict in summary.verdicts if verdict.on_shown]
    assert resting == [
        claim.statement
        for claim in TABLE1.claims
        if "Core" in claim.statement or "ROSA has the" in claim.statement
    ]
    page = render_report([summary], PAPER)
    row = page.partition(f'id="table1--{CORE}"')[2].partition("</tr>")[0]
    assert row.count(f'<span class="chip shown">{SHOWN}</span>') == page.count('class="chip shown"') == 1
    study = page.partition('<section class="study" id="table1"')[2].partition("</section>")[0]
    assert study.count(ON_SHOWN.replace("'", "&#39;")) == len(resting)
    assert f"({SHOWN})" in page.partition('id="claims"')[2]
    told = {
        record["run"]
        for data in figures_of(page)["datasets"].values()
        for record in data
        if record.get("run")
    }
    marked = {run for run in told if run.endswith(f" ({SHOWN})")}
    assert {run.partition("-seed")[0] for run in marked} == {CORE}
    assert {run.partition("-seed")[0] for run in told - marked} == {TRANSFORMER, ROSA, DISCOVERY}
    terminal = printed(summary)
    assert "UniMatrix-Core *" in terminal
    assert f"*: {SHOWN}" in terminal
    assert "Rests on the project's own" in terminal
    for words in (SHOWN, "own runs", " *"):
        assert words not in printed(summarise(TABLE1, full))


def test_what_was_measured_is_over_repeats_and_not_over_seeds(full) -> None:
    summary = summarise(timed(TABLE1), measured(full))
    text = render_report([summary], PAPER)
    assert "5 repeats each" in text
    assert "seeds each" not in text
    assert "the mean over the repeats of a measurement" in text
    assert "over n repeats" in printed(summary)
    both = render_report([summarise(TABLE1, full), summary], PAPER)
    assert "the seeds (runs that differ" in both
    assert "or over the repeats" in both


def test_only_a_studys_own_runs_make_it_measured(full) -> None:
    others = measured(full)
    silent = dataclasses.replace(TABLE1, answer=lambda _: NOT_MEASURED)
    assert NOT_MEASURED in render_report([summarise(silent, others)], PAPER)
    assert NOT_MEASURED not in render_report([summarise(silent, full)], PAPER)


def test_a_drawing_alone_keeps_no_caution_from_being_everyones(full) -> None:
    drawing = dataclasses.replace(TABLE1, name="drawing", rows=(), claims=())
    assert shared_cautions([summarise(drawing, {}), summarise(TABLE1, {})]) == ("No run has finished yet.",)


def test_a_study_that_has_not_run_takes_one_line(full) -> None:
    rows = [dataclasses.replace(row, paper={}) for row in TABLE1.rows]
    own = tuple(dataclasses.replace(claim, judges=()) for claim in TABLE1.claims)
    new = dataclasses.replace(
        TABLE1, name="new", title="New: a study", rows=tuple(rows), paper="", claims=own
    )
    new = new.with_experiments(lambda one: dataclasses.replace(one, name=f"new.{one.name}"))
    alone, both = (
        render_report([summarise(TABLE1, full), *more], PAPER) for more in ([], [summarise(new, full)])
    )
    section = both.partition('<section class="study waits" id="new"')[2].partition("</section>")[0]
    assert Read(section).text.split("\n")[1] == f"New: a study {NOT_MEASURED}"
    link = both.partition('href="#new" class="soft"')[2].partition("</li>")[0]
    assert Read(f"<a {link}").text.split() == ["New", "(not", "measured", "yet)"]
    # nothing else is said of it anywhere
    without = both.replace(section, "").replace("New: a study", "")
    assert len(without) - len(alone) < 400  # a link to it
    assert figures_of(both) == figures_of(alone)
    assert shared_cautions([summarise(new, {}), summarise(TABLE1, full)]) == ()
    assert "New: a study. Not measured yet." in printed(summarise(new, full))


def test_of_a_study_that_has_run_in_part_the_rows_that_wait_are_named(full) -> None:
    rows = tuple(dataclasses.replace(row, paper={}) for row in TABLE1.rows)
    study = dataclasses.replace(TABLE1, rows=rows)
    del full[ROSA], full[DISCOVERY]
    summary = summarise(study, full)
    assert [line.name for line in summary.lines] == [TRANSFORMER, CORE]
    assert summary.unmeasured == ("UniMatrix-ROSA", "UniMatrix-Discovery")
    assert not summary.waits
    # of rows that stand in several groups the one that waits is told by its group
    again = dataclasses.replace(rows[0], group="Again").changed(
        lambda one: dataclasses.replace(one, name="again")
    )
    twice = summarise(dataclasses.replace(study, rows=(*rows, again)), full)
    assert twice.unmeasured == ("UniMatrix-ROSA", "UniMatrix-Discovery", "Transformer (Again)")
    text = Read(render_report([summary], PAPER)).text
    assert text.count("Not measured yet: UniMatrix-ROSA; UniMatrix-Discovery.") == 1


def test_rows_of_unlike_numbers_of_seeds_say_theirs_each(full) -> None:
    assert "5 seeds each" in render_report([summarise(TABLE1, full)], PAPER)
    del full[CORE][7]
    text = render_report([summarise(TABLE1, full)], PAPER)
    assert "seeds each" not in text
    assert ">Seeds</th>" in text


def test_of_many_numbers_below_a_claim_the_first_are_shown(full) -> None:
    summary = summarise(TABLE1, full)
    (claim, verdict), *others = summary.verdicts
    long = dataclasses.replace(verdict, details=tuple(f"number {n}" for n in range(9)))
    text = render_report([dataclasses.replace(summary, verdicts=((claim, long), *others))], PAPER)
    first, _, folded = text.partition("<summary>6 more</summary>")
    assert "<p>number 2</p>" in first
    assert folded.count("<p>number ") == 6
