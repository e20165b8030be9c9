"""The models of the paper by name. A preset is a function that returns a config; PRESETS lists them.

Those made for one task alone are in unimatrix.models.task_presets, other people's models in peer_presets.

The counts in the docstrings are those the paper prints (V = 259 bytes; V = 64 for recall, both with 128
positions); tests count the built models against them.
"""

from collections.abc import Callable
from typing import Any, Literal, get_type_hints

from unimatrix.codec import did_you_mean, shown
from unimatrix.data.settings import check_type
from unimatrix.errors import UserError, UserTypeError
from unimatrix.models.config import (
    AssociativeMemoryConfig,
    AttentionConfig,
    ConvolutionConfig,
    DeepEmbedConfig,
    MatrixStateConfig,
    MLPConfig,
    ModelConfig,
    PreviousTokenRoutingConfig,
    SlotMemoryConfig,
    TripleLatentConfig,
    check_known_settings,
)
from unimatrix.models.estimate import check_memory
from unimatrix.models.kinds import AnyModel, AnyModelConfig, model_from_config
from unimatrix.models.language_model import LanguageModel
from unimatrix.models.peer_presets import PEER_PRESETS
from unimatrix.models.recurrent_ffn_presets import (
    recurrent_ffn,
    recurrent_ffn_hybrid,
    recurrent_ffn_readout,
)
from unimatrix.models.task_presets import TASK_PRESETS
from unimatrix.ops import Backend


def transformer(
    *,
    vocab_size: int = 259,
    max_positions: int | None = 128,
    d_model: int = 64,
    num_heads: int = 4,
    depth: int = 3,
    dropout: float = 0.0,
    mlp_expansion: int = 4,
    qkv_init: Literal["normal", "xavier"] = "normal",
) -> ModelConfig:
    """The baseline: causal attention, depth separate blocks. 174,848 parameters (V = 64: 162,368)."""
    return ModelConfig(
        vocab_size=vocab_size,
        max_positions=max_positions,
        d_model=d_model,
        depth=depth,
        dropout=dropout,
        mixer=AttentionConfig(num_heads=num_heads, qkv_init=qkv_init),
        feed_forward=MLPConfig(expansion=mlp_expansion),
    )


def unimatrix_core(
    *,
    vocab_size: int = 259,
    max_positions: int | None = 128,
    d_model: int = 64,
    num_heads: int = 4,
    depth: int = 3,
    state_dim: int = 16,
    dropout: float = 0.0,
    mlp_expansion: int = 4,
    backend: Backend = "auto",
) -> ModelConfig:
    """One matrix-state block shared across depth, outer-product writes. 83,140 (V = 64: 70,660)."""
    return ModelConfig(
        vocab_size=vocab_size,
        max_positions=max_positions,
        d_model=d_model,
        depth=depth,
        shared_depth=True,
        dropout=dropout,
        mixer=MatrixStateConfig(num_heads=num_heads, state_dim=state_dim, backend=backend),
        feed_forward=MLPConfig(expansion=mlp_expansion),
    )


def unimatrix_rosa(
    *,
    vocab_size: int = 259,
    max_positions: int | None = 128,
    d_model: int = 64,
    num_heads: int = 4,
    depth: int = 3,
    state_dim: int = 16,
    dropout: float = 0.0,
    mlp_expansion: int = 4,
    backend: Backend = "auto",
) -> ModelConfig:
    """Core and the residual routing path. 103,876 (V = 64: 78,916)."""
    return ModelConfig(
        vocab_size=vocab_size,
        max_positions=max_positions,
        d_model=d_model,
        depth=depth,
        shared_depth=True,
        dropout=dropout,
        mixer=MatrixStateConfig(num_heads=num_heads, state_dim=state_dim, backend=backend),
        feed_forward=MLPConfig(expansion=mlp_expansion),
        routing=PreviousTokenRoutingConfig(),
    )


def unimatrix_discovery(
    *,
    vocab_size: int = 259,
    max_positions: int | None = 128,
    d_model: int = 64,
    num_heads: int = 4,
    depth: int = 3,
    state_dim: int = 16,
    dropout: float = 0.0,
    mlp_expansion: int = 4,
    deep_embed_rank: int = 32,
    spectral_norm: bool = True,
    backend: Backend = "auto",
) -> ModelConfig:
    """ROSA, rule mixing, DeepEmbed, step embeddings, spectral normalisation. 115,184 (V = 64: 83,984)."""
    return ModelConfig(
        vocab_size=vocab_size,
        max_positions=max_positions,
        d_model=d_model,
        depth=depth,
        shared_depth=True,
        dropout=dropout,
        mixer=MatrixStateConfig(
            num_heads=num_heads,
            state_dim=state_dim,
            rule_mixing=True,
            spectral_norm=spectral_norm,
            backend=backend,
        ),
        feed_forward=MLPConfig(expansion=mlp_expansion),
        routing=PreviousTokenRoutingConfig(),
        deep_embed=DeepEmbedConfig(rank=deep_embed_rank),
        step_embeddings=True,
    )


def unimatrix_assoc(
    *,
    vocab_size: int = 259,
    max_positions: int | None = 128,
    d_model: int = 64,
    num_heads: int = 4,
    depth: int = 3,
    state_dim: int = 16,
    dropout: float = 0.0,
    mlp_expansion: int = 4,
    temperature: float = 4.0,
    backend: Backend = "auto",
) -> ModelConfig:
    """Core and cosine attention over all earlier positions; its state grows with the text. V = 64: 87,108."""
    return ModelConfig(
        vocab_size=vocab_size,
        max_positions=max_positions,
        d_model=d_model,
        depth=depth,
        shared_depth=True,
        dropout=dropout,
        mixer=MatrixStateConfig(num_heads=num_heads, state_dim=state_dim, backend=backend),
        feed_forward=MLPConfig(expansion=mlp_expansion),
        memory=AssociativeMemoryConfig(temperature=temperature),
    )


def unimatrix_sparse_pointer(
    *,
    vocab_size: int = 259,
    max_positions: int | None = 128,
    d_model: int = 64,
    num_heads: int = 4,
    depth: int = 3,
    state_dim: int = 16,
    dropout: float = 0.0,
    mlp_expansion: int = 4,
    slots: int = 32,
    top_k: int | None = None,
    pointer: bool = True,
    write_gate: bool = True,
    write_gate_bias: float = 4.0,
    memory_width: int = 16,
    match_threshold: float = 0.99,
    backend: Backend = "auto",
) -> ModelConfig:
    """Core and a few slots of exact bindings that vote for tokens. V = 64: 75,014."""
    return ModelConfig(
        vocab_size=vocab_size,
        max_positions=max_positions,
        d_model=d_model,
        depth=depth,
        shared_depth=True,
        dropout=dropout,
        mixer=MatrixStateConfig(num_heads=num_heads, state_dim=state_dim, backend=backend),
        feed_forward=MLPConfig(expansion=mlp_expansion),
        memory=SlotMemoryConfig(
            num_slots=slots,
            top_k=top_k,
            width=memory_width,
            match_threshold=match_threshold,
            pointer=pointer,
            write_gate=write_gate,
            write_gate_bias=write_gate_bias,
            backend=backend,
        ),
    )


def triple_latent(
    *,
    vocab_size: int = 259,
    max_positions: int | None = 128,
    d_model: int = 64,
    num_heads: int = 4,
    depth: int = 3,
    state_dim: int = 16,
    dropout: float = 0.0,
    mlp_expansion: int = 4,
    backend: Backend = "auto",
) -> ModelConfig:
    """A retained sum and a pair memory in each of depth separate blocks. 187,928 (d_model 60: 170,424)."""
    return ModelConfig(
        vocab_size=vocab_size,
        max_positions=max_positions,
        d_model=d_model,
        depth=depth,
        dropout=dropout,
        mixer=TripleLatentConfig(num_heads=num_heads, state_dim=state_dim, backend=backend),
        feed_forward=MLPConfig(expansion=mlp_expansion),
    )


def triple_slot(
    *,
    vocab_size: int = 259,
    max_positions: int | None = 128,
    d_model: int = 64,
    num_heads: int = 4,
    depth: int = 3,
    state_dim: int = 16,
    dropout: float = 0.0,
    mlp_expansion: int = 4,
    slots: int = 2,
    backend: Backend = "auto",
) -> ModelConfig:
    """Triple-Latent with learned slots for the pair memory. 188,024 (d_model 60: 170,520)."""
    return ModelConfig(
        vocab_size=vocab_size,
        max_positions=max_positions,
        d_model=d_model,
        depth=depth,
        dropout=dropout,
        mixer=TripleLatentConfig(num_heads=num_heads, state_dim=state_dim, num_slots=slots, backend=backend),
        feed_forward=MLPConfig(expansion=mlp_expansion),
    )


def triple_hybrid(
    *,
    vocab_size: int = 259,
    max_positions: int | None = 128,
    d_model: int = 64,
    num_heads: int = 4,
    depth: int = 3,
    state_dim: int = 16,
    dropout: float = 0.0,
    mlp_expansion: int = 4,
    kernel_size: int = 5,
    backend: Backend = "auto",
) -> ModelConfig:
    """Triple-Latent and a local convolution past its blocks to the head. 208,472 (d_model 56: 169,424)."""
    return ModelConfig(
        vocab_size=vocab_size,
        max_positions=max_positions,
        d_model=d_model,
        depth=depth,
        dropout=dropout,
        mixer=TripleLatentConfig(num_heads=num_heads, state_dim=state_dim, backend=backend),
        feed_forward=MLPConfig(expansion=mlp_expansion),
        convolution=ConvolutionConfig(kernel_size=kernel_size),
    )


PRESETS: dict[str, Callable[..., ModelConfig]] = {
    "transformer": transformer,
    "unimatrix-core": unimatrix_core,
    "unimatrix-rosa": unimatrix_rosa,
    "unimatrix-discovery": unimatrix_discovery,
    "unimatrix-assoc": unimatrix_assoc,
    "unimatrix-sparse-pointer": unimatrix_sparse_pointer,
    "triple-latent": triple_latent,
    "triple-slot": triple_slot,
    "triple-hybrid": triple_hybrid,
    "recurrent-ffn": recurrent_ffn,
    "recurrent-ffn-readout": recurrent_ffn_readout,
    "recurrent-ffn-hybrid": recurrent_ffn_hybrid,
}


def presets() -> dict[str, Callable[..., ModelConfig]]:
    """Preset names and the functions that return their configs (keyword arguments override)."""
    return dict(PRESETS)


def preset_config(name: str, **overrides: Any) -> AnyModelConfig:
    """The config of a preset, one of presets(), peer_presets() or task_presets().

    Raises:
        UserError: an unknown preset or override (the near ones are named), or a value that does not fit.
    """
    known = PRESETS | PEER_PRESETS | TASK_PRESETS
    if not isinstance(name, str):
        raise UserTypeError(f"preset: expected a name, got {shown(name)}")
    if name not in known:
        raise UserError(f"preset: unknown name {shown(name)}; {did_you_mean(name, known)}")
    hints = get_type_hints(known[name])
    hints.pop("return")
    check_known_settings(f"preset {name}", overrides, list(hints))
    for key, value in overrides.items():
        check_type(key, hints[key], value)
    return known[name](**overrides)


def build(name: str, **overrides: Any) -> AnyModel:
    """Build a preset with fresh weights, drawn from torch's global generator (seed it before).

    Args:
        name: a key of presets(), peer_presets() or task_presets().
        overrides: what differs from the preset's own settings, the arguments of its function. Of all:
            vocab_size, 259 for bytes (0..255, BOS, EOS, PAD), 64 for the recall task, 53 for
            triple-interaction; max_positions, learned positions, None for streams of any length; dropout. Of
            all but typed-latent: d_model, num_heads, depth. Then mlp_expansion, but for the recurrent FFNs,
            which have width (and, the Hybrid, local_width) in its place; qkv_init for these and the
            transformers; state_dim for the recurrent mixers, backend for whatever has ops of its own;
            deep_embed_rank and spectral_norm for unimatrix-discovery; temperature for unimatrix-assoc; slots,
            top_k, pointer, write_gate, write_gate_bias, memory_width and match_threshold for
            unimatrix-sparse-pointer; slots for triple-slot; kernel_size for triple-hybrid; rank for
            typed-latent. mamba2 has d_model, num_heads, depth, state_dim and chunk_length, no positions
            (max_positions is a limit alone) and no MLP.

    Raises:
        UserError: an unknown name or override (the near ones are named), a value that does not fit, or more
            weights than the machine has memory for (the estimate is named).
    """
    config = preset_config(name, **overrides)
    check_memory(config, what=f"preset {name}")
    return model_from_config(config)


def build_language_model(name: str, **overrides: Any) -> LanguageModel:
    """`build`, for what needs the general language model; a UserError for a preset of another kind."""
    config = preset_config(name, **overrides)
    if not isinstance(config, ModelConfig):
        why = "is a peer's" if name in PEER_PRESETS else "knows one task's tokens alone"
        raise UserError(f"preset {name}: {why}, expected a language model of this library's own")
    check_memory(config, what=f"preset {name}")
    return LanguageModel(config)
