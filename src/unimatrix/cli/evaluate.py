"""`unimatrix eval`: bits per byte and perplexity of a trained model on a whole split."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from unimatrix.cli.arguments import DataDir, DataSource, choose_corpus, parse, usable_device
from unimatrix.data import Split
from unimatrix.errors import UserError
from unimatrix.evals import bits_per_byte
from unimatrix.hf import load
from unimatrix.hf.checksums import CHECKSUMS, verify_checksums
from unimatrix.train.checkpoint import TRAINER, latest_checkpoint
from unimatrix.train.config import Device, Experiment

ABOUT = """Bits per byte and perplexity of a trained model on a whole text.

Every byte is predicted exactly once. The text is cut into windows side by
side, and each window starts afresh, so that a byte sees at most WINDOW bytes
before it. With --carry-state (models without positions) it sees all of them.

examples:
  unimatrix eval runs/mytext-unimatrix-core
  unimatrix eval runs/mytext-unimatrix-core/checkpoint-001000 --split test --carry-state
  unimatrix eval someone/their-model --data another.txt --json"""

_WINDOW = 128


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    checkpoint: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")]
    """A checkpoint's folder, a run's folder (its newest checkpoint), or a name on the Hugging Face hub."""
    data: DataSource = None
    data_dir: DataDir = None
    split: Split = "valid"
    """Which part of the text."""
    window: int | None = None
    """Bytes per window; without it as in training."""
    carry_state: bool = False
    """Read the text as one stream."""
    batch_size: int = 64
    """Windows at a time; it changes the speed and nothing else."""
    device: Device = "auto"
    """Where to compute; auto takes the accelerator where there is one."""
    json: bool = False
    """One JSON object instead of lines to read."""


def run(arguments: Sequence[str]) -> int:
    """The command; its exit code."""
    options = parse(Options, arguments, command="eval", about=ABOUT)
    model, _ = load(options.checkpoint, device=usable_device(options.device))
    trained_with = _training_settings(Path(options.checkpoint).expanduser())
    otherwise = str(trained_with.get("data", "auto"))
    _, corpus = choose_corpus(options.data, options.data_dir, otherwise=otherwise)
    window = options.window
    if window is None:
        limit = model.language_model.config.max_positions
        window = trained_with.get("loop", {}).get("seq_len") or limit or _WINDOW
    measured = bits_per_byte(
        model.language_model,
        corpus.split(options.split),
        window=window,
        batch_size=options.batch_size,
        carry_state=options.carry_state,
    )
    windowing = f"windows of {window} bytes side by side, " + (
        "the state carried on" if options.carry_state else "each starting afresh"
    )
    if options.json:
        fingerprint = corpus.fingerprint(options.split)
        row = dataclasses.asdict(measured) | {
            "windowing": windowing,
            "data": corpus.name,
            "split": options.split,
        }
        print(json.dumps(row | fingerprint))
        return 0
    print(f"{measured.bpb:.4f} bits per byte, perplexity {measured.perplexity:.3f} per byte")
    print(f"{corpus.name}, {options.split}: {measured.num_bytes:,} bytes, {windowing}")
    for note in corpus.notes:
        print(f"Note: {note}")
    return 0


def _training_settings(folder: Path) -> dict[str, Any]:
    """The experiment that a checkpoint of ours was trained with; empty for any other model."""
    checkpoint = folder if (folder / TRAINER).is_file() else latest_checkpoint(folder)
    if checkpoint is None:
        return {}
    if (checkpoint / CHECKSUMS).is_file():
        verify_checksums(checkpoint, names=(TRAINER,))
    try:
        settings = json.loads((checkpoint / TRAINER).read_text(encoding="utf-8"))["experiment"]
        return Experiment.from_dict(settings).to_dict()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{checkpoint / TRAINER}: expected the record of a training run ({error})") from error
