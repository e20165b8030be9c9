"""The configuration of a language model: frozen, nested, JSON and back; what cannot work cannot be made.

A model is layers, the order in which they are applied, and parts that it has once; what a part's settings are
stands beside the part (unimatrix.mixers).
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from torch import nn

from unimatrix.codec import decode, encode
from unimatrix.data.settings import check_counts, check_range, check_types
from unimatrix.errors import UserError, UserTypeError, did_you_mean, shown
from unimatrix.mixers import (
    AttentionConfig,
    HeadConfig,
    LayerNormConfig,
    MLPConfig,
    PartConfig,
    Size,
    TiedHeadConfig,
    parts,
)
from unimatrix.models.upgrade import MAX_DEPTH, upgrade_config

# what a model or a block has under these names itself
TAKEN = frozenset(
    {"embedding", "positions", "blocks", "norm", "head", "class_head", "dropout", "config", "tied", "logits"}
    | {"features", "words", "output_head", "init_weights", "init_module", "init_state", "tie_weights"}
    | {"gradient_checkpointing", "halves", "gives", "state_layout", "kinds", "reads_on"}
    | {"own_blocks", "renewing"}
    | {"module"}  # what wrappers call a model inside them, and a saved folder's names leave out
)


_MODULE = nn.Module()


class Parts(Mapping[str, PartConfig]):
    """Parts by name, in the order in which they are made and asked; never changed."""

    __slots__ = ("_parts",)

    def __init__(self, parts: Mapping[str, PartConfig] | None = None, /, **more: PartConfig) -> None:
        self._parts: dict[str, PartConfig] = {}
        for name, part in {**(parts or {}), **more}.items():
            if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9_]{0,59}", name):
                raise UserError(f"parts: expected names of small letters, digits and _, got {shown(name)}")
            if name in TAKEN or name.endswith("_norm") or hasattr(_MODULE, name):
                raise UserError(f"parts: expected a name that a model does not use itself, got {name!r}")
            if not isinstance(part, PartConfig):
                raise UserTypeError(f"{name}: expected a part's config, got {shown(part)}")
            self._parts[name] = part

    def __getitem__(self, name: str) -> PartConfig:
        return self._parts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Parts) and list(self.items()) == list(other.items())

    def __hash__(self) -> int:
        return hash(tuple(self.items()))

    def __repr__(self) -> str:
        return f"Parts({self._parts!r})"

    def to_json(self) -> list[dict[str, Any]]:
        """A list, since writers of JSON sort the fields of objects: [{"name", "kind", its settings}, ...]."""
        return [{"name": name, **encode(part)} for name, part in self.items()]

    @classmethod
    def from_json(cls, values: Any) -> "Parts":
        """The inverse of `to_json`; an object with parts by name will do too."""
        if isinstance(values, Parts):
            return values
        if isinstance(values, Mapping):
            return cls({name: decode(PartConfig, part, where=name) for name, part in values.items()})
        if not isinstance(values, list | tuple):
            raise UserError(f"expected a list of parts with names, got {shown(values)}")
        found: dict[str, PartConfig] = {}
        for part in values:
            name = part.get("name") if isinstance(part, Mapping) else None
            if not isinstance(name, str) or name in found:
                raise UserError(f"expected a part with a name of its own, got {shown(part)}")
            settings = {key: value for key, value in part.items() if key != "name"}
            found[name] = decode(PartConfig, settings, where=name)
        return cls(found)


def _as_parts(value: Any) -> Any:
    """A mapping of configs as `Parts`; anything else is for the check of types to refuse."""
    return Parts(value) if isinstance(value, Mapping) and not isinstance(value, Parts) else value


def _transformer() -> tuple[Parts, ...]:
    return (Parts(mixer=AttentionConfig(), feed_forward=MLPConfig()),) * 3


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """Everything that decides a LanguageModel's weights and function.

    vocab_size: 259 for bytes. max_positions: learned positions, None for none (streams of any length).
    dropout: on the embeddings and on what each half of a block adds to the stream. layers: those with weights
    of their own, each its parts by name. order: which of them each depth step applies: (0, 0, 0) shares one
    over depth, (0, 1, 2) is a stack; nothing is each once. parts: what the model has once. norm: of every
    norm. Mappings of part configs may stand where `Parts` do.
    """

    vocab_size: int = 259
    max_positions: int | None = 128
    d_model: int = 64
    dropout: float = 0.0
    init_std: float = 0.02
    # made when they are needed: to check them takes more than torch and numpy
    layers: tuple[Parts, ...] = field(default_factory=_transformer)
    order: tuple[int, ...] = ()
    parts: Parts = field(default_factory=Parts)
    norm: PartConfig = field(default_factory=LayerNormConfig)
    head: HeadConfig = field(default_factory=TiedHeadConfig)

    def __post_init__(self) -> None:
        if isinstance(self.layers, tuple | list):
            layers = tuple(_as_parts(one) for one in self.layers)
            object.__setattr__(self, "layers", layers)
            if self.order == ():
                object.__setattr__(self, "order", tuple(range(len(layers))))
        object.__setattr__(self, "parts", _as_parts(self.parts))
        check_types(self)
        check_counts(self, "vocab_size", "d_model", "max_positions")
        check_range(self, "dropout", low=0.0, below=1.0)
        if not self.init_std > 0.0:
            raise UserError(f"init_std: expected a positive number, got {self.init_std}")
        if not 1 <= len(self.order) <= MAX_DEPTH:
            raise UserError(f"order: expected 1 to {MAX_DEPTH:,} depth steps, got {len(self.order)}")
        if set(self.order) != set(range(len(self.layers))):
            raise UserError(
                f"order: expected each of the layers 0 to {len(self.layers) - 1} and no other, got"
                f" {shown(sorted(set(self.order)))}"
            )
        for name, part, roles in self._places():
            if part.role not in roles:
                raise UserError(
                    f"{name}: expected a part of role {' or '.join(roles)}, got {part.kind}, a {part.role}"
                )
            part.check(self.size)
        for number, layer in enumerate(self.layers):
            if not layer:
                raise UserError(f"layers.{number}: expected at least one part, got none")
        if not isinstance(self.head, HeadConfig):
            raise UserError(f"head: expected a HeadConfig, got a {type(self.head).__name__}")
        self._check_ports()

    def _places(self) -> Iterator[tuple[str, PartConfig, tuple[str, ...]]]:
        """(name, part, roles that may stand there) of every part; a layer like the one before is left out."""
        before = None
        for number, layer in enumerate(self.layers):
            if layer != before:
                for name, part in layer.items():
                    yield f"layers.{number}.{name}", part, ("mix", "feed")
            before = layer
        for name, part in self.parts.items():
            yield f"parts.{name}", part, ("model",)
        yield "norm", self.norm, ("norm",)
        yield "head", self.head, ("head",)

    def _check_ports(self) -> None:
        """What a part gives alone to others needs one that reads it; what it reads, one that gives it."""
        given = frozenset[str]().union(*(part.gives for _, part, _ in self._places()))
        for name, part, _ in self._places():
            if "context" in part.gives and not any(
                "context" in other.reads for layer in self.layers for other in layer.values()
            ):
                kinds = {other.kind for layer in self.layers for other in layer.values()}
                reading = [kind for kind, other in parts().items() if "context" in other.config.reads]
                raise UserError(
                    f"{name}: expected a layer's part that reads what {part.kind} gives"
                    f" ({', '.join(reading)}), got {', '.join(sorted(kinds))}"
                )
            if "error" in part.reads and not self._error_before(name):
                raise UserError(
                    f"{name}: expected a part before it in its layer that gives error, which it reads"
                )
            missing = part.reads - {"ids", "context", "error"} - given
            if missing:
                raise UserError(
                    f"{name}: expected a part that gives {min(missing)}, which it reads, got none"
                )

    def _error_before(self, path: str) -> bool:
        """Whether an earlier part of the same layer gives error, which goes no further than its layer."""
        place, _, name = path.rpartition(".")
        layer = self.layers[int(place.removeprefix("layers."))] if place.startswith("layers.") else Parts()
        names = list(layer)
        return any("error" in layer[other].gives for other in names[: names.index(name)]) if layer else False

    @property
    def depth(self) -> int:
        """How many depth steps there are."""
        return len(self.order)

    @property
    def size(self) -> Size:
        """What every part has to fit."""
        return Size(self.vocab_size, self.d_model, self.depth)

    @property
    def recurrent(self) -> bool:
        """Whether the state has one size however long the text."""
        return not any(part.grows for _, part, _ in self._places())

    @property
    def read_in_pieces(self) -> bool:
        """Whether a long text read in pieces, each from the state before it, costs no more than in one."""
        return not any(part.looks_back for _, part, _ in self._places())

    @property
    def all_parts(self) -> dict[str, PartConfig]:
        """Every part by its path (`layers.0.mixer`, `parts.memory`, `norm`, `head`), like layers once."""
        return {name: part for name, part, _ in self._places()}

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; parts carry their kind."""
        return encode(self)

    def resolved(self) -> "ModelConfig":
        """The same model with a number in the place of every setting that its size decides."""
        size = self.size
        layers = tuple(Parts({n: p.resolved(size) for n, p in layer.items()}) for layer in self.layers)
        return replace(self, layers=layers, parts=Parts({n: p.resolved(size) for n, p in self.parts.items()}))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ModelConfig":
        """The inverse of to_dict, of this version's and of earlier ones'.

        Raises:
            UserError: names the setting that is unknown, of another type or out of range.
        """
        try:
            values = cls.upgraded(values) if isinstance(values, Mapping) else values
        except UserError as error:
            raise UserError(f"model config: {error}") from None
        check_known_settings("model config", values, [field.name for field in fields(cls)])
        layers = values.get("layers")
        named = {name: values.get(name) for name in ("layers", "order", "parts")}
        if isinstance(layers, list):
            named |= {f"layers: {at}": layer for at, layer in enumerate(layers[:MAX_DEPTH])}
        for name, several in named.items():  # to look at each of a million takes a minute
            if isinstance(several, list | dict) and len(several) > MAX_DEPTH:
                raise UserError(f"model config: {name}: expected at most {MAX_DEPTH:,}, got {len(several):,}")
        return decode(cls, values, where="model config")

    upgraded = staticmethod(upgrade_config)


def check_known_settings(what: str, values: Mapping[str, Any], known: list[str]) -> None:
    """Raise a UserError unless `values` maps names among `known`; `what` is what they are settings of."""
    if not isinstance(values, Mapping):
        raise UserTypeError(f"{what}: expected an object with settings, got {shown(values)}")
    for key in values:
        if key not in known:
            raise UserError(f"{what}: unknown setting {shown(key)}; {did_you_mean(key, known)}")
