"""Triple interaction without types (not in the paper): what models learn that are told nothing of the task.

Typed-Latent is given tags, roles and rules. Here the preset `unimatrix` stands beside the models that read
plain tokens, each under Table 6's curriculum with phases ten times as long, at the paper's rate; the preset
once more with the optimiser of `unimatrix train`.
"""

from dataclasses import replace

from unimatrix.lab.answers import Mean, Said, sentence
from unimatrix.lab.claims import POINTS, ComparedClaim, Comparison
from unimatrix.lab.protocol import protocol_of
from unimatrix.lab.study import Row, Study
from unimatrix.studies.makers import NOT_IN_THE_PAPER, of_column
from unimatrix.studies.paper.triple import COLUMNS, GUESSED, LONGER, POINTER_LONGER, on, triple_experiment
from unimatrix.train.config import Experiment
from unimatrix.train.recipe import OWN_TEXT

# fixed before any run
COPIES = 99.0


def _experiment(name: str, preset: str, *, max_positions: int | None = None) -> Experiment:
    """That model with phases ten times as long."""
    found = triple_experiment(name, preset, budget=LONGER)
    model = replace(found.model, max_positions=max_positions)
    return replace(found, name=f"triple-untyped.{name}", model=model)


UNIMATRIX = _experiment("unimatrix", "unimatrix")
AT_ITS_OWN = replace(UNIMATRIX, name="triple-untyped.unimatrix-own", optim=OWN_TEXT.optim)
TRANSFORMER, MODERN, CORE = (
    _experiment(preset, preset, max_positions=positions)
    for preset, positions in (
        ("transformer-triple", 49),
        ("transformer-modern", None),
        ("unimatrix-core", 49),
    )
)
OTHERS = {
    "SparsePointer, 32 slots": POINTER_LONGER,
    "UniMatrix-Core": CORE,
    "Transformer-Triple": TRANSFORMER,
    "transformer-modern": MODERN,
}
RULES = tuple(column.key.removeprefix("accuracy_") for column in COLUMNS)

ABOVE = tuple(
    ComparedClaim(
        f"unimatrix is above every other untyped model, rule {rule}",
        NOT_IN_THE_PAPER,
        tuple(
            Comparison(f"unimatrix - {label}", on(UNIMATRIX, rule), "above", on(other, rule), POINTS)
            for label, other in OTHERS.items()
        ),
    )
    for rule in RULES
)
COPIED = ComparedClaim(
    f"unimatrix copies at least {COPIES:g} % of what it is asked for, by its own recipe",
    NOT_IN_THE_PAPER,
    (Comparison(f"copy - {COPIES:g}", on(AT_ITS_OWN, "copy"), "at or above", COPIES, POINTS),),
)

TRIPLE_UNTYPED = Study(
    name="triple-untyped",
    title="Triple interaction, untyped (not in the paper): accuracy in percent after ten times the steps",
    question="What do models learn of tags, roles and rules that are told of none?",
    answer=sentence(
        "In ten times the steps unimatrix answers {copy} % of the copies and {lookup} % of the lookups, by "
        "the recipe of its own {own_copy} and {own_lookup}; SparsePointer {pointer} % of the copies. "
        "{copied}.",
        copy=Mean(on(UNIMATRIX, "copy"), 1),
        lookup=Mean(on(UNIMATRIX, "lookup"), 1),
        own_copy=Mean(on(AT_ITS_OWN, "copy"), 1),
        own_lookup=Mean(on(AT_ITS_OWN, "lookup"), 1),
        pointer=Mean(on(POINTER_LONGER, "copy"), 1),
        copied=Said(
            (COPIED,),
            f"At least {COPIES:g} % of the copies it can",
            f"{COPIES:g} % of the copies it does not reach",
            f"These seeds do not decide whether it reaches {COPIES:g} % of the copies",
        ),
    ),
    rows=(
        Row(experiment=UNIMATRIX, label="unimatrix"),
        Row(experiment=AT_ITS_OWN, label="unimatrix, its own recipe"),
        *(Row(experiment=found, label=label) for label, found in OTHERS.items()),
        *GUESSED,
    ),
    columns=COLUMNS,
    claims=(*ABOVE, COPIED),
    figures=(
        of_column(
            "triple-untyped-copy",
            "Copies answered",
            "accuracy_copy",
            diamonds="",
            bars="the rule's chance, and picking any of the sequence's values",
            higher=True,
        ),
    ),
    protocol=protocol_of(UNIMATRIX, AT_ITS_OWN, *OTHERS.values()),
)
