"""Each claim of Table 1 in each of its outcomes, and the rule that decides."""

import dataclasses

import pytest

from unimatrix.lab.claims import (
    BPB,
    POINTS,
    SECONDS,
    ComparedClaim,
    Comparison,
    Gain,
    Measured,
    SeedBySeedClaim,
)
from unimatrix.lab.intervals import Interval
from unimatrix.lab.results import GaveUp, RunRow, WithLost
from unimatrix.studies.catalogue import experiment
from unimatrix.studies.paper.text import NEARLY_IDENTICAL_BPB, TABLE1
from unimatrix.train import Experiment

SEEDS = (7, 11, 13, 17, 19)
TRANSFORMER, CORE, ROSA, DISCOVERY = TABLE1.names
# a spread common to all models: paired differences remove it
COMMON = dict(zip(SEEDS, (0.0, 0.2, -0.1, 0.05, -0.2), strict=True))
# a small spread of each run
OWN = (0.001, -0.001, 0.0005, 0.0, -0.0005)


A, B = (Measured(Experiment(name=name), "bpb") for name in "ab")


def runs(mean, *, turn=0, seeds=SEEDS):
    spread = OWN[turn:] + OWN[:turn]
    return {seed: mean + COMMON[seed] + own for seed, own in zip(seeds, spread, strict=False)}


def like_the_paper(seeds=SEEDS):
    return {
        TRANSFORMER: runs(5.124, seeds=seeds),
        CORE: runs(5.084, turn=1, seeds=seeds),
        ROSA: runs(5.083, turn=2, seeds=seeds),
        DISCOVERY: runs(5.112, turn=3, seeds=seeds),
    }


def bpb(name):
    return Measured(experiment(name), "bpb")


def verdicts(samples):
    return [claim.judge(samples) for claim in TABLE1.claims]


def test_the_papers_numbers_reproduce_every_claim(samples) -> None:
    *judged, lowest = [verdict.text for verdict in verdicts(samples(like_the_paper()))]
    assert judged == ["reproduced"] * 7
    # 0.001 below Core, as the spread of the runs
    assert lowest == "undecided at n = 5 seeds"


def test_turned_round_every_measured_claim_fails_and_counts_stay(samples) -> None:
    values = like_the_paper() | {TRANSFORMER: runs(5.0), CORE: runs(5.3, turn=1)}
    outcomes = [verdict.outcome for verdict in verdicts(samples(values))]
    assert outcomes == ["reproduced"] * 3 + ["not reproduced"] * 5


def test_noise_larger_than_the_gap_is_undecided_and_says_n(samples) -> None:
    values = like_the_paper()
    values[CORE] = dict(zip(SEEDS, (4.9, 5.4, 4.8, 5.3, 5.0), strict=True))
    verdict = TABLE1.claims[3].judge(samples(values))
    assert (verdict.outcome, verdict.text) == ("undecided", "undecided at n = 5 seeds")


def test_one_seed_never_decides_a_measured_claim(samples) -> None:
    judged = verdicts(samples(like_the_paper(seeds=(7,))))
    assert [verdict.text for verdict in judged[:3]] == ["reproduced"] * 3
    assert [verdict.text for verdict in judged[3:]] == ["undecided at n = 1 seed"] * 5
    assert "one seed: no interval" in judged[3].details[0]


def test_without_any_run_nothing_is_decided() -> None:
    assert {verdict.text for verdict in verdicts({})} == {"undecided at n = 0 seeds"}


def test_only_seeds_that_both_models_have_are_compared(samples) -> None:
    values = like_the_paper()
    values[CORE] = {seed: bpb for seed, bpb in values[CORE].items() if seed != 19} | {23: 9.0}
    verdict = TABLE1.claims[3].judge(samples(values))
    assert (verdict.outcome, verdict.seeds) == ("reproduced", 4)
    assert verdict.details[0].endswith("n = 4 pairs; claimed: at or below 0")


def test_pairing_removes_what_the_seeds_have_in_common(samples) -> None:
    detail = TABLE1.claims[3].judge(samples(like_the_paper())).details[0]
    # the spread over seeds is 0.15, the paired interval a hundredth of it
    assert detail.startswith("Core - Transformer = -0.0400 BPB, 95 % interval [-0.04")


@pytest.mark.parametrize(
    ("side", "low", "high", "expected"),
    [
        ("below", -2.0, -0.1, "reproduced"),
        ("below", -2.0, 0.0, "undecided"),
        ("below", 0.0, 1.0, "not reproduced"),
        ("below", -0.1, 0.1, "undecided"),
        ("at or below", -1.0, 0.0, "reproduced"),
        ("at or below", 0.0, 0.0, "reproduced"),
        ("at or below", 0.0, 1.0, "undecided"),
        ("at or below", 0.1, 1.0, "not reproduced"),
        ("within", -0.4, 0.4, "reproduced"),
        ("within", -0.4, 0.6, "undecided"),
        ("within", -0.9, 0.9, "undecided"),
        ("within", 0.5, 0.9, "not reproduced"),
        ("within", -0.9, -0.5, "not reproduced"),
        ("above", 0.1, 2.0, "reproduced"),
        ("above", 0.0, 2.0, "undecided"),
        ("above", -1.0, 0.0, "not reproduced"),
        ("at or above", 0.0, 1.0, "reproduced"),
        ("at or above", 0.0, 0.0, "reproduced"),
        ("at or above", -1.0, 0.0, "undecided"),
        ("at or above", -1.0, -0.1, "not reproduced"),
    ],
)
@pytest.mark.parametrize("shift", [0.0, 50.0])
def test_the_rule_at_its_edges(side, low, high, expected, shift) -> None:
    # the bound of a one-sided claim moves its edge; that of "within" is the edge
    bound = 0.5 if side == "within" else shift
    shift = 0.0 if side == "within" else shift
    low, high = low + shift, high + shift
    comparison = Comparison(label="a - b", left=A, right=B, side=side, bound=bound, unit=BPB)
    interval = Interval(mean=(low + high) / 2, low=low, high=high, n=3)
    assert comparison.outcome(interval) == expected
    assert comparison.outcome(dataclasses.replace(interval, n=1)) == "undecided"


def test_one_failed_comparison_fails_the_whole_claim(samples) -> None:
    values = like_the_paper() | {DISCOVERY: runs(5.2, turn=3)}
    verdict = TABLE1.claims[6].judge(samples(values))
    assert verdict.outcome == "not reproduced"
    assert len(verdict.details) == 3


def test_the_margin_of_nearly_identical_counts_from_both_sides(samples) -> None:
    for shift in (-3.0, 3.0):
        values = like_the_paper() | {CORE: runs(5.083 + shift * NEARLY_IDENTICAL_BPB, turn=1)}
        assert TABLE1.claims[5].judge(samples(values)).outcome == "not reproduced"


@pytest.mark.parametrize(
    ("experiment", "count", "expected"),
    [(CORE, 83_140, "reproduced"), (CORE, 83_500, "not reproduced"), (CORE, 174_848, "not reproduced")],
)
def test_parameters_are_decided_exactly_down_to_the_printed_percentage(
    samples, experiment, count, expected
) -> None:
    table = samples(like_the_paper(seeds=(7,)))
    table[experiment] = {7: dataclasses.replace(table[experiment][7], parameters=count)}
    verdict = TABLE1.claims[0].judge(table)
    assert (verdict.outcome, verdict.seeds) == (expected, None)


def test_a_claim_without_comparisons_in_common_names_it(samples) -> None:
    claim = ComparedClaim(
        statement="a below b",
        source="nowhere",
        comparisons=(
            Comparison(
                label="Core - ROSA",
                left=bpb(CORE),
                right=bpb(ROSA),
                side="below",
                unit=BPB,
            ),
        ),
    )
    judged = claim.judge(samples({CORE: {7: 5.0}, ROSA: {11: 5.0}}))
    assert judged.details == ("Core - ROSA: no seed has both runs",)


def test_against_a_number_the_mean_is_shown_and_its_whole_interval_counts(samples) -> None:
    name = "recall.transformer"
    reaches = Comparison(
        label="T - 25.5",
        left=Measured(experiment(name), "accuracy"),
        right=25.5,
        side="at or above",
        unit=POINTS,
    )
    claim = ComparedClaim(statement="at least 25.5 %", source="nowhere", comparisons=(reaches,))
    # the mean is 25.8, the interval reaches below 25.5
    wide = claim.judge(samples({name: dict(zip(SEEDS, (25.0, 26.6, 25.2, 26.4, 25.8), strict=True))}))
    assert (wide.outcome, wide.seeds) == ("undecided", 5)
    assert wide.details[0].startswith("T - 25.5 = +0.30 points, 95 % interval [-")
    assert wide.details[0].endswith("n = 5 seeds, mean 25.80 %; claimed: at or above 0")
    narrow = claim.judge(samples({name: dict(zip(SEEDS, (25.7, 25.8, 25.9, 25.8, 25.8), strict=True))}))
    assert narrow.outcome == "reproduced"
    assert claim.judge({}).details == ("T - 25.5: no seed has run",)
    assert "one seed: no interval, mean 25.70 %" in claim.judge(samples({name: {7: 25.7}})).details[0]


def lost(samples, name, *seeds):
    """Samples with runs that could not go on."""
    row = samples[CORE][7]
    about = {field.name: getattr(row, field.name) for field in dataclasses.fields(RunRow)}
    runs = [GaveUp(**about | {"experiment": name, "seed": seed}, why="the loss (nan)") for seed in seeds]
    return WithLost(samples, runs)


BELOW = ComparedClaim("Core is below", "nowhere", (Comparison("Core - T", bpb(CORE), "below", 9.0, BPB),))


def test_what_is_left_of_runs_that_could_not_go_on_reproduces_nothing(samples) -> None:
    whole = samples({CORE: runs(5.0)})
    assert BELOW.judge(whole).outcome == "reproduced"
    assert BELOW.judge(lost(whole, TRANSFORMER, 23)) == BELOW.judge(whole)
    found = BELOW.judge(lost(whole, CORE, 29, 23))
    assert (found.outcome, found.seeds) == ("undecided", 5)
    assert found.details[0].endswith(
        "below 0; without seeds 23 and 29, of which a run came to no such number"
    )
    # nor does it turn what fails into what is open
    above = dataclasses.replace(BELOW.comparisons[0], side="above")
    failed = dataclasses.replace(BELOW, comparisons=(above,))
    assert failed.judge(lost(whole, CORE, 23)).outcome == "not reproduced"
    # without the rows of one experiment what is lost of another stays lost
    left = lost(samples({CORE: runs(5.0), ROSA: runs(5.0)}), CORE, 23).without([ROSA])
    assert left.keys() == {CORE}
    assert BELOW.judge(left).outcome == "undecided"


def test_a_run_without_the_number_counts_as_lost(samples) -> None:
    whole = samples({CORE: runs(5.0), TRANSFORMER: runs(6.0)})
    run = whole[CORE][13]
    rest = {name: value for name, value in run.metrics.items() if name != "bpb"}
    whole[CORE] |= {13: dataclasses.replace(run, metrics=rest)}
    gain = Gain(bpb(CORE), bpb(TRANSFORMER))
    for left in (bpb(CORE), gain):
        claim = dataclasses.replace(BELOW, comparisons=(Comparison("Core - T", left, "below", 9.0, BPB),))
        found = claim.judge(whole)
        assert (found.outcome, found.seeds) == ("undecided", 4)
        assert found.details[0].endswith("without seed 13, of which a run came to no such number")
    # a seed that has not run is none that was lost
    del whole[CORE][13]
    assert BELOW.judge(whole).outcome == "reproduced"
    # nor has it run in vain where no seed has the number
    none = Comparison("Core - 9", Measured(experiment(CORE), "stream_bpb"), "below", 9.0, BPB)
    (told,) = dataclasses.replace(BELOW, comparisons=(none,)).judge(whole).details
    assert told == "Core - 9: of seeds 7, 11, 17 and 19 a run came to no such number"


def test_a_margin_of_nothing_is_no_minus_nothing(samples) -> None:
    least = Comparison("Core - 4", bpb(CORE), "at or above", 4.0, BPB, bound=-0.0)
    assert least.detail(least.difference(samples({CORE: runs(5.0)}))).endswith("; claimed: at or above 0")


def test_a_gain_is_compared_with_a_gain_seed_by_seed(samples) -> None:
    with_pointer, without = "recall-no-dropout.unimatrix-sparse-pointer", "recall-no-dropout.no-pointer"
    values = samples(
        {
            with_pointer: {7: (99.0, 98.0, 97.0), 11: (98.0, 97.0, 96.0), 13: (50.0, 50.0, 50.0)},
            without: {7: (95.0, 90.0, 87.0), 11: (94.0, 90.0, 85.0)},
        }
    )

    def gain(metric: str) -> Gain:
        return Gain(Measured(experiment(with_pointer), metric), Measured(experiment(without), metric))

    assert gain("accuracy_4_pairs").by_seed(values) == {7: 4.0, 11: 4.0}
    more = Comparison(
        label="8 - 4 pairs",
        left=gain("accuracy_8_pairs"),
        right=gain("accuracy_4_pairs"),
        side="above",
        unit=POINTS,
    )
    interval = more.difference(values)
    assert interval is not None
    assert (interval.mean, interval.n) == (6.5, 2)


def in_seeds_7_and_11(side="below", bound=0.0) -> SeedBySeedClaim:
    comparison = Comparison(
        label="Core - Transformer",
        left=bpb(CORE),
        right=bpb(TRANSFORMER),
        side=side,
        bound=bound,
        unit=BPB,
    )
    return SeedBySeedClaim(
        statement="Core is below in seeds 7 and 11",
        source="nowhere",
        seeds=(7, 11),
        comparisons=(comparison,),
    )


@pytest.mark.parametrize(
    ("core", "expected", "seeds"),
    [
        ({7: 4.5, 11: 4.9}, "reproduced", 2),
        # the other seeds decide nothing
        ({7: 4.5, 11: 4.9, 13: 6.0, 17: 6.0}, "reproduced", 2),
        ({7: 4.5, 11: 5.1, 13: 4.0}, "not reproduced", 2),
        # neither is below
        ({7: 4.5, 11: 5.0}, "not reproduced", 2),
        ({7: 4.5, 13: 4.5}, "undecided", 1),
        # whatever the other one will be
        ({11: 5.5}, "not reproduced", 1),
        ({13: 4.5}, "undecided", 0),
        ({}, "undecided", 0),
    ],
)
def test_a_claim_about_named_seeds_is_decided_in_each_of_them(samples, core, expected, seeds) -> None:
    runs = samples({CORE: core, TRANSFORMER: dict.fromkeys((7, 11, 13, 17, 19), 5.0)})
    verdict = in_seeds_7_and_11().judge(runs)
    assert (verdict.outcome, verdict.seeds) == (expected, seeds)


@pytest.mark.parametrize(
    ("rosa", "expected", "seeds"),
    [
        ({7: 5.5, 11: 5.25}, "reproduced", 2),
        # in one of them it was no other way before
        ({7: 5.5, 11: 4.75}, "not reproduced", 2),
        ({7: 5.5}, "undecided", 1),
        # whatever the other one will be
        ({7: 4.75}, "not reproduced", 1),
    ],
)
def test_a_claim_about_named_seeds_may_say_several_things_of_each(samples, rosa, expected, seeds) -> None:
    below = in_seeds_7_and_11()
    above = Comparison("Rosa - Transformer", bpb(ROSA), "above", bpb(TRANSFORMER), BPB)
    both = dataclasses.replace(below, comparisons=(above, *below.comparisons))
    runs = samples({CORE: {7: 4.5, 11: 4.5}, ROSA: rosa, TRANSFORMER: dict.fromkeys((7, 11), 5.0)})
    verdict = both.judge(runs)
    assert (verdict.outcome, verdict.seeds, len(verdict.details)) == (expected, seeds, 4)


def test_a_claim_about_named_seeds_shows_every_seed(samples) -> None:
    transformer = dict.fromkeys(SEEDS, 5.0)
    runs = samples({CORE: {7: 4.5, 13: 5.25}, TRANSFORMER: transformer})
    verdict = in_seeds_7_and_11().judge(runs)
    assert verdict.text == "undecided at n = 1 seed"
    assert verdict.details == (
        "Core - Transformer = -0.5000 (seed 7), +0.2500 (seed 13), BPB",
        "below 0 in 1 of 2 seeds; claimed: in seeds 7 and 11, of which 11 has not run",
    )
    verdict = in_seeds_7_and_11().judge(samples({CORE: {13: 4.5}, TRANSFORMER: transformer}))
    assert verdict.text == "undecided at n = 0 seeds"
    assert (
        verdict.details[1]
        == "below 0 in 1 of 1 seed; claimed: in seeds 7 and 11, of which 7 and 11 have not run"
    )
    assert in_seeds_7_and_11().judge({}).details == ("Core - Transformer: no seed has both runs",)


@pytest.mark.parametrize(
    ("side", "bound", "value", "expected"),
    [
        ("below", 0.0, -0.1, True),
        ("below", 0.0, 0.0, False),
        ("at or below", 0.0, 0.0, True),
        ("above", 0.5, 0.6, True),
        ("above", 0.5, 0.5, False),
        ("at or above", 0.5, 0.5, True),
        ("within", 0.5, -0.4, True),
        ("within", 0.5, -0.5, False),
    ],
)
def test_one_difference_lies_on_the_claims_side_or_not(side, bound, value, expected) -> None:
    assert in_seeds_7_and_11(side, bound).comparisons[0].holds(value) is expected


def test_a_condition_holds_unless_its_opposite_is_shown() -> None:
    """Noise decides neither for it nor against, and its opposite nothing of the claim that rests on it."""
    claimed = Comparison("seconds", A, "at or below", B, SECONDS, 9.0)
    condition = dataclasses.replace(claimed, condition=True)
    for low, high, n, bare, held in (
        (7.0, 8.9, 5, "reproduced", "reproduced"),
        (-30.0, 40.0, 2, "undecided", "reproduced"),
        (9.1, 9.6, 5, "not reproduced", "undecided"),
        (2.0, 2.0, 1, "undecided", "undecided"),
    ):
        interval = Interval(mean=(low + high) / 2, low=low, high=high, n=n)
        assert (claimed.outcome(interval), condition.outcome(interval)) == (bare, held)
        told = condition.detail(interval)
        assert told.endswith("; a condition, kept unless the whole interval is beyond it: at or below 9")
    assert condition.outcome(Interval(mean=5.0, low=-30.0, high=40.0, n=2), lost=(7,)) == "undecided"
