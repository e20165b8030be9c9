"""What further votes bring: every experiment is what its label says, and one small reproduction of two."""

import dataclasses
import io

from drawn import check_pictures
from rich.console import Console
from small_models import one_thread
from tiny_studies import counting, tiny

from unimatrix.data import VOCAB_SIZE
from unimatrix.lab.run import reproduce
from unimatrix.lab.study import Row
from unimatrix.studies.beyond.context_votes import BOTH, CONTEXT_VOTES, CORE_VOTES
from unimatrix.studies.beyond.streaming import CORE
from unimatrix.studies.paper.claims import PAPER

__all__ = ["one_thread"]


def test_experiments_differ_by_their_votes_alone() -> None:
    plain, said = CORE.model.resolved(VOCAB_SIZE), {}
    for row in CONTEXT_VOTES.trained:
        config = row.experiment.model.resolved(VOCAB_SIZE)
        assert dataclasses.replace(config, parts=plain.parts) == plain
        assert dataclasses.replace(row.experiment, name=CORE.name, model=CORE.model) == CORE
        said[row.label] = {
            part.kind: (getattr(part, "orders", ()), getattr(part, "continuations", 1))
            for part in config.all_parts.values()
            if "votes" in part.gives
        }
    match, usual = {"suffix_votes": ((), 1)}, (2, 3, 4, 6)
    assert said == {
        "No votes": {},
        "Longest match": match,
        "Four newest at 2, 3, 4, 6": {"context_votes": (usual, 4)},
        "Longest match, four newest at 2, 3, 4, 6": match | {"context_votes": (usual, 4)},
        "Longest match, two newest at 2, 3, 4, 6": match | {"context_votes": (usual, 2)},
        "Longest match, the newest at 2, 3, 4, 6": match | {"context_votes": (usual, 1)},
        "Longest match, four newest at 2, 4": match | {"context_votes": ((2, 4), 4)},
        "Longest match, four newest at 1 to 6": match | {"context_votes": ((1, 2, 3, 4, 5, 6), 4)},
    }


def test_two_small_rows_are_measured_judged_and_drawn(tmp_path) -> None:
    names = {CORE_VOTES.name, BOTH.name}
    rows = tuple(row for row in CONTEXT_VOTES.rows if isinstance(row, Row) and row.experiment.name in names)
    study = tiny(dataclasses.replace(CONTEXT_VOTES, rows=rows), stream_window=None)
    found = reproduce(
        studies=(study,),
        paper=PAPER,
        out=tmp_path,
        seeds=(7, 11),
        corpus=counting(),
        console=Console(file=io.StringIO(), width=140),
    )
    summary = found.summaries[0]
    for name in names:
        assert all("stream_bpb" in run.metrics for run in summary.samples[name].values())
    details = [d for claim, verdict in summary.verdicts for d in verdict.details if "both - " in d]
    assert ["n = 2 pairs" in detail for detail in details] == [True]
    assert summary.study.answer(summary.samples).count("not measured") >= 1, "Core was not trained"
    check_pictures(summary.study, summary.samples)
