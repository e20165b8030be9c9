"""What the fair fight searches and trains: `unimatrix bench search`, and the experiments that follow from it.

Steps are fixed by the search: the seconds of a fight over those of a step, so that a run is the same wherever
it is made, and how equal the seconds were stands in its row.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from unimatrix.codec import read_record
from unimatrix.data import Corpus, load_corpus
from unimatrix.errors import TrainingStopped, UserError
from unimatrix.evals.provenance import git_commit, machine
from unimatrix.lab.figures import draw_search
from unimatrix.lab.recipes import Best, Recipes, best_of, range_of
from unimatrix.lab.search import (
    SEARCH,
    Budget,
    Made,
    search,
)
from unimatrix.lab.step_timing import seconds_in_turns
from unimatrix.studies.beyond.contestants import CONTESTANTS, LEARNING, VOTES
from unimatrix.train.config import Experiment
from unimatrix.train.progress import PlainConsole, say

RECIPES = Path(__file__).with_name("fair_fight.json")
SECONDS, LONG_SECONDS = 180.0, 600.0
LARGE = 1_500_000  # weights
STREAM_BYTES = 262_144  # 2^18
# the search is made on one text; all fight once more on the first two of the others, by corpora's names:
# behind a search on tokenised WikiText-2 on its raw form and tinyshakespeare
TEXTS = ("wikitext-2-raw", "tinyshakespeare", "python-stdlib-3.11.7")
OURS, MODERN = "unimatrix", "transformer-modern"
# of the fights, fixed before any run of them: none of these chose anything, as 7, 11, 1, 2 and 3 did for ours
SEEDS = (101, 102, 103, 104, 105)
HALF = 0.5
LOOKS = (0.125, 0.25, HALF, 0.75)  # shares of our steps, after which all of the text is measured too
LABELS = {name: found.label for name, found in CONTESTANTS.items()}
FAMILIES = ("fight", "fight-long", "fight-large")
VOTING = "-votes"  # how the names of those end that vote


def run_search(
    out: Path,
    *,
    data: str,
    drawn: int,
    near: int,
    seconds: float,
    retime: bool = False,
    calibration: float = 480.0,
) -> Path:
    """Search for every contestant, then time a step of each model; OUT/fair_fight.json, what it came to.

    Beside it OUT/search.jsonl, every run, and OUT/search.svg, all of them at a glance. torch's threads are
    those of all runs. A fair_fight.json that is there stays if its recipes are these: another timing would
    give the fights other steps, and what was trained by this one would count no more.

    Args:
        data: what `load_corpus` takes. seconds: of a run. calibration: of the timing at the end. retime: time
            the steps alone, anew, by the recipes that OUT/fair_fight.json has.
    Raises:
        UserError: what `search` refuses; a contestant without a run that was measured; a loss that is no
            longer finite while a step is timed; with retime no such file, one of another text or of other
            threads, or what a search alone takes. Runs are kept.
        Stopped: by Ctrl-C; finished runs are kept.
    """
    from unimatrix.lab.charts import save_drawing

    corpus, threads = load_corpus(data), torch.get_num_threads()
    path = out / RECIPES.name
    if retime:
        if not path.exists():
            raise UserError(f"retime: expected {path}, the recipes that a search leaves, which is missing")
        found = read_record(Recipes, path)
        if found.text != corpus.name:
            raise UserError(f"data: expected {found.text}, which {path} was searched on, got {corpus.name}")
        if Made.here(corpus, seconds=seconds, threads=threads).sha256s != found.made.sha256s:
            raise UserError(f"data: expected the text that {path} was searched on, got another {corpus.name}")
        if threads != found.made.threads:
            raise UserError(
                f"threads: expected {found.made.threads}, which {path} was searched with, got {threads}"
            )
        if Budget(drawn=drawn, near=near, seconds=seconds) not in (found.budget, Budget()):
            raise UserError(
                "drawn, near, seconds: expected none of them with retime, which searches nothing, got "
                f"{drawn}, {near}, {seconds:g}"
            )
        _timed(found, corpus, seconds=calibration).write(path)
        return path
    budget = Budget(drawn=drawn, near=near, seconds=seconds)
    spaces = [found.space for found in CONTESTANTS.values()]
    rows = search(spaces, out=out, corpus=corpus, budget=budget, threads=threads)
    drawing = draw_search(rows, drawn=drawn, labels=LABELS)
    if drawing is not None:
        save_drawing(drawing, out / "search.svg")
    recipes = Recipes(
        text=corpus.name,
        budget=budget,
        made=Made.of(next(row for runs in rows.values() for row in runs)),
        steps=range_of(rows, lambda row: row.steps),
        seconds=range_of(rows, lambda row: row.seconds),
        windows=best_of(rows),
        streams=best_of(rows, "stream_bpb"),
        seconds_per_step={},
    )
    if _is_timed(recipes, path):
        say(PlainConsole(), f"{path} has these recipes and stays, with the steps that were timed for it")
        return path
    try:
        _timed(recipes, corpus, seconds=calibration).write(path)
    except TrainingStopped as error:
        raise UserError(
            f"timing the steps of the fights: {error}; every run of the search is kept in {out / SEARCH}, "
            "and the same command goes on with the timing"
        ) from error
    return path


def _is_timed(recipes: Recipes, path: Path) -> bool:
    """Whether the file has these recipes, and the seconds of a step of every fight."""
    if not path.exists():
        return False
    try:
        found = read_record(Recipes, path)
    except UserError:  # of another version, or damaged: it is written anew
        return False
    same = replace(found, seconds_per_step={}, timed_by="", timed_on="") == recipes
    return same and found.seconds_per_step.keys() == fights(recipes).keys()


def _timed(recipes: Recipes, corpus: Corpus, *, seconds: float) -> Recipes:
    """The same with the seconds of a step of every model of the studies, as they are here and now."""
    stepped = {name: _one_step(one) for name, one in fights(replace(recipes, seconds_per_step={})).items()}
    # a longer fight's step is the same work: timed apart, the two would differ by chance
    first = {
        name: next(other for other in stepped if stepped[other] == step) for name, step in stepped.items()
    }
    timed = seconds_in_turns(
        {name: stepped[name] for name in first.values()},
        corpus,
        threads=recipes.made.threads,
        seconds=seconds,
        say=partial(say, PlainConsole()),
    )
    return replace(
        recipes,
        seconds_per_step={name: timed[other] for name, other in first.items()},
        timed_by=git_commit(),
        timed_on=machine("cpu"),
    )


def _one_step(fight: Experiment) -> Experiment:
    """What its steps have in common with a fight of another length: all but the name and how many."""
    return replace(
        fight,
        name="step",
        optim=replace(fight.optim, warmup_steps=0),
        loop=replace(fight.loop, steps=1, eval_at=None),
    )


def best_opponent(found: Mapping[str, Best]) -> str:
    """Of the others the one whose search came to the fewest bits per byte."""
    return min((name for name in found if name != OURS), key=lambda name: found[name].bpb)


def fights(recipes: Recipes) -> dict[str, Experiment]:
    """Every experiment of the studies, by name.

    Without votes a model has its best recipe for windows, with votes its best one for streams. Votes have
    ours, the modern Transformer and the best opponents, where they have a place for them. All are measured on
    the test text, by which nothing was chosen.

    Raises:
        UserError: a contestant has no best run; steps were timed, and none of one of these experiments.
    """
    windows, streams = recipes.windows, recipes.streams
    for best_runs, names in (
        (windows, CONTESTANTS),
        (streams, [name for name, one in CONTESTANTS.items() if not one.positions]),
    ):
        missing = [name for name in names if name not in best_runs]
        if missing:
            raise UserError(
                "search: expected of every contestant a run that was measured, "
                f"got none of {', '.join(missing)}"
            )
    best = best_opponent(windows)
    can_vote = {name: one for name, one in streams.items() if CONTESTANTS[name].has_parts}
    best_voter = best_opponent(can_vote)
    voters = [name for name in dict.fromkeys((OURS, MODERN, best, best_voter)) if name in can_vote]
    found = [_fight("fight", name, windows[name], recipes) for name in windows]
    found += [_fight("fight", name, streams[name], recipes, votes=True) for name in voters]
    for name in (OURS, best):
        found.append(_fight("fight-long", name, windows[name], recipes, seconds=LONG_SECONDS))
    for name in (OURS, best_voter):
        found.append(_fight("fight-long", name, streams[name], recipes, seconds=LONG_SECONDS, votes=True))
    for name in (OURS, best):
        found.append(
            _fight("fight-large", name, windows[name], recipes, seconds=LONG_SECONDS, parameters=LARGE)
        )
    return {one.name: one for one in found}


def _step_of(name: str, recipes: Recipes, best: Best) -> float:
    """The seconds of a step of that fight; before any was timed, about those of the search."""
    if not recipes.seconds_per_step:
        return recipes.budget.seconds / best.experiment.loop.steps
    if name not in recipes.seconds_per_step:
        # a file of other fights; the search's step is another model's where it votes or is larger
        raise UserError(
            f"{RECIPES.name}, seconds_per_step: expected the seconds of each fight's step, got none of {name}"
        )
    return recipes.seconds_per_step[name]


def _warmup_of(contestant: str, best: Best) -> float:
    """The share of the steps that was chosen; of few steps their rounded number does not tell it."""
    shares, at = LEARNING["warmup"], best.choices.get("warmup")
    if at is None or not 0 <= at < len(shares):
        raise UserError(
            f"{RECIPES.name}, choices of {contestant}: expected warmup, 0 to {len(shares) - 1}, got {at}"
        )
    return shares[at]


def _fight(
    family: str,
    contestant: str,
    best: Best,
    recipes: Recipes,
    *,
    seconds: float = SECONDS,
    votes: bool = False,
    parameters: int | None = None,
) -> Experiment:
    """A contestant's recipe for so many seconds: their steps, once a step has been timed."""
    found, name = best.experiment, f"{family}.{contestant}{VOTING if votes else ''}"
    steps = max(1, round(seconds / _step_of(name, recipes, best)))
    model = replace(found.model, changes={**found.model.changes, **(VOTES if votes else {})})
    lr = found.optim.lr
    if parameters is not None:
        wide = CONTESTANTS[contestant].widened(model, parameters)
        # what a rate does to a layer's outputs grows with its width. Not by the rule of train.recipe, which
        # falls faster: that one was tried for ours alone, and this one for neither side
        lr *= found.model.changes["d_model"] / wide.changes["d_model"]
        model = wide
    share = _warmup_of(contestant, best)
    looks = {round(look * steps) for look in LOOKS} - {0} if contestant == OURS else set()
    window = found.loop.stream_window
    return replace(
        found,
        name=name,
        model=model,
        optim=replace(found.optim, lr=lr, warmup_steps=round(share * steps)),
        loop=replace(
            found.loop,
            steps=steps,
            seed=7,
            device="cpu",  # where its steps were timed
            eval_split="test",
            eval_at=tuple(sorted(looks)) or None,
            stream_bytes=None if found.loop.stream_bytes is None else STREAM_BYTES,
            # overlapping by half, which gives attention more before a byte than in the search
            stream_stride=None if window is None else window // 2,
        ),
    )
