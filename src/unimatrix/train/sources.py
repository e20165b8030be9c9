"""What a run learns from and is measured with: a text, or a task. The loop sees batches and metrics alone.

B batch rows, T = seq_len.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, Protocol

import numpy as np
from torch import Tensor

from unimatrix.data import VOCAB_SIZE, Corpus, Split, check_one_window, load_corpus, random_windows
from unimatrix.data.documents import PackedBatch, packed
from unimatrix.data.tasks import Batch, TaskConfig, task_of
from unimatrix.errors import NotFinite, UserError
from unimatrix.evals import BitsPerByte, TaskScore, nats_of_share, stream_bits, task_sums
from unimatrix.models import AnyModel
from unimatrix.train.config import EvalSplit, Experiment, LoopConfig

_EVAL_BATCH_SIZE = 32

# a part of the text to draw a curve with; all of it, or the task; that and the task's variants
Extent = Literal["part", "whole", "final"]

# a process's own sums in, those of all processes out
AddUp = Callable[[Tensor], Tensor]


class Source(Protocol):
    """Batches, an evaluation, and what a result records of both.

    vocab_size: of the model that is to be trained. headline: the metric that curves show.
    logits_where_asked: whether training computes logits only where there are labels.
    """

    vocab_size: int
    headline: str
    logits_where_asked: bool

    def batch(self, *, seed: int, step: int, batch_size: int) -> Batch | PackedBatch:
        """Input ids and labels, [B, T] each, a function of (seed, step); any number of labels, at least 1.

        Nothing is asked at padding.
        """
        ...

    def evaluate(
        self, model: AnyModel, *, seed: int, extent: Extent, share: tuple[int, int], add_up: AddUp
    ) -> dict[str, float]:
        """The metrics by name.

        Args:
            share: (r, n): this process looks at the r-th of n shares.
        """
        ...

    def headline_text(self, metrics: dict[str, float]) -> str:
        """The headline for a person: "4.1234 bits per byte"."""
        ...

    def loss_metrics(self, nats: float) -> dict[str, float]:
        """A batch's loss in nats, and under the name of the evaluated metric that it compares with."""
        ...

    def loss_text(self, nats: float) -> str:
        """A batch's loss in the unit of the evaluation beside which it is read: "4.1234 bits per byte"."""
        ...

    def describe(self) -> dict[str, Any]:
        """See `describe`."""
        ...


class TextSource:
    """Windows of a corpus's training text; bits per byte of its validation text (`LoopConfig.eval_split`).

    With pack the documents of either are kept apart, see `LoopConfig`.

    metrics: bpb, bits per byte, and ppl, the perplexity per byte, left out if too large for a number; at the
    end those of a stream besides, if one is asked for (`LoopConfig.stream_bytes`), and finite.

    Raises:
        UserError: the training text is shorter than one window, or there is no text to evaluate on.
    """

    def __init__(self, corpus: Corpus, loop: LoopConfig) -> None:
        check_one_window(corpus.train, seq_len=loop.seq_len, name=f"{corpus.name} (train)")
        if len(corpus.split(loop.eval_split)) == 0:
            raise UserError(f"{corpus.name} ({loop.eval_split}): expected at least 1 byte, got none")
        self.vocab_size = VOCAB_SIZE
        self.headline = "bpb"
        self.logits_where_asked = False
        self._corpus = corpus
        self._loop = loop
        self._train = packed(corpus.train, corpus.begins["train"]) if loop.pack else corpus.train

    def batch(self, *, seed: int, step: int, batch_size: int) -> Batch | PackedBatch:
        windows = random_windows(
            self._train,
            seed=seed,
            step=step,
            batch_size=batch_size,
            seq_len=self._loop.seq_len,
            bos_share=self._loop.bos_share or 0.0,
        )
        return PackedBatch.of(windows) if self._loop.pack else Batch(windows[:, :-1], windows[:, 1:])

    def evaluate(
        self, model: AnyModel, *, seed: int, extent: Extent, share: tuple[int, int], add_up: AddUp
    ) -> dict[str, float]:
        # there is one such text, whatever the seed
        evaluated = self._corpus.split(self._loop.eval_split)

        def in_windows(text: np.ndarray) -> BitsPerByte:
            nats = nats_of_share(
                model,
                text,
                window=self._loop.eval_window or self._loop.seq_len,
                batch_size=_EVAL_BATCH_SIZE,
                begins=self._begins(text),
                share=share,
            )
            return BitsPerByte.from_nats(float(add_up(nats)), len(text))

        whole = in_windows(evaluated[: self._loop.eval_bytes] if extent == "part" else evaluated)
        metrics = {"bpb": whole.bpb} | ({} if whole.perplexity is None else {"ppl": whole.perplexity})
        if extent != "final" or self._loop.stream_bytes is None:
            return metrics
        text = evaluated[: self._loop.stream_bytes]
        # a stream has no shares: each process reads it
        metrics |= {"windows_bpb": in_windows(text).bpb}
        try:
            stream = stream_bits(
                model,
                text,
                window=self._loop.stream_window,
                stride=self._loop.stream_stride,
                begins=self._begins(text),
            )
        except NotFinite:  # as long as windows are its numbers are finite: they stay
            return metrics
        metrics |= {"stream_bpb": stream.whole.bpb}
        # where nothing reads on there are no positions in the stream, but those in a window
        rows = stream.by_position if stream.reads_on else ()
        return metrics | {f"stream_bpb_{row.first}": row.bpb for row in rows}

    def _begins(self, text: np.ndarray) -> np.ndarray | None:
        """Where documents begin in a first part of the evaluated text, where they are kept apart."""
        begins = self._corpus.begins[self._loop.eval_split]
        return begins[begins < len(text)] if self._loop.pack else None

    def headline_text(self, metrics: dict[str, float]) -> str:
        return f"{metrics['bpb']:.4f} bits per byte"

    def loss_metrics(self, nats: float) -> dict[str, float]:
        # a label is a byte
        return {"loss": nats, "bpb": nats / math.log(2.0)}

    def loss_text(self, nats: float) -> str:
        return self.headline_text(self.loss_metrics(nats))

    def describe(self) -> dict[str, Any]:
        described = describe(self._corpus, evaluated=self._loop.eval_split)
        if self._loop.pack:
            splits: dict[str, Split] = {"train": "train", "valid": self._loop.eval_split}
            described |= {
                name: described[name] | {"documents": self._corpus.documents(split)}
                for name, split in splits.items()
            }
        return described


class TaskSource:
    """A task's training stream; loss and accuracy on its evaluation stream at the run's own seed.

    metrics: loss, nats per answer, and accuracy, in percent; at the end also those of the task's variants
    (loss_4_pairs, accuracy_4_pairs, ...), without those in which the model comes to no finite number. The
    sequences differ from seed to seed, so that an interval over seeds covers the choice of test sequences
    too.
    """

    def __init__(self, task: TaskConfig) -> None:
        self.vocab_size = task.vocab_size
        self.headline = "accuracy"
        self.logits_where_asked = task_of(task).logits_where_asked
        self._task = task

    def batch(self, *, seed: int, step: int, batch_size: int) -> Batch:
        return task_of(self._task).make(self._task, seed=seed, step=step, batch_size=batch_size)

    def evaluate(
        self, model: AnyModel, *, seed: int, extent: Extent, share: tuple[int, int], add_up: AddUp
    ) -> dict[str, float]:
        measured = {"": self._task}
        if extent == "final":
            variants = task_of(self._task).variants(self._task)
            measured |= {f"_{name}": variant for name, variant in variants.items()}
        metrics: dict[str, float] = {}
        # a variant may be the task itself once more
        scores: dict[TaskConfig, TaskScore] = {}
        for suffix, task in measured.items():
            if task not in scores:
                number = task.eval_sequences
                sums = task_sums(
                    model, task, num_sequences=number, seed=seed, batch_size=_EVAL_BATCH_SIZE, share=share
                )
                try:
                    scores[task] = TaskScore.from_sums(add_up(sums), number)
                except NotFinite:
                    if not suffix:
                        raise
                    continue  # it has no such number; the run, and all else that was measured, stays
            metrics |= {f"loss{suffix}": scores[task].loss, f"accuracy{suffix}": scores[task].accuracy}
        return metrics

    def headline_text(self, metrics: dict[str, float]) -> str:
        return f"accuracy {metrics['accuracy']:.1f} %, loss {self.loss_text(metrics['loss'])}"

    def loss_metrics(self, nats: float) -> dict[str, float]:
        return {"loss": nats}

    def loss_text(self, nats: float) -> str:
        return f"{nats:.4f} nats per answer"

    def describe(self) -> dict[str, Any]:
        return describe(self._task)


def source_of(experiment: Experiment, corpus: Corpus | None = None) -> Source:
    """What the experiment learns from.

    Args:
        corpus: its text; None loads experiment.data. A task has none.
    Raises:
        UserError: there is no such text, it is too short, or there is one beside a task.
    """
    if experiment.task is not None:
        if corpus is not None:
            raise UserError(
                f"{experiment.name}: the task {experiment.task.kind} has no text, got {corpus.name}"
            )
        return TaskSource(experiment.task)
    corpus = load_corpus(experiment.data) if corpus is None else corpus
    return TextSource(corpus, experiment.loop)


def describe(data: Corpus | TaskConfig, *, evaluated: EvalSplit = "valid") -> dict[str, Any]:
    """What a result records of its data.

    Args:
        evaluated: the split of a text that its "valid" is then of.
    Returns:
        name; kind, "text" or "task"; notes; is_paper_corpus; train and valid: {"sha256", "bytes"} of a text's
        splits (with pack their "documents" too), {"sha256", "sequences"} of a task's streams (the hash is of
        the first few sequences at seed 0; sequences is None in train, which has no end).
    """
    if isinstance(data, Corpus):
        return {
            "name": data.name,
            "kind": "text",
            "notes": list(data.notes),
            "is_paper_corpus": data.is_paper_corpus,
            "train": data.fingerprint("train"),
            "valid": data.fingerprint(evaluated),
        }
    fingerprint = task_of(data).fingerprint
    return {
        "name": data.kind,
        "kind": "task",
        "notes": [],
        "is_paper_corpus": False,
        "train": {"sha256": fingerprint(data, stream="train"), "sequences": None},
        "valid": {"sha256": fingerprint(data, stream="eval"), "sequences": data.eval_sequences},
    }
