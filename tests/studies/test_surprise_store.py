"""The study of who is kept: what differs between its rows, one small reproduction, and its verdicts."""

import dataclasses
import io
from typing import Any

import pytest
import torch
from drawn import check_pictures
from rich.console import Console
from small_models import one_thread
from tiny_studies import counting, tiny

from unimatrix.lab.run import reproduce
from unimatrix.mixers import SurpriseStoreConfig
from unimatrix.mixers.surprise_store import Policy
from unimatrix.ops import surprise_store
from unimatrix.studies.beyond.binding_load import LEAST_GOES, SURPRISE, WORTH
from unimatrix.studies.beyond.surprise_store import (
    ADMISSION,
    ADMITS,
    KEEPS,
    LABELS,
    LETS_GO,
    ON_CLEAN,
    ON_MQAR,
    ON_RECALL,
    ON_TEXT,
    SURPRISE_STORE,
    TEXT_BUDGET,
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


def admitted(policy: Any, tokens: int = 4096, piece: int = 16) -> list[float]:
    """How many of each half of a text, of independent surprise, a full store of that policy takes in."""
    rng = torch.Generator().manual_seed(0)
    surprise, numbers = torch.rand(4, tokens, generator=rng), torch.zeros(4, piece, 1)
    state, new = None, []
    for first in range(0, tokens, piece):
        ids = torch.arange(first, first + piece).expand(4, piece)
        _, state = surprise_store(
            *(numbers, numbers, numbers, ids),
            surprise=surprise[:, first : first + piece],
            budget=TEXT_BUDGET,
            policy=policy,
            state=state,
        )
        new.append((state.token_ids >= first).sum().item() / 4)
    full = new[TEXT_BUDGET // piece :]
    half = len(full) // 2
    return [sum(full[:half]), sum(full[half:])]


def test_where_the_oldest_goes_surprise_admits_as_many_as_chance_and_else_fewer() -> None:
    """Why a store in which the least surprising goes is not beside random admission: it takes in fewer."""
    by_surprise, by_chance = (admitted(policy) for policy in ADMISSION)
    assert by_surprise == pytest.approx(by_chance, rel=0.15)
    assert all(few < most for few, most in zip(admitted("surprise"), by_chance, strict=True))


def test_a_claim_compares_policies_that_differ_in_one_thing() -> None:
    """Either who is admitted, or who goes: never a store that hardly changes with one that always does."""
    admits = {
        "surprise": "surprise",
        "surprise-oldest": "surprise",
        "random": "chance",
        "reservoir": "chance",
    }
    goes = {"surprise": "least", "surprise-oldest": "oldest", "random": "oldest", "reservoir": "least"}
    claims = [*SURPRISE_STORE.claims, SURPRISE, WORTH, LEAST_GOES]
    assert len(claims) == 15
    for claim in claims:
        ((left, right),) = (
            [
                next(
                    part.policy
                    for part in side.experiment.model.resolved(512).all_parts.values()
                    if isinstance(part, SurpriseStoreConfig)
                )
                for side in (comparison.left, comparison.right)
            ]
            for comparison in claim.comparisons
        )
        assert (admits[left] != admits[right]) + (goes[left] != goes[right]) == 1, claim.statement


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory):
    """Four policies and the oracle, on everything: two steps, 200 bytes."""
    chosen = {LABELS[policy] for policy in ("random", "reservoir", "oracle", "surprise", "surprise-oldest")}
    rows = tuple(row for row in SURPRISE_STORE.rows if row.label in chosen)  # type: ignore[union-attr]
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
    assert list(verdicts) == [*ADMITS.values(), *LETS_GO.values(), *KEEPS.values()]
    assert {verdict.seeds for verdict in verdicts.values()} == {2}
    answer = reproduced.study.answer(reproduced.samples)
    assert "not measured" not in answer
    assert sum(answer.count(f"{end} better") for end in ("that is", "that is not", "which is")) == 12
    check_pictures(reproduced.study, reproduced.samples)
