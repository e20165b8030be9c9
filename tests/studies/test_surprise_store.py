"""The study of who is kept: what differs between its rows, one small reproduction, and its verdicts."""

import dataclasses
import io
from typing import Any

import pytest
from drawn import check_pictures
from rich.console import Console
from small_models import one_thread
from tiny_studies import counting, tiny

from unimatrix.lab.run import reproduce
from unimatrix.mixers.surprise_store import Policy
from unimatrix.studies.beyond.surprise_store import (
    BEATS,
    LABELS,
    ON_CLEAN,
    ON_MQAR,
    ON_RECALL,
    ON_TEXT,
    SURPRISE_STORE,
)
from unimatrix.studies.paper.claims import PAPER

__all__ = ["one_thread"]


def test_rows_differ_in_the_policy_alone_and_every_policy_has_one() -> None:
    assert set(LABELS) == set(Policy.__args__)
    for found in (ON_RECALL, ON_MQAR, ON_CLEAN, ON_TEXT):
        for policy, experiment in found.items():
            store = experiment.model.resolved(512).all_parts["layers.0.store"]
            assert store.policy == policy  # type: ignore[union-attr]
            same: Any = dataclasses.replace(store, policy="surprise", asked=None)  # type: ignore[type-var]
            changed = {**experiment.model.changes, "layers.0.store": same}
            model = dataclasses.replace(experiment.model, changes=changed)
            first = found["surprise"]
            assert dataclasses.replace(experiment, name=first.name, model=model) == first


def test_the_oracle_is_told_of_keys_and_the_pairs_fit() -> None:
    for found, budget in ((ON_RECALL, 16), (ON_MQAR, 8), (ON_CLEAN, 8)):
        task: Any = found["oracle"].task
        store: Any = found["oracle"].model.resolved(512).all_parts["layers.0.store"]
        assert store.asked == (task.first_key, task.first_value)
        assert 2 * task.num_pairs <= store.budget == budget < task.length


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory):
    """Two policies and the oracle, on everything: two steps, 200 bytes."""
    rows = tuple(row for row in SURPRISE_STORE.rows if row.label in (LABELS["random"], LABELS["oracle"]))  # type: ignore[union-attr]
    rows += tuple(row for row in SURPRISE_STORE.rows if row.label == LABELS["surprise"])  # type: ignore[union-attr]
    study = tiny(dataclasses.replace(SURPRISE_STORE, rows=rows))
    found = reproduce(
        studies=(study,),
        paper=PAPER,
        out=tmp_path_factory.mktemp("stores"),
        seeds=(7, 11),
        corpus=counting(),
        console=Console(file=io.StringIO(), width=140),
    )
    return found.summaries[0]


def test_every_row_has_a_number_for_every_task_and_every_claim_a_verdict(reproduced) -> None:
    for line in reproduced.lines:
        assert all(cell.ours for cell in line.cells), line.label
    verdicts = dict(reproduced.verdicts)
    assert list(verdicts) == list(BEATS)
    assert {verdict.seeds for verdict in verdicts.values()} == {2}
    answer = reproduced.study.answer(reproduced.samples)
    assert "not measured" not in answer
    assert answer.count("beat") == 4
    check_pictures(reproduced.study, reproduced.samples)
