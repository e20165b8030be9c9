"""Section 5.4: the corrected triple interaction under the staged curriculum, rule by rule (Table 6).

And what the paper lacks: each rule's chance, the ceiling of the malformed original, an untyped memory
(`triple.sparse-pointer`, and `-10x` with ten times the steps).
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from unimatrix.data.tasks import TripleInteractionConfig
from unimatrix.data.tasks.triple_audit import audit, guess_by_rule
from unimatrix.data.tasks.triple_interaction import RULES, chance_by_rule
from unimatrix.lab.answers import Mean, Said, sentence
from unimatrix.lab.claims import (
    POINTS,
    ComparedClaim,
    Comparison,
    CountedClaim,
    Measured,
    ShareOfParameters,
)
from unimatrix.lab.figures import draw_panels
from unimatrix.lab.protocol import protocol_of
from unimatrix.lab.study import Baseline, Column, Figure, Row, Study
from unimatrix.studies.makers import UNTRAINED
from unimatrix.studies.paper.published import ON_TRIPLES, printed, printed_parameters
from unimatrix.train.config import Experiment, LoopConfig, ModelChoice, OptimConfig

# the paper does not state it: that of the associative recall
TRIPLE_LR = 4e-4

# spelled out though they are the defaults: a default may change, the paper's recipe may not
TRIPLE = TripleInteractionConfig(
    rules=RULES,
    num_tags=4,
    num_tag_symbols=8,
    num_values=16,
    lookup_values=4,
    table_seed=0,
    task_token=True,
    phase_steps=200,
    length=49,
    vocab_size=53,
    eval_sequences=2048,
)
LONGER = 10

HARDER_RULES = ("affine", "gate", "lookup")
CHANCE = {rule: 100.0 * share for rule, share in chance_by_rule(TRIPLE).items()}
PICKING = {rule: 100.0 * share for rule, share in guess_by_rule(TRIPLE).items()}
AUDIT = audit(TRIPLE)

# both fixed before any run. The paper prints 100.0 %, which is anything from 99.95 on; and its own attention
# baseline lies up to 3.3 points above a sixteenth on these rules
AS_PRINTED = 99.95
NEAR_POINTS = 5.0


def triple_experiment(name: str, preset: str, *, budget: int = 1, **changes: int) -> Experiment:
    """That model under the staged curriculum; `budget` times the steps of the paper's phases."""
    task = replace(TRIPLE, phase_steps=200 * budget)
    return Experiment(
        name=f"triple.{name}",
        model=ModelChoice(preset=preset, changes=changes, dropout=0.0, max_positions=49),
        task=task,
        optim=OptimConfig(lr=TRIPLE_LR, weight_decay=0.01, schedule="constant", warmup_steps=0, clip=None),
        loop=LoopConfig(steps=len(RULES) * 200 * budget, batch_size=32, seq_len=49),
    )


TRANSFORMER, TYPED = (triple_experiment(preset, preset) for preset in ("transformer-triple", "typed-latent"))
POINTER = triple_experiment("sparse-pointer", "unimatrix-sparse-pointer", slots=32)
POINTER_LONGER = triple_experiment("sparse-pointer-10x", "unimatrix-sparse-pointer", budget=LONGER, slots=32)


def on(experiment: Experiment, rule: str) -> Measured:
    """An experiment's accuracy on one rule."""
    return Measured(experiment, f"accuracy_{rule}")


def _row(experiment: Experiment, label: str) -> Row:
    preset = experiment.model.preset
    return Row(
        experiment=experiment,
        label=label,
        paper={f"accuracy_{rule}": printed("table6_triple_interaction", preset, rule) for rule in RULES},
        paper_parameters=printed_parameters(preset, setting=ON_TRIPLES),
    )


def _baseline(label: str, short: str, values: Mapping[str, float]) -> Baseline:
    keyed = {f"accuracy_{rule}": value for rule, value in values.items()}
    return Baseline(label=label, short=short, values=keyed, group=UNTRAINED)


COLUMNS = tuple(
    Column(
        key=f"accuracy_{rule}",
        title=rule.capitalize(),
        digits=1,
        axis=f"accuracy of the answer, rule {rule}, percent",
    )
    for rule in RULES
)
GUESSED = (
    _baseline("The best constant answer: chance", "chance", CHANCE),
    _baseline("Any of the sequence's values", "guessing", PICKING),
)


def _exact(*rules: str) -> tuple[Comparison, ...]:
    return tuple(
        Comparison(f"{rule} - {AS_PRINTED}", on(TYPED, rule), "at or above", AS_PRINTED, POINTS)
        for rule in rules
    )


SOLVED = ComparedClaim(
    f"Typed-Latent answers all four rules at 100.0 %, as printed: at or above {AS_PRINTED} % (the whole "
    f"interval of its mean)",
    "Section 5.4, Table 6",
    _exact(*RULES),
    ("c07", "c44"),
)
SHARE = printed("percentages", "typed_latent_share_of_transformer_triple")
NEAR_CHANCE = ComparedClaim(
    "Attention stays near chance on the harder rules, affine, gate and lookup (our margin: "
    f"{NEAR_POINTS:g} points)",
    "Section 5.4, Table 6",
    tuple(
        Comparison(
            f"{rule} - {CHANCE[rule]:.2f}", on(TRANSFORMER, rule), "within", CHANCE[rule], POINTS, NEAR_POINTS
        )
        for rule in HARDER_RULES
    ),
    ("c29",),
)
AMBIGUOUS = (
    f"The four rules disagree on {AUDIT.num_ambiguous:,} of the {AUDIT.num_triples:,} triples, and no "
    f"predictor, however good, gets more than {100.0 * AUDIT.accuracy:.1f} % of the answers right without a "
    f"task token."
)

TABLE6 = Study(
    name="table6",
    title="Table 6: corrected triple interaction, accuracy in percent",
    paper="Sections 3.4 and 5.4, Table 6",
    question="Can a latent state hold what three values together mean, and how much of that is given by "
    "hand?",
    answer=sentence(
        "Typed-Latent, which knows tags and roles, answers {typed} % of the lookups: {verdict}; "
        "SparsePointer, told of neither, answers {pointer} % of the copies where picking any value is right "
        "in {picking} %.",
        typed=Mean(on(TYPED, "lookup"), 1),
        pointer=Mean(on(POINTER, "copy"), 1),
        picking=f"{PICKING['copy']:.1f}",
        verdict=Said(
            (SOLVED,),
            "it is exact on all four rules",
            "it is not exact on all four rules",
            "these seeds do not decide whether it is exact on all four rules",
        ),
    ),
    rows=(
        _row(TRANSFORMER, "Transformer-Triple"),
        _row(TYPED, "Typed-Latent"),
        *(
            Row(experiment=found, label=f"SparsePointer, {label}", group="Untyped memory, not in the paper")
            for found, label in ((POINTER, "32 slots"), (POINTER_LONGER, f"{LONGER} times the steps"))
        ),
        *GUESSED,
        _baseline(
            "Any predictor, without the task token",
            "ceiling",
            {rule: 100.0 * share for rule, share in AUDIT.by_rule.items()},
        ),
    ),
    columns=COLUMNS,
    claims=(
        SOLVED,
        ShareOfParameters(
            f"Typed-Latent has {SHARE} % of the Transformer-Triple's parameters",
            "Abstract, Table 6",
            TYPED,
            TRANSFORMER,
            SHARE,
            ("c07",),
        ),
        NEAR_CHANCE,
        CountedClaim(
            "Without a task token one sequence has several right answers",
            "Sections 3.4 and 5.4",
            AUDIT.num_ambiguous > 0,
            (AMBIGUOUS,),
            ("c06", "c14"),
        ),
        ComparedClaim(
            f"A learned table answers the three-way lookup as printed: at or above {AS_PRINTED} %",
            "Section 3.4, Table 6",
            _exact("lookup"),
            ("c15",),
        ),
    ),
    figures=(
        Figure(
            name="table6-rules",
            title="Accuracy, rule by rule",
            caption="Mean over the seeds with its 95 % interval, each seed as a small point; diamonds are "
            "the paper's values, bars what is counted: each rule's chance, how often one of the sequence's "
            "values picked blindly is right, and the most that any predictor "
            "reaches where no task token says which rule is meant.",
            draw=partial(
                draw_panels, keys=tuple(f"accuracy_{rule}" for rule in RULES), label="accuracy, percent"
            ),
        ),
    ),
    protocol=(
        *protocol_of(TRANSFORMER, TYPED, POINTER, POINTER_LONGER),
        "The malformed original has no task token, so that one sequence is asked with every rule. "
        f"{AMBIGUOUS} Counted over all triples, not trained.",
        "Not in the paper: SparsePointer, which is told of no roles and no rules, on the same budget and "
        f"with phases {LONGER} times as long.",
    ),
)
