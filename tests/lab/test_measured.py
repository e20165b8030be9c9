"""Studies that are measured: every repeat once, found again, taken anew where the machine is another."""

import ctypes
import dataclasses
import io
import os
import signal
import sys
from functools import partial

import pytest
import torch
from rich.console import Console

from unimatrix.errors import UserError
from unimatrix.lab import measured as module
from unimatrix.lab.claims import ComparedClaim, Comparison, Measured, Unit
from unimatrix.lab.committed import agreements
from unimatrix.lab.frames import frame, study_frame
from unimatrix.lab.measured import Stopped, measure_missing
from unimatrix.lab.page import render_report
from unimatrix.lab.report import report
from unimatrix.lab.results import append_result, latest_identities, read_results, select
from unimatrix.lab.run import reproduce
from unimatrix.lab.study import Column, Measurement, Row, Study, Taken
from unimatrix.lab.words import summarise
from unimatrix.studies.paper.claims import PAPER
from unimatrix.train.config import Experiment, ModelChoice
from unimatrix.train.progress import PlainConsole

MODELS = ("unimatrix-core", "transformer")


@pytest.fixture
def taken() -> list[str]:
    """The kinds of device that `take` of `study` was called with."""
    return []


@pytest.fixture
def study(taken) -> Study:
    rows = tuple(
        Row(experiment=Experiment(name=f"speed.{model}", model=ModelChoice(preset=model)), label=model)
        for model in MODELS
    )

    def take(device: str) -> dict[str, Taken]:
        taken.append(device)
        return {
            row.experiment.name: Taken(parameters=7, metrics={"tokens": 100.0 * (place + 1) + len(taken)})
            for place, row in enumerate(rows)
        }

    claim = ComparedClaim(
        statement="Core is slower",
        source="nowhere",
        comparisons=(
            Comparison(
                label="Core - Transformer",
                left=Measured(rows[0].experiment, "tokens"),
                right=Measured(rows[1].experiment, "tokens"),
                side="below",
                unit=Unit("tokens/s", "tokens/s", 0),
            ),
        ),
    )
    return Study(
        name="speed",
        title="Speed: tokens per second",
        rows=rows,
        columns=(Column(key="tokens", title="Tokens/s", digits=0, axis="tokens per second"),),
        claims=(claim,),
        figures=(),
        protocol=("Timed.",),
        measurement=Measurement(name="speed", take=take, repeats=3),
    )


@pytest.fixture
def measure(tmp_path):
    path = tmp_path / "results.jsonl"

    def call(*studies: Study) -> dict[str, str]:
        said: list[str] = []
        append = partial(append_result, path)
        return measure_missing(studies, read_results(path), device="cpu", append=append, say=said.append)

    return call


def test_every_repeat_is_taken_once_and_found_again(study, taken, measure, tmp_path) -> None:
    identities = measure(study)
    assert taken == ["cpu"] * 3
    assert measure(study) == identities
    assert taken == ["cpu"] * 3
    rows = read_results(tmp_path / "results.jsonl")
    assert [(row.experiment, row.seed) for row in rows] == [
        (name, repeat) for repeat in range(3) for name in study.names
    ]
    assert all(row.was_measured and row.is_current and not row.on_text for row in rows)
    assert select(rows, identities) == select(rows, latest_identities(rows, study.names))


def test_a_repeat_that_is_lost_in_part_is_taken_whole(study, taken, measure, tmp_path) -> None:
    measure(study)
    path = tmp_path / "results.jsonl"
    path.write_text("".join(line + "\n" for line in path.read_text().splitlines()[:-1]))
    measure(study)
    assert len(taken) == 4


def test_studies_of_one_measurement_share_it(study, taken, measure) -> None:
    measure(study, dataclasses.replace(study, name="again"))
    assert len(taken) == 3


@pytest.mark.parametrize("what", ["machine", "threads", "version", "versions", "commit"])
def test_another_machine_number_of_threads_or_version_is_measured_anew(
    study, taken, measure, monkeypatch, what
) -> None:
    measure(study)
    if what == "machine":
        monkeypatch.setattr(module, "machine", lambda kind: "another machine")
    elif what == "versions":
        newer = module.versions() | {"torch": "3.0"}
        monkeypatch.setattr(module, "versions", lambda: newer)
    elif what == "commit":
        monkeypatch.setattr(module, "git_commit", lambda: "another commit")
    elif what == "threads":
        threads = torch.get_num_threads() + 1
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    else:
        how = dataclasses.replace(study.measurement, version=2)
        study = dataclasses.replace(study, measurement=how)
    measure(study)
    assert len(taken) == 6


def test_report_shows_another_machines_rows_but_none_of_another_version(
    study, measure, tmp_path, monkeypatch
) -> None:
    quiet = Console(file=io.StringIO())
    measure(study)
    path = tmp_path / "results.jsonl"
    monkeypatch.setattr(module, "machine", lambda kind: "another machine")
    found = report(studies=(study,), paper=PAPER, out=tmp_path, console=quiet)
    assert [line.num_seeds for line in found.summaries[0].lines] == [3, 3]
    changed = dataclasses.replace(study, measurement=dataclasses.replace(study.measurement, version=2))
    rows = read_results(path)
    assert [module.was_replaced(row, [changed]) for row in rows] == [True] * 6
    assert not any(module.was_replaced(row, [study]) for row in rows)
    with pytest.raises(UserError, match="no finished run to report"):
        report(studies=(changed,), paper=PAPER, out=tmp_path, console=quiet)


def test_numbers_of_two_machines_are_not_held_side_by_side(study, measure, monkeypatch, tmp_path) -> None:
    measure(study)
    monkeypatch.setattr(module, "machine", lambda kind: "another machine")
    measure(study)
    path = tmp_path / "results.jsonl"
    # of the newest machine one row is left
    rows = [row for row in read_results(path) if row.machine != "another machine"]
    rows.append(next(row for row in read_results(path) if row.machine == "another machine"))
    assert latest_identities(rows, study.names).keys() == {rows[-1].experiment}


def test_speeds_are_not_judged_by_the_project_s_own(study, measure, tmp_path) -> None:
    measure(study)
    rows = read_results(tmp_path / "results.jsonl")
    samples = select(rows, latest_identities(rows, study.names))
    assert agreements(study, samples, rows) == ()
    assert agreements(dataclasses.replace(study, measurement=None), samples, rows)


def test_how_long_it_takes_is_known_by_what_it_took(study, measure, tmp_path) -> None:
    def left(rows, others) -> float:
        studies = (study, dataclasses.replace(study, name="again"))
        return module.seconds_to_measure(studies, rows, others, device="cpu")

    measure(study)
    rows = [dataclasses.replace(row, seconds=10.0) for row in read_results(tmp_path / "results.jsonl")]
    assert left([], []) == 0.0
    assert left([], rows) == 30.0
    assert left(rows[:3], []) == 20.0
    assert left(rows, rows) == 0.0


def test_nothing_of_a_measured_study_is_trained(study) -> None:
    assert study.experiments == ()
    assert study.names == ("speed.unimatrix-core", "speed.transformer")


def test_reproduce_measures_judges_and_reports(study, taken, tmp_path, capsys) -> None:
    result = reproduce(studies=(study,), paper=PAPER, out=tmp_path, seeds=(7,), console=PlainConsole())
    assert len(taken) == 3
    (summary,) = result.summaries
    assert summary.verdicts[0][1].outcome == "reproduced"
    assert summary.verdicts[0][1].seeds == 3
    facts = dict(summary.facts)
    assert facts["Repeats"] == "3"
    assert not {"Seeds", "Data", "Task", "Training time"} & facts.keys()
    assert "Measuring Speed, 3 of 3" in capsys.readouterr().out
    assert result.page is not None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_measuring_and_whole_repeats_are_kept(study, taken, tmp_path, number) -> None:
    def take(device: str) -> dict[str, Taken]:
        if taken:
            os.kill(os.getpid(), number)
        return study.measurement.take(device)

    before = signal.getsignal(number)
    stopping = dataclasses.replace(study, measurement=dataclasses.replace(study.measurement, take=take))
    found = reproduce(studies=(stopping,), paper=PAPER, out=tmp_path, console=PlainConsole(quiet=True))
    assert (found.stop_signal, found.page, found.summaries) == (number, None, ())
    assert [row.seed for row in read_results(tmp_path / "results.jsonl")] == [0, 0]
    assert signal.getsignal(number) == before
    # it goes on where it stopped
    found = reproduce(studies=(study,), paper=PAPER, out=tmp_path, console=PlainConsole(quiet=True))
    assert (found.stop_signal, len(taken)) == (None, 3)


@pytest.mark.parametrize("last", [False, True])
def test_a_signal_that_is_lost_in_a_callback_ends_the_measuring_too(
    study, taken, measure, tmp_path, monkeypatch, last
) -> None:
    lost = []
    monkeypatch.setattr(sys, "unraisablehook", lambda found: lost.append(found.exc_type))
    callback = ctypes.CFUNCTYPE(None)(lambda: os.kill(os.getpid(), signal.SIGINT))

    def take(device: str) -> dict[str, Taken]:
        if len(taken) == (2 if last else 1):
            callback()
        return study.measurement.take(device)

    before = signal.getsignal(signal.SIGINT)
    how = dataclasses.replace(study.measurement, take=take)
    with pytest.raises(Stopped) as stopped:
        measure(dataclasses.replace(study, measurement=how))
    assert stopped.value.signal == signal.SIGINT
    assert lost == [Stopped], "no exception left the callback"
    # what was taken meanwhile is none
    whole = 2 if last else 1
    assert len(taken) == whole + 1
    assert len(read_results(tmp_path / "results.jsonl")) == whole * len(MODELS)
    assert signal.getsignal(signal.SIGINT) == before


def test_before_it_is_measured_the_page_says_so_and_frames_are_of_its_numbers(
    study, measure, tmp_path
) -> None:
    assert "No run has finished yet." in render_report([summarise(study, {})], PAPER)
    rows = (measure(study), read_results(tmp_path / "results.jsonl"))[1]
    samples = select(rows, latest_identities(rows, study.names))
    assert len(frame(rows)) == len(study_frame(study, samples)) == 6
