"""A sentence that follows the verdicts and the numbers, whichever way they come out."""

import pytest

from unimatrix.lab.answers import NOT_MEASURED, Mean, Said, sentence, sentences
from unimatrix.lab.claims import BPB, ComparedClaim, Comparison, Measured
from unimatrix.studies.catalogue import experiment

CORE, TRANSFORMER = (
    Measured(experiment(name), "bpb") for name in ("table1.unimatrix-core", "table1.transformer")
)
BELOW = ComparedClaim(
    statement="Core is below",
    source="nowhere",
    comparisons=(Comparison(label="C - T", left=CORE, right=TRANSFORMER, side="below", unit=BPB),),
)
ANSWER = sentence(
    "{core} against {transformer}: {verdict}.",
    core=Mean(CORE, 2, " BPB"),
    transformer=Mean(TRANSFORMER, 2),
    verdict=Said((BELOW,), "better", "worse", "open"),
)


@pytest.mark.parametrize(
    ("core", "transformer", "expected"),
    [
        ((5.0, 5.1), (5.2, 5.32), "5.05 BPB against 5.26: better."),
        ((5.2, 5.32), (5.0, 5.1), "5.26 BPB against 5.05: worse."),
        ((5.0, 5.4), (5.2, 5.1), "5.20 BPB against 5.15: open."),
        ((5.0,), (5.2,), "5.00 BPB against 5.20: open."),
        ((), (5.2,), "(not measured yet) against 5.20: open."),
        ((), (), NOT_MEASURED),
    ],
)
def test_an_answer_follows_the_verdict(samples, core, transformer, expected) -> None:
    values = {
        quantity.experiment.name: dict(zip((7, 11), found, strict=False))
        for quantity, found in ((CORE, core), (TRANSFORMER, transformer))
    }
    assert ANSWER(samples(values)) == expected
    assert ANSWER({}) == NOT_MEASURED


def test_several_claims_are_said_together(samples) -> None:
    runs = samples({CORE.experiment.name: {7: 5.0, 11: 5.1}, TRANSFORMER.experiment.name: {7: 5.2, 11: 5.32}})
    above = ComparedClaim(
        statement="not so",
        source="nowhere",
        comparisons=(Comparison(label="C - T", left=CORE, right=TRANSFORMER, side="above", unit=BPB),),
    )
    assert Said((BELOW, BELOW), "all", "not all", "open").text(runs) == "all"
    assert Said((BELOW, above), "all", "not all", "open").text(runs) == "not all"


def test_large_numbers_are_separated(result) -> None:
    name = CORE.experiment.name
    runs = {seed: result(name, seed, 5.0, metrics={"bpb": 1_234_560.0 + seed}) for seed in (7, 8)}
    assert Mean(CORE, 1, " tokens").text({name: runs}) == "1,234,567.5 tokens"


def test_of_several_sentences_those_that_have_run_are_said(samples) -> None:
    answer = sentences(ANSWER, sentence("Core alone has {core}.", core=Mean(CORE, 1)))
    assert answer({}) == NOT_MEASURED
    both = samples({CORE.experiment.name: {7: 5.0}, TRANSFORMER.experiment.name: {7: 5.2}})
    assert answer(both) == "5.00 BPB against 5.20: open. Core alone has 5.0."
    one = samples({TRANSFORMER.experiment.name: {7: 5.2}})
    assert answer(one) == "(not measured yet) against 5.20: open."
