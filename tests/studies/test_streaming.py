"""Texts as one stream: every experiment, one small reproduction of it, and what is shown of it."""

import dataclasses
import io

import pytest
from drawn import check_pictures
from rich.console import Console
from small_models import one_thread
from tiny_studies import counting, tiny

from unimatrix.data import VOCAB_SIZE
from unimatrix.evals.compressors import COMPRESSORS, compressor_bits
from unimatrix.evals.streaming import stream_bits
from unimatrix.lab.run import reproduce
from unimatrix.lab.study import Row
from unimatrix.lab.words import summarise
from unimatrix.models import build, peer_presets, presets
from unimatrix.studies.beyond.streaming import (
    _DRAWN,
    LABELS,
    PLAINLY,
    STREAM_BYTES,
    STREAMING,
    VOTED,
    VOTING,
)
from unimatrix.studies.paper.claims import PAPER

__all__ = ["one_thread"]


def test_every_preset_for_text_is_there_and_votes_where_it_has_a_place_for_votes() -> None:
    assert LABELS.keys() == presets().keys() | peer_presets().keys()
    assert LABELS.keys() - VOTED.keys() == {"mamba2"}
    for preset, experiment in VOTED.items():
        plain = PLAINLY[preset].model.resolved(VOCAB_SIZE)
        voting = experiment.model.resolved(VOCAB_SIZE)
        automata = [part for part in voting.all_parts.values() if "suffix_automaton" in part.ops]
        assert len(automata) == 1, "one automaton, whatever is done with it"
        assert ("votes" in automata[0].gives, getattr(automata[0], "vote", True)) == (True, True)
        assert dataclasses.replace(voting, parts=plain.parts) == plain


def test_the_protocol_says_whose_votes_have_a_gate() -> None:
    gated = set()
    for preset, experiment in VOTED.items():
        parts = experiment.model.resolved(VOCAB_SIZE).all_parts.values()
        gated |= {preset for part in parts if getattr(part, "gate", None) is True}
    assert gated == {"unimatrix"}
    assert "The votes of the preset unimatrix alone have a gate" in " ".join(STREAMING.protocol)


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory):
    """Two models without and with votes, two steps, 200 bytes."""
    chosen = ("transformer", "unimatrix-rosa-exact")
    names = {experiments[preset].name for experiments in (PLAINLY, VOTED) for preset in chosen}
    rows = tuple(row for row in STREAMING.rows if not isinstance(row, Row) or row.experiment.name in names)
    study = tiny(dataclasses.replace(STREAMING, rows=rows), stream_window=None)
    found = reproduce(
        studies=(study,),
        paper=PAPER,
        out=tmp_path_factory.mktemp("streams"),
        seeds=(7, 11),
        corpus=counting(),
        console=Console(file=io.StringIO(), width=140),
    )
    return found.summaries[0]


def test_rows_hold_windows_the_stream_positions_and_programs(reproduced) -> None:
    for experiment, runs in reproduced.samples.items():
        for run in runs.values():
            told = {name for name in run.metrics if name.startswith("stream_bpb_")}
            reads_on = experiment != "stream.transformer"
            assert told == ({"stream_bpb_1", "stream_bpb_129"} if reads_on else set()), "of 200 bytes"
            # the whole text in windows, as it is shorter than the stream may be
            assert run.metrics["windows_bpb"] == pytest.approx(run.metrics["bpb"])
            if reads_on:
                whole = 128 * run.metrics["stream_bpb_1"] + 72 * run.metrics["stream_bpb_129"]
                assert whole / 200 == pytest.approx(run.metrics["stream_bpb"])
            for name in COMPRESSORS:
                expected = compressor_bits(counting().valid[:STREAM_BYTES], name).bpb
                assert run.metrics[f"{name}_bpb"] == expected
    votes = next(run for name, run in reproduced.samples.items() if name.endswith("transformer-votes"))
    plain = next(run for name, run in reproduced.samples.items() if name.endswith("transformer"))
    assert all(votes[seed].metrics["stream_bpb"] < plain[seed].metrics["stream_bpb"] for seed in (7, 11))


def test_programs_stand_in_the_table_and_models_in_the_figures(reproduced) -> None:
    programs = {line.label: line for line in reproduced.lines if line.num_seeds is None}
    assert len(programs) == len(COMPRESSORS)
    expected = compressor_bits(counting().valid, "xz").bpb
    xz = next(line for label, line in programs.items() if label.startswith("xz"))
    assert [cell.exact for cell in xz.cells] == [None, expected, None, None, None]
    assert xz.cells[1].ours == f"{expected:.3f}"
    assert {line.group for line in reproduced.lines} >= {VOTING}
    assert reproduced.study.answer(reproduced.samples).count("not measured") >= 1, "Core was not trained"
    check_pictures(reproduced.study, reproduced.samples)


def test_the_figure_by_position_says_how_many_models_it_has_and_whose_line_is_missing() -> None:
    text = counting().valid[:200]

    def reads_on(experiment) -> bool:
        return stream_bits(build(experiment.model.resolved(VOCAB_SIZE)), text).reads_on

    assert all(reads_on(VOTED[preset]) for preset in _DRAWN)
    missing = [LABELS[preset] for preset in _DRAWN if not reads_on(PLAINLY[preset])]
    assert missing == ["Transformer", "Transformer, modern"]
    (figure,) = (one for one in STREAMING.figures if one.name == "streaming-positions")
    said = f"{len(_DRAWN)} models with votes, and without them all but {' and '.join(missing)}, of which"
    assert said in figure.caption


def test_without_runs_a_program_has_no_number() -> None:
    summary = summarise(STREAMING, {})
    assert summary.waits
    assert [line for line in summary.lines if line.num_seeds is None] == []
