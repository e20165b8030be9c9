"""What the tables on associative recall have in common: columns, baselines, comparisons, protocol.

Accuracies are in percent and their differences in points, losses in nats per answer.
"""

import math

from unimatrix.data.tasks.recall import RecallConfig, chance, guess_accuracy
from unimatrix.lab.claims import POINTS, Comparison, Measured, Quantity, Side
from unimatrix.lab.study import Baseline, Column, Row
from unimatrix.studies.experiments import experiment as recipe
from unimatrix.studies.paper.published import published_parameters, published_row
from unimatrix.studies.paper.recall_experiments import RECALL, RECALL_LR

# fixed before any run: the paper names no margin. With 2,048 sequences and 5 seeds, the 95 % interval of an
# accuracy near 12.5 % reaches about 0.9 points to either side; the paper's own rows lie 0.4 to 1.2 above
NEAR_POINTS = 2.5

LOSS = Column(key="loss", title="Eval. loss", digits=3, axis="evaluation loss, nats per answer")
ACCURACY = Column(key="accuracy", title="Accuracy", digits=1, axis="accuracy of the answer, percent")

CHANCE = 100.0 * chance(RECALL)
GUESSING = 100.0 * guess_accuracy(RECALL)
BY_CHANCE = Baseline(
    label=f"Guess among all {RECALL.num_values} values: chance",
    short="chance",
    values={"accuracy": CHANCE, "loss": math.log(RECALL.num_values)},
)
BY_GUESSING = Baseline(
    label="Guess among the context's values",
    short="guessing",
    values={"accuracy": GUESSING, "loss": math.log(RECALL.num_pairs)},
)

MODELS = (
    "Each model: d = 64, 3 layers or shared depth steps, 4 heads, state dimension 16, "
    f"{RECALL.vocab_size} tokens, {RECALL.length} learned positions, N(0, 0.02) initialisation; the "
    "Transformer's q, k, v start as torch.nn.MultiheadAttention's do."
)
FITTED = (
    "What the paper leaves open (learning rate, how q, k, v and the write gate start, tau, when two keys are "
    "one) was settled by single runs on seeds 7, 11 and 1 that were held against its printed numbers."
)
EVALUATION = (
    f"Evaluation: loss and accuracy of the answer over {RECALL.eval_sequences:,} sequences that training "
    "never draws, others for each seed, so that the intervals cover the choice of sequences too."
)


def task_sentence(config: RecallConfig) -> str:
    """The task in words, for a table's protocol."""
    filler = f"{config.num_fillers} symbols, chosen for each sequence among the {config.num_free} free ones"
    if config.num_fillers == config.num_free:
        filler = f"all {config.num_free} free symbols"
    return (
        f"Sequences: {config.length} tokens. After BOS {config.num_pairs} key-value pairs, then filler, a "
        "query marker and one of the keys; the answer is its value. Keys and values are drawn without "
        f"replacement from {config.num_keys} and {config.num_values} symbols, filler from {filler}. "
        "The paper leaves the filler open."
    )


def training_sentence(*, dropout: str) -> str:
    """The recipe in words, for a table's protocol."""
    return (
        f"Training: 200 steps of AdamW at a constant learning rate of {RECALL_LR:g} (the paper does not say "
        "which), weight decay 0.01, batches of 32 sequences drawn anew for every step, loss at the answer "
        f"alone, {dropout}."
    )


def recall_row(
    experiment: str, label: str, printed: tuple[float, float], *, preset: str, group: str = ""
) -> Row:
    """A row of loss and accuracy; `printed` is the paper's pair of them."""
    loss, accuracy = printed
    return Row(
        experiment=recipe(experiment),
        label=label,
        paper={"loss": loss, "accuracy": accuracy},
        paper_parameters=published_parameters(preset, setting="recall_vocab64_positions128"),
        group=group,
    )


def printed_pair(table: str, preset: str) -> tuple[float, float]:
    """(loss, accuracy) of a model in a flat table of the paper."""
    row = published_row(table, preset)
    return row["eval_loss"], row["accuracy"]


def accuracy(experiment: str, num_pairs: int | None = None) -> Measured:
    """An experiment's accuracy, on its own task or with another number of pairs."""
    return Measured(experiment, "accuracy" if num_pairs is None else f"accuracy_{num_pairs}_pairs")


def compared(
    label: str, left: Quantity, side: Side, right: Quantity | float, *, bound: float = 0.0
) -> Comparison:
    """A comparison of accuracies, in points."""
    return Comparison(label=label, left=left, right=right, side=side, bound=bound, unit=POINTS)
