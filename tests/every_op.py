"""All ops and their variants behind one interface: what a test of a promise that every op makes runs over."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from unimatrix.ops import (
    SlotMemoryState,
    TripleLatentState,
    gated_scan,
    matrix_state,
    signed_scan,
    slot_memory,
    triple_latent,
)

FORMS = ("reference", "chunked", "compiled")
Inputs = dict[str, Tensor]


class Case(NamedTuple):
    """Floating inputs by name, the first state's by names with a dot; and a call from them to the outputs."""

    make: Callable[..., Inputs]  # (batch, length, dtype)
    call: Callable[..., tuple[Tensor, ...]]  # (inputs, **options): floating outputs, then the last state's


def _normal(name: str, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator("cpu").manual_seed(sum(map(ord, name)) + sum(shape))
    drawn = torch.randn(*shape, generator=generator, dtype=torch.float64, device="cpu")
    return drawn.to(dtype)


def _matrix(mixed: bool, width: int) -> Case:
    def make(batch: int = 2, length: int = 5, dtype: torch.dtype = torch.float64) -> Inputs:
        shape = (batch, length, 2)
        inputs = {"q": _normal("q", *shape, width), "k": _normal("k", *shape, 4)}
        inputs |= {"v": _normal("v", *shape, width), "log_retention": F.logsigmoid(_normal("r", *shape))}
        if mixed:
            inputs |= {
                "rule_weights": _normal("w", *shape, 3).softmax(-1),
                "diag": _normal("d", *shape, width),
            }
        inputs |= {"state": _normal("s", batch, 2, 4, width)}
        return {name: x.to(dtype) for name, x in inputs.items()}

    def call(inputs: Inputs, **options) -> tuple[Tensor, ...]:
        return matrix_state(**inputs, **options)

    return Case(make, call)


def _signed(groups: int) -> Case:
    def make(batch: int = 2, length: int = 5, dtype: torch.dtype = torch.float64) -> Inputs:
        inputs = {
            "decay": _normal("a", batch, length, groups).tanh(),
            "write": _normal("w", batch, length, 4),
        }
        inputs |= {"state": _normal("s", batch, 4)}
        return {name: x.to(dtype) for name, x in inputs.items()}

    def call(inputs: Inputs, **options) -> tuple[Tensor, ...]:
        return signed_scan(**inputs, **options)

    return Case(make, call)


def _gated(kinds: int) -> Case:
    def make(batch: int = 2, length: int = 5, dtype: torch.dtype = torch.float64) -> Inputs:
        inputs = {"gates": _normal("g", batch, length, kinds, 4), "state": _normal("s", batch, 4)}
        return {name: x.to(dtype) for name, x in inputs.items()}

    def call(inputs: Inputs, **options) -> tuple[Tensor, ...]:
        return gated_scan(**inputs, **options)

    return Case(make, call)


def _triple(slots: int) -> Case:
    def make(batch: int = 2, length: int = 5, dtype: torch.dtype = torch.float64) -> Inputs:
        shape = (batch, length, 2)
        inputs = {name: _normal(name, *shape, 4) for name in ("a", "b", "q_l", "q_r")}
        for name in ("log_retention", "log_pair_retention"):
            inputs[name] = F.logsigmoid(_normal(name, *shape))
        if slots:
            inputs["addresses"] = _normal("e", slots, 4)
        inputs["state.sum"] = _normal("s", batch, 2, 4)
        inputs["state.pairs"] = _normal("p", batch, 2, slots or 4, 4)
        return {name: x.to(dtype) for name, x in inputs.items()}

    def call(inputs: Inputs, **options) -> tuple[Tensor, ...]:
        given = {name: x for name, x in inputs.items() if "." not in name}
        state = None
        if "state.sum" in inputs:
            state = TripleLatentState(inputs["state.sum"], inputs["state.pairs"])
        y, last = triple_latent(**given, **({"state": state} | options))
        return y, *last

    return Case(make, call)


def _slots(top_k: int | None) -> Case:
    """The third of the slots is empty at first; one write is too weak."""

    def make(batch: int = 2, length: int = 5, dtype: torch.dtype = torch.float64) -> Inputs:
        inputs = {name: _normal(name, batch, length, 4) for name in ("query", "key", "value")}
        inputs["write_strength"] = 0.55 + 0.4 * _normal("l", batch, length).sigmoid()
        inputs["write_strength"][:, 1:2] = 0.3
        inputs["state.keys"] = _normal("k", batch, 3, 4)
        inputs["state.values"] = _normal("v", batch, 3, 4)
        inputs["state.strengths"] = 0.5 + 0.4 * _normal("m", batch, 3).sigmoid()
        return {name: x.to(dtype) for name, x in inputs.items()}

    def call(inputs: Inputs, **options) -> tuple[Tensor, ...]:
        given = {name: x for name, x in inputs.items() if "." not in name}
        like = next(
            x for x in (*given.values(), torch.zeros(2, 5, 4)) if isinstance(x, Tensor) and x.dim() == 3
        )
        (batch, length), device = like.shape[:2], like.device
        ids = torch.arange(length, device=device).expand(batch, length)
        state = None
        if "state.keys" in inputs:
            held = torch.tensor([[7, 8, -1]], device=device).expand(batch, 3)
            ages = torch.tensor([[4, 2, -1]], device=device).expand(batch, 3)
            kept = {name: inputs[f"state.{name}"] for name in ("keys", "values", "strengths")}
            state = SlotMemoryState(token_ids=held, ages=ages, **kept)
        options = {"num_slots": 3, "top_k": top_k, "state": state} | options
        reads, last = slot_memory(**given, token_ids=ids, **options)
        return reads.context, reads.weights, last.keys, last.values, last.strengths

    return Case(make, call)


CASES = {
    "matrix_state": _matrix(mixed=False, width=4),
    "matrix_state-mixed": _matrix(mixed=True, width=4),
    "matrix_state-wide": _matrix(mixed=False, width=8),
    "signed_scan": _signed(4),
    "signed_scan-shared": _signed(2),
    "gated_scan": _gated(3),
    "gated_scan-query": _gated(4),
    "triple_latent": _triple(0),
    "triple_latent-slots": _triple(3),
    "slot_memory": _slots(None),
    "slot_memory-top": _slots(2),
}
