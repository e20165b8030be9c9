"""Who should be kept (not in the paper): a bounded store filled by surprise, beside its baselines.

Core with a store in its layer, the same budget for every policy. The criterion of surprise is ours, and so
is the doubt: what is surprising need not be what will be asked for. That is most likely so of clean filler,
which is as new to the state as any pair, and of text, where what was read last matters most.
"""

from dataclasses import replace
from typing import Any

from unimatrix.data.tasks import MQARConfig, RecallConfig, TaskConfig
from unimatrix.lab.answers import Mean, Said, sentence
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
RATE = 0.125  # of surprise and random, once the store is full
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
    store = SurpriseStoreConfig(budget=budget, policy=policy, rate=RATE, asked=asked)
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


def _answers_more(where: str, found: dict[str, Experiment]) -> ComparedClaim:
    left, right = _accuracy_of(found["surprise"]), _accuracy_of(found["random"])
    return ComparedClaim(
        f"At equal budget surprise beats random admission {where}",
        SOURCE,
        (Comparison(f"Surprise - random, {where}", left, "above", right, POINTS),),
    )


BEATS_ON_RECALL = _answers_more("on recall", ON_RECALL)
BEATS_ON_MQAR = _answers_more("on MQAR with blanks", ON_MQAR)
BEATS_ON_CLEAN = _answers_more("on MQAR with clean filler", ON_CLEAN)
BEATS_ON_TEXT = ComparedClaim(
    "At equal budget surprise beats random admission on a text read as one stream",
    SOURCE,
    (
        Comparison(
            "Surprise - random, in the stream",
            _in_stream(ON_TEXT["surprise"]),
            "below",
            _in_stream(ON_TEXT["random"]),
            BPB,
        ),
    ),
)
BEATS = (BEATS_ON_RECALL, BEATS_ON_MQAR, BEATS_ON_CLEAN, BEATS_ON_TEXT)


def _said(claim: ComparedClaim) -> Said:
    return Said(
        (claim,),
        "surprise beats random",
        "surprise does not beat random",
        "these seeds do not decide whether surprise beats random",
    )


SURPRISE_STORE = Study(
    name="surprise-store",
    title="Who is kept (not in the paper): a store filled by surprise and by its baselines",
    question="With room for a few tokens, is it worth keeping those that the recurrent state foretold worst?",
    answer=sentence(
        "On recall surprise answers {recall} % and random admission {recall_random} %: {on_recall}; on MQAR "
        "{mqar} and {mqar_random} %: {on_mqar}; where every filler is new {clean} and {clean_random} %: "
        "{on_clean}; on a text as one stream {text} and {text_random} bits per byte: {on_text}.",
        recall=Mean(_accuracy_of(ON_RECALL["surprise"]), 1),
        recall_random=Mean(_accuracy_of(ON_RECALL["random"]), 1),
        on_recall=_said(BEATS_ON_RECALL),
        mqar=Mean(_accuracy_of(ON_MQAR["surprise"]), 1),
        mqar_random=Mean(_accuracy_of(ON_MQAR["random"]), 1),
        on_mqar=_said(BEATS_ON_MQAR),
        clean=Mean(_accuracy_of(ON_CLEAN["surprise"]), 1),
        clean_random=Mean(_accuracy_of(ON_CLEAN["random"]), 1),
        on_clean=_said(BEATS_ON_CLEAN),
        text=Mean(_in_stream(ON_TEXT["surprise"]), 3),
        text_random=Mean(_in_stream(ON_TEXT["random"]), 3),
        on_text=_said(BEATS_ON_TEXT),
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
    claims=BEATS,
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
        f"then surprise and random admit a share of {RATE:g}. The surprise of a token is the mean over the "
        "heads of |k - S v / |v|^2| / |k| before its write, without the factor 1 - rho. The oracle looks "
        "ahead in what one call reads: on the tasks to the keys that come again, on text to pairs of tokens "
        "that do, within 4,096 bytes, after which it forgets; it knows what will be asked for, not which of "
        "it is worth most.",
    ),
)
