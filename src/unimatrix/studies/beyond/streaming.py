"""Texts read as one stream (not in the paper): every preset, without and with an exact automaton's votes.

A model without positions may read on for ever. What it gains by that, and by votes for whatever followed the
longest match in all that was read, stands beside programs that compress the same bytes.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from unimatrix.evals.compressors import COMPRESSORS
from unimatrix.lab.answers import Mean, Said, sentence
from unimatrix.lab.claims import BPB, ComparedClaim, Comparison, Measured
from unimatrix.lab.figures import draw_over_columns
from unimatrix.lab.protocol import listed, protocol_of
from unimatrix.lab.results import Samples
from unimatrix.lab.study import Baseline, Column, Figure, Row, Study
from unimatrix.mixers import SuffixVotesConfig
from unimatrix.studies.makers import of_column
from unimatrix.train.config import Experiment, LoopConfig, ModelChoice, OptimConfig

if TYPE_CHECKING:
    from unimatrix.lab.charts import Drawing

STREAM_BYTES = 262_144  # 2^18
STEPS, LR, WINDOW = 300, 3e-3, 128
# after how many bytes attention forgets: trained on 128 without positions it manages no more of them
# (docs/log.md); what is not named here is as good at 4,096, or does not look back
MANAGED = {
    "transformer": WINDOW,
    "transformer-modern": WINDOW,
    "recurrent-ffn": WINDOW,
    "recurrent-ffn-readout": WINDOW,
    "recurrent-ffn-hybrid": WINDOW,
}
SOURCE = "Not in the paper"
PLAIN, VOTING = "Without votes", "With an exact suffix automaton's votes"
PROGRAMS = "Programs that compress the same bytes"

LABELS = {
    "unimatrix": "unimatrix",
    "transformer": "Transformer",
    "transformer-modern": "Transformer, modern",
    "unimatrix-core": "UniMatrix-Core",
    "unimatrix-rosa": "UniMatrix-ROSA, stub",
    "unimatrix-rosa-exact": "UniMatrix-ROSA, exact",
    "unimatrix-discovery": "UniMatrix-Discovery, stub",
    "unimatrix-discovery-exact": "UniMatrix-Discovery, exact",
    "unimatrix-assoc": "UniMatrix-Assoc",
    "unimatrix-sparse-pointer": "UniMatrix-SparsePointer",
    "unimatrix-hybrid": "UniMatrix-Hybrid",
    "triple-latent": "Triple-Latent",
    "triple-slot": "Triple-Slot",
    "triple-hybrid": "Triple-Hybrid",
    "recurrent-ffn": "Recurrent-FFN",
    "recurrent-ffn-readout": "Recurrent-FFN-Readout",
    "recurrent-ffn-hybrid": "Recurrent-FFN-Hybrid",
    "mamba2": "Mamba-2",
    "m2rnn": "M2RNN",
    "lstm": "LSTM",
}
WITHOUT_VOTES: Mapping[str, Any] = {"parts.suffix": None}  # of the preset unimatrix
# whose parts are another library's: there is no place for votes
_WITHOUT_PARTS = ("mamba2",)
# in the figure over positions, where all would be too many
_DRAWN = (
    "unimatrix",
    "transformer",
    "transformer-modern",
    "unimatrix-core",
    "unimatrix-rosa-exact",
    "triple-hybrid",
)
# of these, what has no line without votes: all of it forgets, so no position is one in the text
_ALL_FORGETS = ("transformer", "transformer-modern")


def stream_experiment(name: str, preset: str, changes: Mapping[str, Any]) -> Experiment:
    """That model trained in windows without positions, then measured in windows and in a stream."""
    return Experiment(
        name=name,
        model=ModelChoice(preset=preset, changes=changes, dropout=0.0, max_positions=None),
        optim=OptimConfig(lr=LR, weight_decay=0.01, schedule="cosine", warmup_steps=20, clip=1.0),
        loop=LoopConfig(
            steps=STEPS,
            batch_size=16,
            seq_len=WINDOW,
            eval_every=100,
            eval_bytes=65_536,
            stream_bytes=STREAM_BYTES,
            stream_window=MANAGED.get(preset),
        ),
    )


def _no_votes(preset: str) -> Mapping[str, Any]:
    """What takes a preset's votes for the text it read from it."""
    return WITHOUT_VOTES if preset == "unimatrix" else {}


def _votes(preset: str) -> Mapping[str, Any]:
    """What lets a preset's automaton vote, or gives it one that does."""
    if preset == "unimatrix":
        return {}
    return {"parts.routing.vote": True} if preset.endswith("-exact") else {"parts.votes": SuffixVotesConfig()}


PLAINLY = {preset: stream_experiment(f"stream.{preset}", preset, _no_votes(preset)) for preset in LABELS}
VOTED = {
    preset: stream_experiment(f"stream.{preset}-votes", preset, _votes(preset))
    for preset in LABELS
    if preset not in _WITHOUT_PARTS
}


def _in_stream(experiment: Experiment) -> Measured:
    return Measured(experiment, "stream_bpb")


def _below(label: str, left: Measured, right: Measured) -> Comparison:
    return Comparison(label, left, "below", right, BPB)


CORE, CORE_VOTES = PLAINLY["unimatrix-core"], VOTED["unimatrix-core"]
ROSA_VOTES, MODERN = VOTED["unimatrix-rosa-exact"], "transformer-modern"

CARRIED = ComparedClaim(
    "Core needs fewer bits per byte in one stream than in windows",
    SOURCE,
    (_below("Core, stream - windows", _in_stream(CORE), Measured(CORE, "windows_bpb")),),
)
HELPED = ComparedClaim(
    "Votes lower the bits per byte of every model",
    SOURCE,
    tuple(
        _below(f"{LABELS[preset]}, with votes - without", _in_stream(voted), _in_stream(PLAINLY[preset]))
        for preset, voted in VOTED.items()
    ),
)
AHEAD = ComparedClaim(
    "With votes on both sides ROSA is below both Transformers",
    SOURCE,
    tuple(
        _below(f"ROSA - {LABELS[other]}", _in_stream(ROSA_VOTES), _in_stream(VOTED[other]))
        for other in ("transformer", MODERN)
    ),
)
BELOW_XZ = ComparedClaim(
    "ROSA that votes needs fewer bits per byte than xz's file of the same bytes (which has no model to load)",
    SOURCE,
    (_below("ROSA, voting - xz", _in_stream(ROSA_VOTES), Measured(ROSA_VOTES, "xz_bpb")),),
)


def _ranges() -> tuple[tuple[int, int], ...]:
    """The positions that are counted together: 1 to 128, and on by doubling."""
    ends = [WINDOW]
    while ends[-1] < STREAM_BYTES:
        ends.append(2 * ends[-1])
    return tuple(zip((1, *(end + 1 for end in ends[:-1])), ends, strict=True))


def _at(first: int, last: int) -> Column:
    return Column(
        key=f"stream_bpb_{first}",
        title=f"{first:,} to {last:,}",
        digits=3,
        axis=f"validation bits per byte at positions {first:,} to {last:,} of the stream",
    )


BY_POSITION = tuple(_at(*both) for both in _ranges())
STREAMED = Column(
    key="stream_bpb", title="Stream", digits=3, axis="validation bits per byte, read as one stream"
)


def _draw_positions(study: Study, samples: Samples) -> "Drawing | None":
    """Bits per byte over what was read, of a few models."""
    drawn = {experiments[preset].name for experiments in (PLAINLY, VOTED) for preset in _DRAWN}
    rows = tuple(row for row in study.trained if row.experiment.name in drawn)
    return draw_over_columns(
        replace(study, rows=rows, columns=BY_POSITION),
        samples,
        positions={column.key: last for column, (_, last) in zip(BY_POSITION, _ranges(), strict=True)},
        labels=("position in the stream, up to, bytes", "bits per byte"),
    )


STREAMING = Study(
    name="streaming",
    title="Texts as one stream (not in the paper): validation BPB",
    question="What does a model gain by reading a text as one stream, and by votes for what followed the "
    "longest match in all of it?",
    answer=sentence(
        f"After {STEPS} steps Core needs {{windows}} bits per byte in windows of {WINDOW} and {{stream}} in "
        "one stream; with votes {votes}, and ROSA that votes {rosa}: {ahead}.",
        windows=Mean(Measured(CORE, "windows_bpb"), 3),
        stream=Mean(_in_stream(CORE), 3),
        votes=Mean(_in_stream(CORE_VOTES), 3),
        rosa=Mean(_in_stream(ROSA_VOTES), 3),
        ahead=Said(
            (AHEAD,),
            "with votes on both sides it is ahead of both Transformers",
            "with votes on both sides it is not ahead of both Transformers",
            "these seeds do not decide whether it is then ahead of both Transformers",
        ),
    ),
    rows=(
        *(Row(experiment=one, label=LABELS[name], group=PLAIN) for name, one in PLAINLY.items()),
        *(Row(experiment=one, label=LABELS[name], group=VOTING) for name, one in VOTED.items()),
        *(
            Baseline(
                label=compressor.settings,
                short=name,
                of_text={STREAMED.key: f"{name}_bpb"},
                group=PROGRAMS,
            )
            for name, compressor in COMPRESSORS.items()
        ),
    ),
    columns=(
        Column(
            key="windows_bpb",
            title=f"Windows of {WINDOW}",
            digits=3,
            axis=f"validation bits per byte, read in windows of {WINDOW}",
        ),
        STREAMED,
        BY_POSITION[0],
        BY_POSITION[5],
        BY_POSITION[-1],
    ),
    claims=(CARRIED, HELPED, AHEAD, BELOW_XZ),
    figures=(
        of_column(
            "streaming",
            "Bits per byte in one stream",
            STREAMED.key,
            diamonds="",
            bars="programs that compress",
        ),
        Figure(
            name="streaming-positions",
            title="Bits per byte by position in the stream",
            caption="Each point is the mean over the bytes up to that position from the point before it, and "
            f"over the seeds, with its 95 % interval; {len(_DRAWN)} models with votes, and without them all "
            f"but {listed([LABELS[preset] for preset in _ALL_FORGETS])}, of which nothing then reads on. "
            "Lower is better.",
            draw=_draw_positions,
        ),
    ),
    protocol=(
        *protocol_of(*PLAINLY.values(), *VOTED.values()),
        f"Then the first {STREAM_BYTES:,} bytes of the validation text, or all of a shorter one, are read "
        f"once in windows of {WINDOW} and once as one stream, the state carried through. Attention forgets "
        f"what it kept after every {WINDOW} bytes, Assoc's memory and Hybrid's one layer of attention after "
        "every 4,096, which they manage; what else a model has, votes too, reads on. The votes of the preset "
        "unimatrix alone have a gate, as it has them; every other model's have none. Mamba-2 is another "
        "library's and has no place for votes. The programs are given the same bytes; their files need no "
        "model, whose weights are not counted here.",
    ),
    each_text=True,
)
