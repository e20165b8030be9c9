"""Presets of other people's models, to compare with: same training, same tasks, about as many parameters.

The counts in the docstrings are for V = 259 bytes (V = 64 for recall); tests count the built models.
"""

from collections.abc import Callable

from unimatrix.models.mamba2 import Mamba2Config


def mamba2(
    *,
    vocab_size: int = 259,
    max_positions: int | None = 128,
    d_model: int = 64,
    num_heads: int = 2,
    depth: int = 4,
    state_dim: int = 100,
    dropout: float = 0.0,
    chunk_length: int = 64,
) -> Mamba2Config:
    """Mamba-2, transformers' own: a selective recurrence, separate blocks. 174,008 (V = 64: 161,528)."""
    return Mamba2Config(
        vocab_size=vocab_size,
        max_positions=max_positions,
        d_model=d_model,
        num_heads=num_heads,
        depth=depth,
        state_dim=state_dim,
        dropout=dropout,
        chunk_length=chunk_length,
    )


PEER_PRESETS: dict[str, Callable[..., Mamba2Config]] = {"mamba2": mamba2}


def peer_presets() -> dict[str, Callable[..., Mamba2Config]]:
    """Names of the peers' presets, and the functions that return their configs, like `presets`."""
    return dict(PEER_PRESETS)
