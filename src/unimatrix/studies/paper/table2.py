"""Table 2 of the paper: the latent-compression models on text, at matched width and at matched parameters,
and the matched-width ones on associative recall.

A row's bits per byte and its accuracy come from two trainings, one on the text and one on the task.
"""

from dataclasses import replace
from functools import partial

from unimatrix.lab.charts import draw_metric
from unimatrix.lab.claims import BPB, ComparedClaim, Comparison, Measured
from unimatrix.lab.study import Column, Figure, Row, Study
from unimatrix.studies.experiments import experiment as recipe
from unimatrix.studies.paper.published import published, published_parameters
from unimatrix.studies.paper.recall_experiments import RECALL, RECALL_LR
from unimatrix.studies.paper.recall_table import (
    BY_CHANCE,
    BY_GUESSING,
    CHANCE,
    EVALUATION,
    NEAR_POINTS,
    accuracy,
    compared,
    task_sentence,
)

MATCHED_WIDTH, MATCHED_PARAMETERS = "Matched width", "Matched parameters"
UNTRAINED = "Without training"
TRANSFORMER = "table1.transformer"
LATENT, SLOT, HYBRID = "table2.triple-latent", "table2.triple-slot", "table2.triple-hybrid"
LATENT_D60, SLOT_D60 = "table2.triple-latent-d60", "table2.triple-slot-d60"
HYBRID_D56 = "table2.triple-hybrid-d56"
LABELS = {LATENT: "Triple-Latent", SLOT: "Triple-Slot", HYBRID: "Triple-Hybrid"}
RECALL_OF = {name: name.replace("table2.", "recall.") for name in LABELS}

TEXT = Column(key="bpb", title="BPB", digits=3, axis="validation bits per byte")
ON_RECALL = Column(key="accuracy", title="Recall", digits=1, axis="accuracy on associative recall, percent")


def _row(experiment: str, label: str, recall: str) -> Row:
    preset = experiment.partition(".")[2]
    bpb, percent = published()["table2"]["matched_width"][preset]
    return Row(
        experiment=recipe(experiment),
        label=label,
        paper={"bpb": bpb, "accuracy": percent},
        paper_parameters=published_parameters(preset),
        elsewhere={"accuracy": recipe(recall)},
        group=MATCHED_WIDTH,
    )


def _narrower_row(experiment: str, label: str) -> Row:
    preset = experiment.partition(".")[2]
    return Row(
        experiment=recipe(experiment),
        label=label,
        paper={"bpb": published()["table2"]["parameter_matched"][preset]},
        paper_parameters=published_parameters(preset),
        group=MATCHED_PARAMETERS,
    )


def _below(left: str, right: str, label: str) -> Comparison:
    return Comparison(
        label=label, left=Measured(left, "bpb"), right=Measured(right, "bpb"), side="below", unit=BPB
    )


CLAIMS = (
    ComparedClaim(
        statement="All three matched-width latent models beat the Transformer's bits per byte",
        source="Section 5.2, Table 2",
        comparisons=tuple(
            _below(name, TRANSFORMER, f"{label} - Transformer") for name, label in LABELS.items()
        ),
    ),
    ComparedClaim(
        statement="At matched width Triple-Hybrid is the lowest of the four",
        source="Section 5.2, Table 2",
        comparisons=(
            _below(HYBRID, TRANSFORMER, "Triple-Hybrid - Transformer"),
            _below(HYBRID, LATENT, "Triple-Hybrid - Triple-Latent"),
            _below(HYBRID, SLOT, "Triple-Hybrid - Triple-Slot"),
        ),
    ),
    ComparedClaim(
        statement="With about the Transformer's parameters Triple-Hybrid (d = 56) is still the lowest of the "
        "four",
        source="Section 5.2, Table 2",
        comparisons=(
            _below(HYBRID_D56, TRANSFORMER, "Triple-Hybrid d = 56 - Transformer"),
            _below(HYBRID_D56, LATENT_D60, "Triple-Hybrid d = 56 - Triple-Latent d = 60"),
            _below(HYBRID_D56, SLOT_D60, "Triple-Hybrid d = 56 - Triple-Slot d = 60"),
        ),
    ),
    ComparedClaim(
        statement=f"Recall is unmoved: all three stay near chance, {CHANCE} % (our margin: {NEAR_POINTS} "
        "points)",
        source="Section 5.2, Table 2",
        comparisons=tuple(
            compared(f"{label} - {CHANCE}", accuracy(RECALL_OF[name]), "within", CHANCE, bound=NEAR_POINTS)
            for name, label in LABELS.items()
        ),
    ),
)

TABLE2 = Study(
    name="table2",
    title="Table 2: latent compression, validation BPB and recall accuracy in percent",
    rows=(
        _row(TRANSFORMER, "Transformer", "recall.transformer"),
        *(_row(name, label, RECALL_OF[name]) for name, label in LABELS.items()),
        _narrower_row(LATENT_D60, "Triple-Latent, d60"),
        _narrower_row(SLOT_D60, "Triple-Slot, d60"),
        _narrower_row(HYBRID_D56, "Triple-Hybrid, d56"),
        replace(BY_GUESSING, group=UNTRAINED),
        replace(BY_CHANCE, group=UNTRAINED),
    ),
    columns=(TEXT, ON_RECALL),
    claims=CLAIMS,
    figures=(
        Figure(
            name="table2-bpb",
            title="Latent compression: validation bits per byte",
            caption="Mean over the seeds with its 95 % interval, each seed as a small point; diamonds are "
            "the paper's values. Lower is better.",
            draw=partial(draw_metric, key="bpb"),
        ),
        Figure(
            name="table2-recall",
            title="Latent compression: accuracy on associative recall",
            caption="Mean over the seeds with its 95 % interval, each seed as a small point; diamonds are "
            "the paper's values, bars what guessing gives. Higher is better.",
            draw=partial(draw_metric, key="accuracy"),
        ),
    ),
    protocol=(
        "Each model: 3 layers, 4 heads, state dimension 16, 128 learned positions, N(0, 0.02) "
        "initialisation, dropout 0.1; d = 64, and 60 or 56 where the parameters are matched. The Triple "
        "models see token ids alone, no roles and no rules.",
        "Read out of the counts and of single runs with seed 7, held against the printed numbers: "
        "Triple-Slot's 2 slots a head with addresses that the heads share; Triple-Hybrid's convolution over "
        "5 tokens, once a model, from the embedded tokens through GELU past the blocks and behind the last "
        "LayerNorm. Anywhere before that LayerNorm it is worth nothing (docs/fidelity.md).",
        "Text: Table 1's recipe. 80 steps of AdamW at a constant learning rate of 3e-4, batches of 16 "
        "windows of 128 bytes; bits per byte over the whole validation text. The Transformer's runs are "
        "Table 1's.",
        "Recall: Table 3's recipe, a second training of each model. 200 steps of AdamW at a constant "
        f"learning rate of {RECALL_LR:g}, batches of 32 sequences. The Transformer's runs are Table 3's, in "
        "which its q, k, v start as torch.nn.MultiheadAttention's do. The parameters shown are those "
        f"of the models of text; with recall's {RECALL.vocab_size} tokens there are fewer.",
        task_sentence(RECALL),
        EVALUATION,
    ),
)
