"""What stands around every compiled loop, written once: autograd in eager mode, an operator for all else.

A loop works on addresses, so torch must be told of it. Eager mode goes past the dispatcher, which costs 20 us
a call, as much as a short text. Where somebody follows the operators (torch.compile, export, make_fx, fake
tensors, torch.func.vmap), the same loop is the operator torch.ops.unimatrix.<name>_forward, with its shapes
for tensors without numbers, its gradients by <name>_backward, and its rule for vmap.
"""

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from unimatrix.ops.derivatives import plain_gradients, plain_gradients_wanted
from unimatrix.ops.internals import transforming, watched

LIBRARY = torch.library.Library("unimatrix", "FRAGMENT")  # torch.ops.unimatrix


class Operator:
    """A compiled loop as a differentiable function: called with its arguments, it gives its outputs.

    Args:
        arguments: their schema, tensors first, numbers behind them: "Tensor gates, Tensor? state, int top_k".
        outputs: names of what it gives; kept: of what the loop hands on to its backward beside them. All of
            them, like all tensor arguments that are not `shared`, have the batch for their first dimension.
        loops: imports the module of the loops, which imports numba: not before one runs. It has
            run_forward: (*arguments, keep) to outputs and kept; without `keep` nobody reads the kept ones,
                which may then be empty.
            run_backward: (*what `backward_takes` names, *a gradient or None for each output) to the gradients
                of the tensor arguments but the `constant` ones, None for one that was None.
        shapes: what run_forward gives, from tensors without numbers.
        plain: the outputs once more in plain torch, for derivatives that the loop does not have.
        backward_takes: names of arguments, outputs and kept; all arguments and all kept are the default.
        gradients: in place of `plain`, for a loop that does not hold on to its arguments.
        shaped_like: of which taken tensor an argument has the shape that is not taken itself.
    """

    def __init__(
        self,
        name: str,
        arguments: str,
        *,
        outputs: str,
        kept: str = "",
        loops: Callable[[], Any],
        shapes: Callable[..., tuple[Tensor, ...]],
        plain: Callable[..., Sequence[Tensor]] | None = None,
        gradients: Callable[..., tuple[Tensor | None, ...]] | None = None,
        constant: str = "",
        shared: str = "",
        backward_takes: str = "",
        shaped_like: dict[str, str] | None = None,
    ) -> None:
        self.name, self._loops = name, loops
        self._plain, self._gradients = plain, gradients
        kinds = {word: kind for kind, word in (argument.split() for argument in arguments.split(", "))}
        tensors = [word for word, kind in kinds.items() if kind.startswith("Tensor")]
        known = [*kinds, *outputs.split(), *kept.split()]
        takes = backward_takes.split() or [*tensors, *kept.split()]
        wanted = [word for word in tensors if word not in constant.split()]
        self._count = len(tensors)
        self._outputs, self._all_outputs = len(outputs.split()), len(known) - len(kinds)
        self._shared = frozenset(tensors.index(word) for word in shared.split())
        places = [known.index(word) for word in takes]
        # of one, itemgetter gives no tuple
        taken = itemgetter(slice(places[0], places[0] + 1) if len(places) == 1 else places[0], *places[1:])
        self._takes, self._taken = len(takes), taken
        # where an argument's gradient stands among those of the backward
        self._places = [wanted.index(word) if word in wanted else None for word in kinds]
        self._in_order = self._places[: len(wanted)] == list(range(len(wanted)))
        self._behind = (None,) * (len(kinds) - len(wanted))
        self._like = [takes.index((shaped_like or {}).get(word, word)) for word in wanted]
        self._register(arguments, [kinds.get(word, "Tensor") for word in takes], shapes)
        self._function = _eager(self)

    def __call__(self, *arguments: Any) -> tuple[Tensor, ...]:
        keep = False
        if torch.is_grad_enabled():
            for x in arguments[: self._count]:
                if x is not None and x.requires_grad:
                    keep = True
                    break
        if watched(*arguments[: self._count]):
            # what torch.func has wrapped does not tell whether the tensor inside needs a gradient
            keep = keep or (torch.is_grad_enabled() and (torch.compiler.is_compiling() or transforming()))
            return self._operator(*arguments, keep)[: self._outputs]
        if keep:
            return self._function.apply(*arguments)  # type: ignore[return-value]
        return self._loops().run_forward(*arguments, False)[: self._outputs]

    def _register(self, arguments: str, taken: list[str], shapes: Callable[..., tuple[Tensor, ...]]) -> None:
        forward, backward = f"{self.name}_forward", f"{self.name}_backward"

        def tensors(count: int) -> str:
            return f"({', '.join(['Tensor'] * count)})"

        given = [f"{kind} x{n}" for n, kind in enumerate(taken)]
        given += [f"Tensor? g{n}" for n in range(self._outputs)]
        LIBRARY.define(f"{forward}({arguments}, bool keep) -> {tensors(self._all_outputs)}")
        LIBRARY.define(f"{backward}({', '.join(given)}) -> {tensors(len(self._like))}")
        LIBRARY.impl(forward, lambda *given: _alone(self._loops().run_forward(*given)), "CPU")
        LIBRARY.impl(backward, self._run_backward, "CPU")
        forward, backward = f"unimatrix::{forward}", f"unimatrix::{backward}"
        torch.library.register_fake(forward, lambda *given: _alone(shapes(*given)), lib=LIBRARY)
        torch.library.register_fake(backward, self._backward_shapes, lib=LIBRARY)
        torch.library.register_vmap(forward, self._vmap, lib=LIBRARY)
        operators = torch.ops.unimatrix
        self._operator = _tuple_of(getattr(operators, f"{self.name}_forward"), self._all_outputs)
        run = _tuple_of(getattr(operators, f"{self.name}_backward"), len(self._like))
        self._operators_backward = run

        def remember(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            self.remember(ctx, inputs[:-1], output if isinstance(output, tuple) else (output,))
            ctx.kept = inputs[-1]

        def differentiate(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
            return (*self.gradients(run, ctx, grads[: self._outputs], ctx.kept), None)

        torch.library.register_autograd(forward, differentiate, setup_context=remember, lib=LIBRARY)

    def _run_backward(self, *given: Any) -> Any:
        """An operator gives tensors alone: an empty one for none."""
        found = self._loops().run_backward(*given)
        return _alone(tuple([given[0].new_empty(0) if x is None else x for x in found]))

    def remember(self, ctx: Any, arguments: tuple[Any, ...], found: tuple[Tensor, ...]) -> None:
        """Save what the gradients need: nothing that is neither an argument nor an output lives on."""
        ctx.save_for_backward(*self._taken(arguments + found))
        ctx.set_materialize_grads(False)
        if self._count < len(arguments):
            ctx.numbers = arguments[self._count :]

    def gradients(
        self,
        run: Callable[..., Sequence[Tensor | None]],
        ctx: Any,
        grads: tuple[Tensor | None, ...],
        kept: bool = True,
    ) -> tuple[Tensor | None, ...]:
        """By the loop (`run`), or in plain torch: for derivatives of them, or where nothing was kept."""
        saved = ctx.saved_tensors  # asked for once: torch.utils.checkpoint recomputes at the first look
        if kept and not plain_gradients_wanted(*grads):
            # a loop reads the memory itself, in which such a gradient has the other sign
            grads = tuple(g.resolve_neg() if g is not None and g.is_neg() else g for g in grads)
            found = run(*saved, *grads)
            if self._in_order and run is not self._operators_backward:
                return (*found, *self._behind)
        elif self._gradients is not None:
            found = self._gradients(*saved, *grads)
        else:
            return self._plain_gradients(saved, getattr(ctx, "numbers", ()), ctx.needs_input_grad, grads)
        return tuple(
            [
                found[place] if need and place is not None else None
                for place, need in zip(self._places, ctx.needs_input_grad, strict=False)
            ]
        )

    def _plain_gradients(
        self, saved: Sequence[Any], numbers: Sequence[Any], needed: Sequence[bool], grads: Sequence[Any]
    ) -> tuple[Tensor | None, ...]:
        plain, count = self._plain, self._count
        assert plain is not None

        def outputs(*tensors: Any) -> Sequence[Tensor]:
            return plain(*tensors, *numbers)

        return (
            *plain_gradients(outputs, saved[:count], needed[:count], grads),
            *[None] * len(numbers),
        )

    def _backward_shapes(self, *given: Any) -> Any:
        taken = given[: self._takes]
        like = [taken[n] for n in self._like]
        return _alone(
            tuple(
                taken[0].new_empty(0) if x is None else taken[0].new_empty(x.shape, dtype=x.dtype)
                for x in like
            )
        )

    def _vmap(self, info: Any, in_dims: tuple[Any, ...], *given: Any) -> tuple[Any, Any]:
        """The examples as more rows of the batch; one after the other where a shared tensor differs."""
        size, every = info.batch_size, (0,) * self._all_outputs
        if any(in_dims[n] is not None for n in self._shared):
            each = [
                self._operator(
                    *[x if dim is None else x.select(dim, n) for x, dim in zip(given, in_dims, strict=True)]
                )
                for n in range(size)
            ]
            return _alone(tuple(torch.stack(parts) for parts in zip(*each, strict=True))), _alone(every)
        batch = 0

        def fold(x: Tensor, dim: int | None) -> Tensor:
            nonlocal batch
            x = x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)
            batch = x.shape[1]
            return x.flatten(0, 1)

        rows = [
            fold(x, dim) if isinstance(x, Tensor) and n not in self._shared else x
            for n, (x, dim) in enumerate(zip(given, in_dims, strict=True))
        ]
        found = self._operator(*rows)
        return _alone(tuple(y.unflatten(0, (size, batch)) for y in found)), _alone(every)


def _alone(found: tuple[Any, ...]) -> Any:
    """What an operator gives: of one tensor that tensor, and no tuple."""
    return found[0] if len(found) == 1 else found


def _tuple_of(run: Callable[..., Any], count: int) -> Callable[..., tuple[Any, ...]]:
    """An operator that gives a tuple, of one tensor too."""
    return (lambda *given: (run(*given),)) if count == 1 else run


def _eager(operator: Operator) -> type[torch.autograd.Function]:
    """The loop in eager mode, past the dispatcher."""

    remember, gradients = operator.remember, operator.gradients
    loops, count = operator._loops, operator._outputs

    class Eager(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, ...]:
            found = loops().run_forward(*arguments, True)
            remember(ctx, arguments, found)
            return found[:count]

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
            return gradients(loops().run_backward, ctx, grads)

    Eager.__name__ = Eager.__qualname__ = operator.name
    return Eager
