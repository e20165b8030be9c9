"""The fair fight: as much to search for each contestant, of about the same size; what its search leads to."""

import dataclasses
import itertools
import re
import statistics
from functools import cache

import pytest
import torch
from made_results import make_result

from unimatrix.codec import read_record
from unimatrix.data import VOCAB_SIZE, load_corpus
from unimatrix.errors import TrainingStopped, UserError
from unimatrix.evals import parts_that_look_back
from unimatrix.evals.provenance import git_commit, machine
from unimatrix.lab.committed import COMMITTED
from unimatrix.lab.recipes import Recipes, best_of, by_contestant, range_of
from unimatrix.lab.results import read_results
from unimatrix.lab.search import DIVERGED, OF_THE_BUDGET, SEARCH, Budget, Made, drawn, near
from unimatrix.models import ModelConfig, build, settings_of
from unimatrix.models.estimate import estimate
from unimatrix.studies.beyond import fights as module
from unimatrix.studies.beyond.contestants import CONTESTANTS, LEARNING, PARAMETERS, WINDOW
from unimatrix.studies.beyond.fights import LABELS, RECIPES, best_opponent, fights, run_search

BUDGET = Budget()


@cache
def draws_of(name):
    space = CONTESTANTS[name].space
    first = drawn(space.sizes, BUDGET.drawn)
    chosen = first + near(first[0], space.sizes, BUDGET.near)
    return [space.experiment(draw, number=at, steps=40) for at, draw in enumerate(chosen)]


def count(model):
    """Of the weights that count."""
    return estimate(CONTESTANTS[model.preset].counted(model).resolved(VOCAB_SIZE)).parameters


@cache
def made_rows(better=None):
    """contestant -> runs as a search leaves them, the last one the best; `better` is ahead of all others."""
    rows = {}
    for place, (name, contestant) in enumerate(CONTESTANTS.items()):
        rows[name] = []
        for at, (one, draw) in enumerate(zip(draws_of(name)[:2], drawn_of(contestant), strict=False)):
            row = make_result(one, 0, 2.5 + (place - at) / 10 - (1.0 if name == better else 0.0))
            beside = {OF_THE_BUDGET: BUDGET.seconds, **contestant.space.told(draw)}
            rows[name].append(
                dataclasses.replace(row, metrics=row.metrics | beside, machine="a machine", threads=2)
            )
    return rows


def drawn_of(contestant):
    return drawn(contestant.space.sizes, BUDGET.drawn)


def recipes_of(rows, **changes):
    given = {"text": "a text", "made": Made.of(made_rows()["lstm"][0]), "budget": BUDGET}
    given |= {
        "steps": range_of(rows, lambda row: row.steps),
        "seconds": range_of(rows, lambda row: row.seconds),
    }
    best = {"windows": best_of(rows), "streams": best_of(rows, "stream_bpb")}
    return Recipes(**(given | best | {"seconds_per_step": {}} | changes))


def test_there_is_as_much_to_search_for_each_contestant() -> None:
    assert {contestant.space.sizes for contestant in CONTESTANTS.values()} == {(8, 3, 3, 4, 3, 3, 3, 3)}
    assert LABELS.keys() == {
        *("unimatrix", "transformer", "transformer-modern", "mamba2"),
        *("m2rnn", "lstm", "triple-hybrid", "recurrent-ffn-hybrid"),
    }
    of_training = [
        [
            (one.optim.lr, one.optim.warmup_steps, one.loop.seq_len, one.loop.batch_size * one.loop.seq_len)
            for one in draws_of(name)
        ]
        for name in CONTESTANTS
    ]
    assert all(found == of_training[0] for found in of_training), "the same draws of the training for all"
    assert {lr for lr, *_ in of_training[0]} == set(LEARNING["lr"])


@pytest.mark.parametrize("name", CONTESTANTS)
def test_each_draw_is_a_model_of_about_the_same_size_and_measured_alike(name) -> None:
    contestant = CONTESTANTS[name]
    for experiment in draws_of(name):
        assert abs(count(experiment.model) / PARAMETERS - 1) < 0.065
        assert experiment.loop.eval_window == WINDOW
        assert experiment.loop.seq_len in LEARNING["context"]
        config = experiment.model.resolved(VOCAB_SIZE)
        assert not any("votes" in part.gives for part in getattr(config, "all_parts", {}).values())
        assert (experiment.loop.stream_bytes is None) == contestant.positions
        assert (config.max_positions is None) == (not contestant.positions)
    looks = bool(parts_that_look_back(build(config))) and not contestant.positions
    assert contestant.looks_back == looks == (experiment.loop.stream_window is not None)
    assert experiment.loop.stream_stride is None


@pytest.mark.parametrize("name", CONTESTANTS)
def test_every_model_is_within_3_percent_where_its_heads_divide_such_a_width(name) -> None:
    """Of all shapes; ours is never larger."""
    contestant = CONTESTANTS[name]
    learning = {"lr": 1e-3, "warmup": 0.02, "tokens": 1024, "context": 128}
    kinds = contestant.axes.keys() - {"start", "scale"}  # which change no number of weights
    for picks in itertools.product(*(contestant.axes[kind] for kind in kinds)):
        chosen = {kind: choices[0] for kind, choices in contestant.axes.items()}
        model = contestant.make({**learning, **chosen, **dict(zip(kinds, picks, strict=True))}, 10).model
        width, off = model.changes["d_model"], count(model) / PARAMETERS - 1
        assert width % 2 == 0
        assert off <= 0.03 or name != "unimatrix"
        assert abs(off) < 0.065
        if abs(off) > 0.03:
            between = [other for other in range(width - 8, width + 9, 2) if other != width]
            for other in between:
                try:
                    found = count(dataclasses.replace(model, changes=model.changes | {"d_model": other}))
                except UserError:
                    continue
                assert abs(found / PARAMETERS - 1) >= abs(off)


def test_positions_that_no_window_reads_cost_no_width() -> None:
    contestant = CONTESTANTS["transformer"]
    learning = {"lr": 1e-3, "warmup": 0.02, "tokens": 1024}
    chosen = {kind: choices[1] for kind, choices in contestant.axes.items()}
    models = [
        contestant.make({**learning, **chosen, "context": context}, 10).model
        for context in LEARNING["context"]
    ]
    assert [model.max_positions for model in models] == [*LEARNING["context"]]
    assert len({model.changes["d_model"] for model in models}) == 1
    large = contestant.widened(models[-1], 1_500_000)
    assert large.max_positions == 1024
    assert abs(count(large) / 1_500_000 - 1) < 0.03


def test_heads_of_a_fixed_size_grow_in_number_with_the_width() -> None:
    """On both sides: elsewhere the heads, or the state, grow themselves."""
    for name, contestant in CONTESTANTS.items():
        small = draws_of(name)[0].model
        resolved = small.resolved(VOCAB_SIZE)
        settings = settings_of(resolved) if isinstance(resolved, ModelConfig) else {}
        sizes = {path.rpartition(".")[2] for path in settings if path.startswith("layers.*.mixer.")}
        assert (contestant.heads is not None) == bool(sizes & {"state_dim", "key_dim"})
        wide = contestant.widened(small, 1_500_000)
        assert abs(count(wide) / 1_500_000 - 1) < 0.03
        if contestant.heads is None:
            assert wide == dataclasses.replace(
                small, changes=small.changes | {"d_model": wide.changes["d_model"]}
            )
            continue
        path = "layers.*.mixer.num_heads"
        assert settings[path] == contestant.heads
        grown = settings_of(wide.resolved(VOCAB_SIZE))
        times = wide.changes["d_model"] / small.changes["d_model"]
        assert times > 2
        assert abs(grown[path] - times * contestant.heads) <= 0.5
        assert {key: value for key, value in grown.items() if key not in ("d_model", path)} == {
            key: value for key, value in settings.items() if key not in ("d_model", path)
        }


def test_the_warm_up_is_the_share_that_was_chosen_however_few_the_steps() -> None:
    """0.02 of 26 steps is rounded to 1, which is nearer to 0.05 of them."""
    rows = made_rows()
    for choice, share in enumerate(LEARNING["warmup"]):
        for steps in (1, 10, 26, 29, 399):
            best = best_of(rows)["lstm"]
            loop = dataclasses.replace(best.experiment.loop, steps=steps)
            optim = dataclasses.replace(best.experiment.optim, warmup_steps=round(share * steps))
            found = dataclasses.replace(best.experiment, loop=loop, optim=optim)
            best = dataclasses.replace(best, experiment=found, choices=best.choices | {"warmup": choice})
            recipes = recipes_of(rows, windows=best_of(rows) | {"lstm": best})
            fight = fights(
                dataclasses.replace(recipes, seconds_per_step=dict.fromkeys(fights(recipes), 0.18))
            )
            assert fight["fight.lstm"].optim.warmup_steps == round(share * 1000)
    for choices in ({}, {"warmup": 3}, {"warmup": -1}):
        lost = best_of(rows)["lstm"]
        lost = {"lstm": dataclasses.replace(lost, choices=choices)}
        with pytest.raises(
            UserError, match=r"^fair_fight\.json, choices of lstm: expected warmup, 0 to 2, got"
        ):
            fights(recipes_of(rows, windows=best_of(rows) | lost))


def test_an_experiment_is_the_best_recipe_for_its_seconds() -> None:
    rows = made_rows()
    names = fights(recipes_of(rows))
    recipes = recipes_of(rows, seconds_per_step=dict.fromkeys(names, 0.03) | {"fight.lstm": 0.09})
    found = fights(recipes)
    assert found.keys() == names.keys()
    assert {name for name in found if name.startswith("fight.") and "votes" not in name} == {
        f"fight.{name}" for name in CONTESTANTS
    }
    assert (found["fight.lstm"].loop.steps, found["fight.mamba2"].loop.steps) == (2000, 6000)
    for name, experiment in found.items():
        contestant = experiment.model.preset
        recipe = recipes.windows[contestant].experiment
        longer = 3.3333 if name.startswith(("fight-long", "fight-large")) else 1.0
        step = recipes.seconds_per_step[name]
        assert experiment.loop.steps == pytest.approx(longer * 180 / step, rel=1e-3)
        assert experiment.optim.warmup_steps / experiment.loop.steps == pytest.approx(
            recipe.optim.warmup_steps / 40, abs=0.02
        )
        assert experiment.loop.seq_len * experiment.loop.batch_size in LEARNING["tokens"]
        assert (experiment.loop.eval_at is None) == (contestant != "unimatrix")
        assert experiment.loop.eval_window == WINDOW
        parts = experiment.model.resolved(VOCAB_SIZE)
        votes = [part for part in getattr(parts, "all_parts", {}).values() if "votes" in part.gives]
        assert len(votes) == name.endswith("-votes")
        if name.startswith("fight-large"):
            assert abs(count(experiment.model) / 1_500_000 - 1) < 0.03
            wider = experiment.model.changes["d_model"] / recipe.model.changes["d_model"]
            assert experiment.optim.lr == pytest.approx(recipe.optim.lr / wider)
        elif not votes:
            assert experiment.model == recipe.model
            assert experiment.optim.lr == recipe.optim.lr


def test_a_fight_that_no_step_was_timed_of_is_named_and_only_before_the_timing_guessed() -> None:
    """By a step of the search, so that the rate warms up while steps are timed about as in the fight."""
    rows = made_rows()
    untimed = fights(recipes_of(rows))
    assert {found.loop.steps for found in untimed.values()} == {40 * 180 // 30, 40 * 600 // 30}
    shares = {found.optim.warmup_steps / found.loop.steps for found in untimed.values()}
    assert shares == {LEARNING["warmup"][best_of(rows)["lstm"].choices["warmup"]]}
    timed = dict.fromkeys(untimed, 0.03)
    for missing in ("fight.lstm", "fight-large.unimatrix"):
        others = {name: seconds for name, seconds in timed.items() if name != missing}
        with pytest.raises(UserError, match=rf"^fair_fight\.json, .* expected .* got none of {missing}$"):
            fights(recipes_of(rows, seconds_per_step=others))


def test_opponents_are_chosen_by_the_search_and_what_votes_by_its_streams() -> None:
    found = fights(recipes_of(made_rows()))
    assert best_opponent(best_of(made_rows())) == "transformer"
    # it has learned positions, and no stream
    assert {name for name in found if name.endswith("-votes")} == {
        *("fight.unimatrix-votes", "fight.transformer-modern-votes"),
        *("fight-long.unimatrix-votes", "fight-long.transformer-modern-votes"),
    }
    assert {"fight-long.transformer", "fight-large.transformer"} <= found.keys()
    found = fights(recipes_of(made_rows(better="lstm")))
    assert {"fight.lstm-votes", "fight-long.lstm-votes", "fight-large.lstm"} <= found.keys()
    found = fights(recipes_of(made_rows(better="mamba2")))
    assert {"fight-long.mamba2", "fight-large.mamba2"} <= found.keys()
    assert not {"fight.mamba2-votes", "fight-long.mamba2-votes"} & found.keys()
    # wherever one votes it has an opponent that does
    for better in (None, *CONTESTANTS):
        names = fights(recipes_of(made_rows(better=better)))
        for family in ("fight", "fight-long"):
            assert len([name for name in names if re.fullmatch(rf"{family}\..*-votes", name)]) >= 2


def test_attention_reads_a_stream_in_windows_that_overlap_by_half() -> None:
    loops = {name: one.loop for name, one in fights(recipes_of(made_rows())).items()}
    windows = {name: loop.stream_window for name, loop in loops.items() if loop.stream_window is not None}
    assert {"fight.transformer-modern", "fight.transformer-modern-votes"} <= windows.keys()
    for name, loop in loops.items():
        assert loop.stream_stride == (windows[name] / 2 if name in windows else None)


def test_a_search_leaves_the_recipes_and_a_figure(tmp_path, monkeypatch) -> None:
    given, timed = {}, []

    def search(spaces, **settings):
        given.update(settings)
        return made_rows()

    def time(models, corpus, *, threads, seconds, say):
        timed.extend(models)
        assert {found.loop.device for found in models.values()} == {"cpu"}
        return {name: 0.05 + 0.001 * at for at, name in enumerate(models)}

    monkeypatch.setattr(module, "search", search)
    monkeypatch.setattr(module, "seconds_in_turns", time)
    path = run_search(tmp_path, data="embedded", drawn=3, near=8, seconds=2.0)
    threads = torch.get_num_threads()
    assert (given["threads"], given["budget"]) == (threads, Budget(drawn=3, near=8, seconds=2.0))
    recipes = read_record(Recipes, path)
    assert recipes.windows == best_of(made_rows())
    assert recipes.steps == dict.fromkeys(CONTESTANTS, (40, 40))
    assert recipes.seconds.keys() == CONTESTANTS.keys()
    assert recipes.made == Made.of(made_rows()["lstm"][0])
    assert recipes.budget == given["budget"]
    # a longer fight is of the same steps: timed once, as one of votes is not, nor of more weights
    found, steps = fights(recipes), recipes.seconds_per_step
    assert steps.keys() == found.keys()
    assert set(timed) == {name for name in found if not name.startswith("fight-long.")}
    assert len({steps[name] for name in timed}) == len(timed)
    assert all(steps[name] == steps[name.replace("-long", "")] for name in steps.keys() - set(timed))
    assert (tmp_path / "search.svg").read_text().startswith("<svg")


def test_recipes_that_are_there_keep_their_timing_and_a_search_of_others_takes_another(
    tmp_path, monkeypatch, capsys
) -> None:
    """Other steps would be other runs: all that was fought by the first timing would count no more."""
    timed, rows = [], [made_rows()]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)  # as the rows

    def time(models, *_, **__):
        timed.append(sorted(models))
        return dict.fromkeys(models, 0.05 * len(timed))

    def go():
        return read_record(Recipes, run_search(tmp_path, data="embedded", drawn=12, near=8, seconds=30.0))

    monkeypatch.setattr(module, "search", lambda *_, **__: rows[-1])
    monkeypatch.setattr(module, "seconds_in_turns", time)
    first = go()
    assert "stays" not in capsys.readouterr().out
    assert go() == first
    assert "fair_fight.json has these recipes and stays, with the steps" in capsys.readouterr().out
    assert len(timed) == 1
    # asked for, steps are timed anew by the same recipes, whatever the file knew of their seconds
    again = {"data": "embedded", "drawn": 12, "near": 8, "seconds": 30.0, "retime": True}
    with pytest.raises(
        UserError, match=r"^data: expected the text that .* was searched on, got another pyth"
    ):
        run_search(tmp_path, **again)
    first = read_record(Recipes, tmp_path / RECIPES.name)
    of_text = Made.here(load_corpus("embedded"), seconds=30.0, threads=2).sha256s
    made = first = dataclasses.replace(first, made=dataclasses.replace(first.made, sha256s=of_text))
    dataclasses.replace(made, seconds_per_step={}).write(tmp_path / RECIPES.name)
    anew = read_record(Recipes, run_search(tmp_path, **again))
    assert (anew.timed_by, anew.timed_on) == (git_commit(), machine("cpu"))
    assert anew.seconds_per_step == dict.fromkeys(first.seconds_per_step, 0.1)
    assert (anew.windows, anew.streams, anew.made) == (first.windows, first.streams, first.made)
    dataclasses.replace(made, text="a text").write(tmp_path / RECIPES.name)
    with pytest.raises(UserError, match=r"^data: expected a text, which .* got python-stdlib-3\.11\.7$"):
        run_search(tmp_path, **again)
    dataclasses.replace(made, made=dataclasses.replace(made.made, threads=77)).write(tmp_path / RECIPES.name)
    with pytest.raises(UserError, match=r"^threads: expected 77, which .* was searched with, got \d+$"):
        run_search(tmp_path, **again)
    made.write(tmp_path / RECIPES.name)
    with pytest.raises(UserError, match=r"^drawn, near, seconds: expected none of them with retime, .* 5, 8"):
        run_search(tmp_path, **again | {"drawn": 5})
    (tmp_path / RECIPES.name).unlink()
    with pytest.raises(UserError, match=r"^retime: expected .*fair_fight\.json, the recipes that a search"):
        run_search(tmp_path, **again)
    dataclasses.replace(first, made=Made.of(rows[-1]["lstm"][0])).write(tmp_path / RECIPES.name)
    timed.pop()
    # other recipes, a fight without its seconds, another machine, and what is no file of recipes
    rows.append(made_rows(better="lstm"))
    assert go().windows == best_of(rows[-1])
    file = tmp_path / RECIPES.name
    dataclasses.replace(go(), seconds_per_step={"fight.lstm": 1.0}).write(file)
    assert go().seconds_per_step.keys() >= set(timed[-1])
    others = {
        name: [dataclasses.replace(row, machine="another machine") for row in runs]
        for name, runs in made_rows().items()
    }
    rows.append(others)
    assert go().made.machine == "another machine"
    file.write_text("{}")
    assert go().windows == best_of(rows[-1])
    assert len(timed) == 5


def test_a_loss_that_is_no_number_while_steps_are_timed_loses_no_run_of_the_search(
    tmp_path, monkeypatch
) -> None:
    def diverge(*_, **__):
        raise TrainingStopped("fight.lstm: training stopped: the loss (nan) is no longer a finite number")

    monkeypatch.setattr(module, "search", lambda *_, **__: made_rows())
    monkeypatch.setattr(module, "seconds_in_turns", diverge)
    expected = (
        rf"^timing the steps of the fights: fight\.lstm: .* kept in {tmp_path / SEARCH}, and the same command"
    )
    with pytest.raises(UserError, match=expected) as raised:
        run_search(tmp_path, data="embedded", drawn=12, near=8, seconds=30.0)
    assert not isinstance(raised.value, TrainingStopped)
    assert (tmp_path / "search.svg").exists()
    monkeypatch.setattr(module, "seconds_in_turns", lambda models, *_, **__: dict.fromkeys(models, 0.05))
    assert run_search(tmp_path, data="embedded", drawn=12, near=8, seconds=30.0).exists()


def check_equal(rows, budget):
    """Every contestant has as many runs, of the same seconds: what a reader should be able to see."""
    assert {name: len(runs) for name, runs in rows.items()} == dict.fromkeys(CONTESTANTS, budget.runs)
    assert {row.metrics[OF_THE_BUDGET] for runs in rows.values() for row in runs} == {budget.seconds}
    assert len({(row.threads, row.machine) for runs in rows.values() for row in runs}) == 1
    measured = {name: [row for row in runs if DIVERGED not in row.metrics] for name, runs in rows.items()}
    spent = {name: statistics.median(row.seconds for row in runs) for name, runs in measured.items()}
    assert all(abs(seconds / budget.seconds - 1) < 0.15 for seconds in spent.values()), spent


def test_the_committed_search_gave_all_the_same_and_the_recipes_are_its_best() -> None:
    rows = by_contestant(read_results(COMMITTED / SEARCH))
    assert bool(rows) == RECIPES.exists(), "the log and what it came to are committed together"
    budget = Budget(drawn=1, near=1, seconds=40.0)
    if rows:
        recipes = read_record(Recipes, RECIPES)
        rows = by_contestant(row for runs in rows.values() for row in runs if recipes.is_of(row))
        # a preset that has changed since would fight as another model than was searched
        assert all(row.is_current for runs in rows.values() for row in runs)
        budget = recipes.budget
        assert (recipes.windows, recipes.streams) == (best_of(rows), best_of(rows, "stream_bpb"))
        assert recipes.seconds_per_step.keys() == fights(recipes).keys()
    else:
        rows = {
            name: [dataclasses.replace(row, metrics={**row.metrics, OF_THE_BUDGET: 40.0}) for row in runs]
            for name, runs in made_rows().items()
        }
    check_equal(rows, budget)
    fewer = rows | {"lstm": rows["lstm"][1:]}
    slower = rows | {"lstm": [dataclasses.replace(row, seconds=1.3 * row.seconds) for row in rows["lstm"]]}
    for unequal in (fewer, slower):
        with pytest.raises(AssertionError):
            check_equal(unequal, budget)


def test_a_contestant_without_a_measured_run_is_named_before_anything_is_timed(tmp_path, monkeypatch) -> None:
    """However few are left: ours, or one other, or all of the streams."""
    for lost in (("lstm",), ("unimatrix",), tuple(name for name in CONTESTANTS if name != "unimatrix")):
        rows = {
            name: [dataclasses.replace(row, metrics={DIVERGED: 1.0}) for row in runs]
            if name in lost
            else runs
            for name, runs in made_rows().items()
        }
        monkeypatch.setattr(module, "search", lambda *_, rows=rows, **__: rows)
        with pytest.raises(UserError, match=f"^search: expected .* got none of {', '.join(lost)}$"):
            run_search(tmp_path, data="embedded", drawn=3, near=8, seconds=2.0)
    with pytest.raises(UserError, match=r"^search: .* got none of unimatrix, transformer-modern, "):
        fights(recipes_of(made_rows(), streams={}))
