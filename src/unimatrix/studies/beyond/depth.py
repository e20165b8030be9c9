"""Depth (not in the paper): what a shared block gains by being applied again, in training and after it.

The paper shares one block over three depth steps for more compute without more parameters. Here it is trained
at 1 to 6 steps, without and with step embeddings, and each trained model is evaluated at 1 to 12 with the
same weights (`unimatrix.evals.at_depth`). Beside it stand separate blocks, as wide, which take the same
multiply-adds and more parameters, and narrower ones with as many parameters. On text the block is Core's; on
recall Assoc's with twice the temperature, since Core alone stays at chance at every depth (docs/log.md).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from unimatrix.lab.answers import Mean, Said, sentence
from unimatrix.lab.claims import BPB, POINTS, ComparedClaim, Comparison, Measured, Side, Unit
from unimatrix.lab.figures import draw_over_columns
from unimatrix.lab.protocol import protocol_of
from unimatrix.lab.study import Column, Figure, Row, Study
from unimatrix.mixers import StepEmbeddingsConfig
from unimatrix.studies.makers import NOT_IN_THE_PAPER
from unimatrix.studies.paper.recall import RECALL, SHARP_ASSOC
from unimatrix.train.config import Experiment, LoopConfig, ModelChoice, OptimConfig

DEPTHS = (1, 2, 3, 4, 5, 6)
EVALUATED = tuple(range(1, 13))
DEEPEST = DEPTHS[-1]
SHARED, STEPS, SEPARATE, NARROW = "shared", "steps", "separate", "narrow"
GROUPS = {
    SHARED: "One block, applied so often",
    STEPS: "The same with step embeddings",
    SEPARATE: "Separate blocks, as wide: equal multiply-adds",
    NARROW: "Separate blocks, narrower: equal parameters",
}
# fixed before any run: no worse at twice the trained depth than by so much
MARGIN_BPB, MARGIN_POINTS = 0.05, 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """What is learned: a text or a task; how it is measured, and what counts as better.

    widths: by depth, those of separate blocks with as many parameters as the shared one (a test counts).
    """

    name: str
    like: Experiment
    metric: str
    unit: Unit
    better: Side
    no_worse: float
    digits: int
    axis: str
    widths: Mapping[int, int]


TEXT = Kind(
    name="depth-text",
    like=Experiment(
        model=ModelChoice(preset="unimatrix-core", dropout=0.0, max_positions=128),
        optim=OptimConfig(lr=3e-3, weight_decay=0.01, schedule="cosine", warmup_steps=20, clip=1.0),
        loop=LoopConfig(steps=300, batch_size=16, seq_len=128, eval_every=100, eval_bytes=65_536),
    ),
    metric="bpb",
    unit=BPB,
    better="below",
    no_worse=MARGIN_BPB,
    digits=3,
    axis="validation bits per byte",
    widths={2: 45, 3: 35, 4: 30, 5: 26, 6: 23},
)
ON_RECALL = Kind(
    name="depth-recall",
    # Table 4's recipe, for twice the steps
    like=replace(
        SHARP_ASSOC,
        task=replace(RECALL, eval_sequences=1024),
        loop=replace(SHARP_ASSOC.loop, steps=400),
    ),
    metric="accuracy",
    unit=POINTS,
    better="above",
    no_worse=-MARGIN_POINTS,
    digits=1,
    axis="accuracy, percent",
    widths={2: 44, 3: 34, 4: 29, 5: 25, 6: 22},
)


def deep_experiment(kind: Kind, form: str, depth: int) -> Experiment:
    """The kind's model with so many depth steps, in one of the forms of GROUPS."""
    changes: dict[str, Any] = dict(kind.like.model.changes)
    changes |= {"order": tuple(range(depth))} if form in (SEPARATE, NARROW) else {"depth": depth}
    if form == NARROW:
        changes["d_model"] = kind.widths[depth]
    if form == STEPS:
        changes["parts.steps"] = StepEmbeddingsConfig()
    loop = replace(kind.like.loop, eval_depths=EVALUATED if form in (SHARED, STEPS) else None)
    return replace(
        kind.like,
        name=f"{kind.name}.{form}-{depth}",
        model=replace(kind.like.model, changes=changes),
        loop=loop,
    )


def experiments_of(kind: Kind) -> dict[tuple[str, int], Experiment]:
    """All of them by form and depth; one block is nobody's to share."""
    return {
        (form, depth): deep_experiment(kind, form, depth)
        for form in GROUPS
        for depth in (DEPTHS if form in (SHARED, STEPS) else DEPTHS[1:])
    }


def _claims(kind: Kind, found: Mapping[tuple[str, int], Experiment]) -> dict[str, ComparedClaim]:
    def own(form: str, depth: int) -> Measured:
        return Measured(found[form, depth], kind.metric)

    def at(form: str, trained: int, depth: int) -> Measured:
        return Measured(found[form, trained], f"{kind.metric}_{depth}_deep")

    def better(label: str, left: Measured, right: Measured) -> Comparison:
        return Comparison(label, left, kind.better, right, kind.unit)

    def again(form: str) -> ComparedClaim:
        no_worse: Side = "at or below" if kind.better == "below" else "at or above"
        return ComparedClaim(
            f"{GROUPS[form]}: at twice the depth of its training it is no worse (our margin: "
            f"{abs(kind.no_worse):g} {kind.unit.difference})",
            NOT_IN_THE_PAPER,
            tuple(
                Comparison(
                    f"trained at {depth}, {2 * depth} - {depth} steps",
                    at(form, depth, 2 * depth),
                    no_worse,
                    at(form, depth, depth),
                    kind.unit,
                    bound=kind.no_worse,
                )
                for depth in DEPTHS
            ),
        )

    top = DEEPEST
    return {
        "compute": ComparedClaim(
            f"More compute without more parameters helps: one block applied {top} times is better than once",
            NOT_IN_THE_PAPER,
            (better(f"{top} - 1 steps", own(SHARED, top), own(SHARED, 1)),),
        ),
        "adds": ComparedClaim(
            f"At equal multiply-adds {top} separate blocks are better than one applied {top} times",
            NOT_IN_THE_PAPER,
            (better("separate - shared", own(SEPARATE, top), own(SHARED, top)),),
        ),
        "parameters": ComparedClaim(
            f"At equal parameters one block applied {top} times is better than {top} separate, narrower ones",
            NOT_IN_THE_PAPER,
            (better("shared - separate", own(SHARED, top), own(NARROW, top)),),
        ),
        "again": again(SHARED),
        "again with steps": again(STEPS),
    }


def depth_study(kind: Kind, title: str, question: str) -> Study:
    """The study of one kind."""
    found = experiments_of(kind)
    claims = _claims(kind, found)
    deep = tuple(
        Column(
            key=f"{kind.metric}_{depth}_deep",
            title=f"At {depth}",
            digits=kind.digits,
            axis=f"{kind.axis}, the block applied {depth} times",
        )
        for depth in EVALUATED
    )
    own = Column(key=kind.metric, title="As trained", digits=kind.digits, axis=f"{kind.axis}, as trained")
    rows = tuple(
        Row(experiment=one, label=f"{form.capitalize()}, {depth}", group=GROUPS[form])
        for (form, depth), one in found.items()
    )

    def draw(study: Study, samples: Any) -> Any:
        # a trained depth is drawn alike in both panels
        shared = tuple(
            Row(experiment=found[form, depth], label=f"trained at {depth}", group=GROUPS[form])
            for form in (SHARED, STEPS)
            for depth in DEPTHS
        )
        return draw_over_columns(
            replace(study, rows=shared, columns=deep),
            samples,
            positions={column.key: depth for column, depth in zip(deep, EVALUATED, strict=True)},
            labels=("depth steps in evaluation", kind.axis),
            log="",
            within=(0.0, 100.0) if kind.metric == "accuracy" else None,
        )

    def mean(form: str, depth: int) -> Mean:
        return Mean(Measured(found[form, depth], kind.metric), kind.digits)

    return Study(
        name=kind.name,
        title=title,
        question=question,
        answer=sentence(
            f"One block applied once has {{once}} {kind.unit.value}, applied {DEEPEST} times {{often}}; "
            f"{DEEPEST} separate blocks as wide {{separate}}, with as many parameters {{narrow}}: "
            "{compute}, and {parameters}. Applied twice as often as in training, {again}.",
            once=mean(SHARED, 1),
            often=mean(SHARED, DEEPEST),
            separate=mean(SEPARATE, DEEPEST),
            narrow=mean(NARROW, DEEPEST),
            compute=Said(
                (claims["compute"],),
                "more compute without more parameters helps",
                "more compute without more parameters does not help",
                "whether more compute without more parameters helps, these seeds leave open",
            ),
            parameters=Said(
                (claims["parameters"],),
                "at equal parameters sharing is better",
                "at equal parameters sharing is not better",
                "whether sharing is better at equal parameters is open",
            ),
            again=Said(
                (claims["again"],),
                "it is no worse",
                "it is worse",
                "it may be worse or not",
            ),
        ),
        rows=rows,
        columns=(own, *(deep[depth - 1] for depth in (1, 3, 6, 12))),
        claims=tuple(claims.values()),
        figures=(
            Figure(
                name=f"{kind.name}-applied",
                title="By how often the trained block is applied",
                caption="A line for each trained depth; mean over the seeds with its 95 % interval. "
                f"{'Lower' if kind.better == 'below' else 'Higher'} is better.",
                draw=draw,
            ),
        ),
        protocol=(
            *protocol_of(*found.values()),
            "Evaluated at another depth the weights are the same and the one block is applied so often; of "
            "step embeddings every step beyond the trained ones takes the last one's vector again. Those "
            "evaluations read the first 65,536 bytes of a validation text, the column of the trained depth "
            "all of it."
            if kind is TEXT
            else "The block is UniMatrix-Assoc's with tau = 8, since UniMatrix-Core stays at chance at every "
            "depth. Evaluated at another depth the weights are the same and the one block is applied so "
            "often; of step embeddings every step beyond the trained ones takes the last one's vector again.",
        ),
    )


DEPTH_TEXT = depth_study(
    TEXT,
    "Depth on text (not in the paper): validation BPB by trained and by evaluated depth",
    "Does a shared block read text better when it is applied more often, in training or only afterwards?",
)
DEPTH_RECALL = depth_study(
    ON_RECALL,
    "Depth on recall (not in the paper): accuracy in percent by trained and by evaluated depth",
    "Does a shared block recall better when it is applied more often, in training or only afterwards?",
)
