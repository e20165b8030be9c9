"""One block of a language model: a mixer over time and a feed-forward layer, whichever the config names."""

from typing import Any, NamedTuple

from torch import nn

from unimatrix.mixers import (
    MLP,
    AssociativeMemory,
    AssociativeState,
    CausalAttention,
    MatrixStateMixer,
    RecurrentFFN,
    RecurrentFFNState,
    TripleLatentMixer,
)
from unimatrix.models.config import (
    AssociativeMemoryConfig,
    AttentionConfig,
    MatrixStateConfig,
    ModelConfig,
    RecurrentFFNConfig,
    TripleLatentConfig,
)
from unimatrix.ops.shapes import Stream, TokenMask


class BlockState(NamedTuple):
    """What one depth step carries; None starts afresh, or there is nothing to carry."""

    mixer: Any = None
    associations: AssociativeState | None = None
    feed_forward: RecurrentFFNState | None = None


class Block(nn.Module):
    """x += mixer(LayerNorm(x)), then x += feed_forward(LayerNorm(x)); dropout on what is added."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.mixer_norm = nn.LayerNorm(config.d_model)
        self.mixer = _build_mixer(config)
        self.feed_forward_norm = nn.LayerNorm(config.d_model)
        self.feed_forward = _build_feed_forward(config)
        self.dropout = nn.Dropout(config.dropout)
        self.associations = None
        if isinstance(config.memory, AssociativeMemoryConfig):
            self.associations = AssociativeMemory(config.d_model, temperature=config.memory.temperature)

    def state_layout(self) -> BlockState:
        """What its state looks like, see `unimatrix.mixers.layout`."""
        mixer: Any = self.mixer
        return BlockState(
            mixer.state_layout(),
            None if self.associations is None else self.associations.state_layout(),
            self.feed_forward.state_layout() if isinstance(self.feed_forward, RecurrentFFN) else None,
        )

    def forward(
        self, x: Stream, state: BlockState, *, mask: TokenMask | None, context: Stream | None
    ) -> tuple[Stream, BlockState]:
        """[B, T, D] to [B, T, D] and the next state."""
        u = self.mixer_norm(x)
        if context is None:
            y, mixed = self.mixer(u, state.mixer, mask=mask)
        else:
            y, mixed = self.mixer(u, state.mixer, mask=mask, context=context)
        associations = None
        if self.associations is not None:
            retrieved, associations = self.associations(u, state.associations, mask=mask)
            y = y + retrieved
        x = x + self.dropout(y)
        u = self.feed_forward_norm(x)
        fed = None
        if isinstance(self.feed_forward, RecurrentFFN):
            y, fed = self.feed_forward(u, state.feed_forward, mask=mask)
        else:
            y = self.feed_forward(u)
        return x + self.dropout(y), BlockState(mixed, associations, fed)


def _build_mixer(config: ModelConfig) -> nn.Module:
    mixer = config.mixer
    if isinstance(mixer, AttentionConfig):
        return CausalAttention(config.d_model, mixer.num_heads)
    if isinstance(mixer, TripleLatentConfig):
        return TripleLatentMixer(
            config.d_model,
            mixer.num_heads,
            mixer.state_dim,
            num_slots=mixer.num_slots,
            backend=mixer.backend,
        )
    assert isinstance(mixer, MatrixStateConfig)
    return MatrixStateMixer(
        config.d_model,
        mixer.num_heads,
        mixer.state_dim,
        rule_mixing=mixer.rule_mixing,
        spectral_norm=mixer.spectral_norm,
        backend=mixer.backend,
    )


def _build_feed_forward(config: ModelConfig) -> MLP | RecurrentFFN:
    part = config.feed_forward
    if not isinstance(part, RecurrentFFNConfig):
        return MLP(config.d_model, part.expansion)
    return RecurrentFFN(
        config.d_model, part.width, query=part.query, local_width=part.local_width, backend=part.backend
    )
