"""Presets made for one task alone, triple-interaction: its answers' classes, its vocabulary, its length.

The counts in the docstrings are those the paper prints (V = 53, 49 positions); tests count the built models.
"""

from collections.abc import Callable
from typing import Literal

from unimatrix.data.tasks.triple_interaction import Symbols
from unimatrix.models.config import AttentionConfig, ClassHeadConfig, MLPConfig, ModelConfig
from unimatrix.models.typed_latent import TypedLatentConfig


def transformer_triple(
    *,
    vocab_size: int = 53,
    max_positions: int | None = 49,
    d_model: int = 64,
    num_heads: int = 4,
    depth: int = 2,
    dropout: float = 0.0,
    mlp_expansion: int = 4,
    qkv_init: Literal["normal", "xavier"] = "normal",
) -> ModelConfig:
    """The attention baseline: two blocks, a head of 16 classes. 107,664 parameters."""
    symbols = Symbols()
    return ModelConfig(
        vocab_size=vocab_size,
        max_positions=max_positions,
        d_model=d_model,
        depth=depth,
        dropout=dropout,
        mixer=AttentionConfig(num_heads=num_heads, qkv_init=qkv_init),
        feed_forward=MLPConfig(expansion=mlp_expansion),
        head=ClassHeadConfig(num_classes=symbols.num_values, first_token=symbols.first_value),
    )


def typed_latent(
    *, vocab_size: int = 53, max_positions: int | None = 49, rank: int = 288, dropout: float = 0.0
) -> TypedLatentConfig:
    """Parses the bindings, knows three rules, learns the table of the fourth. 18,496 parameters."""
    return TypedLatentConfig(vocab_size=vocab_size, max_positions=max_positions, rank=rank, dropout=dropout)


TASK_PRESETS: dict[str, Callable[..., ModelConfig | TypedLatentConfig]] = {
    "transformer-triple": transformer_triple,
    "typed-latent": typed_latent,
}


def task_presets() -> dict[str, Callable[..., ModelConfig | TypedLatentConfig]]:
    """Names of the presets for one task, and the functions that return their configs, like `presets`."""
    return dict(TASK_PRESETS)
