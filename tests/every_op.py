"""All ops and their variants behind one interface: what a test of a promise that every op makes runs over."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from unimatrix.ops import (
    SlotMemoryState,
    SurpriseStoreState,
    TripleLatentState,
    gated_scan,
    m2rnn,
    matrix_state,
    short_convolution,
    signed_scan,
    slot_memory,
    surprise_store,
    triple_latent,
)

FORMS = ("reference", "chunked", "compiled")
SHARED = frozenset({"addresses", "transition", "weight"})  # by all rows of the batch and all positions
Inputs = dict[str, Tensor]


class Case(NamedTuple):
    """Floating inputs by name, the first state's by names with "state" in front; and the op on them."""

    make: Callable[..., Inputs]  # (batch, length, dtype, hard): hard gates keep all, nothing, next to that
    apply: Callable[..., tuple[tuple[Tensor, ...], Any]]  # (inputs, **options): floating outputs, last state
    masked_output_is_zero: bool = True

    def call(self, inputs: Inputs, **options) -> tuple[Tensor, ...]:
        """All floating numbers that come out: the outputs, then the last state's."""
        outputs, state = self.apply(inputs, **options)
        parts = state if isinstance(state, tuple) else (state,)
        return (*outputs, *(x for x in parts if x.is_floating_point()))


def along_time(name: str) -> bool:
    """Whether an input has a number for every position."""
    return name not in SHARED and not name.startswith("state")


def cut(inputs: Inputs, rows: Any = slice(None), times: Any = slice(None)) -> Inputs:
    """Some rows of the batch, and some positions; the state stays."""
    return {
        name: x if name in SHARED else x[rows][:, times] if along_time(name) else x[rows]
        for name, x in inputs.items()
    }


def fresh(inputs: Inputs) -> Inputs:
    """Without the first state."""
    return {name: x for name, x in inputs.items() if not name.startswith("state")}


def holes(batch: int, length: int) -> Tensor:
    """A mask with holes everywhere, and left padding in the first row, whose last position is real."""
    mask = torch.rand(batch, length, generator=torch.Generator().manual_seed(length)) > 0.3
    mask[0, : length // 6] = False
    mask[:1, -1:] = True
    return mask


def beginnings(batch: int, length: int) -> Tensor:
    """Where texts begin: anywhere, some of one position, in the first row at its first position too."""
    starts = torch.rand(batch, length, generator=torch.Generator().manual_seed(length + 1)) > 0.8
    starts[:1, :1], starts[1:, :1] = True, False
    starts[:, 3:5] = True
    return starts


def _normal(name: str, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator("cpu").manual_seed(sum(map(ord, name)) + sum(shape))
    drawn = torch.randn(*shape, generator=generator, dtype=torch.float64, device="cpu")
    return drawn.to(dtype)


# what a gate may be beside ordinary: nothing kept, all kept, next to either, vanishing
HARD_RETENTION = (-torch.inf, 0.0, -69.0776, -50.0, -1e-7, -1e-3, -1.0)
HARD_DECAY = (0.0, -0.0, 1.0, -1.0, 1 - 1e-7, 1e-7 - 1, 1e-30, -1e-30, 0.5, -0.5)
HARD_FORGET = (0.0, -0.0, 40.0, -40.0, 8.5, -8.5, 1e-6, -1e-6, 0.5, -0.5)
HARD_STRENGTH = (0.0, 0.5, 0.500001, 1.0)


def _of(choices: tuple[float, ...], name: str, *shape: int) -> Tensor:
    draw = torch.rand(shape, generator=torch.Generator("cpu").manual_seed(sum(map(ord, name)) + sum(shape)))
    return torch.tensor(choices, dtype=torch.float64)[(draw * len(choices)).long()]


def _retention(hard: bool, name: str, *shape: int) -> Tensor:
    drawn = F.logsigmoid(2 * _normal(name, *shape))
    if hard:
        # the last one stays ordinary and gives the gradient a scale: at -50 it is e^-50, and of that torch's
        # derivative of expm1, 1 + expm1(-50) = 0, has nothing
        drawn[:, :-1] = _of(HARD_RETENTION, name, *shape)[:, :-1]
    return drawn


def _state(inputs: Inputs, options: dict[str, Any], make: Callable[..., Any] | None = None) -> Any:
    """The state that was asked for, else that of the inputs, else none."""
    if "state" in options:
        return options.pop("state")
    parts = {name.removeprefix("state."): x for name, x in inputs.items() if name.startswith("state")}
    if not parts:
        return None
    return parts["state"] if make is None else make(**parts)


def _matrix(mixed: bool, width: int) -> Case:
    def make(
        batch: int = 2, length: int = 5, dtype: torch.dtype = torch.float64, hard: bool = False
    ) -> Inputs:
        shape = (batch, length, 2)
        inputs = {"q": _normal("q", *shape, width), "k": _normal("k", *shape, 4)}
        inputs |= {"v": _normal("v", *shape, width), "log_retention": _retention(hard, "r", *shape)}
        if mixed:
            inputs |= {
                "rule_weights": _normal("w", *shape, 3).softmax(-1),
                "diag": _normal("d", *shape, width),
            }
        inputs |= {"state": _normal("s", batch, 2, 4, width)}
        return {name: x.to(dtype) for name, x in inputs.items()}

    def apply(inputs: Inputs, **options) -> tuple[tuple[Tensor, ...], Any]:
        state = _state(inputs, options)
        y, last = matrix_state(**fresh(inputs), state=state, **options)
        return (y,), last

    return Case(make, apply)


def _signed(groups: int) -> Case:
    def make(
        batch: int = 2, length: int = 5, dtype: torch.dtype = torch.float64, hard: bool = False
    ) -> Inputs:
        shape = (batch, length, groups)
        decay = _of(HARD_DECAY, "a", *shape) if hard else _normal("a", *shape).tanh()
        inputs = {"decay": decay, "write": _normal("w", batch, length, 4), "state": _normal("s", batch, 4)}
        return {name: x.to(dtype) for name, x in inputs.items()}

    def apply(inputs: Inputs, **options) -> tuple[tuple[Tensor, ...], Any]:
        state = _state(inputs, options)
        states, last = signed_scan(**fresh(inputs), state=state, **options)
        return (states,), last

    return Case(make, apply, masked_output_is_zero=False)


def _gated(kinds: int) -> Case:
    def make(
        batch: int = 2, length: int = 5, dtype: torch.dtype = torch.float64, hard: bool = False
    ) -> Inputs:
        gates = _normal("g", batch, length, kinds, 4)
        if hard:
            gates[:, :, 0] = _of(HARD_FORGET, "f", batch, length, 4)
        return {"gates": gates.to(dtype), "state": _normal("s", batch, 4).to(dtype)}

    def apply(inputs: Inputs, **options) -> tuple[tuple[Tensor, ...], Any]:
        state = _state(inputs, options)
        y, last = gated_scan(**fresh(inputs), state=state, **options)
        return (y,), last

    return Case(make, apply)


def _short(kernel_size: int) -> Case:
    """Hard: sums where SiLU is all, nothing, and at its bottom."""

    def make(
        batch: int = 2, length: int = 5, dtype: torch.dtype = torch.float64, hard: bool = False
    ) -> Inputs:
        x = _of((0.0, -0.0, 90.0, -90.0, -1.2785, 1e-30, 0.5), "x", batch, length, 4)
        inputs = {"x": x if hard else _normal("x", batch, length, 4), "weight": _normal("w", kernel_size, 4)}
        inputs["state"] = _normal("s", batch, kernel_size - 1, 4)
        return {name: x.to(dtype) for name, x in inputs.items()}

    def apply(inputs: Inputs, **options) -> tuple[tuple[Tensor, ...], Any]:
        state = _state(inputs, options)
        y, last = short_convolution(**fresh(inputs), state=state, **options)
        return (y,), last

    return Case(make, apply)


def _triple(slots: int) -> Case:
    def make(
        batch: int = 2, length: int = 5, dtype: torch.dtype = torch.float64, hard: bool = False
    ) -> Inputs:
        shape = (batch, length, 2)
        inputs = {name: _normal(name, *shape, 4) for name in ("a", "b", "q_l", "q_r")}
        for name in ("log_retention", "log_pair_retention"):
            inputs[name] = _retention(hard, name, *shape)
        if slots:
            inputs["addresses"] = _normal("e", slots, 4)
        inputs["state.sum"] = _normal("s", batch, 2, 4)
        inputs["state.pairs"] = _normal("p", batch, 2, slots or 4, 4)
        return {name: x.to(dtype) for name, x in inputs.items()}

    def apply(inputs: Inputs, **options) -> tuple[tuple[Tensor, ...], Any]:
        state = _state(inputs, options, TripleLatentState)
        y, last = triple_latent(**fresh(inputs), state=state, **options)
        return (y,), last

    return Case(make, apply)


def _ids(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """A tensor of the right shape among inputs of which one may be wrong, and ids [B, T] made of it."""
    like = next(
        x for x in (*fresh(inputs).values(), torch.zeros(2, 5, 4)) if isinstance(x, Tensor) and x.dim() == 3
    )
    # a position's own, wherever a text is cut
    ids = torch.zeros(like.shape[:2], dtype=torch.int64, device=like.device)
    if like.is_floating_point():
        ids = (like[..., 0].detach().nan_to_num(0.0, 0.0, 0.0).abs() * 1000).long()
    return like, ids


def _slots(top_k: int | None) -> Case:
    """The third of the slots is empty at first; one write is too weak."""

    def make(
        batch: int = 2, length: int = 5, dtype: torch.dtype = torch.float64, hard: bool = False
    ) -> Inputs:
        inputs = {name: _normal(name, batch, length, 4) for name in ("query", "key", "value")}
        inputs["write_strength"] = 0.55 + 0.4 * _normal("l", batch, length).sigmoid()
        inputs["write_strength"][:, 1:2] = 0.3
        if hard:
            inputs["write_strength"][:, :-1] = _of(HARD_STRENGTH, "l", batch, length)[:, :-1]
            # few keys, so that many are written again
            inputs["key"] = _normal("key", 5, 4)[(_normal("n", batch, length).abs() * 2).long() % 5]
        inputs["state.keys"] = _normal("k", batch, 3, 4)
        inputs["state.values"] = _normal("v", batch, 3, 4)
        inputs["state.strengths"] = 0.5 + 0.4 * _normal("m", batch, 3).sigmoid()
        return {name: x.to(dtype) for name, x in inputs.items()}

    def apply(inputs: Inputs, **options) -> tuple[tuple[Tensor, ...], Any]:
        like, ids = _ids(inputs)

        def held(keys: Any, values: Any, strengths: Any) -> SlotMemoryState:
            slots = torch.tensor([[7, 8, -1], [4, 2, -1]], device=like.device)
            held_ids, ages = (row.expand(like.shape[0], 3) for row in slots)
            return SlotMemoryState(keys, values, held_ids, strengths, ages)

        state = _state(inputs, options, held)
        options = {"num_slots": 3, "top_k": top_k} | options
        reads, last = slot_memory(**fresh(inputs), token_ids=ids, state=state, **options)
        return (reads.context, reads.weights), last

    return Case(make, apply)


def _m2rnn(batch: int = 2, length: int = 5, dtype: torch.dtype = torch.float64, hard: bool = False) -> Inputs:
    shape = (batch, length, 2)
    inputs = {"q": _normal("q", *shape, 4), "k": _normal("k", *shape, 4), "v": _normal("v", *shape, 5)}
    inputs["log_retention"] = _retention(hard, "r", *shape)
    # so small that a rounding does not grow from token to token
    inputs |= {"transition": 0.2 * _normal("w", 2, 5, 5), "state": _normal("s", batch, 2, 4, 5)}
    return {name: x.to(dtype) for name, x in inputs.items()}


def _apply_m2rnn(inputs: Inputs, **options) -> tuple[tuple[Tensor, ...], Any]:
    state = _state(inputs, options)
    y, last = m2rnn(**fresh(inputs), state=state, **options)
    return (y,), last


def _store(policy: Any, top_k: int | None) -> Case:
    """The third entry is empty at first. Hard: many are equally surprising."""

    def make(
        batch: int = 2, length: int = 5, dtype: torch.dtype = torch.float64, hard: bool = False
    ) -> Inputs:
        inputs = {name: _normal(name, batch, length, 4) for name in ("query", "key", "value")}
        if hard:
            inputs["query"] = inputs["query"].round()
        inputs |= {f"state.{name}": _normal(name, batch, 3, 4) for name in ("keys", "values")}
        return {name: x.to(dtype) for name, x in inputs.items()}

    def apply(inputs: Inputs, **options) -> tuple[tuple[Tensor, ...], Any]:
        like, ids = _ids(inputs)
        # it decides, and has no gradient of its own
        surprise = like[..., 0].detach().abs() if like.is_floating_point() else torch.ones(like.shape[:2])

        def held(keys: Any, values: Any) -> SurpriseStoreState:
            kept = ([7, 8, -1], [2**41, 3, -1], [5, 2048, -1, -1, -1, -1])
            rows = (torch.tensor(numbers, device=like.device).expand(like.shape[0], -1) for numbers in kept)
            count = torch.full(like.shape[:1], 2, device=like.device)
            return SurpriseStoreState(keys, values, *rows, count, 12345 * count)

        state = _state(inputs, options, held)
        options = {"budget": 3, "top_k": top_k, "policy": policy, "rate": 0.4, "window": 6} | options
        reads, last = surprise_store(
            **fresh(inputs), token_ids=ids, surprise=surprise, state=state, **options
        )
        return (reads.context, reads.weights), last

    return Case(make, apply)


CASES = {
    "matrix_state": _matrix(mixed=False, width=4),
    "matrix_state-mixed": _matrix(mixed=True, width=4),
    "matrix_state-wide": _matrix(mixed=False, width=8),
    "signed_scan": _signed(4),
    "signed_scan-shared": _signed(2),
    "short_convolution": _short(4),
    "short_convolution-two": _short(2),
    "short_convolution-one": _short(1),
    "gated_scan": _gated(3),
    "gated_scan-query": _gated(4),
    "triple_latent": _triple(0),
    "triple_latent-slots": _triple(3),
    "slot_memory": _slots(None),
    "slot_memory-top": _slots(2),
    "m2rnn": Case(_m2rnn, _apply_m2rnn),
    "surprise_store": _store("surprise", None),
    "surprise_store-top": _store("surprise-oldest", 2),
}


def forms_of(case: str) -> tuple[str, ...]:
    """Those that the op has: what is not linear in its state has no chunks."""
    return tuple(form for form in FORMS if case != "m2rnn" or form != "chunked")


every_case = pytest.mark.parametrize("case", CASES)
every_form = pytest.mark.parametrize(
    ("case", "backend"), [(case, form) for case in CASES for form in forms_of(case)]
)
every_fast_form = pytest.mark.parametrize(
    ("case", "backend"), [(case, form) for case in CASES for form in forms_of(case) if form != "reference"]
)
