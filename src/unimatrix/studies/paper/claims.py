"""Every claim of the paper, from claims.json beside this file, and what judges those that no study can.

Claims of studies name the paper's claims that they judge. Here stands the rest: tests that hold a claim about
method or artifact, what of a claim nothing measures, and what there is here of what the paper leaves open.
"""

from typing import Any

from unimatrix.lab.paper import HeldBy, Paper, PaperClaim
from unimatrix.studies.paper.published import read

_TESTS = {
    "c10": (
        HeldBy(name="tests/cli/test_reproduce.py::PLACE", shows="Studies train, are judged and reported."),
    ),
}

_UNMEASURED: dict[str, str] = {}

_HERE: dict[str, str] = {}


def _claim(values: dict[str, Any]) -> PaperClaim:
    name, where = values["id"], values["where"]
    return PaperClaim(
        name=name,
        statement=values["claim"],
        where=f"Section {where}" if where[0].isdigit() else where[0].upper() + where[1:],
        tests=_TESTS.get(name, ()),
        unmeasured=_UNMEASURED.get(name, ""),
        here=_HERE.get(name),
    )


PAPER = Paper(
    identifier="arXiv:2604.25930v1",
    title="Associative-State Universal Transformers: Pilot Studies in Structured Recurrent State, Sparse "
    "Retrieval, and Latent Compression",
    licence="CC BY 4.0",
    claims=tuple(map(_claim, read("claims.json")["claims"])),
)
