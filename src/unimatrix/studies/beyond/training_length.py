"""Training length, which the paper does not have: Table 1's recipe for 1,000 steps, at four lengths.

Whether what Tables 1 and 2 say at 80 steps still holds later, at equal steps and at equal seconds.
"""

from collections.abc import Sequence
from functools import partial

from unimatrix.lab.charts import draw_training_length
from unimatrix.lab.study import Column, Figure, Row, Study
from unimatrix.studies.experiments import experiment as recipe
from unimatrix.studies.paper.latent_experiments import LENGTH_STEPS


def _columns(steps: Sequence[int]) -> tuple[Column, ...]:
    """Bits per byte after each of the steps, and the seconds after the last."""
    bpb = [
        Column(
            key=f"bpb_{step}_steps",
            title=f"{step:,} steps",
            # four of them side by side: three digits would not fit a terminal
            digits=2,
            axis=f"validation bits per byte after {step:,} steps",
        )
        for step in steps
    ]
    seconds = Column(key=f"seconds_{steps[-1]}_steps", title="Seconds", digits=0, axis="seconds of training")
    return (*bpb, seconds)


def training_length(steps: Sequence[int]) -> Study:
    """The table of experiments that were evaluated at these steps, the last of which is their end."""
    return Study(
        name="training-length",
        title="Training length (not in the paper): validation BPB by steps",
        rows=(
            Row(experiment=recipe("length.transformer"), label="Transformer"),
            Row(experiment=recipe("length.unimatrix-core"), label="UniMatrix-Core"),
            Row(experiment=recipe("length.triple-hybrid"), label="Triple-Hybrid"),
        ),
        columns=_columns(steps),
        claims=(),
        figures=(
            Figure(
                name="training-length-steps",
                title="Bits per byte at equal steps",
                caption="Mean over the seeds with its 95 % interval, on the whole validation text. Lower is "
                "better.",
                draw=partial(draw_training_length, steps=steps, over="steps"),
            ),
            Figure(
                name="training-length-seconds",
                title="Bits per byte at equal seconds",
                caption="The same points over the seconds spent in training steps until then; a vertical "
                "line through the figure compares the models at equal time. Lower is better.",
                draw=partial(draw_training_length, steps=steps, over="seconds"),
            ),
        ),
        protocol=(
            "Each model: Table 1's recipe in everything but the number of steps, one run of "
            f"{steps[-1]:,} steps for each seed, the learning rate constant, so that its first 80 steps "
            "are Table 1's own. d = 64, 3 layers or shared depth steps, 4 heads, state dimension 16, dropout "
            "0.1; parameters as in Tables 1 and 2, not matched.",
            "Bits per byte over the whole validation text after "
            f"{', '.join(f'{step:,}' for step in steps[:-1])} and {steps[-1]:,} steps.",
            f"Seconds: after {steps[-1]:,} steps, spent in training steps alone, without evaluation and "
            "checkpoints, eager, on the machine and with the threads named below, whatever else it had to "
            "do; on another machine the models' order in time may be another.",
        ),
    )


TRAINING_LENGTH = training_length(LENGTH_STEPS)
