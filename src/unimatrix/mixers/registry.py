"""The parts that models can be made of, by the kind of their configs: this package's own, and others'.

A part from another package is registered when that is imported, once in every process that builds or loads a
model with it. Installed packages may name a module that does so as an entry point of the group
`unimatrix.parts`: it is imported when the parts are asked for.
"""

import dataclasses
import types
from abc import abstractmethod
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any, ClassVar, NamedTuple, cast, get_args, get_type_hints

from torch import nn

from unimatrix.codec import decode
from unimatrix.errors import UserError, UserTypeError, did_you_mean, shown
from unimatrix.mixers.part import PORTS, Part, Role, Size
from unimatrix.ops.versions import VERSIONS

GROUP = "unimatrix.parts"


class PartConfig:
    """Base of the parts' configs, which are frozen dataclasses: settings, and what the model must know.

    kind: its name in JSON. reads: of the ports, and "ids" for token ids themselves. gives: no other port will
    do. grows: whether its state grows with the text. appends: of one that grows, whether a call appends to
    the state that it is given, so that a text in pieces costs no more than in one. documents: whether its
    state is emptied where `Reading.starts` says that a document begins; a model with a part whose state is
    not refuses packed documents. version: raised by hand when the same settings come to give other numbers.
    ops: those of unimatrix.ops that its numbers come from, which have versions of their own.
    """

    __slots__ = ()
    kind: ClassVar[str]
    role: ClassVar[Role]
    reads: ClassVar[frozenset[str]] = frozenset()
    gives: ClassVar[frozenset[str]] = frozenset({"add"})
    grows: ClassVar[bool] = False
    appends: ClassVar[bool] = False
    documents: ClassVar[bool] = False
    version: ClassVar[int] = 1
    ops: ClassVar[tuple[str, ...]] = ()

    @property
    def looks_back(self) -> bool:
        """Whether a token costs more the more was read: all that the state keeps is gone through for it."""
        return self.grows and not self.appends

    @abstractmethod
    def build(self, size: Size) -> nn.Module:
        """The module, with weights of some kind: the model draws them."""

    def check(self, size: Size) -> None:
        """Raise a UserError where it cannot work in a model of this size."""

    def resolved(self, size: Size) -> Any:
        """The same with a number for every setting that the model's size decides."""
        return self

    def versions(self) -> dict[str, int]:
        """Version numbers of what its numbers depend on."""
        return {self.kind: self.version} | {f"ops.{name}": VERSIONS[name] for name in self.ops}

    def multiply_adds(self, size: Size, length: int) -> int:
        """Of a forward pass over one text of `length` tokens, beside the part's matrix products."""
        return 0

    @classmethod
    def from_json(cls, values: Any) -> Any:
        """The config that JSON values with a kind hold, for `unimatrix.codec`."""
        return part_from_json(values)


class RegisteredPart(NamedTuple):
    """A kind of part: what it is, and its settings by name with their defaults."""

    module: type[nn.Module]
    config: type[PartConfig]
    role: Role
    about: str
    settings: dict[str, Any]


_ANOTHERS = "another package's: import that first, unimatrix --import MODULE ..."
_parts: dict[str, RegisteredPart] = {}
_asked_others = False


def register(module: type[nn.Module], config: type[PartConfig]) -> None:
    """Make a part known: models, presets, JSON files, command lines and checkpoints take it from then on.

    Args:
        module: what `config.build` makes; a `Part` if its role is model, mix or feed.
        config: a frozen dataclass that subclasses `PartConfig`, every setting with a default.

    Raises:
        UserError: the kind is another part's, or something of what a part must say is missing.
    """
    if not (isinstance(config, type) and issubclass(config, PartConfig) and dataclasses.is_dataclass(config)):
        raise UserTypeError(f"register: expected a dataclass that subclasses PartConfig, got {shown(config)}")
    kind, role = getattr(config, "kind", None), getattr(config, "role", None)
    if not isinstance(kind, str) or not kind.isidentifier():
        raise UserError(f"register: expected {config.__name__}.kind to be a name, got {shown(kind)}")
    if role not in get_args(Role):
        raise UserError(f"register: expected {kind}.role to be one of {get_args(Role)}, got {shown(role)}")
    if not config.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise UserError(
            f"register: expected {config.__name__} to be frozen, as configs are compared and hashed"
        )
    strange = (config.reads - {"ids"} | config.gives) - PORTS
    if strange:
        raise UserError(
            f"register: expected ports of {kind} among {', '.join(sorted(PORTS))}, got {min(strange)}"
        )
    needed = ("give", "vote", "state_layout") if role in ("model", "mix", "feed") else ("forward",)
    missing = [name for name in needed if not callable(getattr(module, name, None))]
    if not isinstance(module, type) or missing:
        raise UserTypeError(f"register: expected a module class with {needed[0]}, got {shown(module)}")
    if config.build is PartConfig.build:
        raise UserError(f"register: expected {config.__name__} to have a build(size)")
    if "votes" in config.gives and getattr(module, "vote", Part.vote) is Part.vote:
        raise UserError(f"register: expected a vote of {module.__name__}'s own, as {kind} gives votes")
    without = required_settings(config)
    settings = {field.name: _default(field) for field in dataclasses.fields(config)}
    if without and role != "head":
        raise UserError(
            f"register: expected a default for every setting of {kind}, got none for {without[0]}"
        )
    taken = {"name", "kind"} & settings.keys()
    if taken:  # JSON has them beside the settings
        raise UserError(f"register: expected no setting of {kind} to be called {min(taken)}")
    known = _parts.get(kind)
    # a module that is reloaded, or a cell run again, makes the same class anew
    if known is not None and (known.config.__module__, known.config.__qualname__) != (
        config.__module__,
        config.__qualname__,
    ):
        raise UserError(f"register: kind {kind!r} is {known.config.__module__}.{known.config.__qualname__}'s")
    get_type_hints(config)  # an annotation that cannot be read fails here, not at the first file
    about = (config.__doc__ or module.__doc__ or "").strip().partition("\n")[0]
    _parts[kind] = RegisteredPart(module, config, cast(Role, role), about, settings)


def required_settings(config: type[PartConfig]) -> list[str]:
    """The names of the settings that have no default."""
    return [
        field.name
        for field in dataclasses.fields(config)  # type: ignore[arg-type]
        if field.default is field.default_factory is dataclasses.MISSING
    ]


def parts() -> Mapping[str, RegisteredPart]:
    """All parts that are known, by kind."""
    global _asked_others
    if not _asked_others:
        _asked_others = True  # before the import, which may come back here
        broken = {}
        for point in entry_points(group=GROUP):
            try:
                point.load()
            except Exception as error:  # the others have no part in it
                broken[point.value] = error
        if broken:
            module, error = next(iter(broken.items()))
            why = f"{type(error).__name__}: {error}"
            raise UserError(f"{GROUP}: expected modules that import, got {module} ({why})") from error
    return types.MappingProxyType(_parts)


def part_from_json(values: Any) -> PartConfig:
    """The config that JSON values with a "kind" hold; a kind alone is the part with its defaults.

    Raises:
        UserError: no known kind, or a setting that is unknown, of another type or out of range.
    """
    if isinstance(values, PartConfig):
        return values
    if isinstance(values, str):
        values = {"kind": values}
    kind = values.get("kind") if isinstance(values, Mapping) else None
    if not isinstance(kind, str):
        raise UserError(f"expected an object with a kind, got {shown(values)}")
    if kind not in _parts and kind not in parts():
        raise UserError(
            f"unknown kind {shown(kind)}; {did_you_mean(kind, _parts, also=_ANOTHERS)} (all: unimatrix "
            "models --parts)"
        )
    return decode(_parts[kind].config, values, where=kind)


def _default(field: Any) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    return None if field.default_factory is dataclasses.MISSING else field.default_factory()
