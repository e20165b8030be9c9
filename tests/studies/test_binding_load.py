"""Binding load: what is evaluated of whom, what the automaton alone says, one small reproduction."""

import io
from dataclasses import replace

import pytest
import torch
from drawn import check_pictures
from rich.console import Console
from small_models import one_thread
from tiny_studies import counting, tiny

from unimatrix.data.tasks import IGNORE, mqar
from unimatrix.data.tasks.mqar import CELLS
from unimatrix.lab.answers import NOT_MEASURED
from unimatrix.lab.run import reproduce
from unimatrix.lab.study import Row
from unimatrix.ops import suffix_automaton
from unimatrix.studies.beyond.binding_load import (
    AUTOMATON,
    BAR,
    BATCH,
    BINDING_LENGTH,
    BINDING_LOAD,
    CROWD,
    CROWDED,
    HOLDS_ITS_SHARE,
    LENGTHS,
    LOOKS_BACK,
    OTHER,
    POINTERS,
    REBOUND,
    TRAINED_ON,
    answers_in,
    key_of,
    on_cell,
)
from unimatrix.studies.catalogue import ONLY_IN_FULL
from unimatrix.studies.paper.claims import PAPER

__all__ = ["one_thread"]
STUDIES = (BINDING_LOAD, BINDING_LENGTH)


def test_every_column_is_evaluated_and_only_attention_ends_before_the_longest() -> None:
    for study in STUDIES:
        for row in study.trained:
            task = row.experiment.task
            names = {f"accuracy_{name}" for name in mqar.variants(task)} | {"accuracy"}
            missing = {column.key for column in study.columns} - names
            short = row.experiment in [OTHER[name] for name in LOOKS_BACK]
            expected = {key_of(LENGTHS[-1], 4)} if short and study is BINDING_LENGTH else set()
            assert missing == expected, row.label


def test_all_train_alike_and_only_when_everything_is_asked_for() -> None:
    experiments = [*POINTERS.values(), *OTHER.values()]
    assert {(one.optim, one.loop) for one in experiments} == {(experiments[0].optim, experiments[0].loop)}
    assert {replace(one.task, eval_cells=()) for one in experiments} == {TRAINED_ON}
    assert {one.name for one in experiments} <= ONLY_IN_FULL


def test_five_seeds_without_a_miss_are_enough_answers_for_the_bar() -> None:
    task = POINTERS[64].task
    for name, variant in mqar.variants(task).items():
        answers = variant.eval_sequences * variant.num_asked
        assert answers >= 104, name
        # of n answers without a miss, the exact one-sided 95 % bound
        assert 100.0 * 0.05 ** (1 / (5 * answers)) >= BAR, name
    assert answers_in(LENGTHS[-1], 4) == mqar.variants(task)["65536_tokens_4_pairs"].eval_sequences * 4
    for study in STUDIES:
        assert f"At 65,536 tokens that is {answers_in(65_536, 4)} answers for each seed." in study.protocol


def test_the_crowd_is_asked_and_answers_as_often() -> None:
    for slots, found in CROWDED.items():
        assert slots >= CROWD[1] == found.task.num_pairs
        assert found.loop.batch_size * found.task.length == TRAINED_ON.length * BATCH
        for name, variant in mqar.variants(found.task).items():
            assert 100.0 * 0.05 ** (1 / (5 * variant.eval_sequences * variant.num_asked)) >= BAR, name
    asked = {comparison.label for comparison in HOLDS_ITS_SHARE.comparisons}
    assert "64 slots, trained on 64 pairs, 256 pairs in 1,024 - 25" in asked


def test_the_preset_has_its_votes_or_none() -> None:
    voting, silent = (OTHER[name].model.resolved(8192) for name in ("unimatrix", "unimatrix-no-votes"))
    assert voting.parts.keys() - silent.parts.keys() == {"suffix"}


def test_without_runs_nothing_is_said() -> None:
    for study in STUDIES:
        assert study.answer({}) == NOT_MEASURED
        assert {claim.judge({}).outcome for claim in study.claims} == {"undecided"}


@pytest.mark.parametrize("cell", [*CELLS, (128, 4), (1024, 4), (8192, 4), "re-bound"])
def test_the_automaton_alone_is_always_right(cell) -> None:
    """What its row says without any run."""
    task = replace(TRAINED_ON, num_rebound=REBOUND)
    if isinstance(cell, tuple):
        task = on_cell(*cell)
        assert AUTOMATON.values[key_of(*cell)] == 100.0
    batch = mqar.make(task, seed=1, step=0, batch_size=3, stream="eval")
    match, _ = suffix_automaton(batch.input_ids)
    asked = batch.labels != IGNORE
    assert torch.equal(match.token[asked], batch.labels[asked])


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory):
    """Slots and one other model, two steps, a few further cells."""
    names = {POINTERS[64].name, POINTERS[16].name, OTHER["m2rnn"].name}
    cells = ((64, 4), (128, 8), (128, 4), (1024, 4), (1024, 16))

    def small(study):
        rows = tuple(r for r in study.rows if not isinstance(r, Row) or r.experiment.name in names)
        return tiny(replace(study, rows=rows)).with_experiments(
            lambda one: replace(
                one,
                task=replace(one.task, eval_cells=cells, eval_sequences=4),
            )
        )

    return reproduce(
        studies=tuple(map(small, STUDIES)),
        paper=PAPER,
        out=tmp_path_factory.mktemp("binding"),
        seeds=(7, 11),
        corpus=counting(),
        console=Console(file=io.StringIO(), width=140),
    ).summaries


def test_rows_hold_cells_and_what_stands_without_training(reproduced) -> None:
    load, length = reproduced
    for runs in load.samples.values():
        for run in runs.values():
            told = {name for name in run.metrics if name.startswith("accuracy")}
            assert told >= {"accuracy", "accuracy_128_tokens_8_pairs", f"accuracy_{REBOUND}_rebound"}
    lines = {line.label: line for line in load.lines}
    assert [cell.exact for cell in lines[AUTOMATON.label].cells] == [100.0] * len(CELLS)
    guessing = next(line for label, line in lines.items() if label.startswith("Guessing"))
    assert [cell.exact for cell in guessing.cells] == [100.0 / pairs for _, pairs in CELLS]
    assert load.study.answer(load.samples).startswith("Trained on 4 pairs, SparsePointer")
    assert "(not measured yet)" in length.study.answer(length.samples), "the longest was not read"
    check_pictures(load.study, load.samples)
