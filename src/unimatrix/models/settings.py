"""Every setting of every part of a model by one path, and what is changed by it.

    d_model                        the model's own
    parts.memory.num_slots         of a part that the model has once
    layers.1.mixer.num_heads       of a layer's part; layers.*.mixer.num_heads of every layer's
    num_slots, memory.num_slots    the end of a path, where it leaves no doubt

A part as a whole is a setting too: `parts.memory` is a config, its JSON (an object with a kind), a kind with
all its defaults, or None for no such part. What is said of one layer goes before what is said of every layer,
in whatever order the two are written.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar, get_type_hints

from unimatrix.codec import encode
from unimatrix.data.settings import check_type
from unimatrix.errors import UserError, UserTypeError, did_you_mean, shown
from unimatrix.mixers import PartConfig
from unimatrix.mixers.part import Role
from unimatrix.mixers.registry import part_from_json, parts, required_settings
from unimatrix.models.config import ModelConfig, Parts, check_known_settings
from unimatrix.models.upgrade import MAX_DEPTH

Config = TypeVar("Config")

# short names that users expect beside a setting's own
ALIASES = {
    "slots": "num_slots",
    "mlp_expansion": "feed_forward.expansion",
    "memory_width": "memory.width",
    "deep_embed_rank": "deep_embed.rank",
}
# the end of a path that means the setting wherever it is; any other has to be of one part's name
EVERYWHERE = frozenset({"num_heads", "state_dim", "backend"})
# the path by which a part of a kind that a model lacks comes beside its others; a norm or head in their place
_NEW_PLACE: Mapping[Role, str] = {
    "mix": "layers.*.{kind}",
    "feed": "layers.*.{kind}",
    "model": "parts.{kind}",
    "norm": "norm",
    "head": "head",
}
# of the model itself, by way of what it is made of
_DEPTH = "depth"


class _Place(NamedTuple):
    """Where a part stands: in which layer (None: the model's own), under which name."""

    layer: int | None
    name: str

    def __str__(self) -> str:
        if self.name in ("norm", "head"):
            return self.name
        return f"parts.{self.name}" if self.layer is None else f"layers.{self.layer}.{self.name}"


def edit(config: Config, changes: Mapping[str, Any], *, what: str = "model config") -> Config:
    """The config with changes by path; all are made before it is checked.

    Of a model config `depth` is the number of steps of a shared layer, or of layers that are alike. `order`
    may name layers that are not there yet, which are copies of the last one, and ends with the highest.

    Args:
        config: a ModelConfig, or another model's, whose settings are its fields.
        changes: values by path (see above), as Python or as JSON has them. what: begins a complaint.
    Raises:
        UserError: an unknown path (the near ones are named), one that could mean several, a value of another
            type, or a model that cannot work.
    """
    if not isinstance(changes, Mapping):
        raise UserTypeError(f"{what}: expected changes by their paths, got {shown(changes)}")
    if isinstance(config, ModelConfig):
        return _Edit(config, what).made(changes) if changes else config  # type: ignore[return-value]
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise UserTypeError(f"{what}: expected a model's config, got {shown(config)}")
    fields: Any = config
    hints = get_type_hints(type(config))
    check_known_settings(what, changes, [field.name for field in dataclasses.fields(fields)])
    for name, value in changes.items():
        check_type(name, hints[name], value)
    return dataclasses.replace(fields, **changes)


def settings_of(config: ModelConfig) -> dict[str, Any]:
    """Every setting of a model by its whole path, and its value; of layers that are alike as `layers.*`."""
    alike = len(set(config.layers)) == 1
    found: dict[str, Any] = {"depth": config.depth}
    for field in dataclasses.fields(config):
        if field.name not in ("layers", "parts", "norm", "head"):
            found[field.name] = getattr(config, field.name)
    for path, part in config.all_parts.items():
        if alike and path.startswith("layers."):
            path = path.replace("layers.0.", "layers.*.", 1)
        settings = encode(part)
        found[path] = settings.pop("kind")
        found |= {f"{path}.{name}": value for name, value in settings.items()}
    return found


def setting(config: Any, name: str) -> Any:
    """The value of the first setting that is called so (`num_heads`), None where no part has one."""
    if not isinstance(config, ModelConfig):
        return getattr(config, name, None)
    if hasattr(config, name):
        return getattr(config, name)
    values = (getattr(part, name) for part in config.all_parts.values() if hasattr(part, name))
    return next(values, None)


class _Edit:
    """Changes of one config, gathered: what it is made of, and new settings by place."""

    def __init__(self, config: ModelConfig, what: str) -> None:
        self.config, self.what = config, what
        self.layers = [dict(layer) for layer in config.layers]
        self.parts = {_Place(None, name): part for name, part in config.parts.items()}
        self.norm, self.head = config.norm, config.head
        self.own: dict[str, Any] = {}
        self.settings: dict[_Place, dict[str, Any]] = {}
        self.of_one_layer: set[tuple[_Place, str]] = set()  # settings that a layer's own number has named

    def made(self, changes: Mapping[str, Any]) -> ModelConfig:
        if _DEPTH in changes and "order" in changes:
            raise UserError(f"{self.what}: expected depth or order, which says more, got both")
        # what there is has to be known before what is changed of it
        for key, value in sorted(changes.items(), key=lambda change: _rank(change[0])):
            self._change(key, value)
        for place, settings in self.settings.items():
            self._put(place, dataclasses.replace(self._at(place), **settings))  # type: ignore[type-var]
        return dataclasses.replace(
            self.config,
            layers=tuple(Parts(layer) for layer in self.layers),
            parts=Parts({place.name: part for place, part in self.parts.items()}),
            norm=self.norm,
            head=self.head,
            **self.own,
        )

    def _change(self, key: Any, value: Any) -> None:
        hints = get_type_hints(ModelConfig)
        if key == _DEPTH:
            self._set_depth(value)
        elif key == "order":
            value = tuple(value) if isinstance(value, list) else value
            check_type(key, hints[key], value)
            self._set_order(value)
        elif key in ("layers", "parts"):
            self._set_whole(key, value)
        elif key in ("norm", "head"):
            setattr(self, key, self._part(key, value))
        elif key in hints:
            check_type(key, hints[key], value)
            self.own[key] = value
        else:
            self._change_part(key, value)

    def _change_part(self, key: Any, value: Any) -> None:
        wholes = self._named_parts(key)
        if wholes:
            if value is None and not any(place in self._all() for place in wholes):
                there = [f"{place}" for place in self._all() if place.name not in ("norm", "head")]
                raise UserError(
                    f"{self.what}: there is no {_said(key)} to leave out; {did_you_mean(key, there)}"
                )
            for place in wholes:
                self._put(place, None if value is None else self._part(key, value))
            return
        value = tuple(value) if isinstance(value, list) else value
        checked: set[type] = set()
        for place, name in self._find(key):
            kind = type(self._at(place))
            if kind not in checked:
                check_type(key, get_type_hints(kind)[name], value)
                checked.add(kind)
            settings = self.settings.setdefault(place, {})
            if _is_of_one_layer(key) and (place, name) not in self.of_one_layer:
                self.of_one_layer.add((place, name))
                settings[name] = value  # over what is said of every layer, which came before
            if settings.setdefault(name, value) != value:
                raise UserError(f"{self.what}: expected one value of {place}.{name}, got two by two paths")

    def _set_depth(self, depth: Any) -> None:
        check_type("depth", int, depth)
        if depth < 1:
            raise UserError(f"depth: expected a whole number of at least 1, got {depth}")
        if depth > MAX_DEPTH:
            raise UserError(f"depth: expected a whole number of at most {MAX_DEPTH:,}, got {shown(depth)}")
        order = self.own.get("order", self.config.order)  # layers that were changed beside it have another
        if depth == len(order):
            return
        if any(layer != self.layers[0] for layer in self.layers):
            raise UserError(
                f"depth: expected a model whose layers are alike, got {len(self.layers)} that are not; change"
                " layers and order"
            )
        shared = len(self.layers) == 1
        if not shared and order != tuple(range(len(order))):
            raise UserError(
                f"depth: expected layers that are applied once each, or one that is shared, got {order};"
                " change order"
            )
        if shared and len(order) == 1:
            shares, stacks = ((0, 0, 0), (0, 1, 2)) if depth > 2 else ((0, 0), (0, 1))
            raise UserError(
                f"depth: one layer alone does not tell whether {shown(depth)} would share its weights;"
                f" expected order, as {shares} to share them, {stacks} for weights of their own"
            )
        if not shared:
            self.layers = [dict(self.layers[0]) for _ in range(depth)]
        self.own["order"] = (0,) * depth if shared else tuple(range(depth))

    def _set_order(self, order: tuple[int, ...]) -> None:
        if not order or min(order) < 0 or max(order) >= MAX_DEPTH:
            raise UserError(f"order: expected the number of a layer for each depth step, got {shown(order)}")
        number = max(order) + 1
        self.layers = [dict(self.layers[min(i, len(self.layers) - 1)]) for i in range(number)]
        self.own["order"] = order

    def _set_whole(self, key: str, value: Any) -> None:
        if key == "parts":
            self.parts = {_Place(None, name): part for name, part in _parts("parts", value).items()}
            return
        if not isinstance(value, list | tuple) or not value:
            raise UserError(f"layers: expected a list of layers, got {shown(value)}")
        self.layers = [dict(_parts(f"layers.{number}", layer)) for number, layer in enumerate(value)]
        self.own.setdefault("order", tuple(range(len(value))))

    def _named_parts(self, key: Any) -> list[_Place]:
        """The places that a path of a whole part names, there already or not; none if it is no such path."""
        words = key.split(".") if isinstance(key, str) else []
        if len(words) == 2 and words[0] == "parts":
            return [_Place(None, words[1])]
        if len(words) == 3 and words[0] == "layers":
            return [_Place(number, words[2]) for number in self._numbers(key, words[1])]
        return []

    def _numbers(self, key: str, word: str) -> list[int]:
        if word == "*":
            return list(range(len(self.layers)))
        number = word if word.isascii() and word.isdecimal() and len(word) < 6 else "-1"
        if not 0 <= int(number) < len(self.layers):
            raise UserError(
                f"{_said(key)}: expected a layer from 0 to {len(self.layers) - 1}, or *, got {shown(word)};"
                " order says how many there are"
            )
        return [int(word)]

    def _find(self, key: Any) -> list[tuple[_Place, str]]:
        """Where a setting stands that a path or the end of one names; its own name before an alias."""
        words = key.split(".") if isinstance(key, str) else [""]
        found = self._standing(key, words)
        if not found and key in ALIASES:
            words = ALIASES[key].split(".")
            found = self._standing(key, words)
        if not found:
            hint = self._absent(words[-1]) or did_you_mean(key, self._known(key))
            raise UserError(f"{self.what}: unknown setting {shown(key)}; {hint}")
        # of layers the same part is one; a part of the model's own may have the name of a layer's
        parts = {(place.layer is None, place.name) for place, _ in found}
        if len(parts) > 1 and words[-1] not in EVERYWHERE:
            paths = dict.fromkeys(f"{place}.{name}" for place, name in found)
            raise UserError(f"{self.what}: {_said(key)} could be {' or '.join(paths)}")
        return found

    def _standing(self, key: Any, words: list[str]) -> list[tuple[_Place, str]]:
        layers = self._numbers(key, words[1]) if words[0] == "layers" and len(words) == 4 else None
        found = []
        for place, part in self._all().items():
            path = [*str(place).split("."), words[-1]]
            if layers is not None and place.layer in layers:
                path[1] = words[1]
            has = any(field.name == words[-1] for field in dataclasses.fields(part))  # type: ignore[arg-type]
            if has and path[-len(words) :] == words:
                found.append((place, words[-1]))
        return found

    def _absent(self, name: str) -> str:
        """The parts that have a setting of this name, and how one comes in; nothing if the model has such.

        Those that have to be told more than their kind are left out.
        """
        there = {type(part) for part in self._all().values()}
        having = {
            kind: part
            for kind, part in parts().items()
            if name in part.settings and not required_settings(part.config)
        }
        if any(part.config in there for part in having.values()) or not having:
            return ""
        # what a model has once first: it takes nobody's place and is in no layer
        kinds = sorted(having, key=lambda kind: having[kind].role != "model")
        added = [f"{_NEW_PLACE[having[kind].role].format(kind=kind)}={kind}" for kind in kinds]
        return f"this model has no part with {name}; one comes by {' or '.join(added)}"

    def _known(self, key: Any) -> list[str]:
        """What somebody who wrote `key` may have meant: names of settings, or paths."""
        paths = [
            f"{place}.{field.name}"
            for place, part in self._all().items()
            for field in dataclasses.fields(part)  # type: ignore[arg-type]
        ]
        if "." in str(key):
            return [*map(str, self._all()), *paths]
        wholes = [f"layers.*.{place.name}" for place in self._all() if place.layer is not None]
        wholes += [str(place) for place in self._all() if place.layer is None]
        if key in {path.rpartition(".")[2] for path in wholes}:
            return [path for path in dict.fromkeys(wholes) if path.endswith(f".{key}")]
        names = dict.fromkeys(path.split(".")[-1] for path in paths)
        aliases = [
            alias
            for alias, path in ALIASES.items()
            if any(f".{known}".endswith(f".{path}") for known in paths)
        ]
        return [*(field.name for field in dataclasses.fields(self.config)), _DEPTH, *names, *aliases]

    def _all(self) -> dict[_Place, PartConfig]:
        layers = {
            _Place(i, name): part for i, layer in enumerate(self.layers) for name, part in layer.items()
        }
        ends = {_Place(None, "norm"): self.norm, _Place(None, "head"): self.head}
        return layers | self.parts | ends

    def _at(self, place: _Place) -> PartConfig:
        if place.layer is not None:
            return self.layers[place.layer][place.name]
        return self.parts[place] if place in self.parts else getattr(self, place.name)

    def _put(self, place: _Place, part: PartConfig | None) -> None:
        if place.layer is None and place.name in ("norm", "head"):
            setattr(self, place.name, part)
            return
        home: Any = self.parts if place.layer is None else self.layers[place.layer]
        key = place if place.layer is None else place.name
        if part is None:
            home.pop(key, None)
        else:
            home[key] = part

    def _part(self, key: Any, value: Any) -> PartConfig:
        try:
            return part_from_json(value)
        except UserError as error:
            raise UserError(f"{_said(key)}: {error}") from None


def _parts(key: str, value: Any) -> Parts:
    try:
        return Parts.from_json(value)
    except UserError as error:
        raise UserError(f"{key}: {error}") from None


def _said(key: str) -> str:
    """A path in a complaint, on one line."""
    return key if key.isprintable() and len(key) < 60 else shown(key)


def _is_of_one_layer(key: Any) -> bool:
    """Whether a path names a layer by its number."""
    return isinstance(key, str) and key.startswith("layers.") and not key.startswith("layers.*.")


def _rank(key: Any) -> tuple[int, bool]:
    if key in ("layers", "parts"):
        return 0, False
    if key in (_DEPTH, "order"):
        return 1, False
    whole = isinstance(key, str) and (
        (key.startswith("parts.") and key.count(".") == 1)
        or (key.startswith("layers.") and key.count(".") == 2)
        or key in ("norm", "head")
    )
    return (2 if whole else 3), _is_of_one_layer(key)
