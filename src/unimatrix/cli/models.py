"""`unimatrix models`: the presets, their parameters and the size of their state, counted on built models."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

import torch
import tyro
from rich import box
from rich.table import Table

from unimatrix.cli.arguments import parse
from unimatrix.codec import encode
from unimatrix.data.tasks import TripleInteractionConfig
from unimatrix.errors import UserError
from unimatrix.mixers import parts
from unimatrix.models import (
    PEER_PRESETS,
    PRESETS,
    TASK_PRESETS,
    LanguageModel,
    Mamba2,
    ModelConfig,
    build,
    parameter_count,
    preset_config,
    setting,
    settings_of,
    state_bytes,
)
from unimatrix.train.progress import PlainConsole

ABOUT = """List the presets: what each is, its parameters, and the size of its state.

Everything is counted on built models. The state is what one sequence carries
after so many tokens, in float32, in the model without positions. The last one,
mamba2, is transformers' own, to compare with. Presets made for one task alone
are in a table of their own, with that task's vocabulary and length.

With a preset's name: its settings by their paths, as --set of `unimatrix train`
and unimatrix.build take them. With --parts: what models are made of.

examples:
  unimatrix models
  unimatrix models unimatrix-sparse-pointer
  unimatrix models --parts
  unimatrix models --json"""

BYTE_VOCABULARY, RECALL_VOCABULARY = 259, 64
STATE_TOKENS = (128, 4096)
_PIECE = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    preset: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[PRESET]")] = None
    """Show this one's settings instead."""
    parts: bool = False
    """Show the parts that models are made of, with their settings, instead."""
    json: bool = False
    """JSON instead of a table."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """One line: counts of parameters for both vocabularies, bytes of state by number of tokens."""

    name: str
    does: str
    parameters_bytes: int
    parameters_recall: int
    state_bytes: dict[int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskPreset:
    """One line of those made for one task: parameters, and bytes of state after one of its sequences."""

    name: str
    does: str
    task: str
    vocab_size: int
    parameters: int
    state_bytes: dict[int, int]


def run(arguments: Sequence[str]) -> int:
    """The command; its exit code."""
    options = parse(Options, arguments, command="models", about=ABOUT)
    if options.parts and options.preset is not None:
        raise UserError(f"models: expected a preset or --parts, got {options.preset} and --parts")
    if options.parts or options.preset is not None:
        settings = _parts() if options.parts else _settings(str(options.preset))
        if options.json:
            print(json.dumps(settings, indent=2))
        else:
            _print_settings(PlainConsole(), settings)
        return 0
    rows = [describe(name) for name in PRESETS | PEER_PRESETS]
    task_rows = [describe_task_preset(name) for name in TASK_PRESETS]
    if options.json:
        print(json.dumps([asdict(row) for row in (*rows, *task_rows)], indent=2))
    else:
        console = PlainConsole()
        console.print(_table(rows))
        console.print(_task_table(task_rows))
    return 0


def describe(name: str) -> Preset:
    """Build the preset and count."""
    return Preset(
        name=name,
        does=_does((PRESETS | PEER_PRESETS)[name].about),
        parameters_bytes=parameter_count(build(name, vocab_size=BYTE_VOCABULARY)),
        parameters_recall=parameter_count(build(name, vocab_size=RECALL_VOCABULARY)),
        state_bytes=_measured_state(name),
    )


@torch.no_grad()
def describe_task_preset(name: str) -> TaskPreset:
    """Build the preset for its task and count."""
    task = TripleInteractionConfig()
    model = build(name, vocab_size=task.vocab_size, max_positions=task.length).eval()
    _, state = model(torch.zeros(1, task.length, dtype=torch.int64))
    return TaskPreset(
        name=name,
        does=_does(TASK_PRESETS[name].about),
        task=task.kind,
        vocab_size=task.vocab_size,
        parameters=parameter_count(model),
        state_bytes={task.length: state_bytes(state)},
    )


def _does(about: str) -> str:
    """What a preset is, without the counts at its end, which have their own columns."""
    return about.split(". ")[0].rstrip(".")


def _settings(name: str) -> dict[str, object]:
    config = preset_config(name)
    return encode(settings_of(config) if isinstance(config, ModelConfig) else config)


def _parts() -> dict[str, dict[str, object]]:
    return {
        kind: {"role": part.role, "about": part.about, "settings": encode(part.settings)}
        for kind, part in parts().items()
    }


def _print_settings(console: PlainConsole, settings: Mapping[str, object]) -> None:
    """A line for each setting, or for each part."""
    width = max(map(len, settings))
    for name, value in settings.items():
        if isinstance(value, dict) and "about" in value:
            console.print(f"{name:<{width}}  {value['role']}: {value['about']}", soft_wrap=True)
            if value["settings"]:
                given = ", ".join(f"{key}={json.dumps(one)}" for key, one in value["settings"].items())
                console.print(f"{'':<{width}}  {given}", soft_wrap=True)
        else:
            console.print(f"{name:<{width}}  {json.dumps(value)}", soft_wrap=True)


@torch.no_grad()
def _measured_state(name: str) -> dict[int, int]:
    # every form carries the same state; the chunked one, unlike the compiled one, needs no kernel first
    config = preset_config(name)
    has_forms = isinstance(config, ModelConfig) and setting(config, "backend") is not None
    form = {"backend": "chunked"} if has_forms else {}
    model = build(name, max_positions=None, **form).eval()
    assert isinstance(model, LanguageModel | Mamba2)
    state = None
    if model.config.recurrent:  # one size however long the text, so that one token tells it
        _, state = model(torch.zeros(1, 1, dtype=torch.int64))
        return dict.fromkeys(STATE_TOKENS, state_bytes(state))
    sizes: dict[int, int] = {}
    read = 0
    while read < STATE_TOKENS[-1]:
        until = min([read + _PIECE, *(tokens for tokens in STATE_TOKENS if tokens > read)])
        _, state = model(torch.zeros(1, until - read, dtype=torch.int64), state)
        read = until
        if read in STATE_TOKENS:
            sizes[read] = state_bytes(state)
    return sizes


def _table(rows: Sequence[Preset]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("preset", no_wrap=True)
    table.add_column("parameters\nbytes (259)", justify="right", no_wrap=True)
    table.add_column("parameters\nrecall (64)", justify="right", no_wrap=True)
    for tokens in STATE_TOKENS:
        table.add_column(f"state after\n{tokens:,} tokens", justify="right", no_wrap=True)
    for row in rows:
        sizes = [f"{row.state_bytes[tokens]:,} B" for tokens in STATE_TOKENS]
        table.add_row(row.name, f"{row.parameters_bytes:,}", f"{row.parameters_recall:,}", *sizes)
    return table


def _task_table(rows: Sequence[TaskPreset]) -> Table:
    """Presets of one and the same task."""
    ((tokens, _),) = rows[0].state_bytes.items()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(f"preset for\n{rows[0].task}", no_wrap=True, min_width=24)
    table.add_column(f"parameters\n({rows[0].vocab_size})", justify="right", no_wrap=True)
    table.add_column(f"state after\n{tokens:,} tokens", justify="right", no_wrap=True)
    for row in rows:
        table.add_row(row.name, f"{row.parameters:,}", f"{row.state_bytes[tokens]:,} B")
    return table
