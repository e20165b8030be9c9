"""How near a model comes to the machine's matrix products: its multiply-adds over the rate of plain ones.

The plain products are those of the model's own Linear layers and head, same shapes, alone in a loop: what
would remain if everything but the matrix products cost nothing.
"""

from dataclasses import dataclass

import torch
from torch import nn

from unimatrix.bench.timing import time_in_turns
from unimatrix.mixers import SpectralLinear
from unimatrix.models import LanguageModel
from unimatrix.models.config import (
    AssociativeMemoryConfig,
    AttentionConfig,
    MatrixStateConfig,
    ModelConfig,
    RecurrentFFNConfig,
    SlotMemoryConfig,
    TripleLatentConfig,
)


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
    return Ceiling(
        multiply_adds=linear + _mixing_multiply_adds(model, batch, length),
        product_rate=linear / timing.median_s,
    )


def _product_shapes(model: LanguageModel, tokens: int) -> list[tuple[int, int, int]]:
    """(rows, inner, columns) of every Linear call of one forward pass, the head included."""
    config = model.config
    shapes = []
    for block in model.blocks:
        repeats = config.depth if config.shared_depth else 1
        for module in block.modules():
            if isinstance(module, nn.Linear | SpectralLinear) and module is not getattr(
                block.mixer, "d", None
            ):
                shapes += [(tokens, module.in_features, module.out_features)] * repeats
    for part in (model.memory, model.convolution):
        if part is not None:
            linear = (module for module in part.modules() if isinstance(module, nn.Linear))
            shapes += [(tokens, module.in_features, module.out_features) for module in linear]
    shapes.append((tokens, config.d_model, config.vocab_size))
    return shapes


def _mixing_multiply_adds(model: LanguageModel, batch: int, length: int) -> int:
    """What lies between the projections: attention over the causal half, the recurrence, the memories."""
    config = model.config
    tokens = batch * length
    attention = config.depth * tokens * (length + 1) // 2 * 2 * config.d_model
    if isinstance(config.mixer, AttentionConfig):
        return attention + config.depth * tokens * _ffn_multiply_adds(config)
    if isinstance(config.mixer, TripleLatentConfig):
        return config.depth * tokens * config.mixer.num_heads * _latent_multiply_adds(config.mixer)
    assert isinstance(config.mixer, MatrixStateConfig)
    # decay, write and read of S x S numbers
    recurrence = config.depth * tokens * config.mixer.num_heads * 3 * config.mixer.state_dim**2
    if isinstance(config.memory, AssociativeMemoryConfig):
        return recurrence + attention
    if isinstance(config.memory, SlotMemoryConfig):
        # a cosine, a score and a weighted value for every slot, once a model
        return recurrence + tokens * config.memory.num_slots * 3 * config.memory.width
    return recurrence


def _ffn_multiply_adds(config: ModelConfig) -> int:
    """Of one token, between the projections of a recurrent FFN: decay and write, what is read, the output."""
    part = config.feed_forward
    if not isinstance(part, RecurrentFFNConfig):
        return 0
    local = 0 if part.local_width is None else part.local_width + config.d_model
    return (3 if part.query else 2) * part.width + local


def _latent_multiply_adds(mixer: TripleLatentConfig) -> int:
    """Of one token and head: decay, write and read of the pair memory; with slots also the scores of both."""
    dim = mixer.state_dim
    if mixer.num_slots is None:
        return 3 * dim**2
    return 5 * mixer.num_slots * dim
