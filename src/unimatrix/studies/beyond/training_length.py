"""Training length, which the paper does not have: Table 1's recipe for 1,000 steps, at four lengths.

Whether what Tables 1 and 2 say at 80 steps still holds later, at equal steps and at equal seconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from unimatrix.lab.answers import Mean, Said, sentence
from unimatrix.lab.claims import BPB, SECONDS, ComparedClaim, Comparison, Measured
from unimatrix.lab.figures import draw_training_length
from unimatrix.lab.protocol import protocol_of
from unimatrix.lab.results import Samples
from unimatrix.lab.study import Column, Figure, Row, Study
from unimatrix.studies.paper.text import evaluated_at, text_experiment
from unimatrix.train.config import Experiment

# the paper's own 80 steps, and on to where the models have left the letters' frequencies behind
STEPS = (80, 200, 400, 1000)
TRANSFORMER, CORE, HYBRID = (
    evaluated_at(text_experiment(f"length.{preset}", preset), STEPS)
    for preset in ("transformer", "unimatrix-core", "triple-hybrid")
)


@dataclass(frozen=True, slots=True)
class InTheTimeOf:
    """Bits per byte that a model had reached in the seconds of another's training.

    A line is drawn between two evaluations. Bits per byte fall ever more slowly, so that it lies above them:
    what is left of the error counts against the model, no longer the whole way back to the last evaluation.
    """

    experiment: Experiment
    other: Experiment
    steps: tuple[int, ...]

    def by_seed(self, samples: Samples) -> dict[int, float]:
        """Of the seeds that both have; outside the evaluations that of the first, or of the last."""
        limits = Measured(self.other, f"seconds_{self.steps[-1]}_steps").by_seed(samples)
        seconds, bpb = (
            [Measured(self.experiment, f"{what}_{step}_steps").by_seed(samples) for step in self.steps]
            for what in ("seconds", "bpb")
        )
        seeds = limits.keys() & set.intersection(*(set(each) for each in (*seconds, *bpb)))
        return {
            seed: float(np.interp(limits[seed], [at[seed] for at in seconds], [at[seed] for at in bpb]))
            for seed in seeds
        }


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
    """The study of experiments that were evaluated at these steps, the last of which is their end."""
    late, seconds = f"bpb_{steps[-1]}_steps", f"seconds_{steps[-1]}_steps"
    core_below = ComparedClaim(
        f"After {steps[-1]:,} steps Core is below the Transformer",
        "Not in the paper",
        (Comparison("Core - Transformer", Measured(CORE, late), "below", Measured(TRANSFORMER, late), BPB),),
    )
    slower = ComparedClaim(
        f"For {steps[-1]:,} steps Triple-Hybrid takes longer than the Transformer, on this machine",
        "Sections 5.2 and 6.5, of the paper's own implementation",
        (
            Comparison(
                "Triple-Hybrid - Transformer",
                Measured(HYBRID, seconds),
                "above",
                Measured(TRANSFORMER, seconds),
                SECONDS,
            ),
        ),
        touches=("c08",),
    )
    no_win = ComparedClaim(
        f"In the seconds of the Transformer's {steps[-1]:,} steps Triple-Hybrid is not below its bits per "
        f"byte: no compute win",
        "Section 6.5, of the paper's own implementation",
        (
            Comparison(
                "Triple-Hybrid in that time - Transformer",
                InTheTimeOf(HYBRID, TRANSFORMER, tuple(steps)),
                "at or above",
                Measured(TRANSFORMER, late),
                BPB,
            ),
        ),
        touches=("c45",),
    )
    return Study(
        name="training-length",
        title="Training length (not in the paper): validation BPB by steps",
        question=f"Does what {steps[0]} steps say of the models still hold after {steps[-1]:,}?",
        answer=sentence(
            f"After {steps[-1]:,} steps Core needs {{core}} bits per byte, Triple-Hybrid {{hybrid}} and the "
            f"Transformer {{transformer}}: {{verdict}}; their training took {{core_seconds}}, "
            f"{{hybrid_seconds}} and {{seconds}} seconds.",
            core=Mean(Measured(CORE, late), 2),
            hybrid=Mean(Measured(HYBRID, late), 2),
            transformer=Mean(Measured(TRANSFORMER, late), 2),
            core_seconds=Mean(Measured(CORE, seconds), 0),
            hybrid_seconds=Mean(Measured(HYBRID, seconds), 0),
            seconds=Mean(Measured(TRANSFORMER, seconds), 0),
            verdict=Said(
                (core_below,),
                "with more training Core is ahead of the Transformer",
                "with more training Core is not ahead of the Transformer",
                "whether Core is then ahead of the Transformer, these seeds leave open",
            ),
        ),
        rows=(
            Row(experiment=TRANSFORMER, label="Transformer"),
            Row(experiment=CORE, label="UniMatrix-Core"),
            Row(experiment=HYBRID, label="Triple-Hybrid"),
        ),
        columns=_columns(steps),
        claims=(core_below, slower, no_win),
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
            *protocol_of(TRANSFORMER, CORE, HYBRID),
            "Table 1's recipe in everything but the number of steps, so that the first 80 are Table 1's own; "
            "parameters as in Tables 1 and 2, not matched.",
            f"Seconds: after {steps[-1]:,} steps, spent in training steps alone, without evaluation and "
            "checkpoints, eager, on the machine and with the threads named below, no other run beside it; on "
            "another machine the models' order in time may be another. What a model had reached in another's "
            "seconds lies on the straight line between the two evaluations around that time.",
        ),
    )


TRAINING_LENGTH = training_length(STEPS)
