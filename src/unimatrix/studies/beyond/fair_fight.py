"""The fair fight (not in the paper): equal seconds, equal weights, and the same search for every contestant.

What is trained is in `fights`, by the recipes of fair_fight.json beside this file, which `unimatrix bench
search` made. As long as that is not there, the studies wait for it and are not in the catalogue.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from unimatrix.bench.ceiling import multiply_adds
from unimatrix.codec import read_record
from unimatrix.data import VOCAB_SIZE
from unimatrix.lab.answers import Answer, Mean, Said, sentence
from unimatrix.lab.claims import BPB, ComparedClaim, Comparison, Measured
from unimatrix.lab.claims import SECONDS as IN_SECONDS
from unimatrix.lab.figures import draw_over_cost, draw_search
from unimatrix.lab.protocol import listed, protocol_of
from unimatrix.lab.recipes import Recipes, by_contestant
from unimatrix.lab.results import Result, Samples, read_results
from unimatrix.lab.search import PART_BYTES, SEARCH
from unimatrix.lab.search import UNEVEN as UNEVEN_RUN
from unimatrix.lab.step_timing import TURN_SECONDS
from unimatrix.lab.study import Column, Figure, Row, Study
from unimatrix.models import build
from unimatrix.models.estimate import estimate
from unimatrix.studies.beyond.contestants import CONTESTANTS, LEARNING, PARAMETERS, WINDOW
from unimatrix.studies.beyond.fights import (
    HALF,
    LABELS,
    LARGE,
    LONG_SECONDS,
    MODERN,
    OURS,
    RECIPES,
    SECONDS,
    SEEDS,
    STREAM_BYTES,
    TEXTS,
    VOTING,
    fights,
)
from unimatrix.studies.makers import NOT_IN_THE_PAPER, of_column
from unimatrix.train.config import Experiment

if TYPE_CHECKING:
    from unimatrix.lab.charts import Drawing

PAPERS = "transformer"
# fixed before any run: below both Transformers in windows, below the modern one in streams with votes
AHEAD, AHEAD_IN_STREAMS = 0.20, 0.10
# of the seconds that are given: so much more than an opponent's may ours have taken; fixed likewise
UNEVEN = 0.05
SAME_ARTICLES = {"wikitext-2-raw", "wikitext-2"}  # in their validation texts too
WITHOUT, WITH = "Without votes", "With an exact suffix automaton's votes"

COLUMNS = (
    Column(
        key="bpb",
        title=f"Windows of {WINDOW}",
        digits=3,
        axis=f"bits per byte of the test text, read in windows of {WINDOW}",
    ),
    Column(
        key="stream_bpb", title="Stream", digits=3, axis="bits per byte of the test text, read as one stream"
    ),
    Column(key="seconds", title="Seconds", digits=0, axis="seconds of training"),
    Column(key="steps", title="Steps", digits=0, axis="training steps"),
)


@dataclass(frozen=True, slots=True)
class Reached:
    """The seconds of training after which one model, on its way, is as good as another at its end."""

    ours: Experiment
    theirs: Experiment

    def by_seed(self, samples: Samples) -> dict[int, float]:
        """Of the seeds that both have and in which it comes so far; a line is drawn between two looks."""
        ours, theirs = (samples.get(found.name, {}) for found in (self.ours, self.theirs))
        both = {
            seed: _seconds_until(run, theirs[seed].metrics["bpb"])
            for seed, run in ours.items()
            if seed in theirs
        }
        return {seed: seconds for seed, seconds in both.items() if seconds is not None}


@dataclass(frozen=True, slots=True)
class _When:
    """In a sentence: when one model is as good as another at its end, and in how many of the seeds."""

    reached: Reached

    def text(self, samples: Samples) -> str | None:
        """None where not both have run."""
        ours, theirs = (samples.get(found.name, {}) for found in (self.reached.ours, self.reached.theirs))
        both, found = ours.keys() & theirs.keys(), self.reached.by_seed(samples)
        if not found:
            return "at no time" if both else None
        text = f"after {math.fsum(found.values()) / len(found):,.0f} s"
        return text if len(found) == len(both) else f"{text} in {len(found)} of {len(both)} seeds"


@dataclass(frozen=True, slots=True)
class _Best:
    """In a sentence: the opponent that came to the fewest bits per byte, and when ours is as good."""

    ours: Experiment
    others: tuple[Experiment, ...]

    def text(self, samples: Samples) -> str | None:
        """None where none has run."""
        found = {one.name: Measured(one, "bpb").by_seed(samples) for one in self.others}
        found = {name: runs for name, runs in found.items() if runs}
        if not found:
            return None
        # a lucky seed that the others have not makes none the best
        shared = set.intersection(*map(set, found.values()))
        compared = {
            name: [bpb for seed, bpb in runs.items() if not shared or seed in shared]
            for name, runs in found.items()
        }
        means = {name: math.fsum(runs) / len(runs) for name, runs in compared.items()}
        best = min((one for one in self.others if one.name in means), key=lambda one: means[one.name])
        when = _When(Reached(self.ours, best)).text(samples) or "(not measured yet)"
        return f"{_label(best)} {means[best.name]:.3f}, which ours reaches {when}"


def _seconds_until(run: Result, bpb: float) -> float | None:
    """None where it never comes so far; of what is there at the first look, the seconds of that look."""
    steps = run.config["loop"]["eval_at"] or ()
    looks = [(run.metrics[f"seconds_{at}_steps"], run.metrics[f"bpb_{at}_steps"]) for at in steps]
    looks.append((run.seconds, run.metrics["bpb"]))
    before = looks[0]
    for seconds, value in looks:
        if value <= bpb:
            share = (before[1] - bpb) / (before[1] - value) if value < before[1] else 1.0
            return before[0] + share * (seconds - before[0])
        before = (seconds, value)
    return None


def _label(experiment: Experiment) -> str:
    return LABELS[experiment.model.preset]


def _below(left: Experiment, right: Experiment, metric: str, by: float = 0.0) -> Comparison:
    return Comparison(
        f"{_label(left)} - {_of(right)}",
        Measured(left, metric),
        "below",
        Measured(right, metric),
        BPB,
        0.0 - by,
    )


def _claim(statement: str, *comparisons: Comparison) -> ComparedClaim:
    return ComparedClaim(statement, NOT_IN_THE_PAPER, comparisons)


def _after_equal_seconds(statement: str, given: float, *comparisons: Comparison) -> ComparedClaim:
    """A claim that holds only where ours is not shown to have taken longer than those it is compared with.

    Their steps are as many as take equal seconds, by a timing in turns that a slow spell of the machine hits
    alike. Runs are minutes apart, and their seconds drift with it.
    """
    pairs = {
        (one.left.experiment.name, one.right.experiment.name): (one.left.experiment, one.right.experiment)
        for one in comparisons
        if isinstance(one.left, Measured) and isinstance(one.right, Measured)
    }
    took = [
        Comparison(
            f"seconds, {_of(ours)} - {_of(other)}",
            *(Measured(ours, "seconds"), "at or below", Measured(other, "seconds"), IN_SECONDS),
            UNEVEN * given,
            condition=True,
        )
        for ours, other in pairs.values()
    ]
    return _claim(statement, *comparisons, *took)


def _equal_seconds(found: Sequence[Experiment], given: float) -> ComparedClaim:
    """That training took the seconds that were given."""
    return _claim(
        f"Training took the {given:.0f} s that each was given, within {100 * UNEVEN:g} %",
        *(
            Comparison(
                f"{_of(one)} - {given:.0f}",
                *(Measured(one, "seconds"), "within", given, IN_SECONDS, UNEVEN * given),
            )
            for one in found
        ),
    )


def _of(experiment: Experiment) -> str:
    return f"{_label(experiment)}{', with votes' if experiment.name.endswith(VOTING) else ''}"


def _said_of(equal: ComparedClaim) -> Said:
    """How equal the seconds were, in a sentence."""
    within = f"took these seconds within {100 * UNEVEN:g} %"
    return Said(
        (equal,),
        f"Training {within}",
        f"Not all of them {within}",
        f"These seeds do not decide whether all {within}",
    )


def _claims(plain: Mapping[str, Experiment], voting: Mapping[str, Experiment]) -> tuple[ComparedClaim, ...]:
    """The three goals, then what goes beyond them, each after equal seconds; last, how equal they were."""
    ours, others = plain[OURS], [found for name, found in plain.items() if name != OURS]
    half = Measured(ours, f"bpb_{round(HALF * ours.loop.steps)}_steps")

    def after_half(statement: str, *opponents: Experiment) -> ComparedClaim:
        return _after_equal_seconds(
            f"In half its seconds ours has the final quality of {statement}",
            SECONDS,
            *(
                Comparison(
                    f"unimatrix after half - {_label(one)}", half, "at or below", Measured(one, "bpb"), BPB
                )
                for one in opponents
            ),
        )

    return (
        _after_equal_seconds(
            f"In windows ours is {AHEAD} below both Transformers",
            SECONDS,
            *(_below(ours, plain[name], "bpb", AHEAD) for name in (PAPERS, MODERN)),
        ),
        _after_equal_seconds(
            f"Read as a stream, with votes on both sides, ours is {AHEAD_IN_STREAMS} below the modern "
            "Transformer",
            SECONDS,
            _below(voting[OURS], voting[MODERN], "stream_bpb", AHEAD_IN_STREAMS),
        ),
        after_half("both Transformers", plain[PAPERS], plain[MODERN]),
        after_half("every other", *others),
        _after_equal_seconds(
            "In windows ours is below every other",
            SECONDS,
            *(_below(ours, other, "bpb") for other in others),
        ),
        _after_equal_seconds(
            "Read as a stream ours is below every other that is read so, with votes on both sides and on "
            "neither",
            SECONDS,
            *(_below(ours, other, "stream_bpb") for other in others if other.loop.stream_bytes),
            *(_below(voting[OURS], other, "stream_bpb") for name, other in voting.items() if name != OURS),
        ),
        _equal_seconds((*plain.values(), *voting.values()), SECONDS),
    )


def _answer(
    plain: Mapping[str, Experiment],
    voting: Mapping[str, Experiment],
    claims: tuple[ComparedClaim, ...],
) -> Answer:
    return sentence(
        f"After {SECONDS:.0f} s unimatrix needs {{ours}} bits per byte in windows of {WINDOW}, the paper's "
        "Transformer {papers}, the modern one {modern}, and the best of all opponents, {best}. Read as a "
        "stream, with votes on both sides, ours needs {stream} and the modern Transformer {modern_stream}. "
        "{equal}. {goals}.",
        equal=_said_of(claims[-1]),
        ours=Mean(Measured(plain[OURS], "bpb"), 3),
        papers=Mean(Measured(plain[PAPERS], "bpb"), 3),
        modern=Mean(Measured(plain[MODERN], "bpb"), 3),
        best=_Best(plain[OURS], tuple(one for name, one in plain.items() if name != OURS)),
        stream=Mean(Measured(voting[OURS], "stream_bpb"), 3),
        modern_stream=Mean(Measured(voting[MODERN], "stream_bpb"), 3),
        goals=Said(
            claims[:3],
            "All three goals that were set beforehand are reached",
            "Not all three goals that were set beforehand are reached",
            "These seeds do not decide whether all three goals that were set beforehand are reached",
        ),
    )


def _rows(experiments: Sequence[Experiment]) -> tuple[Row, ...]:
    return tuple(
        Row(experiment=found, label=_label(found), group=WITH if found.name.endswith(VOTING) else WITHOUT)
        for found in experiments
    )


def _draw_cost(study: Study, samples: Samples) -> "Drawing | None":
    """The models without votes over what they calculated in all of their training."""
    plain = replace(study, rows=tuple(row for row in study.trained if row.group == WITHOUT))
    costs = {}
    for name in plain.names:
        if runs := samples.get(name):
            # as it was trained: a later recipe may have other steps
            run = Experiment.from_dict(next(iter(runs.values())).config)
            of_window = multiply_adds(build(run.model.resolved(VOCAB_SIZE)), run.loop.seq_len)
            costs[name] = run.loop.steps * run.loop.batch_size * of_window
    label = "multiply-adds of all forward passes of training"
    return draw_over_cost(plain, samples, key="bpb", costs=costs, label=label) if costs else None


def _main(recipes: Recipes, found: Sequence[Experiment], *, name: str, text: str, which: str = "") -> Study:
    """Everyone for SECONDS on one text; which: of the texts, in the title."""
    plain = {one.model.preset: one for one in found if not one.name.endswith(VOTING)}
    voting = {one.model.preset: one for one in found if one.name.endswith(VOTING)}
    claims = _claims(plain, voting)

    def draw_runs(_study: Study, samples: Samples) -> "Drawing | None":
        from unimatrix.lab.committed import COMMITTED  # with pandas: a catalogue needs none

        if not any(samples.values()):
            return None
        # the file keeps what was searched with another budget, elsewhere or on another text
        rows = by_contestant(filter(recipes.is_of, read_results(COMMITTED / SEARCH)))
        return draw_search(rows, drawn=recipes.budget.drawn, labels=LABELS) if rows else None

    return Study(
        name=name,
        title=f"The fair fight on {which}{text} (not in the paper): test BPB after equal seconds",
        question="Which model is the best after the same seconds on the same threads, each by a recipe that "
        "was searched for it with the same budget?",
        answer=_answer(plain, voting, claims),
        rows=_rows(found),
        columns=COLUMNS,
        claims=claims,
        figures=(
            of_column(name, f"Bits per byte after {SECONDS:.0f} s, in windows", "bpb", diamonds=""),
            of_column(f"{name}-stream", "Bits per byte, read as one stream", "stream_bpb", diamonds=""),
            Figure(
                name=f"{name}-cost",
                title="Bits per byte over multiply-adds",
                caption="Without votes; mean with its 95 % interval. Counted over all windows that the model "
                "trained on in the same seconds, without its backward passes. Lower is better.",
                draw=_draw_cost,
            ),
            Figure(
                name=f"{name}-search",
                title="The search: every run of every contestant",
                caption=f"Bits per byte of the last {PART_BYTES:,} bytes of the validation text of "
                f"{recipes.text}, in windows of {WINDOW}. Every contestant has as many runs, of the same "
                "seconds. Lower is better.",
                draw=draw_runs,
            ),
        ),
        protocol=(*protocol_of(*found), *_protocol(recipes, found, text), _recipes(found)),
        threads=recipes.made.threads,
        text=text,
        seeds=SEEDS,
    )


def _recipes(found: Sequence[Experiment]) -> str:
    """What the search came to, for the models without votes and then for those with them."""
    each = [
        f"{_of(one)} d = "
        f"{one.model.changes['d_model']}{_heads(one)}, depth {one.model.changes['depth']}, rate "
        f"{one.optim.lr:g}, "
        f"{one.loop.batch_size} windows of {one.loop.seq_len}"
        for one in found
    ]
    return f"The recipes (d: width; rate: of learning, at its peak): {'; '.join(each)}."


def _heads(experiment: Experiment) -> str:
    """How many heads it has, in a list of settings; nothing where it has none."""
    changes = experiment.model.changes
    told = [value for name, value in changes.items() if name.rpartition(".")[2] == "num_heads"]
    number = told[0] if told else CONTESTANTS[experiment.model.preset].heads
    return "" if number is None else f", heads {number}"


def _weights(found: Sequence[Experiment], wanted: int) -> str:
    """How many weights the models have, and how far that is off what all were to have."""
    # with votes and without a contestant may have two widths
    models = [(CONTESTANTS[one.model.preset].counted(one.model), _label(one)) for one in found]
    counts = {estimate(model.resolved(VOCAB_SIZE)).parameters: label for model, label in models}
    ends = [
        f"{count:,} ({counts[count]}, {100 * (count / wanted - 1):+.1f} %)"
        for count in (min(counts), max(counts))
    ]
    return (
        f"Every model is as wide as comes nearest to {wanted:,} weights, of the even widths that its heads "
        f"divide: those here have {ends[0]} to {ends[1]}; of learned positions the first {WINDOW} count, "
        "which are all that windows read."
    )


_BY_HAND = (
    "The preset unimatrix itself (its layers, its sizes, how it starts and how its logits are scaled) was "
    f"designed by hand before, in dozens of runs measured on the first {PART_BYTES:,} bytes of the "
    "validation text of WikiText-2 raw, and the recipe of `unimatrix train`, which is not the fight's, on "
    "that of tinyshakespeare (docs/log.md has them): an extra that no opponent had. A first search was "
    "stopped half way, when its steps had turned out slow, and begun anew with a faster form of two ops, "
    "which every gated layer and M2RNN take too."
)


def _searched_on(recipes: Recipes, text: str) -> str:
    """What the search has seen of the text that is measured here."""
    if text == recipes.text:
        return "Of this text the search has seen the training and the validation part."
    if {text, recipes.text} <= SAME_ARTICLES:
        return (
            f"The search was made on {recipes.text}, which has the same articles as this text, {text}: "
            "rare words alone are told otherwise, as <unk>, in one of them."
        )
    return f"No recipe was searched on this text, {text}."


def _steps(recipes: Recipes) -> str:
    """How many steps the runs of the search had, and seconds: the fewer, the further from the fight's."""
    each = [
        f"{LABELS[name]} {_from_to(steps, ',')} ({_from_to(recipes.seconds[name], '.1f')} s)"
        for name, steps in recipes.steps.items()
    ]
    return (
        f"In these {recipes.budget.seconds:g} s a run of the search had so many steps, and took so many "
        f"seconds: {'; '.join(each)}. One that took {100 * UNEVEN_RUN:g} % more or less was timed and "
        "trained again, up to twice. "
        "Equal seconds favour quick models here: where the steps were few, what was best in them is less "
        "likely to be best in the many of the fight."
    )


def _from_to(ends: tuple[float, float], digits: str) -> str:
    least, most = (f"{end:{digits}}" for end in ends)
    return least if least == most else f"{least} to {most}"


def _duel(
    recipes: Recipes, found: Sequence[Experiment], *, name: str, title: str, question: str, more: str = ""
) -> Study:
    """Ours and the best opponent of the search, LONG_SECONDS each."""
    ours, other = found[:2]
    equal = _equal_seconds(found, LONG_SECONDS)
    return Study(
        name=name,
        title=f"{title} on {recipes.text} (not in the paper): test BPB",
        question=question,
        answer=sentence(
            f"After {LONG_SECONDS:.0f} s unimatrix needs {{ours}} bits per byte in windows of {WINDOW}, the "
            f"best opponent of the search, {_label(other)}, {{other}}. {{equal}}.",
            ours=Mean(Measured(ours, "bpb"), 3),
            other=Mean(Measured(other, "bpb"), 3),
            equal=_said_of(equal),
        ),
        rows=_rows(found),
        columns=COLUMNS,
        claims=(
            _after_equal_seconds(
                "In windows ours is below the best opponent of the search",
                LONG_SECONDS,
                _below(ours, other, "bpb"),
            ),
            equal,
        ),
        figures=(of_column(name, "Bits per byte, in windows", "bpb", diamonds=""),),
        protocol=(
            *protocol_of(*found),
            *_protocol(recipes, found, recipes.text),
            _recipes(found),
            *((more,) if more else ()),
        ),
        threads=recipes.made.threads,
        text=recipes.text,
        seeds=SEEDS,
    )


def _protocol(recipes: Recipes, found: Sequence[Experiment], text: str) -> tuple[str, ...]:
    timed = recipes.seconds_per_step
    # a further text's fights have names of their own, and the first one's steps
    shortened = {re.sub(r"^fight-(second|third)\.", "fight.", one.name) for one in found}
    steps_ms = [1e3 * timed[name] for name in sorted(shortened & timed.keys())]
    each = f": {min(steps_ms):.1f} to {max(steps_ms):.1f} ms" if steps_ms else ""
    budget = recipes.budget
    wanted = LARGE if found[0].name.startswith("fight-large.") else PARAMETERS
    return (
        f"{_weights(found, wanted)} Its steps were fixed before: {SECONDS:.0f} s, or {LONG_SECONDS:.0f}, "
        f"over the mean seconds of its step, timed for all in turns of {TURN_SECONDS:g} s at most, "
        f"half of that untimed before each, every model in a process of its own on "
        f"{recipes.made.threads} threads ({recipes.timed_on or recipes.made.machine}){each}. The column of "
        "seconds says how long training then took, without evaluation; every run has the machine to itself. "
        "The machine's speed drifts from minute to minute, for one run and not for another, where the turns "
        "of the timing feel it alike: so no claim counts as reproduced where the seconds of the runs show "
        f"that ours took {100 * UNEVEN:g} % of the given ones longer than another that it is compared with "
        "(fixed before any run), and that all took what was given is a claim by itself. The seeds of the "
        f"project's own runs, {listed(SEEDS)}, chose nothing before.",
        "All train in eager mode, as `unimatrix train` does by itself. torch.compile would make a step of "
        "Mamba-2 1.3 to 1.4 times as fast on two threads, those of unimatrix, of the paper's Transformer and "
        "of both hybrids 1.0 to 1.2 times (docs/results/speed); of the others it was not measured, and it "
        "was used for none. "
        "Mamba-2 has no kernel of its own for a CPU, where the other recurrences have compiled loops.",
        f"The same search for every contestant, on {recipes.text}: {budget.drawn} runs drawn from as many "
        f"choices of as many settings ({listed(LEARNING)} and four of the model's), then {budget.near} near "
        f"the best of these in windows, {budget.seconds:g} s each, measured on the last "
        f"{PART_BYTES:,} bytes of the validation text (docs/results/{SEARCH} has every one). The width "
        "follows from the number of weights. All were searched without votes; what votes has its best "
        "recipe for streams, what does not its best for windows. "
        f"{_steps(recipes)}",
        "Dropout was 0 for all and was not searched: a text of 10 MB is read about once in three minutes. A "
        "small text is read several times, and there it might help: it was not tried.",
        _BY_HAND,
        f"All are measured on the test text, by which nothing was chosen, in windows of {WINDOW}, whatever "
        f"they trained on; its first {STREAM_BYTES:,} bytes, or all of a shorter one, are also read as one "
        "stream, in which attention has windows of as many bytes as it trained on, which overlap by half: a "
        "byte has half of these before it at least. In the search they lay side by side. "
        f"{_searched_on(recipes, text)}",
        "Not alike: the paper's Transformer has learned positions, and so no stream, and no scale of its "
        "logits; Recurrent-FFN-Hybrid has rotary positions in place of learned ones. Mamba-2 is another "
        "library's: it has no scale of its logits, starts as that library starts it, with nothing to search "
        "there, and has no place for votes.",
    )


def fair_fight(recipes: Recipes) -> tuple[Study, ...]:
    """The studies that these recipes make: all for SECONDS, on three texts; the best two longer, and larger.

    Each is of one text by name, and left out on any other; the further two are not that of the search.
    """
    found = fights(recipes)
    further = zip(("second", "third"), (text for text in TEXTS if text != recipes.text), strict=False)

    def of(family: str) -> list[Experiment]:
        return [one for name, one in found.items() if name.startswith(f"{family}.")]

    return (
        _main(recipes, of("fight"), name="fair-fight", text=recipes.text),
        *(
            _main(
                recipes,
                [replace(one, name=one.name.replace("fight.", f"fight-{which}.")) for one in of("fight")],
                name=f"fair-fight-{which}",
                text=text,
                which=f"a {which} text, ",
            )
            for which, text in further
        ),
        _duel(
            recipes,
            of("fight-long"),
            name="fair-fight-long",
            title=f"The fair fight for {LONG_SECONDS / 60:.0f} minutes",
            question="Does the order of the best two stay in a longer training?",
        ),
        _duel(
            recipes,
            of("fight-large"),
            name="fair-fight-large",
            title=f"The fair fight with {LARGE / 1e6:g} million weights",
            question="Does the order of the best two stay in larger models?",
            more="The recipes are those of the small models, as deep and wider. Where the size of a head is "
            f"a setting of its own ({listed(one.label for one in CONTESTANTS.values() if one.heads)}) "
            "the number of heads grows with the width, on both sides; elsewhere it stays, and the heads, or "
            "the state, are as much wider. The learning rate falls as much as the width grows, on both "
            "sides, a rule that was tried for neither.",
        ),
    )


NAMES = ("fair-fight", "fair-fight-second", "fair-fight-third", "fair-fight-long", "fair-fight-large")
FAIR_FIGHT: tuple[Study, ...] = fair_fight(read_record(Recipes, RECIPES)) if RECIPES.exists() else ()
