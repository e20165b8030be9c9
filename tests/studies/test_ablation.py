"""The ablation: what its protocol says of its rows, what its claims wait for, one of every answer."""

import pytest
from made_results import make_result

from unimatrix.data import VOCAB_SIZE
from unimatrix.studies.beyond.ablation import ABLATION, ADDED, EVERY, LEFT_OUT, OTHERS, RECALLS, WHOLE


def test_the_protocol_says_in_what_the_transformers_differ_besides_their_name() -> None:
    said = " ".join(ABLATION.protocol)
    assert "no or 128 learned positions" in said
    assert "learning rate of 0.0003, 0.006 or 0.004" in said
    assert "a learning rate of 0.004 for 500 steps where the others take 0.006" in said
    assert "the Transformers' rates were not tuned for the scaled head" in said
    assert "chosen by runs by hand on the first 65,536 bytes of the same validation text" in said
    by_name = {variant.name: variant for variant in EVERY}
    with_positions = {name for name, one in by_name.items() if one.max_positions is not None}
    assert with_positions == {"positions", "transformer"}
    usual = {one.long_lr for one in (WHOLE, *LEFT_OUT, *ADDED)}
    assert (usual, {one.long_lr for one in OTHERS}) == ({0.006}, {0.004})
    starts = {
        name: {one.model.resolved(VOCAB_SIZE).init_std for one in variant.experiments()[:2]}
        for name, variant in by_name.items()
    }
    assert {name for name, std in starts.items() if std != {0.01}} == {
        "std-0.02",
        *(one.name for one in OTHERS),
    }
    assert all(std in ({0.01}, {0.02}) for std in starts.values())
    assert {one.name for one in EVERY if one.on_recall} == {one.name for one in OTHERS}


def test_no_claim_of_a_part_waits_for_another_number_of_steps() -> None:
    claims = ABLATION.claims[-2 * len(LEFT_OUT + ADDED) :]
    for variant, short, long in zip(LEFT_OUT + ADDED, claims[::2], claims[1::2], strict=True):
        for claim, steps, experiment in zip((short, long), (80, 500), variant.experiments()[:2], strict=True):
            (comparison,) = claim.comparisons
            words = "worse" if variant in LEFT_OUT else "no better"
            assert claim.statement == f"After {steps} steps the model is {words} with: {variant.label}"
            assert comparison.left.experiment == experiment
            assert experiment.loop.steps == comparison.right.experiment.loop.steps == steps


@pytest.mark.parametrize(
    ("misses", "expected"),
    [
        ({}, "reproduced"),
        # of 2,048 answers: an interval over the five seeds goes past 100 % then, and never refutes
        ({11: 1}, "not reproduced"),
        ({11: 1, 3: 1}, "not reproduced"),
    ],
)
def test_one_miss_refutes_every_answer(misses, expected) -> None:
    experiment = WHOLE.experiments()[2]
    runs = {seed: 100.0 * (1 - misses.get(seed, 0) / 2048) for seed in (7, 11, 1, 2, 3)}
    samples = {
        experiment.name: {
            seed: make_result(experiment, seed, [100.0, right, 100.0]) for seed, right in runs.items()
        }
    }
    four, six, eight = (claim.judge(samples) for claim in RECALLS)
    assert (four.outcome, six.outcome, eight.outcome) == ("reproduced", expected, "reproduced")
    assert six.details[1] == (
        f"at or above 0 in {5 - len(misses)} of 5 seeds; claimed: in seeds 7, 11, 1, 2 and 3"
    )
    del samples[experiment.name][7]
    assert RECALLS[0].judge(samples).text == "undecided at n = 4 seeds"
    assert RECALLS[0].judge({}).details == ("unimatrix, 4 pairs - 100: no seed has run",)
