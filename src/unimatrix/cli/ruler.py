"""`unimatrix eval CHECKPOINT_OR_HUB_NAME --ruler`: RULER's tasks, at several lengths, of any causal model."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich import box
from rich.table import Table

from unimatrix.cli import CTRL_C
from unimatrix.cli.arguments import parse
from unimatrix.cli.inspect import check_figure
from unimatrix.cli.printing import print_table
from unimatrix.cli.progress import progress_on_stderr
from unimatrix.cli.trained import check_reads_text
from unimatrix.codec import check_can_be_written, is_utf8, read_bytes
from unimatrix.data.tasks.ruler import RULER, Haystack
from unimatrix.errors import UserError, shown
from unimatrix.evals.ruler import Cell, Row, Settings, plan, read_rows, run_ruler
from unimatrix.extras import needs
from unimatrix.hf.any_model import load_causal
from unimatrix.train.config import Device
from unimatrix.train.launch import device_kind

ABOUT = f"""What a model finds, follows and counts in long texts: tasks of RULER, as the
official suite writes and scores them. For any checkpoint of ours and any causal
model of transformers; a length counts the model's own tokens, prompt and answer.

tasks: {", ".join(RULER)}

Each answer is a row in a file, written at once: the same command goes on where
it was stopped, and answers nothing twice. Without names --ruler takes all tasks,
and leaves out those that a length has no room for; one that is named is refused.
See docs/ruler.md for what differs from the official suite.

examples:
  unimatrix eval runs/mytext-unimatrix --ruler
  unimatrix eval someone/their-model --ruler vt cwe --lengths 4096 8192 --samples 500
  unimatrix eval someone/their-model --ruler --haystack essays.txt --figure ruler.png"""

_FLAG = "--ruler"


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    checkpoint: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT_OR_HUB_NAME")]
    """A checkpoint's folder, a run's folder (its newest checkpoint), another model's, or a hub name."""
    ruler: Annotated[tuple[str, ...], tyro.conf.arg(metavar="TASKS")] = ()
    """The tasks; without one all of them."""
    lengths: tuple[int, ...] = (1024, 2048, 4096)
    """Tokens of prompt and answer together, at most."""
    samples: int = 50
    """Of each task at each length; the official suite takes 500."""
    seed: int = 42
    """Another seed's samples."""
    haystack: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """A text to hide needles in where the official suite takes essays; without it they lie in noise."""
    rows: Annotated[Path, tyro.conf.arg(metavar="FILE")] = Path("ruler.jsonl")
    """Where answers and scores are kept, a line of JSON each."""
    figure: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Draw the scores too: a .png, .svg or .pdf file."""
    batch_size: int = 8
    """Samples at a time; it changes the speed, and else nothing but rounding."""
    device: Device = "auto"
    """Where to compute; auto takes the accelerator where there is one."""
    json: bool = False
    """One JSON object instead of lines to read."""


def run(arguments: Sequence[str]) -> int:
    """The command; its exit code."""
    options = parse(Options, _without_bare_flag(arguments), command="eval", about=ABOUT)
    settings = _settings(options)
    check_reads_text(options.checkpoint)
    causal = load_causal(options.checkpoint, device=device_kind(options.device))
    cells = plan(causal, settings)
    refused = [cell.refused for cell in cells if cell.refused is not None]
    if refused and (options.ruler or len(refused) == len(cells)):
        raise refused[0]
    total = sum(cell.samples for cell in cells)
    before = sum(1 for _ in read_rows(options.rows))
    done = 0

    def advanced(more: int) -> None:
        nonlocal done
        done += more
        advance(more)

    try:
        with progress_on_stderr("ruler", total, "samples") as advance:
            rows = run_ruler(
                causal,
                cells,
                settings,
                path=options.rows,
                name=options.checkpoint,
                batch_size=options.batch_size,
                progress=advanced,
            )
    except KeyboardInterrupt:
        print(
            f"unimatrix: stopped after {done:,} of {total:,} samples; the same command goes on",
            file=sys.stderr,
        )
        return CTRL_C
    scored = [_scored(cell, rows) for cell in cells]
    if options.figure is not None:
        _draw(scored, options)
    if options.json:
        print(
            json.dumps({"model": options.checkpoint, "model_sha256": rows[0].model_sha256, "cells": scored})
        )
        return 0
    print(
        f"RULER, {options.samples:,} samples each from seed {options.seed}: percent of what should be named"
    )
    print_table(_table(scored, options))
    added = sum(1 for _ in read_rows(options.rows)) - before
    print(f"Rows: {options.rows}, {total:,} of this table, {added:,} of them new")
    if options.figure is not None:
        print(f"Figure: {options.figure}")
    if options.haystack is None and any(RULER[name].hidden_in == "essays" for name in settings.tasks):
        print("Note: all needles lie in noise; the official suite hides those of some tasks in essays")
    return 0


def _without_bare_flag(arguments: Sequence[str]) -> list[str]:
    """The flag is only told where tasks follow it."""
    left = list(arguments)
    for place, word in enumerate(arguments):
        if word == _FLAG and (place + 1 == len(arguments) or _is_no_task(arguments[place + 1], arguments)):
            del left[place]
            break
    return left


def _is_no_task(word: str, arguments: Sequence[str]) -> bool:
    """Whether what stands behind the flag is an option, or the model, that stands nowhere before it."""
    return word.startswith("-") or (word not in RULER and (arguments[0] == _FLAG or _is_there(word)))


def _is_there(word: str) -> bool:
    try:
        return Path(word).expanduser().exists()
    except (OSError, ValueError, RuntimeError):
        return False


def _settings(options: Options) -> Settings:
    """What is asked, and whether all that will be written can be."""
    if options.figure is not None:
        check_figure(options.figure)
        for package in ("altair", "vl_convert"):
            needs(package)
    for path in (options.rows, options.figure):
        if path is not None and not is_utf8(str(path)):
            raise UserError(f"path: expected UTF-8, got {shown(str(path))}")
    check_can_be_written(options.rows, appends=True)
    haystack = None
    known = [RULER[name] for name in options.ruler or RULER if name in RULER]
    if options.haystack is not None and known and all(task.hidden_in != "essays" for task in known):
        raise UserError("--haystack: expected a task that hides needles in essays, got none")
    if options.haystack is not None:
        try:
            data = read_bytes(options.haystack)
        except UserError as error:
            raise UserError(f"--haystack: {error}") from None
        haystack = Haystack.from_bytes(data)
    return Settings(
        tasks=options.ruler or tuple(RULER),
        lengths=options.lengths,
        samples=options.samples,
        seed=options.seed,
        haystack=haystack,
    )


def _scored(cell: Cell, rows: Sequence[Row]) -> dict[str, Any]:
    """A cell as the table, the figure and --json have it."""
    about = {"task": cell.task, "length": cell.length}
    if cell.refused is not None:
        return about | {"score": None, "samples": 0, "note": cell.refused.briefly}
    scores = [row.score for row in rows if (row.task, row.length) == (cell.task, cell.length)]
    return about | {"score": sum(scores) / len(scores), "samples": len(scores)}


def _table(scored: Sequence[Mapping[str, Any]], options: Options) -> Table:
    """Tasks below each other, lengths side by side, and their means where all of a length are there."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("task")
    by_place = {(cell["task"], cell["length"]): cell for cell in scored}
    tasks = list(dict.fromkeys(cell["task"] for cell in scored))
    for length in options.lengths:
        table.add_column(f"{length:,}", justify="right")
    for task in tasks:
        table.add_row(task, *(_said(by_place[task, length]) for length in options.lengths))
    columns = [[by_place[task, length]["score"] for task in tasks] for length in options.lengths]
    means = ["" if None in column else f"{sum(column) / len(column):.2f}" for column in columns]
    if len(tasks) > 1 and any(means):
        table.add_row("mean", *means)
    return table


def _said(cell: Mapping[str, Any]) -> str:
    return cell["note"] if cell["score"] is None else f"{cell['score']:.2f}"


def _draw(scored: Sequence[Mapping[str, Any]], options: Options) -> None:
    # imported here: answering needs nothing to draw with
    from unimatrix.lab.charts import draw_heat_map, save_drawing

    assert options.figure is not None
    save_drawing(draw_heat_map(scored, title=f"RULER: {Path(options.checkpoint).name}"), options.figure)
