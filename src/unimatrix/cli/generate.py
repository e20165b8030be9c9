"""`unimatrix generate`: a prompt and what a trained model makes of it, as it comes."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from unimatrix.cli import CTRL_C
from unimatrix.cli.arguments import parse
from unimatrix.cli.progress import progress_on_stderr
from unimatrix.cli.trained import check_reads_text
from unimatrix.codec import check_file
from unimatrix.errors import UserError
from unimatrix.hf import Reader, load, stream
from unimatrix.hf.saved_state import check_can_hold
from unimatrix.models.language_model import STREAM_PIECE
from unimatrix.train.config import Device
from unimatrix.train.launch import device_kind

ABOUT = """Continue a prompt with a trained model; the text is shown as it comes.

examples:
  unimatrix generate runs/mytext-unimatrix --prompt "Once upon a time"
  unimatrix generate runs/mytext-unimatrix --prompt "Once" --temperature 0.8 --top-p 0.95 --seed 1
  unimatrix generate someone/their-model --prompt "Once" --max-new-tokens 1000 --no-echo > story.txt

A model that has read a long text can keep what it remembers of it, and go on from there another day:
  unimatrix generate RUN --prompt-file corpus.txt --save-state corpus.state --max-new-tokens 0
  unimatrix generate RUN --load-state corpus.state --prompt "In the beginning" """.rstrip()

_NEW_TOKENS = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT_OR_HUB_NAME")]
    """A checkpoint's folder, a run's folder (its newest checkpoint), or a name on the Hugging Face hub."""
    prompt: str = ""
    """What to continue; empty starts a text, or goes on where the file or the state ends."""
    prompt_file: Path | None = None
    """A file to read before the prompt, in pieces, and not shown; what keeps the text (unimatrix) grows."""
    load_state: Path | None = None
    """Go on from what this file says was read before; only the model that wrote it takes it."""
    save_state: Path | None = None
    """Write the state after all that was read and written into this file (safetensors)."""
    max_new_tokens: int | None = None
    """Bytes to write; without it 200, or as many as the model's positions leave room for; 0 with
    --save-state only reads."""
    temperature: float = 1.0
    """Below 1 more likely text, above 1 more surprising; 0 always takes the likeliest byte."""
    top_k: int | None = None
    """Choose among the k likeliest bytes."""
    top_p: float | None = None
    """Choose among the likeliest bytes that together reach this probability."""
    seed: int | None = None
    """The same seed writes the same text."""
    echo: Annotated[bool, tyro.conf.FlagCreatePairsOff] = True
    """The prompt is shown before its continuation; with --no-echo it is not."""
    device: Device = "cpu"
    """Where to compute: one token at a time is fastest on the CPU for small models."""


def run(arguments: Sequence[str]) -> int:
    """The command; its exit code."""
    options = parse(Options, arguments, command="generate", about=ABOUT)
    reads_only = options.max_new_tokens == 0 and options.save_state is not None
    if options.max_new_tokens == 0 and not reads_only:
        raise UserError("--max-new-tokens: expected at least 1, or 0 with --save-state; got 0")
    if options.save_state is not None:
        with _named("--save-state"):
            check_can_hold(options.save_state)  # before a long text is read
    check_reads_text(options.model)
    model, tokenizer = load(options.model, device=device_kind(options.device))
    settings = {name: getattr(options, name) for name in ("temperature", "top_k", "top_p", "seed")}
    # a wrong setting is told before a long text is read
    asked = 1 if reads_only or options.max_new_tokens is None else options.max_new_tokens
    stream(model, tokenizer, "", max_new_tokens=asked, **settings)
    reader = Reader(model, tokenizer)
    if options.load_state is not None:
        with _named("--load-state"):
            reader = Reader.load(options.load_state, model, tokenizer)
    try:
        if options.prompt_file is not None:
            with _named("--prompt-file"):
                _read_file(reader, options.prompt_file)
        if reads_only:
            reader.read(options.prompt)
        else:
            _write_text(reader, options, settings)
        if options.save_state is not None:
            with _named("--save-state"):
                reader.save(options.save_state)
            if reads_only:
                size = options.save_state.stat().st_size
                print(f"{options.save_state}: the state after {reader.num_tokens:,} tokens, {size:,} bytes")
    except KeyboardInterrupt:
        saved = "" if options.save_state is None else "; no state was saved"
        print(f"unimatrix: stopped after {reader.num_tokens:,} tokens{saved}", file=sys.stderr)
        return CTRL_C
    return 0


@contextmanager
def _named(option: str) -> Iterator[None]:
    """What is wrong with an option's file is told behind its name."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{option}: {error}") from None


def _write_text(reader: Reader, options: Options, settings: dict[str, Any]) -> None:
    """Show the prompt and what comes after it."""
    new_tokens = options.max_new_tokens
    if new_tokens is None:
        # without room for a single token `write` says what is wrong
        room = reader.room_behind(options.prompt)
        new_tokens = _NEW_TOKENS if room is None else max(1, min(_NEW_TOKENS, room))
    pieces = reader.write(options.prompt, max_new_tokens=new_tokens, **settings)
    if options.echo:
        _write(options.prompt)
    for piece in pieces:
        _write(piece)
    _write("\n")


def _read_file(reader: Reader, path: Path) -> None:
    """Read a file of any size, showing how far."""
    check_file(path)
    size = path.stat().st_size
    if size == 0:
        raise UserError(f"{path}: expected text, got an empty file")
    if (room := reader.room()) is not None and size > room:
        raise UserError(
            f"{path}: expected at most the {room:,} bytes that the model's positions leave room for, got"
            f" {size:,}; a model built with max_positions=None has no limit"
        )
    with path.open("rb") as file, progress_on_stderr(path.name, size, "bytes") as advance:
        while piece := file.read(STREAM_PIECE):
            reader.read(piece)
            advance(len(piece))


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
