"""Table 4 of the paper: what explicit retrieval adds to associative recall, with dropout and without."""

from dataclasses import replace
from functools import partial

from unimatrix.lab.charts import draw_metric
from unimatrix.lab.claims import ComparedClaim, FewerParameters
from unimatrix.lab.study import Figure, Row, Study
from unimatrix.studies.experiments import experiment as recipe
from unimatrix.studies.paper.published import published
from unimatrix.studies.paper.recall_experiments import RECALL
from unimatrix.studies.paper.recall_table import (
    ACCURACY,
    BY_GUESSING,
    EVALUATION,
    FITTED,
    LOSS,
    MODELS,
    accuracy,
    compared,
    recall_row,
    task_sentence,
    training_sentence,
)

BEYOND = "Without dropout, not in the paper"
ORIGINAL, NO_DROPOUT, UNTRAINED = "With dropout 0.1", "Without dropout", "Without training"
ORIGINAL_TRANSFORMER = "recall.transformer"
ORIGINAL_SPARSE_POINTER = "recall.unimatrix-sparse-pointer"
TRANSFORMER = "recall-no-dropout.transformer"
ASSOC = "recall-no-dropout.unimatrix-assoc"
SPARSE_POINTER = "recall-no-dropout.unimatrix-sparse-pointer"

# "only marginally exceeds": our bound, fixed before any run; the paper prints 26.5 against 25.6 %
MARGINAL_POINTS = 5.0


def _row(experiment: str, label: str) -> Row:
    regime, preset = experiment.split(".")
    key, group = ("original", ORIGINAL) if regime == "recall" else ("no_dropout", NO_DROPOUT)
    loss, percent = published()["table4_retrieval"][key][preset]
    return recall_row(experiment, label, (loss, percent), preset=preset, group=group)


def _reaches(experiment: str, percent: float, recipe: str) -> ComparedClaim:
    return ComparedClaim(
        statement=f"SparsePointer reaches at least {percent} % {recipe} (the whole interval of its mean)",
        source="Section 5.3, Table 4",
        comparisons=(compared(f"SparsePointer - {percent}", accuracy(experiment), "at or above", percent),),
    )


TABLE4 = Study(
    name="table4",
    title="Table 4: recall with explicit retrieval, accuracy in percent",
    rows=(
        _row(ORIGINAL_TRANSFORMER, "Transformer"),
        _row(ORIGINAL_SPARSE_POINTER, "SparsePointer"),
        _row(TRANSFORMER, "Transformer"),
        _row(ASSOC, "UniMatrix-Assoc"),
        _row(SPARSE_POINTER, "SparsePointer"),
        Row(
            experiment=recipe("recall-no-dropout.transformer-normal"),
            label="Transformer, q k v from N(0, 0.02)",
            group=BEYOND,
        ),
        Row(
            experiment=recipe("recall-no-dropout.assoc-sharp"), label="UniMatrix-Assoc, tau = 8", group=BEYOND
        ),
        replace(BY_GUESSING, group=UNTRAINED),
    ),
    columns=(LOSS, ACCURACY),
    claims=(
        ComparedClaim(
            statement="Assoc exceeds the Transformer only marginally: by more than nothing and by less than "
            f"{MARGINAL_POINTS:g} points (our bound)",
            source="Section 5.3, Table 4",
            comparisons=(
                compared("Assoc - Transformer", accuracy(ASSOC), "above", accuracy(TRANSFORMER)),
                compared(
                    "Assoc - Transformer",
                    accuracy(ASSOC),
                    "below",
                    accuracy(TRANSFORMER),
                    bound=MARGINAL_POINTS,
                ),
            ),
        ),
        _reaches(ORIGINAL_SPARSE_POINTER, 75.6, "with dropout 0.1"),
        _reaches(SPARSE_POINTER, 99.2, "without dropout"),
        FewerParameters(
            statement="SparsePointer has fewer parameters than the Transformer, by 53.8 %",
            source="Section 5.3, Table 4",
            model=SPARSE_POINTER,
            baseline=TRANSFORMER,
            percent=53.8,
        ),
    ),
    figures=(
        Figure(
            name="table4-accuracy",
            title="Accuracy with explicit retrieval",
            caption="Mean over the seeds with its 95 % interval, each seed as a small point; diamonds are "
            "the paper's values, the bar what guessing gives. Higher is better.",
            draw=partial(draw_metric, key="accuracy"),
        ),
    ),
    protocol=(
        task_sentence(RECALL),
        MODELS,
        "SparsePointer: 32 slots, pointer, write gate. Assoc: an append-only memory of all tokens, tau = 4.",
        training_sentence(dropout="dropout 0.1 or none"),
        EVALUATION,
        FITTED,
    ),
)
