"""`unimatrix bench`: the measurements of unimatrix.bench, each one a word after the command."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from rich.console import RenderableType

from unimatrix.bench import (
    against,
    chunk_length,
    decode,
    memory,
    recall,
    suffix_automaton,
    throughput,
    worker,
)
from unimatrix.bench import slots as slot_bench
from unimatrix.bench.terminal import throughput_tables
from unimatrix.cli.arguments import parse
from unimatrix.codec import read_json
from unimatrix.errors import UserError, did_you_mean, shown
from unimatrix.memory import keep_freed_memory
from unimatrix.models import peer_presets, preset_config, presets, task_presets
from unimatrix.studies.beyond import fights
from unimatrix.train.launch import device_kind
from unimatrix.train.progress import PlainConsole
from unimatrix.train.run_folder import check_path

ABOUT = """usage: unimatrix bench MEASUREMENT [OPTIONS]

Measure speed and memory. Results go to the terminal and, with machine and
versions, as JSON (and a plot) into the folder.

measurements:
  throughput    tokens/s of whole models over the sequence length, against the
                Transformer and, where one is named, a peer (mamba2): a forward
                pass, and a training step; with --forms fast loop also as the
                paper timed recurrences, a loop in Python
  recall        a training step on associative recall, against the Transformer,
                and SparsePointer's time per token over the sequence length
  decode        time to the first token behind a prompt, and time per token
                after it, by the prompt's length and the batch
  memory        peak memory of a forward pass and of a training step, every
                model in a fresh process
  chunk-length  time of the matrix-state op over its chunk length
  slots         time and memory of the slot memory over its number of slots, a few
                of which are read, after the slots are compared
  suffix-automaton
                time and bytes of the suffix automaton: rows, a decoding step, a
                long text, words on which automata are slow; beside rosa-torch
                and a table of contexts
  search        the same search of settings for every contestant of the fair fight,
                each run of the same seconds; then the time of a step of each model
                (two hours, about; started again it goes on)
  against       this version's speed over another's, a git revision or a folder
                with its sources: both take turns, after what they give is
                compared

examples:
  unimatrix bench throughput
  unimatrix bench throughput --models unimatrix-core unimatrix-rosa --lengths 128 2048
  unimatrix bench throughput --models recurrent-ffn mamba2 --passes forward
  unimatrix bench recall --models unimatrix-sparse-pointer
  unimatrix bench throughput --forms fast loop --modes eager --repeats 5
  unimatrix bench decode --threads 1
  unimatrix bench decode --models transformer mamba2 --positions 128 4096 --batches 1 32
  unimatrix bench suffix-automaton --data mytext.txt --length 10000000
  unimatrix bench search --data mytext.txt
  unimatrix bench against HEAD~1 --models unimatrix-core transformer

`unimatrix bench MEASUREMENT --help` lists a measurement's options."""

LONGEST = 2**24  # tokens of one sequence: more than any machine's memory holds the scores of

Folder = Annotated[Path, tyro.conf.arg(metavar="DIR", help="Where the results go.")]
Models = Annotated[
    tuple[str, ...],
    tyro.conf.arg(metavar="PRESET [PRESET ...]", help="Presets, as `unimatrix models` lists them."),
]
Numbers = Annotated[tuple[int, ...], tyro.conf.arg(metavar="N [N ...]")]
Threads = Annotated[int, tyro.conf.arg(metavar="N", help="CPU threads.")]
Seconds = Annotated[float, tyro.conf.arg(help="Time to spend on each comparison, shared by its candidates.")]
Repeats = Annotated[
    int,
    tyro.conf.arg(metavar="N", help="Measure so many times, each in a fresh process; medians then count."),
]
Device = Literal["cpu", "cuda", "mps"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Throughput:
    out: Folder = Path("bench")
    models: Models = ("unimatrix-core",)
    lengths: Numbers = throughput.DEFAULT_LENGTHS
    """Tokens per sequence."""
    passes: tuple[Literal["forward", "training"], ...] = ("forward", "training")
    """A forward pass, a whole training step, or both."""
    modes: tuple[Literal["eager", "compile"], ...] = ("eager", "compile")
    """As it is, through torch.compile, or both; the better one counts."""
    forms: tuple[Literal["fast", "loop"], ...] = ("fast",)
    """As a model runs by itself, and with its recurrences as a loop over tokens in Python (eager)."""
    repeats: Repeats = 1
    seconds: Seconds = 6.0
    threads: Threads = 2
    device: Device = "cpu"


@dataclass(frozen=True, kw_only=True, slots=True)
class Recall:
    out: Folder = Path("bench")
    models: Models = recall.DEFAULT_MODELS
    lengths: Numbers = recall.DEFAULT_LENGTHS
    """Tokens per sequence over which SparsePointer's time per token is followed."""
    modes: tuple[Literal["eager", "compile"], ...] = ("eager", "compile")
    """As it is, through torch.compile, or both; the better one counts."""
    seconds: Seconds = 10.0
    threads: Threads = 2
    device: Device = "cpu"


@dataclass(frozen=True, kw_only=True, slots=True)
class Decode:
    out: Folder = Path("bench")
    models: Models = ("unimatrix-core", "transformer")
    positions: Numbers = decode.DEFAULT_POSITIONS
    """How many tokens came before those that are timed: the length of the prompt."""
    batches: Numbers = (1,)
    """How many texts are read and written at once."""
    repeats: Repeats = 1
    seconds: Seconds = 6.0
    threads: Threads = 2
    device: Device = "cpu"


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    out: Folder = Path("bench")
    models: Models = (*presets(), *peer_presets(), *task_presets())
    passes: tuple[Literal["forward", "training"], ...] = ("forward", "training")
    """A forward pass, a whole training step, or both."""
    batch: Annotated[int, tyro.conf.arg(metavar="N", help="Sequences.")] = memory.BATCH
    length: Annotated[int, tyro.conf.arg(metavar="N", help="Tokens per sequence.")] = memory.LENGTH
    threads: Threads = 2
    device: Device = "cpu"


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkLength:
    out: Folder = Path("bench")
    lengths: Numbers = (128, 512, 2048)
    """Tokens per sequence."""
    chunk_lengths: Numbers = chunk_length.DEFAULT_CHUNK_LENGTHS
    """Chunk lengths to compare."""
    seconds: Seconds = 4.0
    threads: Threads = 2
    device: Device = "cpu"


@dataclass(frozen=True, kw_only=True, slots=True)
class Slots:
    out: Folder = Path("bench")
    slots: Numbers = slot_bench.DEFAULT_SLOTS
    """Numbers of slots; times are given over that of the first."""
    top_k: Annotated[int, tyro.conf.arg(metavar="N", help="Slots that a token reads.")] = slot_bench.TOP_K
    length: Annotated[int, tyro.conf.arg(metavar="N", help="Tokens of the sequence.")] = slot_bench.LENGTH
    seconds: Seconds = 10.0
    threads: Threads = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class SuffixAutomaton:
    out: Folder = Path("bench")
    data: Annotated[
        str,
        tyro.conf.arg(
            metavar="SOURCE",
            help="The text: wikitext-2-raw, embedded (Python's sources), a file, or a folder.",
        ),
    ] = "embedded"
    length: Annotated[int, tyro.conf.arg(metavar="N", help="Bytes of the long text.")] = 1_000_000
    lengths: Numbers = suffix_automaton.DEFAULT_LENGTHS
    """Tokens of the words that grow."""
    seconds: Seconds = 6.0
    threads: Threads = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Search:
    out: Folder = Path("bench")
    data: Annotated[
        str,
        tyro.conf.arg(
            metavar="SOURCE",
            help="The text: auto, wikitext-2-raw, embedded (Python's sources), a file, or a folder.",
        ),
    ] = "auto"
    drawn: Annotated[int, tyro.conf.arg(metavar="N", help="Runs of a contestant drawn at random.")] = 12
    near: Annotated[int, tyro.conf.arg(metavar="N", help="Runs after them, near the best of these.")] = 8
    seconds: Annotated[float, tyro.conf.arg(help="Seconds of training in each run.")] = 30.0
    retime: bool = False
    """Search nothing: time the fights' steps anew, by the recipes that DIR/fair_fight.json has."""
    threads: Threads = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Against:
    version: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="VERSION")]
    """A git revision, or a folder that holds the package unimatrix."""
    out: Folder = Path("bench")
    models: Models = tuple(presets())
    lengths: Numbers = (128,)
    """Tokens per sequence; in decoding, tokens before the one that is timed."""
    passes: tuple[worker.Pass, ...] = against.PASSES
    """A forward pass, a whole training step, a token of batch 1, or several of these."""
    modes: tuple[Literal["eager", "compile"], ...] = ("eager",)
    """As it is, through torch.compile, or both."""
    seconds: Seconds = 6.0
    threads: Threads = 2
    device: Device = "cpu"


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """A measurement by its options, the function that takes them, and its table if it has one."""

    options: (
        type[Throughput]
        | type[Recall]
        | type[Decode]
        | type[Memory]
        | type[ChunkLength]
        | type[Slots]
        | type[SuffixAutomaton]
        | type[Search]
        | type[Against]
    )
    about: str
    measure: Callable[..., Path]
    table: Callable[[Mapping[str, Any]], RenderableType] | None = None


MEASUREMENTS: dict[str, Measurement] = {
    "throughput": Measurement(
        options=Throughput,
        about="Tokens/s over the sequence length, against the Transformer and peers at their better modes.",
        measure=throughput.run,
        table=throughput_tables,
    ),
    "recall": Measurement(
        options=Recall,
        about="Time of a training step on associative recall, over the Transformer's at its better mode.",
        measure=recall.run,
    ),
    "decode": Measurement(
        options=Decode,
        about="Time to the first token behind a prompt, and time per token after it, each model in turns.",
        measure=decode.run,
    ),
    "memory": Measurement(
        options=Memory,
        about="Peak memory of a forward pass and of a training step, every model in a fresh process.",
        measure=memory.run,
    ),
    "chunk-length": Measurement(
        options=ChunkLength,
        about="Time of the chunked matrix-state op, forward and backward, over its chunk length.",
        measure=chunk_length.run,
    ),
    "slots": Measurement(
        options=Slots,
        about="Time and memory of the slot memory over its number of slots, a few of which are read.",
        measure=slot_bench.run,
    ),
    "suffix-automaton": Measurement(
        options=SuffixAutomaton,
        about="Time and bytes of the suffix automaton and of contexts, beside rosa-torch's where installed.",
        measure=suffix_automaton.run,
    ),
    "search": Measurement(
        options=Search,
        about="The fair fight's search: as many runs of the same seconds for every contestant.",
        measure=fights.run_search,
    ),
    "against": Measurement(
        options=Against,
        about="This version's speed over another's, call by call in turns, and whether both give the same.",
        measure=against.run,
    ),
}


def _check(settings: Mapping[str, Any]) -> None:
    """Raise a UserError for what would fail, or never end, after minutes of measuring."""
    device_kind(settings.get("device", "cpu"))
    check_path(settings["out"])
    most = {"threads": max(64, os.cpu_count() or 1), "seconds": 86_400.0, "repeats": 1000}
    numbers = (
        "threads",
        "seconds",
        "repeats",
        "lengths",
        "positions",
        "batches",
        "batch",
        "length",
        "slots",
        "top_k",
        "chunk_lengths",
        "drawn",
        "near",
    )
    for name in numbers:
        value = settings.get(name, ())
        for number in value if isinstance(value, tuple) else (value,):
            limit = most.get(name, LONGEST)
            if not 0 < number <= limit:
                raise UserError(f"{name}: expected more than 0 and at most {limit:,}, got {shown(number)}")
    for name in settings.get("models", ()):
        preset_config(name)


def run(arguments: Sequence[str]) -> int:
    """The command; its exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(ABOUT)
        return 0
    name, *rest = arguments
    if name not in MEASUREMENTS:
        raise UserError(f"unknown measurement {shown(name)}; {did_you_mean(name, MEASUREMENTS)}")
    measurement = MEASUREMENTS[name]
    options = parse(measurement.options, rest, command=f"bench {name}", about=measurement.about)
    keep_freed_memory()
    settings = asdict(options)
    _check(settings)
    threads = settings.pop("threads")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        path = measurement.measure(settings.pop("out"), **settings)
    finally:
        torch.set_num_threads(before)
    if measurement.table is not None:
        PlainConsole().print(measurement.table(read_json(path)))
    print(f"Results: {path}")
    return 0
