"""Table 6 of the paper: the corrected triple interaction under the staged curriculum, rule by rule.

And what the paper lacks: each rule's chance, the ceiling of the malformed original, an untyped memory.
"""

from functools import partial

from unimatrix.data.tasks.triple_audit import audit, guess_by_rule
from unimatrix.data.tasks.triple_interaction import RULES, chance_by_rule
from unimatrix.lab.charts import draw_panels
from unimatrix.lab.claims import ComparedClaim, Comparison, Measured, ShareOfParameters
from unimatrix.lab.study import Baseline, Column, Figure, Row, Study
from unimatrix.studies.experiments import experiment as recipe
from unimatrix.studies.paper.published import published_parameters, published_row
from unimatrix.studies.paper.recall_table import compared
from unimatrix.studies.paper.triple_experiments import LONGER, TRIPLE, TRIPLE_LR

BEYOND = "Untyped memory, not in the paper"
UNTRAINED = "Without training"
TRANSFORMER = "triple.transformer-triple"
TYPED = "triple.typed-latent"
POINTER, POINTER_LONGER = "triple.sparse-pointer", "triple.sparse-pointer-10x"

COLUMNS = tuple(
    Column(
        key=f"accuracy_{rule}",
        title=rule.capitalize(),
        digits=1,
        axis=f"accuracy of the answer, rule {rule}, percent",
    )
    for rule in RULES
)
HARDER_RULES = ("affine", "gate", "lookup")

CHANCE = {rule: 100.0 * share for rule, share in chance_by_rule(TRIPLE).items()}
PICKING = guess_by_rule(TRIPLE)
AUDIT = audit(TRIPLE)

# both fixed before any run. The paper prints 100.0 %, which is anything from 99.95 on; and its own attention
# baseline lies up to 3.3 points above a sixteenth on these rules
AS_PRINTED = 99.95
NEAR_POINTS = 5.0


def _row(experiment: str, label: str) -> Row:
    preset = experiment.partition(".")[2]
    printed = published_row("table6_triple_interaction", preset)
    return Row(
        experiment=recipe(experiment),
        label=label,
        paper={f"accuracy_{rule}": printed[rule] for rule in RULES},
        paper_parameters=published_parameters(preset, setting="triple_interaction_vocab53_positions49"),
    )


def _baseline(label: str, short: str, values: dict[str, float]) -> Baseline:
    keyed = {f"accuracy_{rule}": value for rule, value in values.items()}
    return Baseline(label=label, short=short, values=keyed, group=UNTRAINED)


def _near_chance(rule: str) -> Comparison:
    return compared(
        f"{rule} - {CHANCE[rule]:.2f}",
        Measured(TRANSFORMER, f"accuracy_{rule}"),
        "within",
        CHANCE[rule],
        bound=NEAR_POINTS,
    )


CLAIMS = (
    ComparedClaim(
        statement="Typed-Latent answers all four rules at 100.0 %, as printed: at or above "
        f"{AS_PRINTED} % (the whole interval of its mean)",
        source="Section 5.4, Table 6",
        comparisons=tuple(
            compared(f"{rule} - {AS_PRINTED}", Measured(TYPED, f"accuracy_{rule}"), "at or above", AS_PRINTED)
            for rule in RULES
        ),
    ),
    ShareOfParameters(
        statement="Typed-Latent has 17.2 % of the Transformer-Triple's parameters",
        source="Abstract, Table 6",
        model=TYPED,
        baseline=TRANSFORMER,
        percent=17.2,
    ),
    ComparedClaim(
        statement="Attention stays near chance on the harder rules, affine, gate and lookup (our margin: "
        f"{NEAR_POINTS:g} points)",
        source="Section 5.4, Table 6",
        comparisons=tuple(_near_chance(rule) for rule in HARDER_RULES),
    ),
)

TABLE6 = Study(
    name="table6",
    title="Table 6: corrected triple interaction, accuracy in percent",
    rows=(
        _row(TRANSFORMER, "Transformer-Triple"),
        _row(TYPED, "Typed-Latent"),
        Row(experiment=recipe(POINTER), label="SparsePointer, 32 slots", group=BEYOND),
        Row(
            experiment=recipe(POINTER_LONGER), label=f"SparsePointer, {LONGER} times the steps", group=BEYOND
        ),
        _baseline("The best constant answer: chance", "chance", CHANCE),
        _baseline(
            "Any of the sequence's values",
            "guessing",
            {rule: 100.0 * share for rule, share in PICKING.items()},
        ),
        _baseline(
            "Any predictor, without the task token",
            "ceiling",
            {rule: 100.0 * share for rule, share in AUDIT.by_rule.items()},
        ),
    ),
    columns=COLUMNS,
    claims=CLAIMS,
    figures=(
        Figure(
            name="table6-rules",
            title="Accuracy, rule by rule",
            caption="Mean over the seeds with its 95 % interval, each seed as a small point; diamonds are "
            "the paper's values, bars what is counted: each rule's chance, how often one of the sequence's "
            "values picked blindly is right, and the most that any predictor "
            "reaches where no task token says which rule is meant.",
            draw=partial(
                draw_panels, keys=tuple(column.key for column in COLUMNS), label="accuracy, percent"
            ),
        ),
    ),
    protocol=(
        f"Sequences: {TRIPLE.length} tokens. After BOS a task token, then {TRIPLE.num_tags} tags with a "
        "value in each of three roles A, B, C, a binding being tag, role and value side by side in any "
        "order, the "
        "bindings in any order and filler between them; the last token is one of the tags. Values and "
        f"answers are 0 to {TRIPLE.num_values - 1}.",
        "Rules: copy answers A; affine (3 A + 5 B + 7 C + 1) mod "
        f"{TRIPLE.num_values}; gate B if A < {TRIPLE.num_values // 2}, else C; lookup a fixed random table's "
        f"entry at A, B, C. A random table cannot be generalised, only covered: for lookup all values of a "
        f"sequence are among the first {TRIPLE.lookup_values}, {TRIPLE.lookup_values**3} triples. The paper "
        "leaves the formulas, the table and its domain open.",
        "The malformed original has no task token, so that one sequence is asked with every rule. The four "
        f"rules disagree on {AUDIT.num_ambiguous:,} of the {AUDIT.num_triples:,} triples, and no predictor, "
        f"however good, gets more than {100.0 * AUDIT.accuracy:.1f} % of the answers right. "
        "Counted over all triples, not trained.",
        f"Training: 4 phases of {TRIPLE.phase_steps} steps; phase n draws the rule among the first n. AdamW "
        f"at a constant learning rate of {TRIPLE_LR:g} (the paper does not say which), weight decay 0.01, "
        "batches of 32 sequences, loss at the answer alone, no dropout.",
        f"Not in the paper: SparsePointer, which is told of no roles and no rules, on the same budget and "
        f"with phases of {LONGER * (TRIPLE.phase_steps or 0):,} steps.",
        f"Evaluation: accuracy of the answer over {TRIPLE.eval_sequences:,} sequences of each rule that "
        "training never draws, others for each seed.",
    ),
)
