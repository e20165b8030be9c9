"""Section 5.3: SparsePointer taken apart (Table 5), trained on 4 pairs and evaluated on 4, 6 and 8.

The recipe is that of associative recall without dropout.
"""

from functools import partial

from unimatrix.evals.inspection import Traced
from unimatrix.lab.answers import Mean, Said, sentence
from unimatrix.lab.claims import ComparedClaim, Gain
from unimatrix.lab.figures import draw_over, draw_slots
from unimatrix.lab.look import trace_checkpoint
from unimatrix.lab.protocol import protocol_of
from unimatrix.lab.study import Column, Figure, Inspection, Row, Study
from unimatrix.studies.paper.published import printed
from unimatrix.studies.paper.recall import (
    CHANCE,
    FITTED,
    NEAR_POINTS,
    ON_MORE_PAIRS,
    SLOTS32,
    accuracy,
    at_pairs,
    guessing_by_pairs,
    near,
    points,
    sparse_pointer,
)
from unimatrix.train.config import Experiment

PAIRS = ON_MORE_PAIRS.eval_num_pairs

# both fixed before any run: what the paper's prose calls a threshold (24.2 against 98.9 %) and near-perfect
THRESHOLD_POINTS = 50.0
PERFECT = 99.9
NEAR_EXACT = 95.0  # the paper prints 98.9; fixed when our runs were there, at 100.0

SLOTS4, SLOTS8, SLOTS16 = (
    sparse_pointer(f"recall-no-dropout.slots{slots}", slots=slots) for slots in (4, 8, 16)
)
NO_POINTER = sparse_pointer("recall-no-dropout.no-pointer", pointer=False)
NO_GATE = sparse_pointer("recall-no-dropout.no-gate", write_gate=False)
# not in the paper: a gate that starts at one half, not open
HALF_GATE = sparse_pointer("recall-no-dropout.slots16-half-gate", slots=16, write_gate_bias=0.0)

ON_PAIRS = tuple(
    Column(
        key=f"accuracy_{number}_pairs",
        title=f"{number} pairs",
        digits=1,
        axis=f"accuracy with {number} pairs, percent",
    )
    for number in PAIRS
)


def _ablation(experiment: Experiment, label: str, name: str) -> Row:
    paper = {
        column.key: printed("table5_ablation", name, column.key.removeprefix("accuracy_"))
        for column in ON_PAIRS
    }
    return Row(experiment=experiment, label=label, paper=paper)


def _pointer_gain(number: int) -> Gain:
    return Gain(accuracy(SLOTS32, number), accuracy(NO_POINTER, number))


FEW, MOST = PAIRS[0], PAIRS[-1]
TOO_FEW = ComparedClaim(
    f"4 and 8 slots stay at chance with {FEW} pairs (our margin: {NEAR_POINTS} points)",
    "Section 5.3, Table 5",
    (near("4 slots", accuracy(SLOTS4, FEW), CHANCE), near("8 slots", accuracy(SLOTS8, FEW), CHANCE)),
    ("c26",),
)
THRESHOLD = ComparedClaim(
    f"A threshold lies between 16 and 32 slots: with {FEW} pairs 32 slots are more than {THRESHOLD_POINTS:g} "
    f"points above 16, 16 below {THRESHOLD_POINTS:g} %, and 32 near exact, at or above {NEAR_EXACT:g} % (our "
    "bounds)",
    "Section 5.3, Table 5",
    (
        at_pairs("32 - 16 slots", SLOTS32, "above", SLOTS16, FEW, THRESHOLD_POINTS),
        at_pairs(f"16 slots - {THRESHOLD_POINTS:g}", SLOTS16, "below", THRESHOLD_POINTS, FEW),
        at_pairs(f"32 slots - {NEAR_EXACT:g}", SLOTS32, "at or above", NEAR_EXACT, FEW),
    ),
    ("c05", "c26"),
)
POINTER_HELPS = ComparedClaim(
    "The pointer helps, and more with more pairs",
    "Section 5.3, Table 5",
    (
        *(
            at_pairs(f"pointer - none, {number} pairs", SLOTS32, "above", NO_POINTER, number)
            for number in PAIRS
        ),
        points(f"that gain, {MOST} - {FEW} pairs", _pointer_gain(MOST), "above", _pointer_gain(FEW)),
    ),
    ("c05", "c27"),
)
GATE_IDLE = ComparedClaim(
    "The write gate does not help: with it accuracy is at or below that of always writing",
    "Section 5.3, Table 5",
    tuple(
        at_pairs(f"gate - always, {number} pairs", SLOTS32, "at or below", NO_GATE, number)
        for number in PAIRS
    ),
    ("c05",),
)
ALWAYS_IS_BETTER = ComparedClaim(
    "Always writing works slightly better than the gate with 32 slots, which suffice: it is above it",
    "Section 5.3, Table 5",
    tuple(at_pairs(f"always - gate, {number} pairs", NO_GATE, "above", SLOTS32, number) for number in PAIRS),
    ("c28",),
)

TABLE5 = Study(
    name="table5",
    title="Table 5: SparsePointer taken apart, accuracy in percent",
    paper="Section 5.3, Table 5",
    question="What makes the memory of slots work: their number, the pointer to the answer, or the gate that "
    "decides what is written?",
    answer=sentence(
        f"With {FEW} pairs 16 slots answer {{few}} % and 32 slots {{enough}} %: {{threshold}}; {{pointer}}; "
        f"{{gate}}; 16 slots with a gate that starts half open answer {{half}} %.",
        few=Mean(accuracy(SLOTS16, FEW), 1),
        enough=Mean(accuracy(SLOTS32, FEW), 1),
        half=Mean(accuracy(HALF_GATE, FEW), 1),
        threshold=Said(
            (THRESHOLD,), "their number decides", "there is no such threshold", "the threshold is undecided"
        ),
        pointer=Said(
            (POINTER_HELPS,),
            "the pointer helps, more with more pairs",
            "the pointer does not help as the paper says",
            "whether the pointer helps is undecided",
        ),
        gate=Said(
            (GATE_IDLE,),
            "the gate does not help",
            "the gate helps at some number of pairs",
            "whether the gate helps is undecided",
        ),
    ),
    rows=(
        _ablation(SLOTS4, "4 slots, pointer", "slots4_pointer"),
        _ablation(SLOTS8, "8 slots, pointer", "slots8_pointer"),
        _ablation(SLOTS16, "16 slots, pointer", "slots16_pointer"),
        Row(experiment=HALF_GATE, label="16 slots, gate starts at 1/2 (not in the paper)"),
        _ablation(NO_POINTER, "32 slots, no pointer", "slots32_no_pointer"),
        _ablation(SLOTS32, "32 slots, pointer", "slots32_pointer"),
        _ablation(NO_GATE, "32 slots, pointer, always writing", "slots32_pointer_no_gate"),
        guessing_by_pairs(ON_MORE_PAIRS),
    ),
    columns=ON_PAIRS,
    claims=(
        TOO_FEW,
        THRESHOLD,
        POINTER_HELPS,
        GATE_IDLE,
        ALWAYS_IS_BETTER,
        ComparedClaim(
            f"Always writing to 32 slots is exact: at least {PERFECT} % at 4, 6 and 8 pairs (our bound; the "
            f"paper prints 100.0 %)",
            "Section 5.3, Table 5",
            tuple(
                at_pairs(f"always, {number} pairs - {PERFECT}", NO_GATE, "at or above", PERFECT, number)
                for number in PAIRS
            ),
            ("c26", "c28"),
        ),
        ComparedClaim(
            f"The pointer is not strictly required: without it 32 slots answer more than "
            f"{THRESHOLD_POINTS:g} % at 4, 6 and 8 pairs (our bound)",
            "Section 5.3, Table 5",
            tuple(
                at_pairs(
                    f"no pointer, {number} pairs - {THRESHOLD_POINTS:g}",
                    NO_POINTER,
                    "above",
                    THRESHOLD_POINTS,
                    number,
                )
                for number in PAIRS
            ),
            ("c27",),
        ),
        ComparedClaim(
            f"Filler pollutes the memory unless writes are sparse: with {FEW} pairs 16 slots whose gate "
            f"starts half open, and learns to write less, are more than {THRESHOLD_POINTS:g} points above 16 "
            f"whose gate starts open (our bound and our experiment)",
            "Section 5.3, which has no such experiment",
            (at_pairs("half open - open, 16 slots", HALF_GATE, "above", SLOTS16, FEW, THRESHOLD_POINTS),),
            touches=("c25",),
        ),
    ),
    figures=(
        Figure(
            name="table5-slots",
            title="Accuracy over the number of slots",
            caption="With pointer and write gate. Mean over the seeds with its 95 % interval; diamonds are "
            "the paper's values. Dotted lines: guessing among the values in the context; with 8 pairs "
            f"that is chance, {CHANCE} %. Points of one number of slots stand side by side.",
            draw=partial(
                draw_over,
                positions={
                    found.name: float(found.model.changes["slots"])
                    for found in (SLOTS4, SLOTS8, SLOTS16, SLOTS32)
                },
                keys=tuple(column.key for column in ON_PAIRS),
                labels=("slots", "accuracy of the answer, percent"),
            ),
        ),
    ),
    protocol=(*protocol_of(SLOTS4, SLOTS8, SLOTS16, HALF_GATE, NO_POINTER, SLOTS32, NO_GATE), FITTED),
    inspection=Inspection(
        experiment=SLOTS32,
        name="table5-inspection",
        title="What the memory holds",
        caption="One evaluation sequence read by SparsePointer with 32 slots (no dropout, first seed), as "
        "`unimatrix inspect` draws it. Grey: what a slot holds, from its write to the next one; squares: "
        "what a position reads. Right: the read of the last position, and the likeliest answers, each the "
        "sum of the vocabulary's own logit and the pointer's vote; the right one is marked.",
        record=Traced,
        trace=trace_checkpoint,
        draw=draw_slots,
    ),
)
