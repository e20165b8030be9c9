"""What the fair fight searches and trains: `unimatrix bench search`, and the experiments that follow from it.

Steps are fixed by the search: the seconds of a fight over those of a step, so that a run is the same wherever
it is made, and how equal the seconds were stands in its row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from unimatrix.data import Corpus, load_corpus
from unimatrix.errors import UserError
from unimatrix.evals.provenance import machine
from unimatrix.lab.figures import draw_search
from unimatrix.lab.results import Result
from unimatrix.lab.search import Best, Budget, Recipes, best_of, search, seconds_per_step
from unimatrix.studies.beyond.contestants import CONTESTANTS, LEARNING, VOTES, sized
from unimatrix.train.config import Experiment

RECIPES = Path(__file__).with_name("fair_fight.json")
SECONDS, LONG_SECONDS = 180.0, 600.0
LARGE = 1_500_000  # weights
STREAM_BYTES = 262_144  # 2^18
# the search is made on one text; all fight once more on the first two of the others, by their corpora's names
TEXTS = ("wikitext-2-raw", "python-stdlib-3.11.7", "tinyshakespeare")
OURS, MODERN = "unimatrix", "transformer-modern"
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
    calibration: float = 120.0,
) -> Path:
    """Search for every contestant, then time a step of each model; OUT/fair_fight.json, what it came to.

    Beside it OUT/search.jsonl, every run, and OUT/search.svg, all of them at a glance. torch's threads are
    those of all runs.

    Args:
        data: what `load_corpus` takes. seconds: of a run. calibration: of the timing at the end.
    Raises:
        UserError: what `search` refuses; a contestant without a run that was measured.
        Stopped: by Ctrl-C; finished runs are kept.
    """
    from unimatrix.lab.charts import save_drawing

    corpus, threads = load_corpus(data), torch.get_num_threads()
    budget = Budget(drawn=drawn, near=near, seconds=seconds)
    spaces = [found.space for found in CONTESTANTS.values()]
    rows = search(spaces, out=out, corpus=corpus, budget=budget, threads=threads)
    drawing = draw_search(rows, drawn=drawn, labels=LABELS)
    if drawing is not None:
        save_drawing(drawing, out / "search.svg")
    path = out / RECIPES.name
    _timed(rows, corpus, budget=budget, threads=threads, seconds=calibration).write(path)
    return path


def _timed(
    rows: Mapping[str, Sequence[Result]], corpus: Corpus, *, budget: Budget, threads: int, seconds: float
) -> Recipes:
    """The best recipes, and the seconds of a step of every model of the studies."""
    recipes = Recipes(
        text=corpus.name,
        budget=budget,
        machine=machine("cpu"),
        threads=threads,
        windows=best_of(rows),
        streams=best_of(rows, "stream_bpb"),
        seconds_per_step={},
    )
    models = {
        name: replace(found, loop=replace(found.loop, device="cpu"))
        for name, found in fights(recipes).items()
    }
    return replace(
        recipes, seconds_per_step=seconds_per_step(models, corpus, threads=threads, seconds=seconds)
    )


def best_opponent(found: Mapping[str, Best]) -> str:
    """Of the others the one whose search came to the fewest bits per byte."""
    return min((name for name in found if name != OURS), key=lambda name: found[name].bpb)


def fights(recipes: Recipes) -> dict[str, Experiment]:
    """Every experiment of the studies, by name.

    Without votes a model has its best recipe for windows, with votes its best one for streams. Votes have
    ours, the modern Transformer and the best opponents, where they have a place for them.

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
    best, best_streamed = best_opponent(windows), best_opponent(streams)
    voters = [
        name for name in dict.fromkeys((OURS, MODERN, best, best_streamed)) if CONTESTANTS[name].has_parts
    ]
    voters = [name for name in voters if name in streams]
    found = [_fight("fight", name, windows[name], recipes) for name in windows]
    found += [_fight("fight", name, streams[name], recipes, votes=True) for name in voters]
    for name in (OURS, best):
        found.append(_fight("fight-long", name, windows[name], recipes, seconds=LONG_SECONDS))
    for name in (OURS, best_streamed):
        if name in voters:
            found.append(_fight("fight-long", name, streams[name], recipes, seconds=LONG_SECONDS, votes=True))
    for name in (OURS, best):
        found.append(
            _fight("fight-large", name, windows[name], recipes, seconds=LONG_SECONDS, parameters=LARGE)
        )
    return {one.name: one for one in found}


def _step_of(name: str, recipes: Recipes, *, unknown: float) -> float:
    """The seconds of a step of that fight; `unknown` before any was timed."""
    if not recipes.seconds_per_step:
        return unknown
    if name not in recipes.seconds_per_step:
        # a file of other fights; a step guessed to be as long as the fight would make a run of one step
        raise UserError(
            f"{RECIPES.name}, seconds_per_step: expected the seconds of each fight's step, got none of {name}"
        )
    return recipes.seconds_per_step[name]


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
    steps = max(1, round(seconds / _step_of(name, recipes, unknown=seconds)))
    model = replace(found.model, changes={**found.model.changes, **(VOTES if votes else {})})
    lr = found.optim.lr
    if parameters is not None:
        wide = sized(model, parameters)
        # what a rate does to a layer's outputs grows with its width. Not by the rule of train.recipe, which
        # falls faster: that one was tried for ours alone, and this one for neither side
        lr *= found.model.changes["d_model"] / wide.changes["d_model"]
        model = wide
    share = found.optim.warmup_steps / found.loop.steps
    share = min(LEARNING["warmup"], key=lambda choice: abs(choice - share))  # before it was rounded to steps
    looks = {round(look * steps) for look in LOOKS} - {0} if contestant == OURS else set()
    return replace(
        found,
        name=name,
        model=model,
        optim=replace(found.optim, lr=lr, warmup_steps=round(share * steps)),
        loop=replace(
            found.loop,
            steps=steps,
            seed=7,
            device="auto",
            eval_at=tuple(sorted(looks)) or None,
            stream_bytes=None if found.loop.stream_bytes is None else STREAM_BYTES,
        ),
    )
