"""`unimatrix eval`: a trained model's bits per byte on a whole split, or accuracy on the task it learned."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import tyro

from unimatrix.cli import ruler
from unimatrix.cli.arguments import DataDir, DataSource, choose_corpus, is_given, parse
from unimatrix.cli.progress import progress_on_stderr
from unimatrix.cli.trained import check_same_text, training_record
from unimatrix.data import Split
from unimatrix.data.tasks import MQARConfig, TaskConfig, task_of
from unimatrix.errors import NotFinite, UserError
from unimatrix.evals import (
    StreamBits,
    TaskScore,
    bits_per_byte,
    rates_text,
    stream_bits,
    task_score,
)
from unimatrix.hf import load
from unimatrix.train import Experiment, find_checkpoint, load_checkpoint
from unimatrix.train.config import Device
from unimatrix.train.launch import device_kind
from unimatrix.train.records import TrainerRecord

ABOUT = """Bits per byte and perplexity of a trained model on a whole text; or loss and
accuracy of a model that was trained on a task, on fresh sequences of it and of
whatever else it was measured on after training (other numbers of pairs or
distractors, other lengths, or each rule by itself).

Every byte is predicted exactly once. The text is cut into windows side by
side, and each window starts afresh, so that a byte sees at most WINDOW bytes
before it. With --carry-state (models without positions) it sees all of them:
the text is read as one stream, and bits per byte are given by position too. A
part that looks at all earlier bytes again for each (attention, Assoc's memory)
would never come to an end: it forgets them every WINDOW bytes (4,096, or as
training measured it), while the other parts read on. With --stride it forgets
them every STRIDE bytes, and the last WINDOW - STRIDE are read to it again.
A model that was trained with --pack is measured so too: the files of a
folder are kept apart, and each begins with BOS, which is read and not predicted.

examples:
  unimatrix eval runs/mytext-unimatrix
  unimatrix eval runs/mytext-unimatrix/checkpoint-002000 --split test --carry-state
  unimatrix eval someone/their-model --data another.txt --json
  unimatrix eval runs/recall.unimatrix-core --num-pairs 6 --sequences 10000
  unimatrix eval runs/signal-noise.recurrent-ffn --num-distractors 15
  unimatrix eval runs/mqar-unimatrix --length 1024 --num-pairs 16
  unimatrix eval runs/triple.typed-latent --json

Of any causal model, what it finds and follows in long texts (RULER's tasks):
  unimatrix eval --ruler --help"""

_WINDOW = 128
_SIDE_BY_SIDE = "windows of {:,} bytes side by side, each starting afresh"
_TEXT_OPTIONS = ("--data", "--data-dir", "--split", "--window", "--stride", "--carry-state")
_TASK_OPTIONS = ("--sequences", "--length", "--num-pairs", "--num-distractors", "--seed")


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    checkpoint: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")]
    """A checkpoint's folder, a run's folder (its newest checkpoint), or a name on the Hugging Face hub."""
    data: DataSource = None
    data_dir: DataDir = None
    split: Split = "valid"
    """Which part of the text."""
    window: int | None = None
    """Bytes per window; without it as in training. With --carry-state what looks back sees so many."""
    stride: int | None = None
    """With --carry-state, how far such windows are apart; without both as in training, else side by side."""
    carry_state: bool = False
    """Read the text as one stream, and tell bits per byte by position."""
    sequences: int | None = None
    """Of a task: how many fresh sequences; without it as after training."""
    length: int | None = None
    """Of a task: tokens per sequence; without it as in training."""
    num_pairs: int | None = None
    """Of the recall and mqar tasks: pairs in each sequence; without it as in training."""
    num_distractors: int | None = None
    """Of the signal-noise task: unmarked values in each sequence; without it as in training."""
    seed: int | None = None
    """Of a task: another seed's sequences; without it those that were looked at after training."""
    batch_size: int = 64
    """Windows or sequences at a time; it changes the speed and nothing else. None with --carry-state."""
    device: Device = "auto"
    """Where to compute; auto takes the accelerator where there is one."""
    json: bool = False
    """One JSON object instead of lines to read."""


def run(arguments: Sequence[str]) -> int:
    """The command; its exit code."""
    if is_given(arguments, "--ruler"):
        return ruler.run(arguments)
    options = parse(Options, arguments, command="eval", about=ABOUT)
    record = training_record(options.checkpoint)
    trained_with = None if record is None else record.experiment
    task = None if trained_with is None else trained_with.task
    for option in _TEXT_OPTIONS if task is not None else _TASK_OPTIONS:
        if is_given(arguments, option):
            learned = "no task" if task is None else f"the task {task.kind} and no text"
            raise UserError(f"{option}: {options.checkpoint} was trained on {learned}")
    if options.carry_state and is_given(arguments, "--batch-size"):
        raise UserError(
            "--batch-size: expected none, as with --carry-state one piece of the text is read after the"
            f" other, got {options.batch_size}"
        )
    if options.stride is not None and not options.carry_state:
        raise UserError(
            f"--stride: expected none without --carry-state (windows lie side by side), got {options.stride}"
        )
    if trained_with is not None and task is not None:
        return _on_task(options, trained_with, task)
    return _on_text(options, record)


def _on_task(options: Options, trained_with: Experiment, task: TaskConfig) -> int:
    """Print how well the task is answered, and its variants."""
    task = _asked(options, task)
    model = load_checkpoint(find_checkpoint(options.checkpoint)).build_model()
    model = model.to(device_kind(options.device))
    seed = trained_with.loop.seed if options.seed is None else options.seed
    if seed < 0:
        raise UserError(f"seed: expected at least 0, got {seed}")

    def measured(config: TaskConfig) -> TaskScore:
        # a variant has a number of its own, where long sequences are fewer
        number = config.eval_sequences if options.sequences is None else options.sequences
        score = partial(
            task_score, model, config, num_sequences=number, seed=seed, batch_size=options.batch_size
        )
        with progress_on_stderr(task.kind, number, "sequences") as advance:
            return score(progress=advance)

    score = measured(task)
    variants: dict[str, tuple[TaskConfig, TaskScore | None]] = {}
    for name, config in task_of(task).variants(task).items():
        try:
            variants[name] = config, measured(config)
        except NotFinite:  # as in training: it has no such number, and all else stays
            variants[name] = config, None
    if options.json:
        about = {"seed": seed, "task": {"kind": task.kind} | dataclasses.asdict(task)}
        parts = {name: part and _score_values(config, part) for name, (config, part) in variants.items()}
        print(json.dumps(_score_values(task, score) | about | {"variants": parts}))
        return 0
    print(score_text(task, loss=score.loss, accuracy=score.accuracy))
    print(f"{task.kind}, {score.num_sequences:,} sequences of length {task.length} from seed {seed}")
    for name, (config, part) in variants.items():
        text = part and score_text(config, loss=part.loss, accuracy=part.accuracy)
        print(f"{variant_title(task, name)}: {text or NO_FINITE_LOSS}")
    return 0


def _asked(options: Options, task: TaskConfig) -> TaskConfig:
    """The task with the numbers that options give it, and then no other ones; else as in training."""
    given = {name: getattr(options, name) for name in ("length", "num_pairs", "num_distractors")}
    changes = {name: number for name, number in given.items() if number is not None}
    if not changes:
        return task
    there = [field.name for field in dataclasses.fields(task)]
    for name in changes:
        if name not in there:
            raise UserError(
                f"--{name.replace('_', '-')}: {options.checkpoint} was trained on the task {task.kind}, "
                f"which has no {name.removeprefix('num_')}"
            )
    others = {name: () for name in there if name.startswith("eval_") and type(getattr(task, name)) is tuple}
    if isinstance(task, MQARConfig):
        return dataclasses.replace(task, eval_rebound=0, **others | changes).few()
    return dataclasses.replace(task, **others | changes)


def _score_values(task: TaskConfig, score: TaskScore) -> dict[str, float]:
    return dataclasses.asdict(score) | {"chance": 100.0 * task_of(task).chance(task)}


NO_FINITE_LOSS = "its loss is no finite number"


def variant_title(task: TaskConfig, name: str) -> str:
    """What a variant of a task is called where its score is printed: "recall, 6 pairs"."""
    return f"{task.kind}, {name.replace('_', ' ')}"


def score_text(task: TaskConfig, *, loss: float, accuracy: float) -> str:
    """Loss (nats per answer), accuracy (percent) and chance in a line."""
    chance = 100.0 * task_of(task).chance(task)
    return f"accuracy {accuracy:.2f} %, loss {loss:.4f} nats per answer, chance {chance:.2f} %"


def _on_text(options: Options, record: TrainerRecord | None) -> int:
    """Print what a text costs."""
    trained_with = None if record is None else record.experiment
    model, _ = load(options.checkpoint, device=device_kind(options.device))
    otherwise = "auto" if trained_with is None else trained_with.data
    _, corpus = choose_corpus(options.data, options.data_dir, otherwise=otherwise)
    if record is not None and options.data is None and options.data_dir is None:
        check_same_text(options.checkpoint, record, corpus)
    loop = None if trained_with is None else trained_with.loop
    window = options.window
    if window is None:
        limit = model.language_model.config.max_positions
        window = limit or _WINDOW if loop is None else loop.eval_window or loop.seq_len
    begins = corpus.begins[options.split] if loop is not None and loop.pack else None
    data, name = corpus.split(options.split), f"{corpus.name}, {options.split}"
    stream = None
    if options.carry_state:
        forgets_after, stride = (None, None) if loop is None else (loop.stream_window, loop.stream_stride)
        if options.window is not None:
            forgets_after, stride = options.window, None
        with progress_on_stderr(name, len(data), "bytes") as advance:
            stream = stream_bits(
                model.language_model,
                data,
                begins=begins,
                window=forgets_after,
                stride=stride if options.stride is None else options.stride,
                progress=advance,
            )
        measured, windowing = stream.whole, _windowing(stream)
    else:
        measured = bits_per_byte(
            model.language_model, data, begins=begins, window=window, batch_size=options.batch_size
        )
        windowing = _SIDE_BY_SIDE.format(window)
    if begins is not None:
        windowing += f", {len(begins):,} {'document' if len(begins) == 1 else 'documents'} kept apart"
    if options.json:
        about = {"windowing": windowing, "data": corpus.name, "split": options.split}
        by_position = {} if stream is None else _json_of(stream)
        print(
            json.dumps(dataclasses.asdict(measured) | about | by_position | corpus.fingerprint(options.split))
        )
        return 0
    print(rates_text(measured.bpb, measured.perplexity))
    print(f"{name}: {measured.num_bytes:,} bytes, {windowing}")
    if stream is not None:
        print(_table(stream))
    for note in corpus.notes:
        print(f"Note: {note}")
    return 0


def _windowing(stream: StreamBits) -> str:
    if stream.window is None:
        return "the whole text as one stream, the state carried on"
    grows = " and ".join(stream.looking_back)
    others = ", while the other parts read on" if stream.reads_on else ""
    stride = stream.window if stream.stride is None else stream.stride
    overlap = stream.window - stride
    again = f" and reads the last {overlap:,} again" if overlap else ""
    return f"one stream, in which {grows} forgets what it read every {stride:,} bytes{again}{others}"


def _json_of(stream: StreamBits) -> dict[str, Any]:
    rows = [dataclasses.asdict(row) for row in stream.by_position]
    carried = {"carried": stream.window is None, "window": stream.window, "stride": stream.stride}
    return carried | {"by_position": rows}


def _table(stream: StreamBits) -> str:
    """Bits per byte by position, a row for each range."""
    where = "in the text" if stream.reads_on else "in a window"
    rows = [
        (f"{row.first:,}-{row.last:,}", f"{row.num_bytes:,}", f"{row.bpb:.4f}") for row in stream.by_position
    ]
    rows.insert(0, (f"position {where}", "bytes", "bits per byte"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(f"{x:>{w}}" for x, w in zip(row, widths, strict=True)) for row in rows)
