"""`unimatrix inspect`: what a slot memory holds, what is read from it, and how the answer comes about."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich import box
from rich.table import Table
from rich.text import Text

from unimatrix.cli.arguments import parse
from unimatrix.codec import check_can_be_written, encode
from unimatrix.errors import UserError
from unimatrix.evals.inspection import Choice, Step, Traced
from unimatrix.lab.look import trace_checkpoint
from unimatrix.ops.slot_memory import EMPTY
from unimatrix.train.progress import PlainConsole, say

ABOUT = """Show what a slot memory holds while a model reads: which slot each token wrote,
which one it read with what weight, and what the pointer voted for against the
vocabulary's own logits. For models with slots (unimatrix-sparse-pointer).

A model trained on a text takes any prompt. One trained on a task takes symbols
between spaces (recall: BOS k1 v3 ... QUERY k1; triple-interaction: BOS AFFINE
A t3 v7 ... t3; signal-noise: BOS n1 v5 MARK v2 ... QUERY; mqar: k1 v3 ... BLANK
k1), or without a prompt a fresh sequence of the task, up to its last question.

examples:
  unimatrix inspect runs/recall-no-dropout.unimatrix-sparse-pointer
  unimatrix inspect runs/recall-no-dropout.no-gate --sample 3 --figure slots.png
  unimatrix inspect runs/recall-no-dropout.no-gate --prompt "BOS k1 v3 k2 v5 f1 f2 QUERY k2"
  unimatrix inspect runs/mytext-unimatrix-sparse-pointer --prompt "The king. The k" """

FIGURE_FORMATS = (".png", ".svg", ".pdf")


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    checkpoint: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")]
    """A checkpoint's folder, a run's folder (its newest checkpoint), or a name on the Hugging Face hub."""
    prompt: str | None = None
    """What the model reads; without it a sequence of the task it was trained on."""
    sample: int | None = None
    """Without a prompt: which of the task's evaluation sequences, from 0 on."""
    rows: int = 24
    """How many of the last positions to list; 0 lists all, as --json does."""
    figure: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Draw it too: a .png, .svg or .pdf file."""
    json: bool = False
    """One JSON object instead of tables."""


def check_figure(path: Path) -> None:
    """Raise a UserError where no figure can be written: a wrong ending, no such folder, no file there."""
    if path.suffix not in FIGURE_FORMATS:
        raise UserError(f"figure: expected a file ending in {', '.join(FIGURE_FORMATS)}, got {path}")
    if not path.absolute().parent.is_dir():
        raise UserError(f"figure: expected a file in a folder that is there, got {path}")
    check_can_be_written(path)


def run(arguments: Sequence[str]) -> int:
    """The command; its exit code."""
    options = parse(Options, arguments, command="inspect", about=ABOUT)
    if options.rows < 0:
        raise UserError(f"rows: expected at least 0, got {options.rows}")
    if options.figure is not None:
        check_figure(options.figure)
    traced = trace_checkpoint(options.checkpoint, prompt=options.prompt, sample=options.sample)
    if options.figure is not None:
        # imported here: looking into a model needs nothing to draw with
        from unimatrix.lab.charts import draw_slots, save_drawing

        save_drawing(draw_slots(traced), options.figure)
    if options.json:
        print(json.dumps(encode(traced)))
        return 0
    console = PlainConsole()
    console.print(_positions(traced, options.rows))
    console.print(_slots(traced))
    console.print(_answer(traced))
    if options.figure is not None:
        say(console, f"Figure: {options.figure}")
    return 0


def _positions(traced: Traced, rows: int) -> Table:
    """A line per position: what it wrote and what it read."""
    history = traced.history
    first = 0 if rows == 0 else max(0, len(history.steps) - rows)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="Position by position", title_justify="left")
    for name in ("at", "token", "gate", "slot", "writes", "reads most", "weight", "answer"):
        right = name in ("at", "gate", "slot", "weight")
        table.add_column(name, justify="right" if right else "left", no_wrap=True)
    for position, step in list(enumerate(history.steps))[first:]:
        best = max(range(history.num_slots), key=lambda slot: step.weights[slot])
        reads = step.weights[best] > 0
        table.add_row(
            str(position),
            Text(traced.name(step.token)),
            f"{step.strength:.2f}",
            "" if step.written is None else str(step.written),
            Text("" if step.written is None else _binding(step, step.written, traced)),
            Text(f"slot {best}: {_binding(step, best, traced)}" if reads else "nothing"),
            f"{step.weights[best]:.2f}" if reads else "",
            Text(traced.name(step.choices[0].token)),
        )
    return table


def _slots(traced: Traced) -> Table:
    """The slots after the last position and the last query's weights."""
    step = traced.history.steps[-1]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="The slots at the end", title_justify="left")
    table.add_column("slot", justify="right")
    table.add_column("holds")
    table.add_column("weight", justify="right")
    table.add_column("")
    for slot, weight in enumerate(step.weights):
        if step.values[slot] != EMPTY:
            bar = "█" * round(20 * weight)
            table.add_row(str(slot), Text(_binding(step, slot, traced)), f"{weight:.3f}", bar)
    return table


def _answer(traced: Traced) -> Table:
    """The likeliest next tokens: the vocabulary's logit, the pointer's vote, their sum."""
    step = traced.history.steps[-1]
    gate = "no pointer" if step.gate is None else f"pointer gate {step.gate:.2f}"
    expected = f", expected {traced.expected}" if traced.expected is not None else ""
    title = Text(f"Likeliest next: {gate}{expected}")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
    table.add_column("token")
    for name in ("vocabulary", "vote", "sum"):
        table.add_column(name, justify="right")
    for choice in step.choices:
        table.add_row(Text(traced.name(choice.token)), *_logits(choice))
    return table


def _logits(choice: Choice) -> tuple[str, str, str]:
    return f"{choice.word:+.2f}", f"{choice.vote:+.2f}", f"{choice.word + choice.vote:+.2f}"


def _binding(step: Step, slot: int, traced: Traced) -> str:
    return f"{traced.name(step.keys[slot])}→{traced.name(step.values[slot])}"
