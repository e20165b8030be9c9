"""`unimatrix generate`: a prompt and what a trained model makes of it, as it comes."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from unimatrix.cli.arguments import parse
from unimatrix.hf import load, stream
from unimatrix.train.config import Device
from unimatrix.train.launch import device_kind

ABOUT = """Continue a prompt with a trained model; the text is shown as it comes.

examples:
  unimatrix generate runs/mytext-unimatrix-core --prompt "Once upon a time"
  unimatrix generate runs/mytext-unimatrix-core --prompt "Once" --temperature 0.8 --top-p 0.95 --seed 1
  unimatrix generate someone/their-model --prompt "Once" --max-new-tokens 1000 --no-echo > story.txt"""

_NEW_TOKENS = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT_OR_HUB_NAME")]
    """A checkpoint's folder, a run's folder (its newest checkpoint), or a name on the Hugging Face hub."""
    prompt: str = ""
    """What to continue; empty starts a text."""
    max_new_tokens: int | None = None
    """Bytes to write; without it 200, or as many as the model's positions leave room for."""
    temperature: float = 1.0
    """Below 1 more likely text, above 1 more surprising; 0 always takes the likeliest byte."""
    top_k: int | None = None
    """Choose among the k likeliest bytes."""
    top_p: float | None = None
    """Choose among the likeliest bytes that together reach this probability."""
    seed: int | None = None
    """The same seed writes the same text."""
    echo: Annotated[bool, tyro.conf.FlagCreatePairsOff] = True
    """Whether the prompt is shown before its continuation."""
    device: Device = "cpu"
    """Where to compute: one token at a time is fastest on the CPU for small models."""


def run(arguments: Sequence[str]) -> int:
    """The command; its exit code."""
    options = parse(Options, arguments, command="generate", about=ABOUT)
    model, tokenizer = load(options.model, device=device_kind(options.device))
    new_tokens = options.max_new_tokens
    if new_tokens is None:
        limit = model.language_model.config.max_positions
        read = max(1, len(tokenizer.encode_bytes(options.prompt)) + tokenizer.prepend_bos)
        room = _NEW_TOKENS if limit is None else limit - read
        # without room for a single token `stream` says what is wrong
        new_tokens = max(1, min(_NEW_TOKENS, room))
    pieces = stream(
        model,
        tokenizer,
        options.prompt,
        max_new_tokens=new_tokens,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        seed=options.seed,
    )
    if options.echo:
        _write(options.prompt)
    for piece in pieces:
        _write(piece)
    _write("\n")
    return 0


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
