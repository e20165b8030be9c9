"""The learning rate by width (not in the paper): whether that of the preset `unimatrix` may follow its width.

`unimatrix train` has one rate, tuned at the preset's own width, and a rule for others (`rate_of_width`).
Here each of three widths trains at the rule's rate and at 4/9 to 9/4 of it. Where the rule's rate is better
than all four others, the best rate is taken to lie between the two beside it, a factor of 1.5 away: the outer
two count too, as a curve may turn a second time.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

from unimatrix.lab.answers import Mean, Said, sentence
from unimatrix.lab.claims import BPB, ComparedClaim, Comparison, Measured
from unimatrix.lab.figures import draw_over_columns
from unimatrix.lab.protocol import protocol_of
from unimatrix.lab.results import Samples
from unimatrix.lab.study import Column, Figure, Row, Study
from unimatrix.studies.makers import NOT_IN_THE_PAPER
from unimatrix.train.config import Experiment, LoopConfig, ModelChoice
from unimatrix.train.recipe import OWN_TEXT, PRESET, rate_of_width

# heads of one size, so that their number goes with the width; 171,033, 646,177 and 2,209,487 parameters (a
# test counts)
WIDTHS = {64: 4, 128: 8, 240: 15}
FACTOR, STEPS, SEQ_LEN = 1.5, 150, 128
# by what power of the factor a rate is off the rule's
OFF = (-2, -1, 0, 1, 2)
# fixed before any run: so much worse than the best of its rates the rule's may be
MARGIN = 0.02


def _experiment(width: int, off: int) -> Experiment:
    """That width, at the rule's rate or so many factors from it."""
    sign = {-1: "below-", 0: "at-rule", 1: "above-"}[(off > 0) - (off < 0)]
    return Experiment(
        name=f"learning-rate.{width}-{sign}{abs(off) or ''}",
        model=ModelChoice(
            preset=PRESET,
            dropout=0.0,
            max_positions=None,
            changes={"d_model": width, "num_heads": WIDTHS[width]},
        ),
        optim=replace(OWN_TEXT.optim, lr=float(f"{rate_of_width(width) * FACTOR**off:.3g}")),
        loop=LoopConfig(steps=STEPS, batch_size=16, seq_len=SEQ_LEN),
    )


EXPERIMENTS = {width: {off: _experiment(width, off) for off in OFF} for width in WIDTHS}
WIDEST = max(WIDTHS)


@dataclass(frozen=True, slots=True)
class BestOf:
    """The lowest bits per byte among experiments, seed by seed."""

    experiments: tuple[Experiment, ...]

    def by_seed(self, samples: Samples) -> Mapping[int, float]:
        """Of the seeds that all of them have."""
        found = [_bits(one).by_seed(samples) for one in self.experiments]
        seeds = set.intersection(*(set(one) for one in found))
        return {seed: min(one[seed] for one in found) for seed in seeds}


def _bits(experiment: Experiment) -> Measured:
    return Measured(experiment, "bpb")


def _key(off: int) -> str:
    return f"bpb_off_{off}"


def _factor(off: int) -> str:
    """What is done to the rule's rate."""
    size = f"{FACTOR ** abs(off):g}"
    return f"1 / {size}" if off < 0 else f"{size} times"


def _within(width: int) -> ComparedClaim:
    """The best rate is within the factor of the rule's."""
    at = EXPERIMENTS[width]
    return ComparedClaim(
        f"At width {width} the best rate is within a factor of {FACTOR} of the rule's, which is at or below "
        "all four others",
        NOT_IN_THE_PAPER,
        tuple(
            Comparison(f"{_factor(off)} - rule's rate", _bits(at[off]), "at or above", _bits(at[0]), BPB)
            for off in OFF
            if off
        ),
        quotes=(FACTOR,),
    )


def _costs_little(width: int) -> ComparedClaim:
    at = EXPERIMENTS[width]
    return ComparedClaim(
        f"At width {width} the rule's rate is no more than {MARGIN} above the best of its five",
        NOT_IN_THE_PAPER,
        (
            Comparison(
                "rule's rate - best", _bits(at[0]), "at or below", BestOf(tuple(at.values())), BPB, MARGIN
            ),
        ),
    )


BRACKETED = {width: _within(width) for width in WIDTHS}
HOLDS = BRACKETED[WIDEST]
_LABELS = {
    -2: f"/ {FACTOR**2:g}",
    -1: f"/ {FACTOR:g}",
    0: "the rule's",
    1: f"x {FACTOR:g}",
    2: f"x {FACTOR**2:g}",
}

LEARNING_RATE = Study(
    name="learning-rate",
    title="Learning rate by width (not in the paper): validation BPB at the rule's rate and beside it",
    question="Does the learning rate that was tuned for unimatrix hold when the model is wider?",
    answer=sentence(
        f"At width {WIDEST} the rule's rate, {rate_of_width(WIDEST):g}, gives {{at}} bits per byte after "
        f"{STEPS} steps, {FACTOR} times as much {{above}} and {FACTOR} times less {{below}}; at width 64 it "
        "is {small}. {holds}.",
        at=Mean(_bits(EXPERIMENTS[WIDEST][0]), 3),
        above=Mean(_bits(EXPERIMENTS[WIDEST][1]), 3),
        below=Mean(_bits(EXPERIMENTS[WIDEST][-1]), 3),
        small=Mean(_bits(EXPERIMENTS[64][0]), 3),
        holds=Said(
            (HOLDS,),
            f"The best rate is within a factor of {FACTOR} of the rule's",
            "One of the four others is better than the rule's",
            f"These seeds do not decide whether the best is within a factor of {FACTOR}",
        ),
    ),
    rows=tuple(
        Row(
            experiment=at[0],
            label=f"Width {width}, {at[0].optim.lr:g}",
            elsewhere={_key(off): one for off, one in at.items()},
        )
        for width, at in EXPERIMENTS.items()
    ),
    columns=tuple(
        Column(
            key=_key(off),
            metric="bpb",
            title=_LABELS[off],
            digits=3,
            axis=f"validation bits per byte after {STEPS} steps",
        )
        for off in OFF
    ),
    claims=(*BRACKETED.values(), *map(_costs_little, WIDTHS)),
    figures=(
        Figure(
            name="learning-rate-widths",
            title="Bits per byte by learning rate",
            caption="A line for each width; 1 is the rule's rate. Mean over the seeds with its 95 % "
            "interval. Lower is better.",
            draw=partial(
                draw_over_columns,
                positions={_key(off): round(FACTOR**off, 2) for off in OFF},
                labels=("learning rate over the rule's", f"validation bits per byte after {STEPS} steps"),
            ),
        ),
    ),
    protocol=(
        *protocol_of(*(one for at in EXPERIMENTS.values() for one in at.values())),
        "The rule's exponent was chosen by hand after as many steps on the same text, by the first 65,536 "
        "bytes of its validation text and one seed (docs/log.md): these rows show how it does, and are no "
        "independent test of it.",
    ),
)
