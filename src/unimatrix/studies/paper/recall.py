"""Section 5.3: associative recall without a memory (Table 3) and with one (Table 4).

One recipe: 200 steps of AdamW on 32 sequences of 128 tokens. `recall.*` trains with dropout 0.1, the paper's
original recipe; `recall-no-dropout.*` without. Accuracies are in percent and their differences in points,
losses in nats per answer.
"""

import math
from dataclasses import replace
from functools import partial
from typing import Any

from unimatrix.data.tasks import RecallConfig
from unimatrix.data.tasks.recall import chance, guess_accuracy, variants
from unimatrix.lab.answers import Mean, Said, sentence
from unimatrix.lab.claims import POINTS, ComparedClaim, Comparison, FewerParameters, Measured
from unimatrix.lab.protocol import protocol_of
from unimatrix.lab.study import Baseline, Column, Row, Study
from unimatrix.studies.makers import UNTRAINED, of_column
from unimatrix.studies.paper.published import ON_RECALL, printed, printed_parameters
from unimatrix.train.config import Experiment, LoopConfig, ModelChoice, OptimConfig

# the paper does not state it: settled from its printed losses of Core and ROSA (docs/fidelity.md)
RECALL_LR = 4e-4

# spelled out though they are the defaults: a default may change, the paper's recipe may not
RECALL = RecallConfig(
    num_pairs=4,
    num_keys=8,
    num_values=8,
    num_fillers=12,
    placement="start",
    length=128,
    vocab_size=64,
    eval_sequences=2048,
)
ON_MORE_PAIRS = replace(RECALL, eval_num_pairs=(4, 6, 8))

# fixed before any run: the paper names no margin. With 2,048 sequences and 5 seeds, the 95 % interval of an
# accuracy near 12.5 % reaches about 0.9 points to either side; the paper's own rows lie 0.4 to 1.2 above
NEAR_POINTS = 2.5
# "only marginally exceeds": the paper prints 26.5 against 25.6 %
MARGINAL_POINTS = 5.0


def recall_experiment(
    name: str, preset: str, *, dropout: float = 0.0, task: RecallConfig = RECALL, **changes: Any
) -> Experiment:
    """That model trained as the paper trains on recall; changes: of the preset."""
    return Experiment(
        name=name,
        model=ModelChoice(preset=preset, changes=changes, dropout=dropout, max_positions=128),
        task=task,
        optim=OptimConfig(lr=RECALL_LR, weight_decay=0.01, schedule="constant", warmup_steps=0, clip=None),
        loop=LoopConfig(steps=200, batch_size=32, seq_len=128),
    )


def sparse_pointer(name: str, *, task: RecallConfig = ON_MORE_PAIRS, **changes: Any) -> Experiment:
    """SparsePointer, with 32 slots, pointer and write gate where the changes say nothing else."""
    dropout = changes.pop("dropout", 0.0)
    memory = {"slots": 32, "pointer": True, "write_gate": True} | changes
    return recall_experiment(name, "unimatrix-sparse-pointer", dropout=dropout, task=task, **memory)


_PLAIN = "recall-no-dropout"
# as torch.nn.MultiheadAttention starts: from N(0, 0.02) the Transformer stays at chance (docs/fidelity.md)
TRANSFORMER = recall_experiment("recall.transformer", "transformer", dropout=0.1, qkv_init="xavier")
CORE, ROSA, DISCOVERY = (
    recall_experiment(f"recall.{preset}", preset, dropout=0.1)
    for preset in ("unimatrix-core", "unimatrix-rosa", "unimatrix-discovery")
)
ORIGINAL_POINTER = sparse_pointer("recall.unimatrix-sparse-pointer", dropout=0.1, task=RECALL)
PLAIN_TRANSFORMER = recall_experiment(f"{_PLAIN}.transformer", "transformer", qkv_init="xavier")
ASSOC = recall_experiment(f"{_PLAIN}.unimatrix-assoc", "unimatrix-assoc")
SLOTS32 = sparse_pointer(f"{_PLAIN}.unimatrix-sparse-pointer")
# not in the paper: q, k, v from N(0, 0.02); twice the temperature
NORMAL_TRANSFORMER = recall_experiment(f"{_PLAIN}.transformer-normal", "transformer")
SHARP_ASSOC = recall_experiment(f"{_PLAIN}.assoc-sharp", "unimatrix-assoc", temperature=8.0)

LOSS = Column(key="loss", title="Eval. loss", digits=3, axis="evaluation loss, nats per answer")
ACCURACY = Column(key="accuracy", title="Accuracy", digits=1, axis="accuracy of the answer, percent")

# a test holds that it is the task's own
CHANCE = printed("percentages", "recall_chance")
GUESSING = 100.0 * guess_accuracy(RECALL)
BY_CHANCE = Baseline(
    label=f"Guess among all {RECALL.num_values} values: chance",
    short="chance",
    values={"accuracy": 100.0 * chance(RECALL), "loss": math.log(RECALL.num_values)},
)
BY_GUESSING = Baseline(
    label="Guess among the context's values",
    short="guessing",
    values={"accuracy": GUESSING, "loss": math.log(RECALL.num_pairs)},
)
FITTED = (
    "What the paper leaves open (learning rate, how q, k, v and the write gate start, tau, when two keys are "
    "one) was settled by single runs on seeds 7, 11 and 1 that were held against its printed numbers."
)


def guessing_by_pairs(task: RecallConfig) -> Baseline:
    """Guessing among the context's values, for each number of pairs."""
    guesses = {f"accuracy_{name}": 100.0 * guess_accuracy(each) for name, each in variants(task).items()}
    return replace(BY_GUESSING, values=guesses)


def accuracy(experiment: Experiment, num_pairs: int | None = None) -> Measured:
    """An experiment's accuracy, on its own task or with another number of pairs."""
    return Measured(experiment, "accuracy" if num_pairs is None else f"accuracy_{num_pairs}_pairs")


# a comparison of accuracies: points(label, left, side, right, bound)
points = partial(Comparison, unit=POINTS)


def near(label: str, left: Measured, value: float) -> Comparison:
    """Within our margin of a number."""
    return points(f"{label} - {value}", left, "within", value, bound=NEAR_POINTS)


def at_pairs(
    label: str, left: Experiment, side: Any, right: Experiment | float, num_pairs: int, bound: float = 0.0
) -> Comparison:
    """A comparison of accuracies with that number of pairs."""
    other = accuracy(right, num_pairs) if isinstance(right, Experiment) else right
    return points(label, accuracy(left, num_pairs), side, other, bound=bound)


def _row(experiment: Experiment, label: str, *path: str, group: str = "") -> Row:
    preset = experiment.model.preset
    columns = {"loss": "eval_loss", "accuracy": "accuracy"}
    return Row(
        experiment=experiment,
        label=label,
        paper={key: printed(*path, preset, name) for key, name in columns.items()},
        paper_parameters=printed_parameters(preset, setting=ON_RECALL),
        group=group,
    )


def _near_chance(experiment: Experiment, label: str, *judges: str) -> ComparedClaim:
    return ComparedClaim(
        f"{label} stays near chance, {CHANCE} % (our margin: {NEAR_POINTS} points)",
        "Section 5.3, Table 3",
        (near(label, accuracy(experiment), CHANCE),),
        judges,
    )


WITHOUT_MEMORY = (
    _near_chance(CORE, "Core", "c02", "c25"),
    _near_chance(ROSA, "ROSA", "c02"),
    _near_chance(DISCOVERY, "Discovery", "c02", "c41"),
)
GUESSES = ComparedClaim(
    f"The Transformer reaches about 25.4 %: what guessing among the context's {RECALL.num_pairs} values "
    f"gives, {GUESSING} % (our margin: {NEAR_POINTS} points)",
    "Section 5.3, Table 3; that this is guessing is our reading",
    (near("Transformer", accuracy(TRANSFORMER), GUESSING),),
    ("c02",),
)

TABLE3 = Study(
    name="table3",
    title="Table 3: associative recall, evaluation loss and accuracy in percent",
    paper="Section 5.3, Table 3",
    question="Can a compressed recurrent state look up one of four pairs that it was told?",
    answer=sentence(
        "Core answers {core} %, ROSA {rosa} % and Discovery {discovery} % of the questions, where chance is "
        "{chance} %: {verdict}; the Transformer answers {transformer} %: {guesses}.",
        core=Mean(accuracy(CORE), 1),
        rosa=Mean(accuracy(ROSA), 1),
        discovery=Mean(accuracy(DISCOVERY), 1),
        transformer=Mean(accuracy(TRANSFORMER), 1),
        chance=f"{CHANCE:g}",
        verdict=Said(
            WITHOUT_MEMORY,
            "none of them can",
            "not all of them stay at chance",
            "these seeds do not decide whether all of them stay at chance",
        ),
        guesses=Said(
            (GUESSES,),
            f"no more than guessing among the values in the context, {GUESSING:g} %",
            f"not what guessing among the values in the context gives, {GUESSING:g} %",
            f"whether that is guessing among the values in the context, {GUESSING:g} %, these seeds leave "
            f"open",
        ),
    ),
    rows=(
        _row(TRANSFORMER, "Transformer", "table3_recall"),
        _row(CORE, "UniMatrix-Core", "table3_recall"),
        _row(ROSA, "UniMatrix-ROSA", "table3_recall"),
        _row(DISCOVERY, "UniMatrix-Discovery", "table3_recall"),
        BY_GUESSING,
        BY_CHANCE,
    ),
    columns=(LOSS, ACCURACY),
    claims=(*WITHOUT_MEMORY, GUESSES),
    figures=(
        of_column(
            "table3-accuracy",
            "Accuracy without a memory",
            "accuracy",
            bars="what guessing gives",
            higher=True,
        ),
    ),
    protocol=(*protocol_of(TRANSFORMER, CORE, ROSA, DISCOVERY), FITTED),
)


def _reaches(experiment: Experiment, regime: str, words: str) -> ComparedClaim:
    percent = printed("table4_retrieval", regime, "unimatrix-sparse-pointer", "accuracy")
    return ComparedClaim(
        f"SparsePointer reaches at least {percent} % {words} (the whole interval of its mean)",
        "Section 5.3, Table 4",
        (points(f"SparsePointer - {percent}", accuracy(experiment), "at or above", percent),),
        ("c04",),
    )


_OVER_TRANSFORMER = ("Assoc - Transformer", accuracy(ASSOC))
MARGINAL = ComparedClaim(
    "Assoc exceeds the Transformer only marginally: by more than nothing and by less than "
    f"{MARGINAL_POINTS:g} points (our bound)",
    "Section 5.3, Table 4",
    (
        points(*_OVER_TRANSFORMER, "above", accuracy(PLAIN_TRANSFORMER)),
        points(*_OVER_TRANSFORMER, "below", accuracy(PLAIN_TRANSFORMER), bound=MARGINAL_POINTS),
    ),
    ("c03", "c24"),
)
REACHES = (
    _reaches(ORIGINAL_POINTER, "original", "with dropout 0.1"),
    _reaches(SLOTS32, "no_dropout", "without dropout"),
)
POINTER_FEWER = printed("percentages", "sparse_pointer_fewer_parameters_recall")
BEYOND = "Without dropout, not in the paper"
_ORIGINAL, _NO_DROPOUT = ("table4_retrieval", "original"), ("table4_retrieval", "no_dropout")

TABLE4 = Study(
    name="table4",
    title="Table 4: recall with explicit retrieval, accuracy in percent",
    paper="Section 5.3, Table 4",
    question="What does an explicit memory add to recall: one that keeps every token, and one of a few "
    "slots?",
    answer=sentence(
        "Without dropout Assoc, which keeps every token, answers {assoc} % and SparsePointer, with 32 slots, "
        "{pointer} %, the Transformer {transformer} %: {verdict}; {marginal}.",
        assoc=Mean(accuracy(ASSOC), 1),
        pointer=Mean(accuracy(SLOTS32), 1),
        transformer=Mean(accuracy(PLAIN_TRANSFORMER), 1),
        verdict=Said(
            REACHES,
            "the slots reach what the paper prints, with dropout and without",
            "the slots do not reach both of the printed numbers",
            "these seeds do not decide whether the slots reach both of the printed numbers",
        ),
        marginal=Said(
            (MARGINAL,),
            "Assoc adds only little",
            "that Assoc adds just a little does not hold",
            "how much Assoc adds, these seeds leave open",
        ),
    ),
    rows=(
        _row(TRANSFORMER, "Transformer", *_ORIGINAL, group="With dropout 0.1"),
        _row(ORIGINAL_POINTER, "SparsePointer", *_ORIGINAL, group="With dropout 0.1"),
        _row(PLAIN_TRANSFORMER, "Transformer", *_NO_DROPOUT, group="Without dropout"),
        _row(ASSOC, "UniMatrix-Assoc", *_NO_DROPOUT, group="Without dropout"),
        _row(SLOTS32, "SparsePointer", *_NO_DROPOUT, group="Without dropout"),
        Row(experiment=NORMAL_TRANSFORMER, label="Transformer, q k v from N(0, 0.02)", group=BEYOND),
        Row(experiment=SHARP_ASSOC, label="UniMatrix-Assoc, tau = 8", group=BEYOND),
        replace(BY_GUESSING, group=UNTRAINED),
    ),
    columns=(LOSS, ACCURACY),
    claims=(
        MARGINAL,
        *REACHES,
        FewerParameters(
            f"SparsePointer has fewer parameters than the Transformer, by {POINTER_FEWER} %",
            "Section 5.3, Table 4",
            SLOTS32,
            PLAIN_TRANSFORMER,
            POINTER_FEWER,
            ("c04",),
        ),
        ComparedClaim(
            "A hierarchy: without dropout SparsePointer is above Assoc, and Assoc above the Transformer",
            "Section 5.3, Table 4",
            (
                points("SparsePointer - Assoc", accuracy(SLOTS32), "above", accuracy(ASSOC)),
                points(*_OVER_TRANSFORMER, "above", accuracy(PLAIN_TRANSFORMER)),
            ),
            ("c24",),
        ),
    ),
    figures=(
        of_column(
            "table4-accuracy",
            "Accuracy with explicit retrieval",
            "accuracy",
            bars="what guessing gives",
            higher=True,
        ),
    ),
    protocol=(
        *protocol_of(TRANSFORMER, ORIGINAL_POINTER, PLAIN_TRANSFORMER, ASSOC, SLOTS32, NORMAL_TRANSFORMER),
        "SparsePointer: 32 slots, pointer, write gate. Assoc: an append-only memory of all tokens, tau = 4.",
        FITTED,
    ),
)
