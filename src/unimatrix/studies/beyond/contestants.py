"""Who takes part in the fair fight, and what is searched for each: as many choices of as many settings.

Four settings of the training are the same for all, and four of the model are each contestant's own. A model's
width is none of them: it follows from the others, as near to PARAMETERS as an even width comes that its heads
divide.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from unimatrix.data import VOCAB_SIZE
from unimatrix.errors import UserError
from unimatrix.lab.search import PART_BYTES, Space
from unimatrix.models import preset_config, setting
from unimatrix.models.estimate import estimate
from unimatrix.train.config import Experiment, LoopConfig, ModelChoice, OptimConfig

PARAMETERS = 174_848  # the paper's Transformer's
WINDOW = 128  # that all are measured in, whatever they trained on
LEARNING: Mapping[str, tuple[Any, ...]] = {
    "lr": (5e-4, 1e-3, 2e-3, 3e-3, 4e-3, 6e-3, 9e-3, 1.3e-2),
    "warmup": (0.02, 0.05, 0.15),  # share of the steps
    "tokens": (1024, 2048, 4096),  # of a step, all its windows together
    "context": (128, 256, 512, 1024),
}
Changes = Mapping[str, Any]

_ANY_HEADS = 8  # a multiple of this is a width for every number of heads that is searched
_FEED, _MIXER = "layers.*.feed_forward", "layers.*.mixer"


def _each(path: str, *values: Any) -> tuple[Changes, ...]:
    return tuple({path: value} for value in values)


_DEPTH = _each("depth", 2, 3, 4)
_START = _each("init_std", 0.005, 0.01, 0.02)
_SCALE = _each("head", *({"kind": "scaled", "scale": scale} for scale in (4.0, 8.0, 12.0)))
_EXPANSION = _each(f"{_FEED}.expansion", 2, 3, 4)
_HEADS = _each(f"{_MIXER}.num_heads", 1, 2, 4)
VOTES: Changes = {"parts.suffix": {"kind": "suffix_votes", "gate": True}}
# as our preset's gated MLP starts; the modern Transformer gains by it as much (docs/log.md)
GAIN = setting(preset_config("unimatrix"), "gain")


def _gated(*expansions: float) -> tuple[Changes, ...]:
    return _each(_FEED, *({"kind": "gated_mlp", "expansion": wide, "gain": GAIN} for wide in expansions))


@dataclass(frozen=True, kw_only=True, slots=True)
class Contestant:
    """One model.

    axes: setting -> its choices, each what it changes in the preset. base: what is always changed.
    positions: it has learned ones, as many as its context, and so no stream; those beyond WINDOW, which
    nothing measured here reads, do not count among its weights. looks_back: in a stream it
    forgets after as many bytes as it trained on. has_parts: it has a place for votes. heads: how many it has,
    where the size of a head is a setting of its own and they are not searched; as the width grows, so does
    their number.
    """

    label: str
    preset: str
    axes: Mapping[str, tuple[Changes, ...]]
    base: Changes = field(default_factory=dict)
    positions: bool = False
    looks_back: bool = False
    has_parts: bool = True
    heads: int | None = None

    def make(self, chosen: Mapping[str, Any], steps: int) -> Experiment:
        """The experiment of a choice of each setting; measured in WINDOW, and as a stream where it can be."""
        context = chosen["context"]
        changes = dict(self.base)
        for name in self.axes:
            changes |= chosen[name]
        return Experiment(
            model=self.widened(
                ModelChoice(
                    preset=self.preset,
                    changes=changes,
                    dropout=0.0,
                    max_positions=context if self.positions else None,
                ),
                PARAMETERS,
            ),
            optim=OptimConfig(
                lr=chosen["lr"],
                warmup_steps=round(chosen["warmup"] * steps),
                schedule="cosine",
                final_lr_share=0.1,
                clip=1.0,
            ),
            loop=LoopConfig(
                steps=steps,
                batch_size=chosen["tokens"] // context,
                seq_len=context,
                eval_window=WINDOW,
                stream_bytes=None if self.positions else PART_BYTES,
                stream_window=context if self.looks_back else None,
            ),
        )

    def counted(self, model: ModelChoice) -> ModelChoice:
        """The model whose weights count: without positions that nothing reads."""
        return replace(model, max_positions=WINDOW) if self.positions else model

    def widened(self, model: ModelChoice, parameters: int) -> ModelChoice:
        """A model of this contestant, as deep, at the width that comes nearest to so many weights."""
        width = model.changes.get("d_model")
        per_head = width / self.heads if self.heads and width else None
        found = sized(self.counted(model), parameters, per_head=per_head)
        return replace(found, max_positions=model.max_positions)

    @property
    def space(self) -> Space:
        """What is searched."""
        return Space(name=self.preset, axes={**LEARNING, **self.axes}, make=self.make)


def sized(choice: ModelChoice, parameters: int, *, per_head: float | None = None) -> ModelChoice:
    """The same model at the even width that comes nearest to so many weights, of those that its heads divide.

    per_head: the width that there is a head for, where their number follows the width.
    """

    def at(width: int) -> ModelChoice:
        heads = {} if per_head is None else {f"{_MIXER}.num_heads": max(1, round(width / per_head))}
        return replace(choice, changes={**choice.changes, "d_model": width, **heads})

    low, high = 1, 1024 // _ANY_HEADS
    while high - low > 1:
        middle = (low + high) // 2
        enough = _count(at(middle * _ANY_HEADS)) <= parameters
        low, high = (middle, high) if enough else (low, middle)
    models = [at(width) for width in range(low * _ANY_HEADS, high * _ANY_HEADS + 1, 2)]
    return min(filter(_can_be, models), key=lambda model: abs(_count(model) - parameters))


def _can_be(choice: ModelChoice) -> bool:
    """Whether the heads divide the width, in pairs of numbers where their positions are rotary."""
    try:
        _count(choice)
    except UserError:
        return False
    return True


def _count(choice: ModelChoice) -> int:
    return estimate(choice.resolved(VOCAB_SIZE)).parameters


CONTESTANTS: Mapping[str, Contestant] = {
    found.preset: found
    for found in (
        Contestant(
            label="unimatrix",
            preset="unimatrix",
            axes={"depth": _DEPTH, "shape": _gated(3.0, 4.5, 6.0), "start": _START, "scale": _SCALE},
            base={"parts.suffix": None},  # all are searched without votes
            heads=4,
        ),
        Contestant(
            label="The paper's Transformer",
            preset="transformer",
            axes={"depth": _DEPTH, "shape": _EXPANSION, "start": _START, "heads": _HEADS},
            positions=True,
        ),
        Contestant(
            label="Transformer, modern",
            preset="transformer-modern",
            axes={"depth": _DEPTH, "shape": _HEADS, "start": _START, "scale": _SCALE},
            base={f"{_FEED}.gain": GAIN},
            looks_back=True,
        ),
        Contestant(
            label="Mamba-2",
            preset="mamba2",
            axes={
                "depth": _each("depth", 2, 4, 6),
                "shape": _each("expand", 1, 2, 3),
                "state": _each("state_dim", 50, 100, 150),
                "heads": _each("num_heads", 1, 2, 4),
            },
            has_parts=False,
        ),
        Contestant(
            label="M2RNN",
            preset="m2rnn",
            axes={
                "depth": _DEPTH,
                "shape": (*_each(f"{_FEED}.expansion", 3), *_gated(3.0, 4.5)),
                "start": _START,
                "scale": _SCALE,
            },
            heads=3,
        ),
        Contestant(
            label="LSTM",
            preset="lstm",
            axes={
                "depth": _each("depth", 1, 2, 3),
                "shape": ({}, *_each(_FEED, {"kind": "mlp", "expansion": 2}), *_gated(2.0)),
                "start": _START,
                "scale": _SCALE,
            },
        ),
        Contestant(
            label="Triple-Hybrid",
            preset="triple-hybrid",
            axes={"depth": _DEPTH, "shape": _EXPANSION, "start": _START, "scale": _SCALE},
            heads=4,
        ),
        Contestant(
            label="Recurrent-FFN-Hybrid",
            preset="recurrent-ffn-hybrid",
            axes={"depth": _DEPTH, "shape": _HEADS, "start": _START, "scale": _SCALE},
            base={f"{_MIXER}.rotary_base": 10_000.0},  # in place of learned positions, which end a stream
            looks_back=True,
        ),
    )
}
