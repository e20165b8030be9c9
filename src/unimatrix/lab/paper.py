"""A paper that studies are held against: every claim it makes, and the verdict on it with its evidence.

A claim of a study says which of them it judges. What no run can decide is held by named tests; what the paper
itself names as open stays open, with what there is of it here.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from unimatrix.lab.claims import Claim, Outcome, Verdict, conjunction

Standing = Outcome | Literal["open in the paper"]


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldBy:
    """A test of this repository that holds a claim: "tests/file.py::test_name", and what it shows."""

    name: str
    shows: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PaperClaim:
    """One claim that the paper makes.

    where: in the paper. tests: hold what no run decides. unmeasured: a part of it that neither a study nor a
    test looks at; while there is one, the claim is not reproduced in full.
    here: where the paper names it as open, what there is of it in this repository; None for all others.
    """

    name: str
    statement: str
    where: str
    tests: tuple[HeldBy, ...] = ()
    unmeasured: str = ""
    here: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """What a verdict rests on: a study's claim, by the study's name, or a test, by its own; one is "".

    decides: the paper made such an experiment; else it is listed, and no verdict follows from it.
    on_shown: it rests on the project's own runs, not trained here.
    """

    study: str = ""
    test: str = ""
    text: str
    outcome: Outcome
    decides: bool = True
    on_shown: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgedClaim:
    """A claim of the paper, judged. note: what nothing measures, or what there is of what is open; or ""."""

    claim: PaperClaim
    standing: Standing
    evidence: tuple[Evidence, ...]
    note: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Paper:
    """What studies are held against: printed numbers, claims, and where they stand.

    licence: of the numbers that are quoted. findings: the studies that the page shows first, each with the
    figure that answers it.
    """

    identifier: str
    title: str
    licence: str
    claims: tuple[PaperClaim, ...] = ()
    findings: Mapping[str, str] = field(default_factory=dict)

    def judged(self, verdicts: Iterable[tuple[str, Claim, Verdict]]) -> tuple[JudgedClaim, ...]:
        """Every claim of the paper, in its order.

        verdicts: (study, its claim, the verdict), of the studies that are shown.
        """
        verdicts = tuple(verdicts)
        return tuple(_judged(claim, verdicts) for claim in self.claims)


def _judged(claim: PaperClaim, verdicts: tuple[tuple[str, Claim, Verdict], ...]) -> JudgedClaim:
    """Reproduced if all that judges it says so and nothing is unmeasured, not reproduced if any says no.

    What only touches it is listed beside.
    """
    evidence = (
        *(
            Evidence(
                study=study,
                text=found.statement,
                outcome=verdict.outcome,
                decides=claim.name in found.judges,
                on_shown=verdict.on_shown,
            )
            for study, found, verdict in verdicts
            if claim.name in (*found.judges, *found.touches)
        ),
        *(Evidence(test=test.name, text=test.shows, outcome="reproduced") for test in claim.tests),
    )
    if claim.here is not None:
        return JudgedClaim(claim=claim, standing="open in the paper", evidence=evidence, note=claim.here)
    deciding: list[Outcome] = [found.outcome for found in evidence if found.decides]
    outcome = conjunction(deciding)
    if outcome == "reproduced" and (claim.unmeasured or not deciding):
        outcome = "undecided"
    none = "What is listed goes beyond the paper." if evidence else "No study that judges it is among these."
    note = claim.unmeasured or ("" if deciding else none)
    return JudgedClaim(claim=claim, standing=outcome, evidence=evidence, note=note)
