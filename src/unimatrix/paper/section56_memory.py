"""Section 5.6 of the paper on memory: recall and signal versus noise at length 64, against Mamba-2.

A row's two accuracies come from two trainings, one on each task.
"""

from functools import partial

from unimatrix.data.tasks import recall, signal_noise
from unimatrix.paper.claims import ComparedClaim, Comparison, Measured, Side
from unimatrix.paper.figures import draw_metric
from unimatrix.paper.published import published
from unimatrix.paper.recall_table import NEAR_POINTS, compared, task_sentence
from unimatrix.paper.recurrent_experiments import (
    MEMORY_BATCH_SIZE,
    MEMORY_DROPOUT,
    MEMORY_LR,
    MEMORY_QKV_INIT,
    MEMORY_STEPS,
    RECALL64,
    SIGNAL_NOISE,
)
from unimatrix.paper.section56_text import BEYOND, LABELS, MAMBA2, MODELS
from unimatrix.paper.table import Baseline, Column, Figure, Row, Table

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
# the one exception to N(0, 0.02), if there is one
_START = ", and q, k, v start as torch.nn.MultiheadAttention's do" if MEMORY_QKV_INIT == "xavier" else ""


def _row(preset: str, *, group: str = "") -> Row:
    return Row(
        experiment=f"recall64.{preset}",
        label=LABELS[preset],
        paper={key: values[preset] for key, values in PRINTED.items() if preset in values},
        elsewhere={SIGNAL_KEY: f"signal-noise.{preset}"},
        group=group,
    )


def _column(key: str, title: str, task: str) -> Column:
    return Column(
        key=key, title=title, digits=1, axis=f"accuracy on {task}, length 64, percent", metric="accuracy"
    )


def _compared(task: str, left: str, side: Side, right: str, *, bound: float = 0.0) -> Comparison:
    return compared(
        f"{LABELS[left]} - {LABELS[right]}",
        Measured(f"{task}.{left}", "accuracy"),
        side,
        Measured(f"{task}.{right}", "accuracy"),
        bound=bound,
    )


def _figure(key: str, title: str) -> Figure:
    return Figure(
        name=f"section56-{key.replace('_', '-')}",
        title=title,
        caption="Mean over the seeds with its 95 % interval, each seed as a small point; diamonds are the "
        "paper's values, bars what guessing gives. Higher is better.",
        draw=partial(draw_metric, key=key),
    )


CLAIMS = (
    ComparedClaim(
        statement="On recall Recurrent-FFN is above Mamba-2, and Mamba-2 above the Transformer",
        source=SOURCE,
        comparisons=(
            _compared("recall64", "recurrent-ffn", "above", "mamba2"),
            _compared("recall64", "mamba2", "above", "transformer"),
        ),
    ),
    ComparedClaim(
        statement="On signal versus noise Recurrent-FFN is above both, Mamba-2 and the Transformer",
        source=SOURCE,
        comparisons=(
            _compared("signal-noise", "recurrent-ffn", "above", "mamba2"),
            _compared("signal-noise", "recurrent-ffn", "above", "transformer"),
        ),
    ),
    ComparedClaim(
        statement="On signal versus noise Mamba-2 and the Transformer are equal, as printed (our margin: "
        f"{NEAR_POINTS} points)",
        source=SOURCE,
        comparisons=(_compared("signal-noise", "mamba2", "within", "transformer", bound=NEAR_POINTS),),
    ),
)

SECTION56_MEMORY = Table(
    name="section5.6-memory",
    title="Section 5.6, memory: recall and signal versus noise, accuracy in percent",
    rows=(
        _row("transformer"),
        _row("mamba2"),
        _row("recurrent-ffn"),
        _row("recurrent-ffn-readout", group=BEYOND),
        _row("recurrent-ffn-hybrid", group=BEYOND),
        Baseline(label="Any value that stands there", short="guessing", values=GUESSING, group=UNTRAINED),
        Baseline(label="Any of all values: chance", short="chance", values=CHANCE, group=UNTRAINED),
    ),
    columns=(
        _column(RECALL_KEY, "Recall", "associative recall"),
        _column(SIGNAL_KEY, "Signal/noise", "signal versus noise"),
    ),
    claims=CLAIMS,
    figures=(
        _figure(RECALL_KEY, "Associative recall at length 64"),
        _figure(SIGNAL_KEY, "Signal versus noise at length 64"),
    ),
    protocol=(
        f"The paper gives the sequence length, {RECALL64.length}, and the accuracies; tasks and recipe below "
        "are our reading.",
        f"Recall, with {RECALL64.num_keys} keys and {RECALL64.num_values} values. {task_sentence(RECALL64)}",
        f"Signal versus noise. Sequences: {SIGNAL_NOISE.length} tokens. After BOS, in any order, one marked "
        f"value (a mark and the value behind it), {SIGNAL_NOISE.num_distractors} values without a mark, and "
        f"noise; the last token is a query marker, and the answer is the marked value. The values of a "
        f"sequence are drawn without replacement from {SIGNAL_NOISE.num_values}, its noise from "
        f"{SIGNAL_NOISE.num_noise} symbols chosen for each sequence among the {SIGNAL_NOISE.num_free} free "
        f"ones. Guessing among the values that stand there is right in {GUESSING[SIGNAL_KEY]:g} % of the "
        "cases: the number of values without a mark was chosen for that, beside the 12.7 % that the paper "
        "prints.",
        f"{MODELS} Here they have {RECALL64.vocab_size} tokens and {RECALL64.length} learned positions"
        f"{_START}. {MAMBA2}",
        f"Training, the same on both tasks: {MEMORY_STEPS[-1]:,} steps of AdamW at a constant learning rate of "
        f"{MEMORY_LR:g}, weight decay 0.01, batches of {MEMORY_BATCH_SIZE} sequences drawn anew for every "
        f"step, loss at the answer alone, dropout {MEMORY_DROPOUT:g}.",
        f"Evaluation: accuracy of the answer over {RECALL64.eval_sequences:,} sequences of each task that "
        "training never draws, others for each seed, so that the intervals cover the choice of sequences "
        "too.",
        "Not in the paper: Recurrent-FFN-Readout and Recurrent-FFN-Hybrid on these tasks.",
    ),
)
