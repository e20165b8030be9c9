"""Table 5 with harder filler, which the paper does not have: every free symbol may stand in one sequence.

The paper's Table 5 tells that one of its sequences holds between 17 and 32 different symbols; here it may
hold more than 32 slots have room for.
"""

from dataclasses import replace

from unimatrix.lab.answers import Mean, Said, sentence
from unimatrix.lab.claims import ComparedClaim
from unimatrix.lab.protocol import protocol_of
from unimatrix.lab.study import Row, Study
from unimatrix.studies.makers import of_column
from unimatrix.studies.paper.recall import (
    CHANCE,
    FITTED,
    NEAR_POINTS,
    ON_MORE_PAIRS,
    accuracy,
    at_pairs,
    guessing_by_pairs,
    near,
    recall_experiment,
    sparse_pointer,
)
from unimatrix.studies.paper.slots import ON_PAIRS, PAIRS, THRESHOLD_POINTS

ALL_FILLERS = replace(ON_MORE_PAIRS, num_fillers=ON_MORE_PAIRS.num_free)
_NAME = "recall-all-fillers"

TRANSFORMER = recall_experiment(f"{_NAME}.transformer", "transformer", task=ALL_FILLERS, qkv_init="xavier")
SLOTS32 = sparse_pointer(f"{_NAME}.slots32", task=ALL_FILLERS)
NO_GATE = sparse_pointer(f"{_NAME}.no-gate", task=ALL_FILLERS, write_gate=False)
SLOTS64 = sparse_pointer(f"{_NAME}.slots64-no-gate", task=ALL_FILLERS, slots=64, write_gate=False)

FEW = PAIRS[0]
CROWDED = ComparedClaim(
    f"Filler pushes the pairs out: with {FEW} pairs 32 slots that are always written stay at chance (our "
    f"margin: {NEAR_POINTS} points), and 64, one for each symbol, are more than {THRESHOLD_POINTS:g} points "
    f"above them (our bound and our experiment)",
    "Section 5.3, which has no such experiment",
    (
        near("32 slots", accuracy(NO_GATE, FEW), CHANCE),
        at_pairs("64 - 32 slots", SLOTS64, "above", NO_GATE, FEW, THRESHOLD_POINTS),
    ),
    touches=("c25",),
)

TABLE5_ALL_FILLERS = Study(
    name="table5-all-fillers",
    title="Table 5 with harder filler (not in the paper): accuracy in percent",
    question="Are 32 slots still enough when a sequence may hold more different symbols than there are "
    "slots?",
    answer=sentence(
        f"With {FEW} pairs 32 slots answer {{gated}} % with a write gate and {{always}} % without, and 64 "
        f"slots {{more}} %: {{verdict}}.",
        gated=Mean(accuracy(SLOTS32, FEW), 1),
        always=Mean(accuracy(NO_GATE, FEW), 1),
        more=Mean(accuracy(SLOTS64, FEW), 1),
        verdict=Said(
            (CROWDED,),
            "filler pushes the pairs out until every symbol has a slot",
            "it is not so that filler pushes the pairs out until every symbol has a slot",
            "these seeds do not decide whether filler pushes the pairs out",
        ),
    ),
    rows=(
        Row(experiment=TRANSFORMER, label="Transformer"),
        Row(experiment=SLOTS32, label="32 slots, pointer"),
        Row(experiment=NO_GATE, label="32 slots, pointer, always writing"),
        Row(experiment=SLOTS64, label="64 slots, pointer, always writing"),
        guessing_by_pairs(ALL_FILLERS),
    ),
    columns=ON_PAIRS,
    claims=(CROWDED,),
    figures=(
        of_column(
            "table5-all-fillers",
            f"Accuracy with {FEW} pairs, every free symbol as filler",
            ON_PAIRS[0].key,
            diamonds="",
            bars="what guessing gives",
            higher=True,
        ),
    ),
    protocol=(
        "The paper's Table 5 tells that one of its sequences holds between 17 and 32 different symbols. Here "
        "a sequence may hold all of them, more than 32 slots have room for.",
        *protocol_of(TRANSFORMER, SLOTS32, NO_GATE, SLOTS64),
        FITTED,
    ),
)
