"""The parts that models are made of: nn.Modules, each beside its config (`unimatrix.mixers.part`)."""

from torch import nn

from unimatrix.mixers.associative import AssociativeMemory, AssociativeMemoryConfig, AssociativeState
from unimatrix.mixers.attention import AttentionConfig, AttentionState, CausalAttention
from unimatrix.mixers.context_votes import ContextVotes, ContextVotesConfig, ContextVotesState
from unimatrix.mixers.convolution import ConvolutionConfig, ConvolutionState, LocalConvolution
from unimatrix.mixers.feed_forward import MLP, MLPConfig
from unimatrix.mixers.gated_mlp import GatedMLP, GatedMLPConfig
from unimatrix.mixers.head import ClassHeadConfig, HeadConfig, ScaledHeadConfig, TiedHeadConfig
from unimatrix.mixers.lstm import LSTMConfig, LSTMMixer, LSTMState
from unimatrix.mixers.m2rnn import M2RNNConfig, M2RNNMixer, M2RNNState
from unimatrix.mixers.matrix_state import MatrixStateConfig, MatrixStateMixer, MatrixStateMixerState
from unimatrix.mixers.modulation import DeepEmbed, DeepEmbedConfig, StepEmbeddings, StepEmbeddingsConfig
from unimatrix.mixers.norm import LayerNormConfig, RMSNormConfig
from unimatrix.mixers.older_weights import upgrade_weights
from unimatrix.mixers.part import Given, Part, Reading, Size
from unimatrix.mixers.recurrent_ffn import RecurrentFFN, RecurrentFFNConfig, RecurrentFFNState
from unimatrix.mixers.registry import PartConfig, RegisteredPart, parts, register
from unimatrix.mixers.routing import PreviousTokenRouting, PreviousTokenRoutingConfig, RoutingState
from unimatrix.mixers.slot_memory import Recalled, SlotMemory, SlotMemoryConfig, SlotMemoryMixerState
from unimatrix.mixers.spectral import SpectralLinear
from unimatrix.mixers.suffix_automaton import (
    SuffixRouting,
    SuffixRoutingConfig,
    SuffixRoutingState,
    SuffixVotesConfig,
)
from unimatrix.mixers.surprise_store import SurpriseStore, SurpriseStoreConfig, SurpriseStorePartState
from unimatrix.mixers.triple_latent import TripleLatentConfig, TripleLatentMixer

__all__ = [
    "MLP",
    "AssociativeMemory",
    "AssociativeMemoryConfig",
    "AssociativeState",
    "AttentionConfig",
    "AttentionState",
    "CausalAttention",
    "ClassHeadConfig",
    "ContextVotes",
    "ContextVotesConfig",
    "ContextVotesState",
    "ConvolutionConfig",
    "ConvolutionState",
    "DeepEmbed",
    "DeepEmbedConfig",
    "GatedMLP",
    "GatedMLPConfig",
    "Given",
    "HeadConfig",
    "LSTMConfig",
    "LSTMMixer",
    "LSTMState",
    "LayerNormConfig",
    "LocalConvolution",
    "M2RNNConfig",
    "M2RNNMixer",
    "M2RNNState",
    "MLPConfig",
    "MatrixStateConfig",
    "MatrixStateMixer",
    "MatrixStateMixerState",
    "Part",
    "PartConfig",
    "PreviousTokenRouting",
    "PreviousTokenRoutingConfig",
    "RMSNormConfig",
    "Reading",
    "Recalled",
    "RecurrentFFN",
    "RecurrentFFNConfig",
    "RecurrentFFNState",
    "RegisteredPart",
    "RoutingState",
    "ScaledHeadConfig",
    "Size",
    "SlotMemory",
    "SlotMemoryConfig",
    "SlotMemoryMixerState",
    "SpectralLinear",
    "StepEmbeddings",
    "StepEmbeddingsConfig",
    "SuffixRouting",
    "SuffixRoutingConfig",
    "SuffixRoutingState",
    "SuffixVotesConfig",
    "SurpriseStore",
    "SurpriseStoreConfig",
    "SurpriseStorePartState",
    "TiedHeadConfig",
    "TripleLatentConfig",
    "TripleLatentMixer",
    "parts",
    "register",
    "upgrade_weights",
]

register(CausalAttention, AttentionConfig)
register(MatrixStateMixer, MatrixStateConfig)
register(TripleLatentMixer, TripleLatentConfig)
register(M2RNNMixer, M2RNNConfig)
register(LSTMMixer, LSTMConfig)
register(AssociativeMemory, AssociativeMemoryConfig)
register(MLP, MLPConfig)
register(GatedMLP, GatedMLPConfig)
register(RecurrentFFN, RecurrentFFNConfig)
register(PreviousTokenRouting, PreviousTokenRoutingConfig)
register(SuffixRouting, SuffixRoutingConfig)
register(SuffixRouting, SuffixVotesConfig)
register(ContextVotes, ContextVotesConfig)
register(SlotMemory, SlotMemoryConfig)
register(SurpriseStore, SurpriseStoreConfig)
register(DeepEmbed, DeepEmbedConfig)
register(StepEmbeddings, StepEmbeddingsConfig)
register(LocalConvolution, ConvolutionConfig)
register(nn.LayerNorm, LayerNormConfig)
register(nn.RMSNorm, RMSNormConfig)
register(nn.Linear, TiedHeadConfig)
register(nn.Linear, ScaledHeadConfig)
register(nn.Linear, ClassHeadConfig)
