"""A paper's claims follow the verdicts of the claims that judge them, and of what nothing measures."""

import pytest

from unimatrix.lab.claims import CountedClaim, Verdict
from unimatrix.lab.paper import HeldBy, Paper, PaperClaim

YES, NO, OPEN = "reproduced", "not reproduced", "undecided"
TEST = HeldBy(name="tests/a.py::test_a", shows="it holds")


def judged(outcomes, **words):
    paper = Paper(
        identifier="x",
        title="A paper",
        licence="",
        claims=(PaperClaim(name="c01", statement="so it is", where="Section 1", **words),),
    )
    verdicts = [
        (f"study{number}", CountedClaim("so it is", "1", True, (), ("c01",)), verdict(outcome))
        for number, outcome in enumerate(outcomes)
    ]
    # one that is about something else
    verdicts.append(("other", CountedClaim("not so", "1", False, (), ("c02",)), verdict(NO)))
    (found,) = paper.judged(verdicts)
    return found


def verdict(outcome):
    return Verdict(outcome=outcome, seeds=5, details=())


@pytest.mark.parametrize(
    ("outcomes", "words", "standing"),
    [
        ([YES, YES], {}, YES),
        ([YES, NO], {}, NO),
        ([YES, OPEN], {}, OPEN),
        ([], {"tests": (TEST,)}, YES),
        ([NO], {"tests": (TEST,)}, NO),
        ([YES], {"unmeasured": "half of it"}, OPEN),
        ([NO], {"unmeasured": "half of it"}, NO),
        ([], {}, OPEN),
        ([YES], {"here": "a part"}, "open in the paper"),
    ],
)
def test_a_claim_stands_as_its_evidence_does(outcomes, words, standing) -> None:
    found = judged(outcomes, **words)
    assert found.standing == standing
    assert [one.study for one in found.evidence if one.study] == [f"study{n}" for n in range(len(outcomes))]


def test_evidence_names_what_it_is_and_notes_say_what_is_missing() -> None:
    (study, test) = judged([YES], tests=(TEST,)).evidence
    assert (study.study, study.text, test.test, test.text) == ("study0", "so it is", TEST.name, "it holds")
    assert judged([]).note == "No study that judges it is among these."
    assert judged([YES], unmeasured="half of it").note == "half of it"
    assert judged([], here="a part").note == "a part"


@pytest.mark.parametrize(("decisive", "standing"), [([YES], YES), ([NO], NO), ([], OPEN)])
@pytest.mark.parametrize("beside", [YES, NO])
def test_what_the_paper_never_made_is_listed_and_decides_nothing(decisive, standing, beside) -> None:
    paper = Paper(
        identifier="x", title="x", licence="", claims=(PaperClaim(name="c01", statement="s", where="1"),)
    )
    touching = CountedClaim("beyond", "1", True, (), touches=("c01",))
    judging = CountedClaim("so it is", "1", True, (), ("c01",))
    verdicts = [("beyond", touching, verdict(beside)), *(("own", judging, verdict(one)) for one in decisive)]
    (found,) = paper.judged(verdicts)
    assert found.standing == standing
    assert (found.evidence[0].study, found.evidence[0].decides) == ("beyond", False)
    assert bool(found.note) == (not decisive)
