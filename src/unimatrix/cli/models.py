"""`unimatrix models`: the presets, what each is for, their parameters and the size of their state.

The list answers at once: it is presets.json beside this file, which `unimatrix models --count --json` made
and a test holds to the models.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich import box
from rich.table import Table

from unimatrix.cli.arguments import parse
from unimatrix.cli.printing import print_table
from unimatrix.codec import read_json
from unimatrix.errors import UserError

ABOUT = """List the presets: what each is for, its parameters, and the size of its state.

The state is what one sequence carries after so many tokens, in float32, in the
model without positions. Parameters are of the model of bytes (259 tokens, 128
positions); --json has all numbers to the unit, those of the recall task too.
`unimatrix train` takes the first one by itself. mamba2, m2rnn and lstm are other
people's, to compare with. Presets made for one task alone are in a table of
their own.

With a preset's name: its settings by their paths, as --set of `unimatrix train`
and unimatrix.build take them. With --parts: what models are made of.

examples:
  unimatrix models
  unimatrix models unimatrix-sparse-pointer
  unimatrix models --parts
  unimatrix models --json"""

LISTED = Path(__file__).with_name("presets.json")


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    preset: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[PRESET]")] = None
    """Show this one's settings instead."""
    parts: bool = False
    """Show the parts that models are made of, with their settings, instead."""
    count: bool = False
    """Build every preset and count anew."""
    json: bool = False
    """JSON instead of a table."""


def run(arguments: Sequence[str]) -> int:
    """The command; its exit code."""
    options = parse(Options, arguments, command="models", about=ABOUT)
    given = [option for option in ("--parts", "--count") if getattr(options, option[2:])]
    given = [name for name in (options.preset, *given) if name is not None]
    if len(given) > 1:
        raise UserError(f"models: expected one of a preset, --parts and --count, got {' and '.join(given)}")
    if options.parts or options.preset is not None:
        settings = _parts() if options.parts else _settings(str(options.preset))
        if options.json:
            print(json.dumps(settings, indent=2))
        else:
            _print_settings(settings)
        return 0
    rows = _counted() if options.count else read_json(LISTED)
    if options.json:
        print(json.dumps(rows, indent=2))
    else:
        for task in dict.fromkeys(row.get("task") for row in rows):
            print_table(_table([row for row in rows if row.get("task") == task], task))
    return 0


def _counted() -> list[dict[str, Any]]:
    """The rows of presets.json, as they would be written."""
    # here, since torch takes longer to import than the list to print
    from unimatrix.cli.model_counts import count_all

    return json.loads(json.dumps([asdict(row) for row in count_all()]))


def _settings(name: str) -> dict[str, object]:
    from unimatrix.codec import encode
    from unimatrix.models import ModelConfig, preset_config, settings_of

    config = preset_config(name)
    return encode(settings_of(config) if isinstance(config, ModelConfig) else config)


def _parts() -> dict[str, dict[str, object]]:
    from unimatrix.codec import encode
    from unimatrix.mixers import parts

    return {
        kind: {"role": part.role, "about": part.about, "settings": encode(part.settings)}
        for kind, part in parts().items()
    }


def _print_settings(settings: Mapping[str, object]) -> None:
    """A line for each setting, or for each part."""
    width = max(map(len, settings))
    for name, value in settings.items():
        if isinstance(value, dict) and "about" in value:
            print(f"{name:<{width}}  {value['role']}: {value['about']}")
            if value["settings"]:
                given = ", ".join(f"{key}={json.dumps(one)}" for key, one in value["settings"].items())
                print(f"{'':<{width}}  {given}")
        else:
            print(f"{name:<{width}}  {json.dumps(value)}")


def _table(rows: Sequence[dict[str, Any]], task: str | None) -> Table:
    """Presets of text, or of one and the same task."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("preset" if task is None else f"preset for\n{task}", no_wrap=True, min_width=24)
    table.add_column("for")
    table.add_column("para-\nmeters", justify="right", no_wrap=True)
    for tokens in rows[0]["state_bytes"]:
        table.add_column(f"state at\n{int(tokens):,}", justify="right", no_wrap=True, min_width=8)
    for row in rows:
        parameters = row["parameters_bytes"] if task is None else row["parameters"]
        sizes = map(_size, row["state_bytes"].values())
        table.add_row(row["name"], row["use"], f"{parameters:,}", *sizes)
    return table


def _size(num_bytes: float) -> str:
    """Three digits and a unit: a table to choose from; --json has every byte."""
    for unit in ("B", "kB", "MB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}" if num_bytes >= 100 else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:,.1f} GB"
