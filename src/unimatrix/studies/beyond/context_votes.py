"""What further votes bring (not in the paper): the newest continuations beside the longest match, ablated.

Core as the study `streaming` trains and reads it, with votes for what followed the longest match in all that
was read, for the newest continuations of the newest bytes at several orders, or for both.
"""

from unimatrix.lab.answers import Mean, Said, sentence
from unimatrix.lab.claims import BPB, ComparedClaim, Comparison, Measured
from unimatrix.lab.protocol import protocol_of
from unimatrix.lab.study import Column, Row, Study
from unimatrix.mixers import ContextVotesConfig, SuffixVotesConfig
from unimatrix.studies.beyond.streaming import (
    CORE,
    CORE_VOTES,
    STEPS,
    STREAM_BYTES,
    STREAMED,
    WINDOW,
    stream_experiment,
)
from unimatrix.studies.makers import of_column
from unimatrix.train.config import Experiment

SOURCE = "Not in the paper"
MATCH = SuffixVotesConfig()


def _core(name: str, contexts: ContextVotesConfig, *, match: bool = True) -> Experiment:
    """Core that votes for continuations, beside the longest match's or alone."""
    votes = {"parts.votes": MATCH} if match else {}
    changes = votes | {"parts.contexts": contexts}
    return stream_experiment(f"stream.unimatrix-core-{name}", "unimatrix-core", changes)


CONTEXTS = _core("contexts", ContextVotesConfig(), match=False)
BOTH = _core("votes-contexts", ContextVotesConfig())
ONE = _core("votes-contexts-newest", ContextVotesConfig(continuations=1))
TWO = _core("votes-contexts-two", ContextVotesConfig(continuations=2))
FEWER = _core("votes-contexts-2-4", ContextVotesConfig(orders=(2, 4)))
MORE = _core("votes-contexts-1-to-6", ContextVotesConfig(orders=(1, 2, 3, 4, 5, 6)))


def _in_stream(experiment: Experiment) -> Measured:
    return Measured(experiment, "stream_bpb")


def _below(what: str, left: Experiment, right: Experiment, label: str) -> ComparedClaim:
    return ComparedClaim(
        what, SOURCE, (Comparison(label, _in_stream(left), "below", _in_stream(right), BPB),)
    )


BESIDES = _below(
    "The newest continuations besides the longest match need fewer bits per byte than that alone",
    BOTH,
    CORE_VOTES,
    "both - longest match",
)
ALONE = _below(
    "They need fewer bits per byte without it than it does without them",
    CONTEXTS,
    CORE_VOTES,
    "contexts - longest match",
)
FOUR = _below(
    "Four continuations of each context need fewer bits per byte than the newest",
    BOTH,
    ONE,
    "four - the newest",
)

CONTEXT_VOTES = Study(
    name="context-votes",
    title="Votes for the newest continuations, ablated (not in the paper): validation BPB",
    question="What do the newest continuations of the newest bytes bring, beside what followed the longest "
    "match?",
    answer=sentence(
        f"After {STEPS} steps Core needs {{plain}} bits per byte of one stream; with votes for what followed "
        "the longest match {match}, for the four newest continuations of 2, 3, 4 and 6 bytes {contexts}, for "
        "both {both}: {besides}.",
        plain=Mean(_in_stream(CORE), 3),
        match=Mean(_in_stream(CORE_VOTES), 3),
        contexts=Mean(_in_stream(CONTEXTS), 3),
        both=Mean(_in_stream(BOTH), 3),
        besides=Said(
            (BESIDES,),
            "they help besides",
            "they do not help besides",
            "these seeds do not decide whether they help besides",
        ),
    ),
    rows=(
        Row(experiment=CORE, label="No votes"),
        Row(experiment=CORE_VOTES, label="Longest match"),
        Row(experiment=CONTEXTS, label="Four newest at 2, 3, 4, 6"),
        Row(experiment=BOTH, label="Longest match, four newest at 2, 3, 4, 6"),
        Row(experiment=TWO, label="Longest match, two newest at 2, 3, 4, 6"),
        Row(experiment=ONE, label="Longest match, the newest at 2, 3, 4, 6"),
        Row(experiment=FEWER, label="Longest match, four newest at 2, 4"),
        Row(experiment=MORE, label="Longest match, four newest at 1 to 6"),
    ),
    columns=(
        Column(
            key="windows_bpb",
            title=f"Windows of {WINDOW}",
            digits=3,
            axis=f"validation bits per byte, read in windows of {WINDOW}",
        ),
        STREAMED,
    ),
    claims=(BESIDES, ALONE, FOUR),
    figures=(of_column("context-votes", "Bits per byte in one stream, by votes", STREAMED.key, diamonds=""),),
    protocol=(
        *protocol_of(CORE, CORE_VOTES, CONTEXTS, BOTH, TWO, ONE, FEWER, MORE),
        f"Then the first {STREAM_BYTES:,} bytes of the validation text, or all of a shorter one, are read "
        f"once in windows of {WINDOW} and once as one stream, the state carried through.",
    ),
)
