"""The whole paper: some study shows every printed number, every claim has a verdict with its evidence."""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from unimatrix.lab.answers import NOT_MEASURED
from unimatrix.lab.newest import newest, on_each_text
from unimatrix.lab.results import read_results
from unimatrix.lab.study import Row
from unimatrix.models import build, parameter_count, preset_config
from unimatrix.studies.beyond.fights import SEEDS
from unimatrix.studies.beyond.streaming import STREAMING
from unimatrix.studies.catalogue import ALL, STUDIES
from unimatrix.studies.paper.claims import PAPER
from unimatrix.studies.paper.published import Printed, PrintedCount, every_path

ROOT = Path(__file__).parents[2]


def paths_in(value: Any) -> Iterator[tuple]:
    """Where the printed numbers in a row, a column or a claim stand in the paper's file."""
    if isinstance(value, Printed | PrintedCount):
        yield value.path
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from paths_in(inner)
    elif isinstance(value, tuple | list):
        for inner in value:
            yield from paths_in(inner)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from paths_in(getattr(value, field.name))


def shown_in(study) -> set[tuple]:
    """The printed numbers that a study shows: in the columns that it has, as counts, and in its claims."""
    rows = [row for row in study.rows if isinstance(row, Row)]
    in_columns = [row.paper.get(column.key) for row in rows for column in study.columns]
    return set(paths_in((in_columns, [row.paper_parameters for row in rows], study.claims)))


def test_every_printed_number_is_shown_by_a_row_or_a_claim() -> None:
    shown = set().union(*map(shown_in, ALL.values()))
    assert {path for path in every_path() if path not in shown} == set()
    assert len(shown) > 100


@pytest.fixture(scope="module")
def committed():
    """Study -> the committed runs of it."""
    rows = read_results(ROOT / "docs" / "results" / "results.jsonl")
    return {name: newest(study, rows) for name, study in ALL.items()}


BEYOND = ("table1-exact", "table3-exact", "streaming", "training-length", "table5-all-fillers", "memory")
BEYOND += ("binding-load", "binding-length", "depth-text", "depth-recall")
BEYOND += ("context-votes", "surprise-store", "ablation", "learning-rate", "triple-untyped")
BEYOND += ("fair-fight", "fair-fight-second", "fair-fight-third")
BEYOND += ("fair-fight-long", "fair-fight-large")
# of whose runs the first seed's are committed
ONE_SEED = ("learning-rate",)
FIVE = {7, 11, 1, 2, 3}
# the fights' own seeds, and how many of them a study has
FRESH = {
    "fair-fight": 5,
    "fair-fight-second": 5,
    "fair-fight-third": 5,
}
FRESH |= {"fair-fight-long": 1, "fair-fight-large": 1}  # of the three of the longer one, so far
# the texts that streams were read from, the newest first
STREAMS = dict.fromkeys(("python-stdlib-3.11.7", "tinyshakespeare", "wikitext-2-raw"), FIVE)
# what no committed run is of: a name goes from here when its rows come
NOT_RUN_YET = ("triple-untyped.",)
NOT_RUN_YET += ("fight-second.", "fight-third.")
PARTLY_RUN = ("triple-untyped",)  # whose answer needs such a run, and others that are there


def test_every_study_answers_with_the_committed_runs(committed) -> None:
    for name, study in ALL.items():
        answer = study.answer(committed[name])
        if study.names and all(experiment.startswith(NOT_RUN_YET) for experiment in study.names):
            assert answer == NOT_MEASURED
        elif name in PARTLY_RUN:
            assert "not measured" in answer
        else:
            assert "not measured" not in answer.lower()


def test_the_committed_runs_are_of_five_seeds_and_of_today_s_settings(committed) -> None:
    for name, study in STUDIES.items():
        for experiment in study.names:
            seeds = {7} if name in ONE_SEED else FIVE
            seeds = set(SEEDS[: FRESH[name]]) if name in FRESH else seeds
            seeds = set() if experiment.startswith(NOT_RUN_YET) else seeds
            assert committed[name].get(experiment, {}).keys() == seeds, experiment
    assert all(row.is_current for row in read_results(ROOT / "docs" / "results" / "results.jsonl"))


def test_streams_are_of_every_text_that_they_were_read_from() -> None:
    rows = read_results(ROOT / "docs" / "results" / "results.jsonl")
    told = {study.text: newest(study, rows) for study in on_each_text(STREAMING, rows)}
    assert list(told) == list(STREAMS)
    for text, seeds in STREAMS.items():
        assert {name: runs.keys() for name, runs in told[text].items()} == dict.fromkeys(
            STREAMING.names, seeds
        )


def test_no_committed_row_names_a_folder_of_the_machine_it_ran_on() -> None:
    text = (ROOT / "docs" / "results" / "results.jsonl").read_text(encoding="utf-8")
    assert not re.search(r'"/(home|root|tmp|work|Users)/', text)


def test_every_claim_has_a_verdict_with_its_evidence(committed) -> None:
    verdicts = [
        (name, claim, claim.judge(committed[name])) for name, study in ALL.items() for claim in study.claims
    ]
    judged = {found.claim.name: found for found in PAPER.judged(verdicts)}
    assert list(judged) == [f"c{number:02}" for number in range(1, 51)]
    without = {name for name, found in judged.items() if not found.evidence and not found.note}
    assert without == set()
    unjudged = {
        name
        for name, found in judged.items()
        if not found.evidence and not found.claim.unmeasured and found.claim.here is None
    }
    assert unjudged == set()
    # what the paper names as open, and nothing else, is open
    opened = {name for name, found in judged.items() if found.standing == "open in the paper"}
    assert opened == {"c42", "c47", "c48", "c49", "c50"}
    assert judged["c10"].standing == judged["c16"].standing == "reproduced"
    assert judged["c12"].standing == judged["c13"].standing == "reproduced"


def test_what_studies_judge_are_claims_of_the_paper() -> None:
    names = {claim.name for claim in PAPER.claims}
    claims = [claim for study in ALL.values() for claim in study.claims]
    assert {name for claim in claims for name in (*claim.judges, *claim.touches)} <= names
    # what goes beyond the paper decides none of its claims
    beyond = [claim for study in ALL.values() if not study.paper for claim in study.claims]
    beyond += [claim for claim in claims if re.search("calls for it|no such", claim.source)]
    assert {name for claim in beyond for name in claim.judges} == set()
    assert {name for claim in beyond for name in claim.touches} == {"c08", "c25", "c43", "c45"}
    assert all(claim.statement and claim.where for claim in PAPER.claims)


@pytest.mark.parametrize("name", sorted({test.name for claim in PAPER.claims for test in claim.tests}))
def test_the_tests_that_hold_a_claim_are_there(name) -> None:
    path, _, test = name.partition("::")
    assert re.search(rf"^def {test}\(", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE)


def test_shared_depth_costs_compute_and_no_parameters() -> None:
    def costs(preset: str, depth: int) -> tuple[int, int]:
        config = preset_config(preset, depth=depth)
        steps = sum(
            part.multiply_adds(config.size, 128)
            for step in config.order
            for part in config.layers[step].values()
        )
        return parameter_count(build(config)), steps

    (core3, work3), (core6, work6) = costs("unimatrix-core", 3), costs("unimatrix-core", 6)
    (transformer3, _), (transformer6, _) = costs("transformer", 3), costs("transformer", 6)
    assert core3 == core6
    assert work6 == 2 * work3 > 0
    assert transformer6 > 1.5 * transformer3


def test_every_study_asks_and_answers_and_says_where_it_stands_in_the_paper() -> None:
    for study in ALL.values():
        assert study.question.endswith("?")
        answer = study.answer({})
        assert answer.endswith(".")
        assert "{" not in answer
        ours = study.name in BEYOND
        ours = ours or "decoding" in study.name
        assert (study.paper == "") == ours
