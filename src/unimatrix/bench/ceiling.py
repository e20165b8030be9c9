"""How near a model comes to the machine's matrix products: its multiply-adds over the rate of plain ones.

The plain products are those of the model's own Linear layers and head, same shapes, alone in a loop: what
would remain if everything but the matrix products cost nothing.
"""

from dataclasses import dataclass

import torch
from torch import nn

from unimatrix.bench.timing import time_in_turns
from unimatrix.errors import UserError
from unimatrix.mixers import MatrixStateMixer, SpectralLinear
from unimatrix.models import AnyModel, LanguageModel, Mamba2


@dataclass(frozen=True, kw_only=True, slots=True)
class Ceiling:
    """Multiply-adds of one forward pass and the measured rate of plain products of the same shapes."""

    multiply_adds: int
    product_rate: float  # multiply-adds per second

    def share(self, seconds: float, *, passes: int = 1) -> float:
        """Part of the ceiling reached by a pass of that duration; a training step counts 3 forward passes."""
        return passes * self.multiply_adds / self.product_rate / seconds


def measure_ceiling(model: LanguageModel, batch: int, length: int, *, device: str = "cpu") -> Ceiling:
    """Count the products of one forward pass of [batch, length] tokens and time them bare."""
    shapes = _product_shapes(model, batch * length)
    operands = [(torch.randn(m, k, device=device), torch.randn(n, k, device=device)) for m, k, n in shapes]

    def products() -> None:
        for left, right in operands:
            nn.functional.linear(left, right)

    with torch.no_grad():
        timing = time_in_turns({"products": products}, seconds=1.0, device=device)["products"]
    linear = sum(m * k * n for m, k, n in shapes)
    return Ceiling(multiply_adds=batch * multiply_adds(model, length), product_rate=linear / timing.median_s)


def multiply_adds(model: AnyModel, length: int) -> int:
    """Of a forward pass over one text of so many tokens: its products, and what lies between them.

    Raises:
        UserError: a model that is not counted.
    """
    if isinstance(model, Mamba2):
        return length * model.config.multiply_adds
    if not isinstance(model, LanguageModel):
        raise UserError(f"multiply-adds: expected a model of texts, got {type(model).__name__}")
    shapes = _product_shapes(model, length)
    return sum(m * k * n for m, k, n in shapes) + _mixing_multiply_adds(model, length)


def _product_shapes(model: LanguageModel, tokens: int) -> list[tuple[int, int, int]]:
    """(rows, inner, columns) of every Linear call of one forward pass, the head included."""
    config = model.config
    steps = [model.blocks[which] for which in config.order]
    # the projection of a rule that is not mixed
    idle = {mixer.d for mixer in model.modules() if isinstance(mixer, MatrixStateMixer)}
    shapes = [
        (tokens, module.in_features, module.out_features)
        for part in [*steps, *(model.get_submodule(name) for name in config.parts)]
        for module in part.modules()
        if isinstance(module, nn.Linear | SpectralLinear) and module not in idle
    ]
    return [*shapes, (tokens, config.d_model, config.vocab_size)]


def _mixing_multiply_adds(model: LanguageModel, length: int) -> int:
    """What lies between the products: attention over the causal half, the recurrences, the memories."""
    config = model.config
    layers = [layer.values() for layer in config.layers]
    parts = [*config.parts.values(), *(part for which in config.order for part in layers[which])]
    return sum(part.multiply_adds(config.size, length) for part in parts)
