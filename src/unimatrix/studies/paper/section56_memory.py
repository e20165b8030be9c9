"""Section 5.6 of the paper on memory: recall and signal versus noise at length 64, against Mamba-2.

Each model is trained twice, once on each task, and evaluated after two numbers of steps: the paper does not
say how long it trained, so its value of a task stands beside both.
"""

from collections.abc import Mapping
from functools import partial

from unimatrix.data.tasks import recall, signal_noise
from unimatrix.lab.charts import draw_metric
from unimatrix.lab.claims import ComparedClaim, Comparison, Measured, Side
from unimatrix.lab.study import Baseline, Column, Figure, Row, Study
from unimatrix.studies.experiments import experiment as recipe
from unimatrix.studies.paper.published import published
from unimatrix.studies.paper.recall_table import NEAR_POINTS, compared, task_sentence
from unimatrix.studies.paper.recurrent_experiments import (
    MEMORY_BATCH_SIZE,
    MEMORY_DROPOUT,
    MEMORY_LR,
    MEMORY_QKV_INIT,
    MEMORY_STEPS,
    RECALL64,
    SIGNAL_NOISE,
)
from unimatrix.studies.paper.section56_text import BEYOND, LABELS, MAMBA2, MODELS

UNTRAINED = "Without training"
SOURCE = "Section 5.6"
RECALL_KEY, SIGNAL_KEY = "recall", "signal_noise"
PRINTED = {
    key: published()["section_5_6_recurrent_ffn"][name]
    for key, name in (
        (RECALL_KEY, "recall_length64_accuracy"),
        (SIGNAL_KEY, "signal_vs_noise_length64_accuracy"),
    )
}
CHANCE = {
    RECALL_KEY: 100.0 * recall.chance(RECALL64),
    SIGNAL_KEY: 100.0 * signal_noise.chance(SIGNAL_NOISE),
}
GUESSING = {
    RECALL_KEY: 100.0 * recall.guess_accuracy(RECALL64),
    SIGNAL_KEY: 100.0 * signal_noise.guess_accuracy(SIGNAL_NOISE),
}
_START = (
    "q, k, v start as torch.nn.MultiheadAttention's do"
    if MEMORY_QKV_INIT == "xavier"
    else "q, k, v start like all other weights, unlike the Transformer's in Tables 3 to 5"
)

# an inference of ours, and no more: tests check its arithmetic
_PRECISION = (
    "The paper does not say how many sequences it evaluated. Its five different accuracies are, rounded, all "
    "whole multiples of 1/512 (15.8 = 81/512, 10.2 = 52/512, 7.0 = 36/512, 12.7 = 65/512, 8.6 = 44/512) and "
    "not of a smaller power of two, so that it seems to have been 512, although any number from 1,000 on "
    f"would fit too. Over 512 sequences chance, {CHANCE[RECALL_KEY]:g} % here, has a standard deviation of "
    "1.1 points in a single run."
)


def after(key: str, step: int) -> str:
    """The column that shows a task's accuracy after so many steps."""
    return f"{key}_{step}"


def section56_memory(steps: tuple[int, int]) -> Study:
    """The table of runs that were evaluated after these steps, the second of which is their end."""
    return Study(
        name="section5.6-memory",
        title="Section 5.6, memory: recall and signal versus noise, accuracy (%) by steps",
        rows=(
            _row("transformer", steps),
            _row("mamba2", steps),
            _row("recurrent-ffn", steps),
            _row("recurrent-ffn-readout", steps, group=BEYOND),
            _row("recurrent-ffn-hybrid", steps, group=BEYOND),
            _baseline("Any value that stands there", "guessing", GUESSING, steps),
            _baseline("Any of all values: chance", "chance", CHANCE, steps),
        ),
        columns=(
            # short: four columns must fit a terminal
            *_columns(RECALL_KEY, "Recall", "associative recall", steps),
            *_columns(SIGNAL_KEY, "Signal", "signal versus noise", steps),
        ),
        claims=tuple(claim for step in steps for claim in _claims(step)),
        figures=tuple(
            _figure(key, title, step)
            for key, title in ((RECALL_KEY, "Associative recall"), (SIGNAL_KEY, "Signal versus noise"))
            for step in steps
        ),
        protocol=_protocol(steps),
    )


def _at_all(values: Mapping[str, float], steps: tuple[int, int]) -> dict[str, float]:
    """A task's value in each of its columns."""
    return {after(key, step): value for key, value in values.items() for step in steps}


def _row(preset: str, steps: tuple[int, int], *, group: str = "") -> Row:
    printed = {key: values[preset] for key, values in PRINTED.items() if preset in values}
    return Row(
        experiment=recipe(f"recall64.{preset}"),
        label=LABELS[preset],
        paper=_at_all(printed, steps),
        elsewhere={after(SIGNAL_KEY, step): recipe(f"signal-noise.{preset}") for step in steps},
        group=group,
    )


def _baseline(label: str, short: str, values: Mapping[str, float], steps: tuple[int, int]) -> Baseline:
    return Baseline(label=label, short=short, values=_at_all(values, steps), group=UNTRAINED)


def _metric(step: int) -> str:
    return f"accuracy_{step}_steps"


def _columns(key: str, title: str, task: str, steps: tuple[int, int]) -> tuple[Column, ...]:
    return tuple(
        Column(
            key=after(key, step),
            title=f"{title} {step}",
            digits=1,
            axis=f"accuracy on {task} after {step} steps, length {RECALL64.length}, percent",
            metric=_metric(step),
        )
        for step in steps
    )


def _compared(family: str, left: str, side: Side, right: str, *, step: int, bound: float = 0.0) -> Comparison:
    return compared(
        f"{LABELS[left]} - {LABELS[right]}",
        Measured(f"{family}.{left}", _metric(step)),
        side,
        Measured(f"{family}.{right}", _metric(step)),
        bound=bound,
    )


def _claims(step: int) -> tuple[ComparedClaim, ...]:
    """What the paper says of both tasks, judged after so many steps."""
    on_recall = partial(_compared, "recall64", step=step)
    on_signal = partial(_compared, "signal-noise", step=step)
    claims = (
        (
            "on recall Recurrent-FFN is above both, Mamba-2 and the Transformer",
            (
                on_recall("recurrent-ffn", "above", "mamba2"),
                on_recall("recurrent-ffn", "above", "transformer"),
            ),
        ),
        (
            "on recall Mamba-2 is above the Transformer",
            (on_recall("mamba2", "above", "transformer"),),
        ),
        (
            "on signal versus noise Recurrent-FFN is above both, Mamba-2 and the Transformer",
            (
                on_signal("recurrent-ffn", "above", "mamba2"),
                on_signal("recurrent-ffn", "above", "transformer"),
            ),
        ),
        (
            "on signal versus noise Mamba-2 and the Transformer are equal, as printed (our margin: "
            f"{NEAR_POINTS} points)",
            (on_signal("mamba2", "within", "transformer", bound=NEAR_POINTS),),
        ),
    )
    return tuple(
        ComparedClaim(
            statement=f"After {step} steps: {statement}",
            source=f"{SOURCE}; the number of steps is ours",
            comparisons=comparisons,
        )
        for statement, comparisons in claims
    )


def _figure(key: str, title: str, step: int) -> Figure:
    return Figure(
        name=f"section56-{key.replace('_', '-')}-{step}",
        title=f"{title} at length {RECALL64.length}, after {step} steps",
        caption="Mean over the seeds with its 95 % interval, each seed as a small point; diamonds are the "
        "paper's values, after a number of steps that it does not state; bars are chance and what guessing "
        "gives. Higher is better.",
        draw=partial(draw_metric, key=after(key, step)),
    )


def _protocol(steps: tuple[int, int]) -> tuple[str, ...]:
    early, late = steps
    return (
        f"The paper gives the sequence length, {RECALL64.length}, and the accuracies; tasks and recipe below "
        "are our reading. It does not say how long it trained: its number stands under both columns of a "
        "task.",
        f"Recall, with {RECALL64.num_keys} keys and {RECALL64.num_values} values. {task_sentence(RECALL64)}",
        f"Signal versus noise. Sequences: {SIGNAL_NOISE.length} tokens. After BOS, in any order, one marked "
        f"value (a mark and the value behind it), {SIGNAL_NOISE.num_distractors} values without a mark, and "
        f"noise; the last token is a query marker, and the answer is the marked value. The values of a "
        f"sequence are drawn without replacement from {SIGNAL_NOISE.num_values}, its noise from "
        f"{SIGNAL_NOISE.num_noise} symbols chosen for each sequence among the {SIGNAL_NOISE.num_free} free "
        f"ones. Guessing among the values that stand there is right in {GUESSING[SIGNAL_KEY]:g} % of the "
        "cases: the number of values without a mark was chosen for that, beside the 12.7 % that the paper "
        "prints.",
        f"{MODELS} Here they have {RECALL64.vocab_size} tokens and {RECALL64.length} learned positions, "
        f"and {_START}. {MAMBA2}",
        f"Training, the same on both tasks: {early} steps of the recipe of Tables 3 to 5, AdamW at a "
        f"constant learning rate of {MEMORY_LR:g}, weight decay 0.01, batches of {MEMORY_BATCH_SIZE} "
        f"sequences drawn anew for every step, loss at the answer alone; dropout {MEMORY_DROPOUT:g}, as in "
        f"section 5.6's tuned recipe and in Tables 4 and 5. The same run goes on to {late} steps. The "
        f"learning rate is constant, so a run of {early} steps would end where the first evaluation is.",
        f"Evaluation: accuracy of the answer over {RECALL64.eval_sequences:,} sequences of each task that "
        "training never draws, others for each seed, so that the intervals cover the choice of sequences "
        "too.",
        _PRECISION,
        "Not in the paper: Recurrent-FFN-Readout and Recurrent-FFN-Hybrid on these tasks.",
    )


SECTION56_MEMORY = section56_memory(MEMORY_STEPS)
