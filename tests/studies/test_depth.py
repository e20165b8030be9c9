"""Depth: what is trained and evaluated, parameters that are to be equal, one small reproduction."""

import io
from dataclasses import replace

import pytest
from drawn import check_pictures
from rich.console import Console
from small_models import one_thread
from tiny_studies import counting

from unimatrix.data import VOCAB_SIZE
from unimatrix.lab.answers import NOT_MEASURED
from unimatrix.lab.run import reproduce
from unimatrix.models.estimate import estimate
from unimatrix.studies.beyond.depth import (
    DEPTH_RECALL,
    DEPTH_TEXT,
    DEPTHS,
    EVALUATED,
    NARROW,
    ON_RECALL,
    SEPARATE,
    SHARED,
    STEPS,
    TEXT,
    experiments_of,
)
from unimatrix.studies.catalogue import ONLY_IN_FULL
from unimatrix.studies.paper.claims import PAPER

__all__ = ["one_thread"]


@pytest.mark.parametrize("kind", [TEXT, ON_RECALL], ids=lambda kind: kind.name)
def test_what_is_to_be_equal_is(kind) -> None:
    found = experiments_of(kind)
    vocab = VOCAB_SIZE if kind.like.task is None else kind.like.task.vocab_size

    def parameters(form: str, depth: int) -> int:
        return estimate(found[form, depth].model.resolved(vocab)).parameters

    once = parameters(SHARED, 1)
    assert {parameters(SHARED, depth) for depth in DEPTHS} == {once}
    for depth in DEPTHS[1:]:
        assert parameters(STEPS, depth) == once + 64 * depth
        assert parameters(SEPARATE, depth) > 1.5 * once
        assert abs(parameters(NARROW, depth) / once - 1) < 0.02, depth
        separate, shared = (found[form, depth].model.resolved(vocab) for form in (SEPARATE, SHARED))
        assert (len(separate.layers), separate.depth, separate.d_model) == (depth, depth, 64)
        assert (len(shared.layers), shared.depth) == (1, depth)
        assert separate.layers[-1] == shared.layers[0]
    assert {one.name for one in found.values()} <= ONLY_IN_FULL


@pytest.mark.parametrize("study", [DEPTH_TEXT, DEPTH_RECALL], ids=lambda study: study.name)
def test_without_runs_nothing_is_said(study) -> None:
    assert study.answer({}) == NOT_MEASURED
    assert {claim.judge({}).outcome for claim in study.claims} == {"undecided"}


def test_a_trained_block_is_evaluated_at_every_depth(tmp_path) -> None:
    """Two steps of training; at the trained depth the number is the model's own on the same bytes."""
    kept = {"depth-text.shared-2", "depth-text.steps-2", "depth-text.separate-2"}

    def small(one):
        model = replace(
            one.model, changes={**one.model.changes, "d_model": 8, "num_heads": 2, "state_dim": 4}
        )
        loop = replace(one.loop, steps=2, batch_size=2, seq_len=16, eval_every=None, tracker="none")
        return replace(one, model=model, loop=loop)

    rows = tuple(row for row in DEPTH_TEXT.rows if row.experiment.name in kept)
    study = replace(DEPTH_TEXT, rows=rows).with_experiments(small)
    (found,) = reproduce(
        studies=(study,),
        paper=PAPER,
        out=tmp_path,
        seeds=(7, 11),
        corpus=counting(),
        console=Console(file=io.StringIO(), width=140),
    ).summaries
    for name, runs in found.samples.items():
        for run in runs.values():
            deep = {
                key: value for key, value in run.metrics.items() if key.endswith("_deep") and "bpb" in key
            }
            if "separate" in name:
                assert not deep
                continue
            assert deep.keys() == {f"bpb_{depth}_deep" for depth in EVALUATED}
            assert deep["bpb_2_deep"] == pytest.approx(run.metrics["bpb"], rel=1e-6), "200 bytes are all"
            assert len(set(deep.values())) == len(EVALUATED)
    check_pictures(found.study, found.samples)
