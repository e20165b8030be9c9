"""The presets of section 5.6: the transformer's attention, and a recurrent memory in each MLP's place.

Without a width of their own they have about as many weights as the MLP of four times the width that they
replace, 8 D^2. A width of at least 1 lets a d_model of 0 be named as what is wrong. The counts in the
docstrings are those of unimatrix.models.presets, which lists them.
"""

from typing import Literal

from unimatrix.models.config import AttentionConfig, ModelConfig, RecurrentFFNConfig
from unimatrix.ops import Backend


def recurrent_ffn(
    *,
    vocab_size: int = 259,
    max_positions: int | None = 128,
    d_model: int = 64,
    num_heads: int = 4,
    depth: int = 3,
    dropout: float = 0.0,
    width: int | None = None,
    qkv_init: Literal["normal", "xavier"] = "normal",
    backend: Backend = "auto",
) -> ModelConfig:
    """The transformer with a small recurrent memory in each MLP's place. 173,888 (V = 64: 161,408)."""
    return ModelConfig(
        vocab_size=vocab_size,
        max_positions=max_positions,
        d_model=d_model,
        depth=depth,
        dropout=dropout,
        mixer=AttentionConfig(num_heads=num_heads, qkv_init=qkv_init),
        feed_forward=RecurrentFFNConfig(
            width=2 * max(1, d_model) if width is None else width, backend=backend
        ),
    )


def recurrent_ffn_readout(
    *,
    vocab_size: int = 259,
    max_positions: int | None = 128,
    d_model: int = 64,
    num_heads: int = 4,
    depth: int = 3,
    dropout: float = 0.0,
    width: int | None = None,
    qkv_init: Literal["normal", "xavier"] = "normal",
    backend: Backend = "auto",
) -> ModelConfig:
    """Recurrent-FFN whose reads are chosen by the token. 198,464 (V = 64: 185,984)."""
    return ModelConfig(
        vocab_size=vocab_size,
        max_positions=max_positions,
        d_model=d_model,
        depth=depth,
        dropout=dropout,
        mixer=AttentionConfig(num_heads=num_heads, qkv_init=qkv_init),
        feed_forward=RecurrentFFNConfig(
            width=2 * max(1, d_model) if width is None else width, query=True, backend=backend
        ),
    )


def recurrent_ffn_hybrid(
    *,
    vocab_size: int = 259,
    max_positions: int | None = 128,
    d_model: int = 64,
    num_heads: int = 4,
    depth: int = 3,
    dropout: float = 0.0,
    width: int | None = None,
    local_width: int | None = None,
    qkv_init: Literal["normal", "xavier"] = "normal",
    backend: Backend = "auto",
) -> ModelConfig:
    """Recurrent-FFN-Readout at half the width, and a local gated branch. 174,080 (V = 64: 161,600)."""
    return ModelConfig(
        vocab_size=vocab_size,
        max_positions=max_positions,
        d_model=d_model,
        depth=depth,
        dropout=dropout,
        mixer=AttentionConfig(num_heads=num_heads, qkv_init=qkv_init),
        feed_forward=RecurrentFFNConfig(
            width=max(1, d_model) if width is None else width,
            query=True,
            local_width=max(1, d_model) if local_width is None else local_width,
            backend=backend,
        ),
    )
