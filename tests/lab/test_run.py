"""From training to page at the smallest size that runs: interrupted, continued, changed; all studies."""

import dataclasses
import io
import json
import re
import shutil
import signal
from collections import Counter
from pathlib import Path

import altair as alt
import pandas
import pytest
from rich.console import Console
from tiny_studies import SHORT, counting, text_of, tiny

from unimatrix.data import Corpus
from unimatrix.errors import UserError
from unimatrix.lab import committed as committed_module
from unimatrix.lab import report as report_module
from unimatrix.lab import run as run_module
from unimatrix.lab import training as module
from unimatrix.lab.report import report
from unimatrix.lab.results import RESULTS, read_results
from unimatrix.lab.run import first_seeds, reproduce
from unimatrix.lab.study import Column, Inspection
from unimatrix.lab.words import NOTHING
from unimatrix.mixers import MatrixStateConfig
from unimatrix.studies.beyond.fair_fight import FAIR_FIGHT, NAMES
from unimatrix.studies.beyond.training_length import training_length
from unimatrix.studies.catalogue import ALL, EXPERIMENTS, STUDIES
from unimatrix.studies.paper.claims import PAPER
from unimatrix.studies.paper.recall import TABLE3
from unimatrix.studies.paper.recurrent_ffn import SECTION56_TUNED, section56_perplexity, section56_tuned
from unimatrix.studies.paper.recurrent_memory import section56_memory
from unimatrix.studies.paper.text import TABLE1
from unimatrix.train import load_checkpoint
from unimatrix.train.run import Run

_, CORE, _, _ = TABLE1.names


@pytest.fixture
def corpus() -> Corpus:
    return counting()


@pytest.fixture
def go(tmp_path, corpus):
    """go(...) -> (Reproduction, what was printed); arguments override."""

    def run(**changes):
        page = io.StringIO()
        arguments = {
            "out": tmp_path / "out",
            "seeds": (7,),
            "studies": (SHORT,),
            "corpus": corpus,
            "paper": PAPER,
            "device": "cpu",
            "console": Console(file=page, width=100),
        }
        return reproduce(**(arguments | changes)), page.getvalue()

    return run


def rows(tmp_path: Path) -> list[dict]:
    return [json.loads(line) for line in (tmp_path / "out" / RESULTS).read_text().splitlines()]


def test_it_trains_all_reports_all_and_skips_all_the_second_time(tmp_path, go, monkeypatch) -> None:
    result, printed = go(seeds=(7, 11), studies=(tiny(TABLE1),))
    written = rows(tmp_path)
    assert [(row["experiment"], row["seed"]) for row in written] == [
        (name, seed) for seed in (7, 11) for name in TABLE1.names
    ]
    for row in written:
        assert row["steps"] == 2
        assert row["metrics"]["ppl"] == pytest.approx(2 ** row["metrics"]["bpb"])
        assert row["seconds"] > 0
        assert row["data"]["valid"]["bytes"] == 200
        assert [step for step, _ in row["curve"]] == [1, 2]
    assert "[8/8] table1.unimatrix-discovery, seed 11" in printed
    assert "7 runs left, about" in printed
    assert printed.count("This is not the paper's corpus.") == 1
    assert result.page == tmp_path / "out" / "report.html"
    assert "This is not the paper&#39;s corpus." in result.page.read_text()
    for name in ("figure2.png", "figure2.svg"):
        assert (tmp_path / "out" / "figures" / name).stat().st_size > 1000

    monkeypatch.setattr(module, "train", lambda *_a, **_k: pytest.fail("trained a finished run"))
    again, printed = go(seeds=(7, 11), studies=(tiny(TABLE1),))
    assert "8, of which 8 finished before" in printed
    assert rows(tmp_path) == written
    assert [line.cells for line in again.summaries[0].lines] == [
        line.cells for line in result.summaries[0].lines
    ]


def test_the_same_seed_gives_the_same_number(tmp_path, go) -> None:
    go()
    first = [row["metrics"] for row in rows(tmp_path)]
    (tmp_path / "out" / RESULTS).unlink()
    # the finished checkpoints are still there: the runs resume at their last step and are only evaluated
    go()
    assert [row["metrics"] for row in rows(tmp_path)] == first
    go(out=tmp_path / "elsewhere")
    assert [row.metrics for row in read_results(tmp_path / "elsewhere" / RESULTS)] == first


def test_a_study_of_another_text_is_left_out_or_refused_and_its_rows_are_of_its_text(tmp_path, go) -> None:
    mine = dataclasses.replace(SHORT, text="counting")
    other = dataclasses.replace(tiny(TABLE1), name="elsewhere", text="another")
    result, printed = go(studies=(mine, other))
    assert "Left out, of another text than counting: elsewhere (of another)\n" in printed
    assert [summary.study.name for summary in result.summaries] == [SHORT.name]
    assert {row["experiment"] for row in rows(tmp_path)} == set(SHORT.names)
    with pytest.raises(UserError, match=r"^text: expected that of elsewhere \(of another\); got counting$"):
        go(studies=(other,))
    quiet, out = Console(file=io.StringIO()), tmp_path / "out"
    shown = report(
        studies=(SHORT, dataclasses.replace(other, rows=SHORT.rows)), paper=PAPER, out=out, console=quiet
    )
    assert [any(summary.samples.values()) for summary in shown.summaries] == [True, False]


def test_a_study_that_is_told_of_each_text_is_so_from_a_run_and_from_its_rows(tmp_path, go, corpus) -> None:
    study = dataclasses.replace(SHORT, each_text=True)
    other = dataclasses.replace(corpus, name="other", valid=corpus.test)
    go(studies=(study,), seeds=(7, 11))
    result, _ = go(studies=(study,), corpus=other)
    quiet = Console(file=io.StringIO())
    again = report(studies=(study,), paper=PAPER, out=tmp_path / "out", console=quiet)
    for told in (result, again):
        assert [summary.study.name for summary in told.summaries] == [SHORT.name, f"{SHORT.name}-counting"]
        assert [{line.num_seeds for line in summary.lines} for summary in told.summaries] == [{1}, {2}]
    assert again.page.read_text() == result.page.read_text()
    # on the first text again nothing is trained, and it comes first
    result, printed = go(studies=(study,))
    assert "2, of which 2 finished before" in printed
    assert [summary.study.name for summary in result.summaries] == [SHORT.name, f"{SHORT.name}-other"]


def test_what_stands_in_for_runs_is_of_one_text_and_ones_own_of_another_is_ones_own(
    tmp_path, go, corpus, committed
) -> None:
    study = dataclasses.replace(SHORT, each_text=True)
    committed({name: {7: 0.0, 11: 0.01} for name in SHORT.names})
    other = dataclasses.replace(corpus, name="other", valid=corpus.test)
    go(studies=(study,), corpus=other)
    result, _ = go(studies=(study,), skip=SHORT.names)
    quiet = Console(file=io.StringIO())
    again = report(studies=(study,), paper=PAPER, out=tmp_path / "out", console=quiet)
    for told in (result, again):
        assert [summary.study.text for summary in told.summaries] == ["counting", "other"]
        assert [summary.shown for summary in told.summaries] == [SHORT.names, ()]


def test_interrupted_and_started_again_it_continues(tmp_path, go, monkeypatch) -> None:
    real, calls = module.train, []

    def stopped(experiment, **options):
        calls.append(experiment)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(experiment, **options)

    monkeypatch.setattr(module, "train", stopped)
    with pytest.raises(KeyboardInterrupt):
        go()
    assert len(rows(tmp_path)) == 1
    result, printed = go()
    assert "2, of which 1 finished before" in printed
    assert len(calls) == 3
    assert [row["experiment"] for row in rows(tmp_path)] == list(SHORT.names)
    assert {line.num_seeds for line in result.summaries[0].lines} == {1}


@pytest.mark.parametrize(("interrupted", "kept"), [(True, 0), (False, 1)])
def test_a_signal_ends_it_and_a_finished_run_is_kept(tmp_path, go, monkeypatch, interrupted, kept) -> None:
    real = module.train

    def signalled(experiment, **options):
        result = real(experiment, **options)
        return dataclasses.replace(result, interrupted=interrupted, stop_signal=signal.SIGTERM)

    monkeypatch.setattr(module, "train", signalled)
    result, _ = go()
    assert (result.stop_signal, result.page, result.summaries) == (signal.SIGTERM, None, ())
    assert len(read_results(tmp_path / "out" / RESULTS)) == kept


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_run_that_cannot_go_on_has_no_row_and_the_page_is_of_the_others(tmp_path, go, jobs) -> None:
    lost, kept = SHORT.names

    def diverging(one):
        return (
            dataclasses.replace(one, optim=dataclasses.replace(one.optim, lr=1e30))
            if one.name == lost
            else one
        )

    study = SHORT.with_experiments(diverging)
    result, printed = go(studies=(study,), seeds=(7, 11), jobs=jobs)
    assert [(one.experiment, one.seed) for one in result.gave_up] == [(lost, 7), (lost, 11)]
    assert all(one.why.startswith("training stopped") for one in result.gave_up)
    assert (result.stop_signal, result.page) == (None, tmp_path / "out" / "report.html")
    assert {(row["experiment"], row["seed"]) for row in rows(tmp_path)} == {(kept, 7), (kept, 11)}
    printed = " ".join(printed.split())
    assert f" {lost}, seed 7 (training stopped" in printed
    assert "; 1 run left" in printed
    (summary,) = result.summaries
    assert [line.num_seeds for line in summary.lines] == [0, 2]
    assert {verdict.outcome for _, verdict in summary.verdicts} == {"undecided"}
    told = "Could not go on, and in no number: Transformer, seed 7 (training stopped"
    assert f"; Transformer, seed 11 ({result.gave_up[1].reason})." in summary.lost
    assert told in printed
    assert told in result.page.read_text()
    assert str(tmp_path) not in summary.lost
    # a page made anew from what is kept tells the same
    again = report(out=tmp_path / "out", studies=(study,), paper=PAPER, console=Console(file=io.StringIO()))
    assert again.summaries[0].lost == summary.lost
    assert again.page.read_text() == result.page.read_text()
    # what it lacks is trained again, and comes to the same; the others are not
    result, printed = go(studies=(study,), seeds=(7, 11))
    assert "4, of which 2 finished before" in printed
    assert [(one.experiment, one.seed) for one in result.gave_up] == [(lost, 7), (lost, 11)]
    assert result.summaries[0].lost == summary.lost
    # a page of nothing, where nothing is left
    nothing, _ = go(
        out=tmp_path / "none", studies=(dataclasses.replace(study, rows=study.rows[:1], claims=()),)
    )
    assert [line.num_seeds for line in nothing.summaries[0].lines] == [0]
    assert "Not measured yet. Could not go on, and in no number" in " ".join(nothing.page.read_text().split())


def test_what_training_refuses_still_ends_it(go, monkeypatch) -> None:
    def refuse(*_, **__):
        raise UserError("a full disk")

    monkeypatch.setattr(module, "train", refuse)
    with pytest.raises(UserError, match=r"^a full disk$"):
        go()


def test_more_seeds_train_only_the_new_ones_and_all_count(tmp_path, go) -> None:
    go()
    result, printed = go(seeds=(7, 11, 7))
    assert "4, of which 2 finished before" in printed
    assert {line.num_seeds for line in result.summaries[0].lines} == {2}
    assert len(rows(tmp_path)) == 4


def test_a_changed_experiment_is_trained_anew_and_both_rows_stay(tmp_path, go) -> None:
    go()
    longer = tiny(dataclasses.replace(SHORT, rows=SHORT.rows[1:]), steps=3)
    other = dataclasses.replace(SHORT, rows=(SHORT.rows[0], *longer.rows))
    result, printed = go(studies=(other,))
    assert "2, of which 1 finished before" in printed
    assert [row["steps"] for row in rows(tmp_path) if row["experiment"] == CORE] == [2, 3]
    # asked for the first settings again, the first row counts again
    result, printed = go()
    assert "2, of which 2 finished before" in printed
    assert not any("recipe" in caution for caution in result.summaries[0].cautions)


def test_another_text_is_trained_anew(tmp_path, go, corpus) -> None:
    go()
    other = Corpus(name="other", train=text_of(600, seed=9), valid=corpus.valid, test=corpus.test)
    result, printed = go(corpus=other)
    assert "2, of which 0 finished before" in printed
    assert len(rows(tmp_path)) == 4
    assert {line.num_seeds for line in result.summaries[0].lines} == {1}


def test_report_rebuilds_without_training(tmp_path, go, monkeypatch) -> None:
    result, _ = go()
    page = result.page.read_text()
    result.page.unlink()
    monkeypatch.setattr(module, "train", lambda *_a, **_k: pytest.fail("report trained"))
    again = report(out=tmp_path / "out", studies=(SHORT,), paper=PAPER, console=Console(file=io.StringIO()))
    assert again.page.read_text() == page


def test_report_leaves_out_what_has_changed_since_and_says_so(tmp_path, go, monkeypatch) -> None:
    go()
    path = tmp_path / "out" / RESULTS
    before = path.read_text()
    monkeypatch.setattr(MatrixStateConfig, "version", 2)
    page = io.StringIO()
    found = report(out=tmp_path / "out", studies=(SHORT,), paper=PAPER, console=Console(file=page, width=100))
    assert [line.num_seeds for line in found.summaries[0].lines] == [1, 0]
    assert page.getvalue().count(f"Note: the runs of {CORE} are left out") == 1
    assert path.read_text() == before
    _, printed = go()
    assert "2, of which 1 finished before" in printed


def test_report_without_results_says_so(tmp_path) -> None:
    with pytest.raises(UserError, match="no finished run to report"):
        report(studies=(SHORT,), paper=PAPER, out=tmp_path, console=Console(file=io.StringIO()))


def test_bad_seeds_are_refused_before_anything_is_written(tmp_path, go) -> None:
    for seeds in ((), (-1,), 0, -1):
        with pytest.raises(UserError, match="seed"):
            go(seeds=seeds)
    assert not (tmp_path / "out").exists()


def test_no_run_at_a_time_is_refused(go) -> None:
    with pytest.raises(UserError, match="jobs: expected at least 1, got 0"):
        go(jobs=0)


def test_on_a_terminal_there_is_a_bar_of_runs(go) -> None:
    page = io.StringIO()
    go(console=Console(file=page, width=100, force_terminal=True))
    assert "runs" in page.getvalue()
    assert "2/2" in page.getvalue()


def test_all_studies_in_one_run_share_their_experiments(tmp_path, go, monkeypatch) -> None:
    # pages and figures of all studies are drawn in test_page
    monkeypatch.setattr(report_module, "write_report", lambda _summaries, _paper, out: out / "report.html")
    other_steps = (
        training_length((1, 2)),
        section56_tuned((1, 2)),
        section56_perplexity((1, 2)),
        section56_memory((1, 2)),
    )
    # the fair fight's are run in test_fair_fight
    others = {name: one for name, one in STUDIES.items() if name not in NAMES}
    studies = {name: tiny(one) for name, one in (others | {one.name: one for one in other_steps}).items()}
    result, printed = go(studies=tuple(studies.values()))
    names = [row["experiment"] for row in rows(tmp_path)]
    fights = {name for study in FAIR_FIGHT for name in study.names}
    assert sorted(names) == sorted(EXPERIMENTS.keys() - fights)
    assert "Text: counting (not the paper's corpus)" in printed
    assert "Tasks: recall, triple-interaction, mqar, signal-noise" in printed
    assert re.search(r"accuracy [\d.]+ %.* after", printed)
    # every column of every row is measured, every claim finds its runs
    # recall of the narrower models, and what guessing would give in bits per byte; seed 11 of each model;
    # positions beyond 200 bytes (37 models), or in no stream (two of them), and all but one of 4 programs
    holes = {
        "table2": 5,
        "section5.6-tuned": len(SECTION56_TUNED.rows),
        "section5.6-perplexity": 3,
        "streaming": 2 * 39 + 2 + 4 * 4,
        "binding-length": 2,  # what looks back stops before the longest
        **dict.fromkeys(("depth-text", "depth-recall"), 10 * 4),  # separate blocks are as deep as they are
    }
    found = {
        summary.study.name: [cell.ours for line in summary.lines for cell in line.cells].count(NOTHING)
        for summary in result.summaries
    }
    assert {name: count for name, count in found.items() if count} == holes
    for summary in result.summaries:
        assert not [d for _, verdict in summary.verdicts for d in verdict.details if "no seed" in d]


def test_a_row_that_is_known_exactly_is_of_its_own_studys_runs(tmp_path, go, monkeypatch) -> None:
    seen = []
    monkeypatch.setattr(run_module, "reported", lambda studies, samples, **given: seen.append(samples))
    other = SHORT.with_experiments(lambda one: dataclasses.replace(one, name=f"other.{one.name}"))
    other = dataclasses.replace(other, name="other")
    go(studies=(SHORT, other))
    assert {name: set(runs) for name, runs in seen[0].items()} == {
        SHORT.name: set(SHORT.names),
        "other": set(other.names),
    }


def test_seeds_go_on_from_the_papers() -> None:
    assert first_seeds(1) == (7,)
    assert first_seeds(12) == (7, 11, 1, 2, 3, 4, 5, 6, 8, 9, 10, 12)
    assert first_seeds(1, (5, 3)) == (5,)
    assert first_seeds(4, (5, 3)) == (5, 3, 6, 7)


def test_a_study_may_have_seeds_of_its_own_and_those_that_are_named_win() -> None:
    own = dataclasses.replace(SHORT, rows=SHORT.rows[:1], claims=(), name="own", seeds=(101, 102))
    usual = dataclasses.replace(SHORT, rows=SHORT.rows[1:2], claims=())
    one, other = own.names[0], usual.names[0]
    for seeds, planned in (
        (1, [(one, 101), (other, 7)]),
        (3, [(one, 101), (other, 7), (one, 102), (other, 11), (one, 103), (other, 1)]),
        ((4, 9, 4), [(one, 4), (other, 4), (one, 9), (other, 9)]),
    ):
        found = run_module._plan((own, usual), seeds=seeds, device="cpu", source="embedded")
        assert [(run.name, run.loop.seed) for run in found] == planned
    # of an experiment that both have, each one's seeds
    found = run_module._plan((own, SHORT), seeds=1, device="cpu", source="embedded")
    assert sorted(run.loop.seed for run in found if run.name == one) == [7, 101]


@pytest.fixture
def committed(tmp_path, go, monkeypatch):
    """committed(name -> seed -> change of every number) makes rows of a finished run the project's own."""

    def place(changes: dict[str, dict[int, float]]) -> None:
        go(out=tmp_path / "theirs")
        found = []
        for row in read_results(tmp_path / "theirs" / RESULTS):
            for seed, change in changes.get(row.experiment, {}).items():
                metrics = {name: value + change for name, value in row.metrics.items()}
                found.append(dataclasses.replace(row, seed=seed, metrics=metrics, seconds=100.0))
        for looked_in in (run_module, report_module):
            monkeypatch.setattr(looked_in, "committed_rows", lambda: found)

    return place


def test_of_many_that_are_not_trained_a_line_names_the_first() -> None:
    console = Console(file=io.StringIO(), width=10_000)
    run_module._announce_skipped(console, {f"family.experiment-{at}": (1, 2) for at in range(150)})
    (line,) = console.file.getvalue().splitlines()
    assert line.startswith("Not trained, shown from the project's own runs (--full trains all): family.exp")
    assert re.search(r", and 1[34]\d more$", line)
    assert len(line) < 200


def test_the_longest_are_shown_from_committed_runs_and_trained_when_asked_for(
    tmp_path, go, committed
) -> None:
    other, shown = SHORT.names
    committed({shown: {7: 0.0, 11: 0.01, 1: -0.01}})
    result, printed = go(skip=SHORT.names)
    why = "none of them on this text and device to show"
    assert f"Not trained, shown from the project's own runs (--full trains all): {shown}\n" in printed
    assert f"Not trained, {why} (--full trains all): {other}\n" in printed
    assert "Runs: 0, of which 0 finished before" in printed
    assert [line.num_seeds for line in result.summaries[0].lines] == [0, 3]
    result, printed = go(skip=[shown])
    assert "Runs: 1, of which 0 finished before" in printed
    assert why not in printed
    assert [row["experiment"] for row in rows(tmp_path)] == [other]
    (summary,) = result.summaries
    assert [line.num_seeds for line in summary.lines] == [1, 3]
    assert summary.shown == (shown,)
    assert any(shown in caution and "Not trained here" in caution for caution in summary.cautions)
    # the page is the same without training
    quiet = Console(file=io.StringIO())
    page = result.page.read_text()
    again = report(out=tmp_path / "out", studies=(SHORT,), paper=PAPER, console=quiet)
    assert (again.page.read_text(), again.summaries[0].shown) == (page, (shown,))
    numbers = pandas.read_csv(tmp_path / "out" / "results.csv")
    assert sorted(numbers[numbers.metric == "bpb"].experiment) == sorted([other, *[shown] * 3])
    # asked for, it is trained after all; then it is one's own
    for skip in ((), SHORT.names):
        result, _ = go(skip=skip)
        assert [row["experiment"] for row in rows(tmp_path)] == [other, shown]
        assert [line.num_seeds for line in result.summaries[0].lines] == [1, 1]
        assert not (tmp_path / "out" / "shown.jsonl").exists()


def test_seconds_are_all_of_one_machine(tmp_path, go, committed) -> None:
    """What takes long is shown from the project's own runs: then all of it that is compared by seconds."""
    other, shown = SHORT.names
    seconds = Column(key="seconds", title="Seconds", digits=0, axis="seconds")
    timed = dataclasses.replace(SHORT, columns=(*SHORT.columns, seconds))
    committed({other: {7: 0.0}, shown: {7: 0.0}})
    go(studies=(dataclasses.replace(timed, rows=timed.rows[:1], claims=()),))
    assert [row["experiment"] for row in rows(tmp_path)] == [other]
    result, _ = go(studies=(timed,), skip=timed.names)
    assert result.summaries[0].shown == (other, shown)
    # nothing of it is timed: one's own counts
    result, _ = go(skip=SHORT.names)
    assert result.summaries[0].shown == (shown,)


def test_what_stands_in_for_studies_that_are_not_chosen_stays(tmp_path, go, committed) -> None:
    committed({name: {7: 0.0} for name in SHORT.names})
    one, other = (dataclasses.replace(SHORT, name=row.label, rows=(row,), claims=()) for row in SHORT.rows)
    path = tmp_path / "out" / "shown.jsonl"
    go(studies=(one,), skip=SHORT.names)
    go(studies=(other,), skip=SHORT.names)
    assert [row.experiment for row in read_results(path)] == [*one.names, *other.names]
    assert set(pandas.read_csv(tmp_path / "out" / "results.csv").origin) == {"shown"}
    go(studies=(one,))
    assert [row.experiment for row in read_results(path)] == [*other.names]


def test_what_is_timed_trains_alone_after_the_others(go, monkeypatch) -> None:
    seconds = Column(key="seconds_2_steps", title="Seconds", digits=0, axis="seconds")
    table = tiny(dataclasses.replace(TABLE1, rows=TABLE1.rows[:3], figures=(), claims=()))
    timed = dataclasses.replace(SHORT, rows=SHORT.rows[:1], columns=(seconds,), claims=(), name="timed")
    assert timed.timed == {SHORT.names[0]}
    assert STUDIES["training-length"].timed == {*STUDIES["training-length"].names}
    assert (table.timed, ALL["section6.3-recall"].timed) == (frozenset(), frozenset())
    went: list[list[str]] = []

    def note(runs, **_) -> None:
        went.append([run.name for run in runs])

    for how in ("train_side_by_side", "train_in_turn"):
        monkeypatch.setattr(run_module, how, note)
    go(studies=(table, timed), jobs=2, seeds=(7, 11))
    assert went == [[*table.names[1:]] * 2, [table.names[0]] * 2]
    went.clear()
    go(studies=(table, timed), seeds=(7, 11))
    assert went == [[*table.names] * 2]


def test_runs_of_several_threads_have_the_machine_to_themselves(tmp_path, go, monkeypatch) -> None:
    several = dataclasses.replace(SHORT, rows=SHORT.rows[:1], claims=(), name="several", threads=2)
    assert several.timed == {SHORT.names[0]}
    alone = dataclasses.replace(SHORT, rows=SHORT.rows[1:], claims=())
    go(studies=(several, alone))
    assert {row["experiment"]: row["threads"] for row in rows(tmp_path)} == {
        SHORT.names[0]: 2,
        SHORT.names[1]: 1,
    }


def test_a_recipe_that_names_a_device_stays_on_it() -> None:
    one, other = (dataclasses.replace(row.experiment) for row in SHORT.rows[:2])
    one = dataclasses.replace(one, loop=dataclasses.replace(one.loop, device="cpu"))
    other = dataclasses.replace(other, loop=dataclasses.replace(other.loop, device="auto"))
    rows = tuple(
        dataclasses.replace(row, experiment=found)
        for row, found in zip(SHORT.rows, (one, other), strict=False)
    )
    study = dataclasses.replace(SHORT, rows=rows, claims=())
    planned = run_module._plan((study,), seeds=(7,), device="cuda", source="embedded")
    assert [run.loop.device for run in planned] == ["cpu", "cuda"]


def test_what_is_timed_takes_a_step_before_it_counts_and_is_never_taken_from_an_old_checkpoint(
    tmp_path, go, monkeypatch
) -> None:
    several = dataclasses.replace(SHORT, rows=SHORT.rows[:1], claims=(), name="several", threads=2)
    plain = dataclasses.replace(SHORT, rows=SHORT.rows[1:2], claims=())
    real, steps = Run.train_step, []

    def noted(run):
        steps.append((run.experiment.name, run.experiment.loop.seed))
        real(run)

    monkeypatch.setattr(Run, "train_step", noted)
    go(studies=(several, plain), seeds=(7, 11))
    timed, other = several.names[0], plain.names[0]
    # one more in the first of its runs alone
    assert Counter(steps) == {(timed, 7): 3, (timed, 11): 2, (other, 7): 2, (other, 11): 2}
    path = tmp_path / "out" / "results.jsonl"
    first = {(row.experiment, row.seed): row for row in read_results(path)}
    path.unlink()
    steps.clear()
    go(studies=(several, plain), seeds=(7,))
    # the other's row is made anew from its checkpoint
    assert Counter(steps) == {(timed, 7): 3}
    again = {(row.experiment, row.seed): row for row in read_results(path)}
    assert again[other, 7].seconds == first[other, 7].seconds
    assert again[timed, 7].seconds != first[timed, 7].seconds
    assert again[timed, 7].metrics == first[timed, 7].metrics
    # but one that was stopped while it was evaluated goes on there: no row was ever made of it
    path.unlink()
    (mark,) = (tmp_path / "out" / "runs").glob(f"{timed}-seed7-*/run.json")
    mark.write_text(json.dumps(json.loads(mark.read_text()) | {"metrics": None}))
    steps.clear()
    go(studies=(several,), seeds=(7,))
    assert Counter(steps) == {(timed, 7): 1}
    (row,) = read_results(path)
    assert row.seconds == again[timed, 7].seconds


def test_a_changed_setting_is_never_shown_from_committed_runs(tmp_path, go, committed) -> None:
    committed({name: {7: 0.0, 11: 0.01} for name in SHORT.names})
    _, printed = go(skip=SHORT.names, studies=(tiny(SHORT, steps=3),))
    assert "Runs: 0, of which 0 finished before" in printed
    assert "project's own" not in printed


def test_ones_own_numbers_are_held_against_the_committed_ones(go, committed) -> None:
    near, far = SHORT.names
    spread = {11: 0.1, 1: -0.1, 2: 0.05, 3: -0.05}
    committed({near: {7: 9.0} | spread, far: {seed: 3.0 + change for seed, change in spread.items()}})
    result, printed = go()
    found = {(one.row, one.column): one for one in result.summaries[0].agreements}
    labels = [row.name for row in SHORT.trained]
    assert found.keys() == {(label, column.title) for label in labels for column in SHORT.columns}
    # the committed run of the same seed is shown, and not judged by
    assert found[labels[0], "BPB"].inside
    assert found[labels[0], "BPB"].ours.n == 5
    assert not found[labels[1], "BPB"].inside
    assert "Beside the project's own runs: 2 of 4 numbers lie where one more seed" in printed
    assert re.search(rf"outside: table1, {labels[1]}, BPB, seed 7: yours [\d.]+, ours [\d.]+ ± ", printed)


def test_the_committed_page_is_not_held_against_itself(tmp_path, go, committed, monkeypatch) -> None:
    committed({name: {7: 0.0, 11: 0.1, 1: -0.1} for name in SHORT.names})
    monkeypatch.setattr(committed_module, "COMMITTED", tmp_path / "out")
    linked = tmp_path / "linked"
    linked.symlink_to(tmp_path / "out")
    (tmp_path / "out").mkdir()
    result, printed = go(out=linked)
    assert "Runs: 2, of which 0 finished before" in printed
    page = io.StringIO()
    again = report(out=tmp_path / "out", studies=(SHORT,), paper=PAPER, console=Console(file=page))
    for summary in (*result.summaries, *again.summaries):
        assert (summary.agreements, summary.shown) == ((), ())
    assert "Beside the project's own runs" not in printed + page.getvalue()


def test_a_task_needs_no_text(tmp_path, go, monkeypatch) -> None:
    monkeypatch.setattr(run_module, "load_corpus", lambda *_: pytest.fail("read a text"))
    short = tiny(dataclasses.replace(TABLE3, rows=TABLE3.rows[:1], claims=(), figures=()))
    result, printed = go(studies=(short,), corpus=None, source="no/such/text")
    assert "Text:" not in printed
    (row,) = rows(tmp_path)
    assert row["data"]["kind"] == "task"
    assert row["config"]["data"] == "auto"
    assert row["metrics"].keys() == {"loss", "accuracy"}
    assert result.summaries[0].lines[0].num_seeds == 1
    _, printed = go(studies=(short,), corpus=None)
    assert "1, of which 1 finished before" in printed


def look(trace) -> Inspection:
    def draw(traced) -> alt.LayerChart:
        data = alt.InlineData(values=[{"weight": weight} for weight in traced["weights"]])
        return alt.LayerChart(layer=[alt.Chart(data).mark_point().encode(x="weight:Q")])

    words = {"name": "slots", "title": "What the memory holds", "caption": "Slots over time."}
    return Inspection(
        experiment=EXPERIMENTS[CORE], record=dict[str, list[float]], trace=trace, draw=draw, **words
    )


def test_a_look_into_a_model_is_kept_and_shown(tmp_path, go) -> None:
    seen: list[Path] = []

    def trace(checkpoint: Path) -> dict:
        seen.append(checkpoint)
        return {"weights": [0.25, 0.75]}

    table = dataclasses.replace(SHORT, inspection=look(trace))
    result, _ = go(studies=(table,), seeds=(11, 7))
    assert [path.name for path in seen] == ["checkpoint-000002"]
    kept = tmp_path / "out" / "inspections" / f"{CORE}-seed11.json"
    assert json.loads(kept.read_text())["traced"] == {"weights": [0.25, 0.75]}
    assert "What the memory holds" in result.page.read_text()
    assert (tmp_path / "out" / "figures" / "slots.png").exists()
    # the report finds it again; that of other settings is not taken for it
    quiet = Console(file=io.StringIO())
    page = report(out=tmp_path / "out", studies=(table,), paper=PAPER, console=quiet).page
    assert len(re.findall(r'<figure [^>]*data-figure="slots"', page.read_text())) == 2
    good = kept.read_text()
    kept.write_text(json.dumps({"identity": "another", "traced": {}}))
    report(out=tmp_path / "out", studies=(table,), paper=PAPER, console=quiet)
    assert 'data-figure="slots"' not in page.read_text()
    for damaged in ("{", '{"identity": [], "traced": {}}', '{"identity": "x"}'):
        kept.write_text(damaged)
        with pytest.raises(UserError, match=f"{CORE}-seed11.json: (expected JSON|identity|traced)"):
            report(out=tmp_path / "out", studies=(table,), paper=PAPER, console=quiet)
    kept.write_text(good.replace("0.25", '"x"'))
    with pytest.raises(UserError, match=rf"{CORE}-seed11.json: traced: weights\[0\]: expected a number"):
        report(out=tmp_path / "out", studies=(table,), paper=PAPER, console=quiet)


def test_a_checkpoint_that_lost_a_file_keeps_nothing_else_from_the_page(tmp_path, go) -> None:
    go()
    for path in (tmp_path / "out" / "runs").rglob("optimizer.safetensors"):
        path.unlink()
    table = dataclasses.replace(SHORT, inspection=look(lambda path: load_checkpoint(path).trainer))
    result, printed = go(studies=(table,))
    assert "Not looked into:" in printed
    assert "missing" in printed
    assert "What the memory holds" not in result.page.read_text()


def test_without_its_checkpoint_a_model_is_not_looked_into(tmp_path, go) -> None:
    go()
    shutil.rmtree(tmp_path / "out" / "runs")
    table = dataclasses.replace(SHORT, inspection=look(lambda _: pytest.fail("looked")))
    result, _ = go(studies=(table,))
    assert "What the memory holds" not in result.page.read_text()
