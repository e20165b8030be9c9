"""The options that change a model: --set PATH=VALUE for any setting of any part, short ones for the usual.

The short ones are settings by the end of their path; what they may be is asked of the parts that have them.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, get_type_hints

import tyro

from unimatrix.codec import MAX_BYTES, parse_json
from unimatrix.data.settings import check_type
from unimatrix.errors import UserError
from unimatrix.mixers import parts
from unimatrix.models import ModelConfig
from unimatrix.models.settings import ALIASES

# what each of them says in --help
SHORT = {
    "d_model": "Width of the residual stream.",
    "num_heads": "Heads; of attention a divisor of d_model.",
    "depth": "Layers, or steps of the shared block.",
    "state_dim": "Rows and columns of each head's state.",
    "qkv_init": "Of attention, how its q, k, v projection starts (xavier: as nn.MultiheadAttention's).",
    "temperature": "Of unimatrix-assoc, what cosines are multiplied by.",
    "slots": "Slots of a slot memory that the model has, as unimatrix-sparse-pointer, or of triple-slot "
    "(--set parts.memory=slots gives one to a model without).",
    "top_k": "How many of its slots a read is spread over.",
    "pointer": "Whether the slot memory votes for tokens of its own.",
    "write_gate": "Whether it decides what to write, instead of writing at every position.",
    "write_gate_bias": "Where that gate starts: 4 writes everything at first, 0 about half of it.",
}


def _hint(name: str) -> Any:
    """The type of a setting, from the first config that has it."""
    name = ALIASES.get(name, name)
    if name == "depth":
        return int
    for config in (ModelConfig, *(part.config for part in parts().values())):
        hints = get_type_hints(config)
        if name in hints:
            return hints[name]
    raise AssertionError(f"no part has a setting {name}")


ModelOptions: Any = dataclasses.make_dataclass(
    "ModelOptions",
    [
        (name, Annotated[_hint(name) | None, tyro.conf.arg(help=words)], dataclasses.field(default=None))
        for name, words in SHORT.items()
    ],
    frozen=True,
    kw_only=True,
)


def of_changes(changes: Mapping[str, Any]) -> Any:
    """The short options' values among changes; a UserError for one of another type."""
    short = {name: value for name, value in changes.items() if name in SHORT}
    for name, value in short.items():
        check_type(name, _hint(name) | None, value)
    return ModelOptions(**short)


def changed(before: Mapping[str, Any], options: Any, assignments: Sequence[str]) -> dict[str, Any]:
    """The changes of a model that a command line asks for, beside those that its recipe has.

    Args:
        options: a `ModelOptions`. assignments: of --set, PATH=VALUE each, the value as JSON or as it stands.
    Raises:
        UserError: an assignment without = or with no path.
    """
    short = {name: getattr(options, name) for name in SHORT}
    kept = {name: value for name, value in before.items() if name not in SHORT}
    return (
        kept | {name: value for name, value in short.items() if value is not None} | dict(_read(assignments))
    )


def _read(assignments: Sequence[str]) -> Iterator[tuple[str, Any]]:
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not path or not equals:
            raise UserError(f"--set: expected PATH=VALUE, got {assignment!r}")
        if text[:1] in ("{", "["):
            yield path, parse_json(text[:MAX_BYTES], where=f"--set {path}")
        else:
            yield path, _plain(text)


def _plain(text: str) -> Any:
    words = {"None": None, "True": True, "False": False}
    if text in words:
        return words[text]
    try:
        return parse_json(text, where="value")
    except UserError:
        return text  # as it stands: a kind, the name of a backend
