"""Who should be kept (not in the paper): a bounded store filled by surprise, beside its baselines.

Core with a store in its layer, the same budget for every policy. The criterion of surprise is ours, and so
is the doubt: what is surprising need not be what will be asked for. That is most likely so of clean filler,
which is as new to the state as any pair, and of text, where what was read last matters most.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from unimatrix.data.tasks import MQARConfig, RecallConfig, TaskConfig
from unimatrix.lab.answers import Answer, Mean, Said, sentence, sentences
from unimatrix.lab.claims import BPB, POINTS, ComparedClaim, Comparison, Measured
from unimatrix.lab.protocol import protocol_of
from unimatrix.lab.study import Column, Row, Study
from unimatrix.mixers import SurpriseStoreConfig
from unimatrix.studies.makers import NOT_IN_THE_PAPER, of_column
from unimatrix.train.config import Experiment, LoopConfig, ModelChoice, OptimConfig

LABELS = {
    "surprise": "Surprise, the least surprising goes",
    "surprise-oldest": "Surprise, the oldest goes",
    "always": "Always, first in first out",
    "random": "Random admission, the oldest goes",
    "reservoir": "Reservoir",
    "oracle": "Oracle, told what will be asked for",
}
# of each: the pairs fit beside as much again, or just so; far fewer entries than tokens
RECALL_BUDGET, MQAR_BUDGET, TEXT_BUDGET = 16, 8, 64
RECALL = RecallConfig(eval_sequences=1024)
MQAR = MQARConfig(vocab_size=512, eval_sequences=1024)
CLEAN = replace(MQAR, filler="clean")
STREAM_BYTES = 2**17
SOURCE = NOT_IN_THE_PAPER


def _experiment(
    name: str, policy: Any, budget: int, *, lr: float, loop: LoopConfig, task: TaskConfig | None = None
) -> Experiment:
    asked = None
    if policy == "oracle" and isinstance(task, RecallConfig | MQARConfig):
        asked = (task.first_key, task.first_value)
    store = SurpriseStoreConfig(budget=budget, policy=policy, asked=asked)
    return Experiment(
        name=f"store.{name}.{policy}",
        model=ModelChoice(
            preset="unimatrix-core", changes={"layers.0.store": store}, dropout=0.0, max_positions=None
        ),
        task=task,
        optim=OptimConfig(lr=lr, weight_decay=0.01, schedule="cosine", warmup_steps=10, clip=1.0),
        loop=loop,
    )


ON_RECALL = {
    policy: _experiment(
        *("recall", policy, RECALL_BUDGET),
        lr=2e-3,
        task=RECALL,
        loop=LoopConfig(steps=200, batch_size=32, seq_len=RECALL.length),
    )
    for policy in LABELS
}
ON_MQAR, ON_CLEAN = (
    {
        policy: _experiment(
            *(name, policy, MQAR_BUDGET),
            lr=4e-3,
            task=task,
            loop=LoopConfig(steps=200, batch_size=64, seq_len=MQAR.length),
        )
        for policy in LABELS
    }
    for name, task in (("mqar", MQAR), ("mqar-clean", CLEAN))
)
ON_TEXT = {
    policy: _experiment(
        *("text", policy, TEXT_BUDGET),
        lr=3e-3,
        loop=LoopConfig(steps=200, batch_size=16, seq_len=128, eval_bytes=65_536, stream_bytes=STREAM_BYTES),
    )
    for policy in LABELS
}
_ALL = (ON_RECALL, ON_MQAR, ON_CLEAN, ON_TEXT)


def _accuracy(key: str, title: str, words: str) -> Column:
    return Column(key=key, title=title, digits=1, axis=f"accuracy on {words}, percent", metric="accuracy")


COLUMNS = (
    _accuracy("recall", "Recall", "recall"),
    _accuracy("mqar", "MQAR, blanks", "MQAR with blanks for filler"),
    _accuracy("clean", "MQAR, clean filler", "MQAR with clean filler"),
    Column(
        key="stream",
        title="Stream, BPB",
        digits=3,
        axis="validation bits per byte, read as one stream",
        metric="stream_bpb",
    ),
)


def _accuracy_of(experiment: Experiment) -> Measured:
    return Measured(experiment, "accuracy")


def _in_stream(experiment: Experiment) -> Measured:
    return Measured(experiment, "stream_bpb")


# one thing changes at a time: who is admitted where the oldest goes, who goes where surprise admits, and by
# what a token is worth its place where the least goes. "surprise" against "random" would change two
ADMISSION, EVICTION = ("surprise-oldest", "random"), ("surprise", "surprise-oldest")
WORTH = ("surprise", "reservoir")
WORDS = {
    ADMISSION: "admission by surprise beats random admission, the oldest going in both",
    WORTH: "keeping what surprises most beats keeping a random sample of all that came",
    EVICTION: "letting the least surprising go beats letting the oldest go, both admitting by surprise",
}
SHORT = {
    "surprise": "least surprising goes",
    "surprise-oldest": "surprise, oldest goes",
    "random": "random",
    "reservoir": "reservoir",
}


def _beats(pair: tuple[str, str], where: str, found: dict[str, Experiment]) -> ComparedClaim:
    """That the first of the two policies is better there."""
    of, side, unit = (_in_stream, "below", BPB) if found is ON_TEXT else (_accuracy_of, "above", POINTS)
    left, right = pair
    label = f"{SHORT[left]} - {SHORT[right]}, {where}"
    return ComparedClaim(
        f"At equal budget {WORDS[pair]}, {where}",
        SOURCE,
        (Comparison(label, of(found[left]), side, of(found[right]), unit),),
    )


WHERE = {
    "on recall": ON_RECALL,
    "on MQAR with blanks": ON_MQAR,
    "on MQAR with clean filler": ON_CLEAN,
    "on a text read as one stream": ON_TEXT,
}
ADMITS = {where: _beats(ADMISSION, where, found) for where, found in WHERE.items()}
LETS_GO = {where: _beats(EVICTION, where, found) for where, found in WHERE.items()}
KEEPS = {where: _beats(WORTH, where, found) for where, found in WHERE.items()}


def _said(claim: ComparedClaim) -> Said:
    return Said((claim,), "that is better", "that is not better", "these seeds do not decide which is better")


def _set_against(words: str, pair: tuple[str, str], claims: Mapping[str, ComparedClaim]) -> Answer:
    """One sentence: what the two policies come to on each of the four, and whether the first is better."""
    on = {"recall": ON_RECALL, "mqar": ON_MQAR, "clean": ON_CLEAN}
    return sentence(
        f"{words}: "
        "{recall_left} and {recall_right} % on recall ({recall_said}), "
        "{mqar_left} and {mqar_right} % on MQAR ({mqar_said}), "
        "{clean_left} and {clean_right} % where every filler is new ({clean_said}), "
        "{text_left} and {text_right} bits per byte of a text as one stream ({text_said}).",
        **{
            f"{name}_{side}": Mean(_accuracy_of(found[policy]), 1)
            for name, found in on.items()
            for side, policy in zip(("left", "right"), pair, strict=True)
        },
        **{
            f"text_{side}": Mean(_in_stream(ON_TEXT[policy]), 3)
            for side, policy in zip(("left", "right"), pair, strict=True)
        },
        **{f"{name}_said": _said(claim) for name, claim in zip((*on, "text"), claims.values(), strict=True)},
    )


SURPRISE_STORE = Study(
    name="surprise-store",
    title="Who is kept (not in the paper): a store filled by surprise and by its baselines",
    question="With room for a few tokens, is it worth keeping those that the recurrent state foretold worst?",
    answer=sentences(
        _set_against("Keeping what surprises most against a reservoir, which keeps all alike", WORTH, KEEPS),
        _set_against("Where the oldest goes, admission by surprise against chance", ADMISSION, ADMITS),
        _set_against("Admitted by surprise, the least surprising goes against the oldest", EVICTION, LETS_GO),
    ),
    rows=tuple(
        Row(
            experiment=ON_RECALL[policy],
            label=label,
            elsewhere={"mqar": ON_MQAR[policy], "clean": ON_CLEAN[policy], "stream": ON_TEXT[policy]},
        )
        for policy, label in LABELS.items()
    ),
    columns=COLUMNS,
    claims=(*ADMITS.values(), *LETS_GO.values(), *KEEPS.values()),
    figures=(
        *(
            of_column(
                f"surprise-store-{key}", f"Accuracy on {words}, by who is kept", key, diamonds="", higher=True
            )
            for key, words in (
                ("recall", "recall"),
                ("mqar", "MQAR with blanks"),
                ("clean", "MQAR, clean filler"),
            )
        ),
        of_column(
            "surprise-store-stream", "Bits per byte in one stream, by who is kept", "stream", diamonds=""
        ),
    ),
    protocol=(
        *protocol_of(*(one for found in _ALL for one in found.values())),
        f"Each depth step of Core has a store of its own with its own surprise: {RECALL_BUDGET} entries on "
        f"recall, {MQAR_BUDGET} on MQAR, {TEXT_BUDGET} on text. While there is room every token is stored; "
        "then surprise and random admit a share of the budget over the tokens so far, at least one in 257: "
        "random by chance, surprise what surprises most among the newest 257. "
        "Where the least surprising goes, a token must also surprise more than that one: fewer come in. "
        "So that row stands beside surprise where the oldest goes, and that one beside random admission: the "
        "two ends differ in two things. A reservoir keeps every token with the same probability; beside it "
        "the row in which the least surprising goes differs in the worth of a token alone.",
        "On the tasks the pairs come first, while there is room, so that every policy but the oracle's takes "
        "them in: where the oldest goes, what is compared is how many fillers come after them, and only "
        "where the least goes, who is kept. The budgets were set by hand before any run.",
        "The surprise of a token is the mean over the "
        "heads of |k - S v / |v|^2| / |k| before its write, without the factor 1 - rho. The oracle looks "
        "ahead in what one call reads: on the tasks to the keys that come again, on text to pairs of tokens "
        "that do, within 4,096 bytes, after which it forgets; it knows what will be asked for, not which of "
        "it is worth most, and a filler that by chance comes again in clean filler counts as asked for.",
    ),
)
