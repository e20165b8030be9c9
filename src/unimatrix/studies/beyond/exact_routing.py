"""Tables 1 and 3 with ROSA as it is meant (not in the paper): an exact suffix automaton in the stub's place.

The paper's ROSA path routes the previous token, which it calls a stub itself. Here the same weights are
routed what followed where the longest suffix occurred before; and, as a row of its own, that token votes on
the logits too (`unimatrix.mixers.suffix_automaton`).
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from unimatrix.lab.answers import Mean, Said, sentence
from unimatrix.lab.claims import ComparedClaim
from unimatrix.lab.protocol import protocol_of
from unimatrix.lab.study import Row, Study
from unimatrix.studies.makers import BITS_PER_BYTE, NOT_IN_THE_PAPER, UNTRAINED, of_column
from unimatrix.studies.paper import recall, text
from unimatrix.train.config import Experiment

Make = Callable[[str, str, Mapping[str, Any]], Experiment]
VOTES: Mapping[str, Any] = {"parts.routing.vote": True}
SOURCE = "Section 6, which leaves the exact automaton open"


def _exact(make: Make, name: str) -> tuple[Experiment, Experiment]:
    """Routed exactly, and voting besides."""
    preset = f"unimatrix-{name}-exact"
    return make(f"{name}-exact", preset, {}), make(f"{name}-exact-vote", preset, VOTES)


def _on_text(name: str, preset: str, changes: Mapping[str, Any]) -> Experiment:
    return text.text_experiment(f"table1.{name}", preset, changes=changes)


def _on_recall(name: str, preset: str, changes: Mapping[str, Any]) -> Experiment:
    return recall.recall_experiment(f"recall.{name}", preset, dropout=0.1, **changes)


TEXT_ROSA, TEXT_ROSA_VOTE = _exact(_on_text, "rosa")
TEXT_DISCOVERY, TEXT_DISCOVERY_VOTE = _exact(_on_text, "discovery")
RECALL_ROSA, RECALL_ROSA_VOTE = _exact(_on_recall, "rosa")
RECALL_DISCOVERY, RECALL_DISCOVERY_VOTE = _exact(_on_recall, "discovery")


def _rows(rosa: tuple[Experiment, ...], discovery: tuple[Experiment, ...]) -> tuple[Row, ...]:
    """The stubs, which the paper has, then each without and with votes; both as (stub, exact, voting)."""
    both = (("UniMatrix-ROSA", rosa), ("UniMatrix-Discovery", discovery))
    stubs = (Row(experiment=found[0], label=f"{label}, stub") for label, found in both)
    beyond = (
        Row(experiment=one, label=f"{label}, {words}", group=NOT_IN_THE_PAPER)
        for label, found in both
        for one, words in zip(found[1:], ("routed exactly", "routed exactly, voting"), strict=True)
    )
    return (*stubs, *beyond)


def _better(what: str, left: Experiment, right: Experiment, label: str) -> ComparedClaim:
    return ComparedClaim(what, SOURCE, (text.compared_bits(label, left, "below", right),))


ROUTED = _better(
    "ROSA routed by the exact automaton needs fewer bits per byte than by the previous token",
    TEXT_ROSA,
    text.ROSA,
    "exact - stub",
)
VOTING = _better(
    "Votes of the exact automaton need fewer bits per byte again", TEXT_ROSA_VOTE, TEXT_ROSA, "voting - exact"
)
BEYOND_TRANSFORMER = _better(
    "ROSA that routes and votes exactly needs fewer bits per byte than the Transformer",
    TEXT_ROSA_VOTE,
    text.TRANSFORMER,
    "ROSA, voting - Transformer",
)

TABLE1_EXACT = Study(
    name="table1-exact",
    title="Table 1 with an exact suffix automaton (not in the paper): validation BPB and PPL",
    question="Does ROSA read text better when its path points where the longest suffix occurred before, in "
    "place of the token before?",
    answer=sentence(
        "After {steps} steps the stub needs {stub} bits per byte, the exact path {exact}: {routed}; with "
        "votes {vote}: {voting}. The windows are 128 bytes long, so that an automaton sees little.",
        steps=f"{TEXT_ROSA.loop.steps}",
        stub=Mean(text.bits(text.ROSA), 3),
        exact=Mean(text.bits(TEXT_ROSA), 3),
        vote=Mean(text.bits(TEXT_ROSA_VOTE), 3),
        routed=Said((ROUTED,), "it helps", "it does not help", "these seeds do not decide whether it helps"),
        voting=Said(
            (VOTING,), "they help", "they do not help", "these seeds do not decide whether they help"
        ),
    ),
    rows=(
        Row(experiment=text.TRANSFORMER, label="Transformer"),
        *_rows((text.ROSA, TEXT_ROSA, TEXT_ROSA_VOTE), (text.DISCOVERY, TEXT_DISCOVERY, TEXT_DISCOVERY_VOTE)),
    ),
    columns=text.TABLE1.columns,
    claims=(ROUTED, VOTING, BEYOND_TRANSFORMER),
    figures=(of_column("table1-exact", "Validation bits per byte", BITS_PER_BYTE.key, diamonds=""),),
    protocol=protocol_of(
        text.TRANSFORMER,
        *(text.ROSA, TEXT_ROSA, TEXT_ROSA_VOTE),
        *(text.DISCOVERY, TEXT_DISCOVERY, TEXT_DISCOVERY_VOTE),
    ),
)

# fixed before any run
RECALLED_POINTS = 90.0
RECALLS = ComparedClaim(
    f"ROSA that routes and votes exactly recalls more than {RECALLED_POINTS:g} % (our bound)",
    SOURCE,
    (
        recall.points(
            f"ROSA, voting - {RECALLED_POINTS:g}", recall.accuracy(RECALL_ROSA_VOTE), "above", RECALLED_POINTS
        ),
    ),
)

TABLE3_EXACT = Study(
    name="table3-exact",
    title="Table 3 with an exact suffix automaton (not in the paper): loss and accuracy in percent",
    question="Can a compressed recurrent state look up what it was told when an automaton points at it?",
    answer=sentence(
        "Where chance is {chance} %, the stub answers {stub} % of the questions, the exact path {exact} % "
        "and with votes {vote} %: {verdict}.",
        chance=f"{recall.CHANCE:g}",
        stub=Mean(recall.accuracy(recall.ROSA), 1),
        exact=Mean(recall.accuracy(RECALL_ROSA), 1),
        vote=Mean(recall.accuracy(RECALL_ROSA_VOTE), 1),
        verdict=Said(
            (RECALLS,),
            f"with votes it recalls more than {RECALLED_POINTS:g} %",
            f"not even with votes does it recall more than {RECALLED_POINTS:g} %",
            f"these seeds do not decide whether it recalls more than {RECALLED_POINTS:g} % with votes",
        ),
    ),
    rows=(
        Row(experiment=recall.TRANSFORMER, label="Transformer"),
        *_rows(
            (recall.ROSA, RECALL_ROSA, RECALL_ROSA_VOTE),
            (recall.DISCOVERY, RECALL_DISCOVERY, RECALL_DISCOVERY_VOTE),
        ),
        replace(recall.BY_GUESSING, group=UNTRAINED),
        replace(recall.BY_CHANCE, group=UNTRAINED),
    ),
    columns=recall.TABLE3.columns,
    claims=(RECALLS,),
    figures=(
        of_column(
            "table3-exact",
            "Accuracy with an exact automaton",
            recall.ACCURACY.key,
            diamonds="",
            bars="what guessing gives",
            higher=True,
        ),
    ),
    protocol=protocol_of(
        recall.TRANSFORMER,
        *(recall.ROSA, RECALL_ROSA, RECALL_ROSA_VOTE),
        *(recall.DISCOVERY, RECALL_DISCOVERY, RECALL_DISCOVERY_VOTE),
    ),
)
