"""One layer of a language model: two halves, each a norm and the parts behind it."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import checkpoint

from unimatrix.mixers import Given, PartConfig, Reading, Size
from unimatrix.mixers.part import adds_alone, check_given, give, joined
from unimatrix.mixers.spectral import SameEachTime
from unimatrix.models.config import Parts
from unimatrix.ops.shapes import Stream

# the halves in their order, by the role of their parts, and what the weights of their norms go by
HALVES = {"mix": "mixer_norm", "feed": "feed_forward_norm"}


class Block(nn.Module):
    """x += the sum of the mixing parts of norm(x), then of the feeding parts; dropout on what is added.

    A half without parts is left out. Parts are submodules under their names, asked in their order.
    """

    def __init__(self, parts: Parts, norm: PartConfig, size: Size, dropout: float) -> None:
        super().__init__()
        # (name of the norm, names of the parts behind it)
        self.halves: list[tuple[str, list[str]]] = []
        for role, norm_name in HALVES.items():
            names = [name for name, part in parts.items() if part.role == role]
            if names:
                self.halves.append((norm_name, names))
        # in the order of the config, in which weights are drawn; a norm before the first part behind it
        for name, part in parts.items():
            norm_name = HALVES[part.role]
            if norm_name not in self._modules:
                self.add_module(norm_name, norm.build(size))
            self.add_module(name, part.build(size))
        self.dropout = nn.Dropout(dropout)
        self.kinds = {name: type(self.get_submodule(name)) for name in parts}
        self.gives = {name: part.gives for name, part in parts.items()}
        # whether training keeps only what comes in and computes the rest again for the gradient, and by what:
        # transformers looks for both under these names, and puts there what it is asked for
        self.gradient_checkpointing = False
        self._gradient_checkpointing_func: Callable[..., Any] = partial(checkpoint, use_reentrant=False)

    def state_layout(self) -> dict[str, Any]:
        """What its state looks like, by part; those without one are left out (`unimatrix.mixers.layout`)."""
        layouts = {name: self.get_submodule(name).state_layout() for name in self.gives}  # type: ignore[operator]
        return {name: layout for name, layout in layouts.items() if layout is not None}

    def forward(
        self, x: Stream, state: dict[str, Any], at: Reading, given: Given
    ) -> tuple[Stream, dict[str, Any], Given, dict[str, Given]]:
        """[B, T, D] to [B, T, D].

        Args:
            state: of the text before, by part; empty at its beginning.
            given: what the model's parts gave.
        Returns:
            the stream, the next state, what later steps find in `given`, and what parts gave to the head and
            to inspection (votes, seen), by name.
        """
        # what is hooked to the block stays outside, and runs once
        if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
            return self._recomputed(x, state, at, given)
        return self._compute(x, state, at, given)

    def _recomputed(self, *given: Any) -> Any:
        # tensor by tensor: torch's reentrant form sees, and keeps apart from the graph, none inside a tuple
        inputs, form = pytree.tree_flatten(given)
        compute, forms = SameEachTime(self, self._compute), []

        def flat(*tensors: Any) -> tuple[Any, ...]:
            outputs, form_of_outputs = pytree.tree_flatten(compute(*pytree.tree_unflatten(tensors, form)))
            forms.append(form_of_outputs)
            return tuple(outputs)

        return pytree.tree_unflatten(self._gradient_checkpointing_func(flat, *inputs), forms[0])

    def _compute(
        self, x: Stream, state: dict[str, Any], at: Reading, given: Given
    ) -> tuple[Stream, dict[str, Any], Given, dict[str, Given]]:
        modules, after, heard = self._modules, {}, {}
        for norm_name, names in self.halves:
            u = modules[norm_name](x)  # type: ignore[misc]
            y: Any = None
            for name in names:
                part: Any = modules[name]
                got, kept = give(self.kinds[name], part, u, state.get(name), at, given)
                if kept is not None:
                    after[name] = kept
                if got.add is not None:
                    y = got.add if y is None else y + got.add
                if not adds_alone(got):
                    check_given(name, got, self.gives[name])
                    given = joined(given, got._replace(add=None))
                    if got.votes is not None or got.seen is not None:
                        heard[name] = Given(votes=got.votes, seen=got.seen)
            if y is not None:
                x = x + modules["dropout"](y)  # type: ignore[misc]
        return x, after, given if given.error is None else given._replace(error=None), heard
