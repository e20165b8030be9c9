"""Modules that mix information over time or channels: forward(x, state=None, *, mask=None) -> (y, state)."""

from unimatrix.mixers.associative import AssociativeMemory, AssociativeState
from unimatrix.mixers.attention import AttentionState, CausalAttention
from unimatrix.mixers.convolution import ConvolutionState, LocalConvolution
from unimatrix.mixers.feed_forward import MLP
from unimatrix.mixers.matrix_state import MatrixStateMixer, MatrixStateMixerState
from unimatrix.mixers.modulation import DeepEmbed
from unimatrix.mixers.older_weights import upgrade_weights
from unimatrix.mixers.recurrent_ffn import RecurrentFFN, RecurrentFFNState
from unimatrix.mixers.routing import PreviousTokenRouting, RoutingState
from unimatrix.mixers.slot_memory import Recalled, SlotMemory, SlotMemoryMixerState
from unimatrix.mixers.spectral import SpectralLinear
from unimatrix.mixers.triple_latent import TripleLatentMixer

__all__ = [
    "MLP",
    "AssociativeMemory",
    "AssociativeState",
    "AttentionState",
    "CausalAttention",
    "ConvolutionState",
    "DeepEmbed",
    "LocalConvolution",
    "MatrixStateMixer",
    "MatrixStateMixerState",
    "PreviousTokenRouting",
    "Recalled",
    "RecurrentFFN",
    "RecurrentFFNState",
    "RoutingState",
    "SlotMemory",
    "SlotMemoryMixerState",
    "SpectralLinear",
    "TripleLatentMixer",
    "upgrade_weights",
]
