"""A search: the same draws and seconds for all, kept run by run, gone on with, and what it comes to."""

import dataclasses
import io
import signal
from collections import Counter

import numpy as np
import pytest
from drawn import render
from made_results import make_result
from rich.console import Console
from tiny_studies import counting

import unimatrix
from unimatrix.codec import read_record
from unimatrix.data import VOCAB_SIZE
from unimatrix.errors import TrainingStopped, UserError
from unimatrix.lab import search as module
from unimatrix.lab.charts import draw_search, specification
from unimatrix.lab.measured import Stopped
from unimatrix.lab.recipes import Recipes, best_of, by_contestant, range_of
from unimatrix.lab.results import GAVE_UP, append_result, read_gave_up, read_results
from unimatrix.lab.search import (
    DIVERGED,
    OF_THE_BUDGET,
    SEARCH,
    Budget,
    Made,
    Space,
    bits,
    drawn,
    is_whole,
    near,
    search,
)
from unimatrix.models import parameter_count
from unimatrix.train import Experiment, LoopConfig, ModelChoice, OptimConfig
from unimatrix.train.run import Run

BUDGET = Budget(drawn=2, near=1, seconds=0.02)


def make(preset):
    def experiment(chosen, steps):
        changes = {"d_model": 8, "num_heads": chosen["heads"], "depth": 1}
        return Experiment(
            model=ModelChoice(preset=preset, dropout=0.0, max_positions=None, changes=changes),
            optim=OptimConfig(lr=chosen["lr"], warmup_steps=round(0.1 * steps), clip=1.0),
            loop=LoopConfig(steps=steps, batch_size=2, seq_len=16, eval_window=8),
        )

    return experiment


AXES = {"lr": (1e-3, 3e-3, 1e-2), "heads": (1, 2, 4)}
SPACES = tuple(
    Space(name=preset, axes=AXES, make=make(preset)) for preset in ("unimatrix-core", "transformer")
)


@pytest.fixture(autouse=True)
def as_it_comes(monkeypatch):
    """Runs as short as these take what seconds they take."""
    monkeypatch.setattr(module, "UNEVEN", float("inf"))


@pytest.fixture
def go(tmp_path):
    """go(...) -> (runs by contestant, what was printed); arguments override."""

    def run(**changes):
        page = io.StringIO()
        given = {"out": tmp_path, "corpus": counting(), "budget": BUDGET, "threads": 1}
        found = search(SPACES, **(given | {"console": Console(file=page, width=120)} | changes))
        return found, page.getvalue()

    return run


def names(rows):
    return [row.experiment for row in rows]


def test_all_have_the_same_draws_and_every_choice_about_as_often() -> None:
    sizes = (8, 3, 4)
    found = drawn(sizes, 12)
    assert found == drawn(sizes, 12)
    assert len(set(found)) == 12
    for place, size in enumerate(sizes):
        counts = Counter(draw[place] for draw in found)
        assert counts.keys() == set(range(size))
        assert max(counts.values()) - min(counts.values()) <= 1
        # nor are low choices drawn more often than high ones
        assert abs(sum(draw[place] for draw in found) / 12 - (size - 1) / 2) <= 0.5
    # one more contestant, or fewer settings behind it, changes nothing
    assert [draw[:2] for draw in found] == list(drawn(sizes[:2], 12))


def test_near_the_best_two_settings_move_by_one() -> None:
    best, sizes = (0, 2, 1), (8, 3, 4)
    found = near(best, sizes, 4)
    assert len(set(found)) == 4
    for draw in found:
        assert sorted(abs(a - b) for a, b in zip(draw, best, strict=True)) == [0, 1, 1]
        assert all(0 <= at < size for at, size in zip(draw, sizes, strict=True))
    assert found == near(best, sizes, 4)
    with pytest.raises(UserError, match=r"^near: expected at most the 1 draws beside the best, got 2"):
        near((0, 0), (2, 2), 2)


def test_every_contestant_has_as_many_runs_of_the_same_seconds_and_all_are_kept(tmp_path, go) -> None:
    found, printed = go()
    rows = read_results(tmp_path / SEARCH)
    assert names(rows) == [
        f"search.{space.name}.{number:02}" for number in range(BUDGET.runs) for space in SPACES
    ]
    assert by_contestant(rows) == found
    assert "search.unimatrix-core.00: " in printed
    assert "5 runs left, about " in printed
    for row in rows:
        assert row.metrics[OF_THE_BUDGET] == BUDGET.seconds
        assert row.steps >= 1
        assert row.config["optim"]["warmup_steps"] == round(0.1 * row.steps)
        assert row.config["optim"]["lr"] == AXES["lr"][int(row.metrics["choice_lr"])]
        assert row.config["model"]["changes"]["num_heads"] == AXES["heads"][int(row.metrics["choice_heads"])]
        assert (row.threads, row.seed, row.data["valid"]["bytes"]) == (1, 0, 200)
        assert not row.data["is_paper_corpus"]
    # those after the first are near the best of these
    for space in SPACES:
        runs = found[space.name]
        first = drawn(space.sizes, 2)
        best = min((0, 1), key=lambda at: bits(runs[at]))
        for number, draw in enumerate(near(first[best], space.sizes, 1), start=2):
            wanted = space.experiment(draw, number=number, steps=runs[number].steps)
            assert Experiment.from_dict(runs[number].config) == dataclasses.replace(wanted, data="counting")
    assert not [path for path in tmp_path.iterdir() if path.is_dir()], "no run is kept but its row"


def test_started_again_it_trains_what_is_missing_and_no_more(tmp_path, go, monkeypatch) -> None:
    train, trained = module.train_one, []

    def note(experiment, **given):
        trained.append(experiment.name)
        if len(trained) == 4:
            raise Stopped(15)
        return train(experiment, **given)

    monkeypatch.setattr(module, "train_one", note)
    with pytest.raises(KeyboardInterrupt):
        go()
    assert len(read_results(tmp_path / SEARCH)) == 3
    found, printed = go()
    assert trained[4] == trained[3]
    assert len(trained) == 4 + 3
    assert printed.count("bits per byte") == 3
    again, printed = go()
    assert (again, printed, len(trained)) == (found, "", 7)
    # another budget, or another machine, is another search; the runs of this one stay
    _, printed = go(budget=dataclasses.replace(BUDGET, seconds=0.03))
    assert "6 runs in" in printed
    assert "are of another search, of which the text, " in " ".join(printed.split())
    assert len(trained) == 7 + 6
    assert len(read_results(tmp_path / SEARCH)) == 12
    monkeypatch.setattr(module, "machine", lambda kind: "another machine")
    go()
    assert len(trained) == 7 + 6 + 6
    # so is one with another torch, or by other sources
    monkeypatch.setattr(module, "versions", lambda: {"torch": "1.0"})
    go()
    monkeypatch.setattr(module, "git_commit", lambda: "another")
    go()
    assert len(trained) == 7 + 6 + 6 + 6 + 6


@pytest.mark.parametrize("part", [50, 200, 300])
def test_runs_are_measured_on_the_last_of_the_validation_text(go, monkeypatch, part) -> None:
    monkeypatch.setattr(module, "PART_BYTES", part)
    corpora = []

    def train(experiment, *, corpus, **_given):
        corpora.append(corpus)
        raise Stopped(15)

    monkeypatch.setattr(module, "train_one", train)
    begins = {"valid": np.array([0, 30, 150, 170])}
    whole = dataclasses.replace(counting(), begins=begins)
    with pytest.raises(Stopped):
        go(corpus=whole)
    (found,) = corpora
    assert found.valid.tolist() == whole.valid[-part:].tolist()
    assert found.begins["valid"].tolist() == ([0, 20] if part == 50 else [0, 30, 150, 170])
    assert f"the last {min(part, 200)} bytes" in found.notes[-1]
    assert found.train.tolist() == whole.train.tolist()


def test_ctrl_c_while_steps_are_timed_or_after_the_last_one_loses_nothing(tmp_path, go, monkeypatch) -> None:
    step, train = Run.train_step, module.train_one

    def interrupted(run):
        signal.raise_signal(signal.SIGINT)
        step(run)

    monkeypatch.setattr(Run, "train_step", interrupted)
    with pytest.raises(Stopped) as stopped:
        go()
    assert stopped.value.signal == signal.SIGINT
    assert not (tmp_path / SEARCH).exists()
    monkeypatch.setattr(Run, "train_step", step)

    def late(experiment, **given):
        return dataclasses.replace(train(experiment, **given), stop_signal=signal.SIGTERM)

    monkeypatch.setattr(module, "train_one", late)
    with pytest.raises(Stopped) as stopped:
        go()
    assert stopped.value.signal == signal.SIGTERM
    assert len(read_results(tmp_path / SEARCH)) == 1


def test_a_run_that_diverges_counts_and_is_never_the_best(tmp_path, go, monkeypatch) -> None:
    train = module.train_one

    def diverge(experiment, **given):
        if experiment.name.endswith("core.00"):
            raise TrainingStopped("training stopped: a weight is no longer a finite number at step 3; none")
        return train(experiment, **given)

    monkeypatch.setattr(module, "train_one", diverge)
    found, printed = go()
    assert "search.unimatrix-core.00: diverged after " in printed
    assert [len(runs) for runs in found.values()] == [3, 3]
    lost = found["unimatrix-core"][0]
    told = SPACES[0].told(drawn(SPACES[0].sizes, 2)[0])
    assert lost.metrics == {OF_THE_BUDGET: BUDGET.seconds, DIVERGED: 1.0, **told}
    assert range_of({"a": [lost]}, lambda row: row.steps) == {}, "it may have been lost at its first step"
    (why,) = read_gave_up(tmp_path / GAVE_UP)
    assert why.experiment == lost.experiment
    assert why.reason.endswith("a weight is no longer a finite number at step 3")
    model = unimatrix.build(Experiment.from_dict(lost.config).model.resolved(VOCAB_SIZE))
    assert lost.parameters == parameter_count(model)
    assert best_of(found)["unimatrix-core"].experiment.name != lost.experiment
    assert go()[0] == found
    drawing = draw_search(found, drawn=2, labels={name: name.title() for name in found})
    assert drawing is not None
    shown = [record for records in specification(drawing)["datasets"].values() for record in records]
    assert len(shown) == 5
    assert b"Transformer" in render(drawing, form="svg")
    assert draw_search({"a": [lost]}, drawn=1, labels={"a": "A"}) is None

    # while its step is timed too
    step = Run.train_step

    def fail(run):
        if run.experiment.model.preset == "transformer":
            raise TrainingStopped("training stopped: the loss is no longer finite at step 1; none")
        step(run)

    monkeypatch.setattr(Run, "train_step", fail)
    found, _ = go(out=tmp_path / "again")
    assert all(DIVERGED in row.metrics for row in found["transformer"])
    assert not all(DIVERGED in row.metrics for row in found["unimatrix-core"])
    monkeypatch.setattr(Run, "train_step", step)

    def refuse(experiment, **given):
        raise UserError("a full disk")

    monkeypatch.setattr(module, "train_one", refuse)
    with pytest.raises(UserError, match="a full disk"):
        go(threads=2)


@pytest.mark.parametrize(
    ("took", "kept"),
    [
        ((0.021,), 0.021),  # of 0.02
        ((0.03, 0.019), 0.019),
        ((0.03, 0.024, 0.01), 0.024),  # no try of three is even: the nearest
    ],
)
def test_a_run_that_took_other_seconds_is_timed_and_trained_again(go, monkeypatch, took, kept) -> None:
    train, left, timed = module.train_one, list(took), []

    def trained(experiment, **given):
        found = train(experiment, **given)
        return dataclasses.replace(found, result=dataclasses.replace(found.result, seconds=left.pop(0)))

    def time(experiment, *_, **__):
        timed.append(experiment)
        return 0.01

    monkeypatch.setattr(module, "UNEVEN", 0.1)
    monkeypatch.setattr(module, "train_one", trained)
    monkeypatch.setattr(module, "seconds_here", time)
    row, gave_up, signal = module._run(*(SPACES[0], (0, 0), 0), corpus=counting(), budget=BUDGET, threads=1)
    assert (row.seconds, gave_up, signal) == (kept, None, None)
    assert (len(timed), left) == (len(took), [])


def test_of_uneven_tries_that_diverge_or_are_stopped(go, monkeypatch) -> None:
    """What was measured before a try that diverges counts; nothing of a run that is stopped between tries."""
    train, ends = module.train_one, []

    def trained(experiment, **given):
        found = train(experiment, **given)
        end = ends.pop(0)
        if isinstance(end, TrainingStopped):
            raise end
        seconds, signal_ = end
        result = dataclasses.replace(found.result, seconds=seconds)
        return dataclasses.replace(found, result=result, stop_signal=signal_)

    def run():
        return module._run(*(SPACES[0], (0, 0), 0), corpus=counting(), budget=BUDGET, threads=1)

    monkeypatch.setattr(module, "UNEVEN", 0.1)
    monkeypatch.setattr(module, "train_one", trained)
    lost = TrainingStopped("training stopped: the loss (nan)")
    lost.signal = signal.SIGINT
    ends += [(0.03, None), lost]
    row, gave_up, came = run()
    assert (row.seconds, gave_up, came) == (0.03, None, signal.SIGINT)
    ends += [lost]
    row, gave_up, came = run()
    assert DIVERGED in row.metrics
    assert gave_up is not None
    assert came == signal.SIGINT
    ends += [(0.03, signal.SIGTERM)]
    with pytest.raises(Stopped):
        run()
    ends += [(0.02, signal.SIGTERM)]
    assert run()[2] == signal.SIGTERM
    assert ends == []


def test_ctrl_c_at_a_number_that_is_not_finite_is_not_lost(go, monkeypatch) -> None:
    train = module.train_one

    def blow_up(experiment, **given):
        trained = train(experiment, **given)
        metrics = trained.result.metrics | {"bpb": float("nan")}
        result = dataclasses.replace(trained.result, metrics=metrics)
        return dataclasses.replace(trained, result=result, stop_signal=signal.SIGINT)

    monkeypatch.setattr(module, "train_one", blow_up)
    with pytest.raises(Stopped):
        go()


def test_spaces_of_unequal_sizes_or_too_few_draws_are_refused(tmp_path) -> None:
    other = dataclasses.replace(SPACES[1], axes=AXES | {"lr": (1e-3, 3e-3)})
    given = {"out": tmp_path, "corpus": counting(), "threads": 1}
    with pytest.raises(UserError, match="expected as many choices of each setting for every contestant"):
        search((SPACES[0], other), budget=BUDGET, **given)
    with pytest.raises(UserError, match="near: expected at most the 1 draws beside the best, got 2"):
        search(SPACES, budget=dataclasses.replace(BUDGET, near=2), **given)


def made_run(space, draw, *, number, value, steps):
    row = make_result(space.experiment(draw, number=number, steps=steps), 0, value)
    beside = {OF_THE_BUDGET: BUDGET.seconds, **space.told(draw)}
    return dataclasses.replace(row, metrics=row.metrics | beside, machine="here", threads=2)


def test_recipes_know_the_runs_of_their_search_by_all_that_made_them() -> None:
    row = made_run(SPACES[0], (0, 0), number=2, value=2.0, steps=5)
    recipes = Recipes(
        text="counting",
        budget=BUDGET,
        made=Made.of(row),
        steps={},
        seconds={},
        windows={},
        streams={},
        seconds_per_step={},
    )
    assert recipes.is_of(row)
    other = row.data | {"valid": row.data["valid"] | {"sha256": "another"}}
    for changes in (
        {"metrics": row.metrics | {OF_THE_BUDGET: 30.0}},
        {"machine": "another"},
        {"threads": 1},
        {"data": other},
        {"versions": {"torch": "1.0"}},
        {"git_commit": "another"},
        {"experiment": "recall.unimatrix-core"},
        {"experiment": "search.unimatrix-core.03"},  # of a larger budget
    ):
        assert not recipes.is_of(dataclasses.replace(row, **changes))


def test_recipes_come_back_from_their_file(tmp_path) -> None:
    runs = {
        space.name: [
            made_run(space, (at, 0), number=at, value=value, steps=5 + at)
            for at, value in enumerate((3.0, 2.0, 2.5))
        ]
        for space in SPACES
    }
    best = best_of(runs)
    assert {name: one.bpb for name, one in best.items()} == dict.fromkeys(runs, 2.0)
    assert best["transformer"].experiment.name == "search.transformer.01"
    assert best["transformer"].choices == {"lr": 1, "heads": 0}
    assert best_of(runs, "stream_bpb") == {}
    recipes = Recipes(
        text="counting",
        budget=BUDGET,
        made=Made.of(runs["transformer"][0]),
        steps=range_of(runs, lambda row: row.steps),
        seconds=range_of(runs, lambda row: row.seconds),
        windows=best,
        streams={},
        seconds_per_step={"fight.transformer": 0.25},
    )
    recipes.write(tmp_path / "recipes.json")
    assert read_record(Recipes, tmp_path / "recipes.json") == recipes
    assert recipes.steps == dict.fromkeys(runs, (5, 7))
    assert recipes.windows["transformer"].experiment.model.resolved(VOCAB_SIZE).d_model == 8


def test_runs_beyond_a_hundred_stay_in_their_order(go) -> None:
    (row, *_), _ = go()[0].values()
    many = [dataclasses.replace(row, experiment=f"search.a.{number:02}") for number in (100, 9, 11, 101, 10)]
    many.append(dataclasses.replace(row, experiment="recall.unimatrix-core"))  # of no search
    ordered = [name.rsplit(".")[-1] for name in names(by_contestant(many)["a"])]
    assert ordered == ["09", "10", "11", "100", "101"]


@pytest.mark.parametrize("bits_of_it", [None, float("nan"), float("inf"), 0.0, -1.0])
def test_a_row_that_measured_nothing_is_no_run_unless_it_diverged(tmp_path, go, bits_of_it) -> None:
    found, _ = go()
    row = found["transformer"][0]
    metrics = {name: value for name, value in row.metrics.items() if name != "bpb"}
    metrics |= {} if bits_of_it is None else {"bpb": bits_of_it}
    broken = dataclasses.replace(row, metrics=metrics)
    assert is_whole(row)
    assert not is_whole(broken)
    assert by_contestant([row, broken]) == {"transformer": [row]}
    if bits_of_it is None:  # files hold no numbers that are not finite
        (tmp_path / SEARCH).unlink()
        append_result(tmp_path / SEARCH, broken)
        again, _ = go()
        assert bits(again["transformer"][0]) < float("inf")
        assert len(read_results(tmp_path / SEARCH)) == 1 + BUDGET.runs * len(SPACES)
    streamed = dataclasses.replace(
        row, config=row.config | {"loop": row.config["loop"] | {"stream_bytes": 64, "stream_window": None}}
    )
    assert not is_whole(streamed)
    assert is_whole(dataclasses.replace(streamed, metrics=row.metrics | {"stream_bpb": 2.0}))


def test_bits_that_are_no_number_are_a_run_that_diverged(go, monkeypatch) -> None:
    train = module.train_one

    def blow_up(experiment, **given):
        trained = train(experiment, **given)
        metrics = trained.result.metrics | {"bpb": float("nan")}
        return dataclasses.replace(trained, result=dataclasses.replace(trained.result, metrics=metrics))

    monkeypatch.setattr(module, "train_one", blow_up)
    found, _ = go()
    assert all(DIVERGED in row.metrics for runs in found.values() for row in runs)
