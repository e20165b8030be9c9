"""Table 3 of the paper: associative recall by the Transformer and the UniMatrix models without a memory."""

from functools import partial

from unimatrix.lab.charts import draw_metric
from unimatrix.lab.claims import ComparedClaim
from unimatrix.lab.study import Figure, Row, Study
from unimatrix.studies.paper.recall_experiments import RECALL
from unimatrix.studies.paper.recall_table import (
    ACCURACY,
    BY_CHANCE,
    BY_GUESSING,
    CHANCE,
    EVALUATION,
    FITTED,
    GUESSING,
    LOSS,
    MODELS,
    NEAR_POINTS,
    accuracy,
    compared,
    printed_pair,
    recall_row,
    task_sentence,
    training_sentence,
)

TRANSFORMER = "recall.transformer"
CORE = "recall.unimatrix-core"
ROSA = "recall.unimatrix-rosa"
DISCOVERY = "recall.unimatrix-discovery"


def _row(preset: str, label: str) -> Row:
    return recall_row(f"recall.{preset}", label, printed_pair("table3_recall", preset), preset=preset)


def _near_chance(experiment: str, label: str) -> ComparedClaim:
    return ComparedClaim(
        statement=f"{label} stays near chance, {CHANCE} % (our margin: {NEAR_POINTS} points)",
        source="Section 5.3, Table 3",
        comparisons=(
            compared(f"{label} - {CHANCE}", accuracy(experiment), "within", CHANCE, bound=NEAR_POINTS),
        ),
    )


TABLE3 = Study(
    name="table3",
    title="Table 3: associative recall, evaluation loss and accuracy in percent",
    rows=(
        _row("transformer", "Transformer"),
        _row("unimatrix-core", "UniMatrix-Core"),
        _row("unimatrix-rosa", "UniMatrix-ROSA"),
        _row("unimatrix-discovery", "UniMatrix-Discovery"),
        BY_GUESSING,
        BY_CHANCE,
    ),
    columns=(LOSS, ACCURACY),
    claims=(
        _near_chance(CORE, "Core"),
        _near_chance(ROSA, "ROSA"),
        _near_chance(DISCOVERY, "Discovery"),
        ComparedClaim(
            statement=f"The Transformer reaches about 25.4 %: what guessing among the context's "
            f"{RECALL.num_pairs} values gives, {GUESSING} % (our margin: {NEAR_POINTS} points)",
            source="Section 5.3, Table 3; that this is guessing is our reading",
            comparisons=(
                compared(
                    f"Transformer - {GUESSING}",
                    accuracy(TRANSFORMER),
                    "within",
                    GUESSING,
                    bound=NEAR_POINTS,
                ),
            ),
        ),
    ),
    figures=(
        Figure(
            name="table3-accuracy",
            title="Accuracy without a memory",
            caption="Mean over the seeds with its 95 % interval, each seed as a small point; diamonds are "
            "the paper's values, bars what guessing gives. Higher is better.",
            draw=partial(draw_metric, key="accuracy"),
        ),
    ),
    protocol=(
        task_sentence(RECALL),
        MODELS,
        training_sentence(dropout="dropout 0.1"),
        EVALUATION,
        FITTED,
    ),
)
