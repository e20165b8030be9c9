"""Figure 3, section 5.5 and what stands beside them: rows, claims and figures, on numbers made by hand."""

import json

import pytest

from unimatrix.lab.charts import render, specification
from unimatrix.lab.frames import unit_of
from unimatrix.lab.results import Samples
from unimatrix.lab.words import NOTHING, summarise
from unimatrix.models import peer_presets, presets, task_presets
from unimatrix.studies.beyond import serving
from unimatrix.studies.beyond.serving import DECODING_STUDIES, MEMORY
from unimatrix.studies.catalogue import ALL, MEASURED
from unimatrix.studies.paper import throughput
from unimatrix.studies.paper.throughput import FAST, FIGURE3, LOOP, SECTION55, SECTION63, timed

ON_TEXT = {*presets(), *peer_presets()} - {"lstm"}
WITH_LOOP = ON_TEXT - {"transformer", "transformer-modern", *peer_presets()}


@pytest.fixture
def as_printed(result):
    """Samples whose speeds are those that the paper prints, or made so that its words hold."""

    def made(slower_by: float = 1.0) -> Samples:
        base = {64: 458_000.0, 128: 482_000.0, 256: 393_000.0, 512: 272_000.0}
        samples = {}
        for row in FIGURE3.trained:
            name = row.experiment.name
            model, form = name.split(".")[1:]
            speeds = base if model == "transformer" else dict.fromkeys(base, 150_000.0)
            if form == LOOP:
                speeds = {64: 14_000.0, 128: 14_400.0, 256: 14_500.0, 512: 14_600.0}
                if model == "triple-hybrid":
                    speeds = {n: base[n] / times for n, times in zip(base, (29.7, 29, 22, 14.9), strict=True)}
                    speeds[512] = speeds[64] = 17_000.0
            speeds = {n: speed / (slower_by if form == LOOP else 1.0) for n, speed in speeds.items()}
            samples[name] = {}
            for repeat in range(5):
                drift = 1.0 + 0.01 * repeat
                metrics = throughput._of_speeds(
                    {n: speed * drift for n, speed in speeds.items()}, {n: s * drift for n, s in base.items()}
                )
                times = {"transformer": 1.0, "unimatrix-sparse-pointer": 70.0 if form == LOOP else 1.1}
                if model in times:
                    metrics |= {"seconds_recall": 4.0 * times[model], "slower_recall": times[model]}
                samples[name][repeat] = result("table1.unimatrix-core", repeat, 5.0, metrics=metrics)
        return samples

    return made


def test_every_preset_is_timed_and_every_recurrence_as_a_loop_too() -> None:
    assert set(FIGURE3.names) == {
        *(timed(model, FAST).name for model in ON_TEXT),
        *(timed(model, LOOP).name for model in WITH_LOOP),
    }
    assert FIGURE3.names == SECTION55.names
    for study in DECODING_STUDIES:
        assert {name.split(".", 1)[1] for name in study.names} == ON_TEXT
    assert {name.split(".", 1)[1] for name in MEMORY.names} == ON_TEXT | set(task_presets())


def test_measured_studies_stand_in_the_catalogue_and_train_nothing() -> None:
    assert {FIGURE3.name, SECTION55.name, SECTION63.name, MEMORY.name} <= MEASURED.keys() <= ALL.keys()
    assert all(study.experiments == () for study in MEASURED.values())
    assert all(study.question and study.protocol for study in MEASURED.values())


def test_every_measured_number_has_a_unit() -> None:
    for study in MEASURED.values():
        assert all(unit_of(column.metric or column.key) for column in study.columns)


def test_the_papers_numbers_stand_beside_ours(as_printed) -> None:
    lines = {(line.label, line.group): line for line in summarise(FIGURE3, as_printed()).lines}
    group = throughput.GROUPS
    assert [cell.paper for cell in lines["Transformer", group[FAST]].cells] == [
        "458,000",
        "482,000",
        "393,000",
        NOTHING,
    ]
    hybrid = lines["Recurrent-FFN-Hybrid", group[LOOP]]
    assert [cell.paper for cell in hybrid.cells] == ["14,000", "14,400", "14,500", NOTHING]
    latent = lines["Triple-Hybrid", group[LOOP]]
    assert [cell.paper for cell in latent.cells] == ["17,800", NOTHING, NOTHING, "18,300"]
    ratios = {(line.label, line.group): line for line in summarise(SECTION55, as_printed()).lines}
    printed = [cell.paper for cell in ratios["Triple-Hybrid", group[LOOP]].cells]
    assert printed == ["29.70", NOTHING, NOTHING, "14.90", NOTHING]
    assert all(cell.ours != NOTHING for line in ratios.values() for cell in line.cells)


def test_the_papers_speeds_reproduce_its_claims(as_printed) -> None:
    for study in (SECTION55, SECTION63):
        for claim, verdict in summarise(study, as_printed()).verdicts:
            expected = "not reproduced" if claim.statement.startswith("With a fused scan") else "reproduced"
            assert verdict.outcome == expected, (claim.statement, verdict.details)
            assert verdict.seeds == 5
            words = " ".join(verdict.details)
            assert "n = 5 repeats" in words
            assert not {"seeds", "pairs"} & set(words.replace(",", "").split())
    few = {name: {0: runs[0]} for name, runs in as_printed().items()}
    for claim, verdict in summarise(SECTION55, few).verdicts:
        assert verdict.text == "undecided at n = 1 repeat", claim.statement
        assert all("one repeat: no interval" in detail for detail in verdict.details)


def test_loops_as_fast_as_attention_reproduce_none_of_its_claims_of_slowness(as_printed) -> None:
    outcomes = [verdict.outcome for _, verdict in summarise(SECTION55, as_printed(1 / 32)).verdicts]
    assert [outcomes[0], *outcomes[3:5]] == ["not reproduced"] * 3


def test_one_repeat_measures_every_row() -> None:
    models, lengths = ("unimatrix-core", "unimatrix-sparse-pointer"), (4, 8)
    found = throughput.take_speed("cpu", models=models, lengths=lengths)
    assert set(found) == {
        timed("transformer").name,
        *(timed(model, form).name for model in models for form in (FAST, LOOP)),
    }
    core = found[timed("unimatrix-core", LOOP).name]
    base = found[timed("transformer").name].metrics
    assert core.parameters == 83_140
    for length in lengths:
        times = base[f"tokens_{length}"] / core.metrics[f"tokens_{length}"]
        assert core.metrics[f"slower_{length}"] == pytest.approx(times)
    flat = core.metrics["tokens_8"] / core.metrics["tokens_4"]
    assert core.metrics["flatness"] == pytest.approx(flat)
    pointer = found[timed("unimatrix-sparse-pointer", LOOP).name].metrics
    assert pointer["slower_recall"] == pytest.approx(pointer["seconds_recall"] / base["seconds_recall"])


def test_one_repeat_of_decoding_and_memory_measures_every_row(monkeypatch) -> None:
    monkeypatch.setattr(serving, "in_fresh_processes", lambda function, calls: [function(**calls[0])])
    (found,) = serving.take_decoding("cpu", models=("unimatrix-core",), positions=(2, 8)).values()
    keys = {
        f"{what}_batch{batch}_{at}"
        for what in ("first_ms", "token_us", "state_bytes")
        for batch in (1, 32)
        for at in (2, 8)
    }
    assert found.metrics.keys() == keys
    (found,) = serving.take_memory("cpu", models=("typed-latent",), length=16).values()
    assert found.parameters == 18_496
    for what in serving.PASSES:
        taken, before, peak = (found.metrics[f"{what}_{name}_mib"] for name in ("taken", "before", "peak"))
        assert taken == pytest.approx(peak - before)


def test_figure_3_shows_every_row_and_the_papers_points(as_printed) -> None:
    (figure,) = FIGURE3.figures
    drawing = figure.draw(FIGURE3, as_printed())
    assert drawing is not None
    drawn = json.dumps(specification(drawing))
    for row in FIGURE3.trained:
        assert row.label in drawn
    assert "482000" in drawn
    assert figure.draw(FIGURE3, {}) is None


def test_time_by_position_is_drawn(result) -> None:
    study = DECODING_STUDIES[0]
    metrics = {column.key: 10.0 + place for place, column in enumerate(study.columns)}
    samples = {
        name: {repeat: result("table1.unimatrix-core", repeat, 5.0, metrics=metrics) for repeat in range(3)}
        for name in study.names
    }
    for figure in study.figures:
        drawing = figure.draw(study, samples)
        assert drawing is not None
        assert render(drawing, form="svg").startswith(b"<svg")
