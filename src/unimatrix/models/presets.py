"""The models by name. A preset is a value, edited from another; PRESETS lists them with what they are.

The counts are those the paper prints (V = 259 bytes; V = 64 for recall, both with 128 positions); tests count
the built models against them. Those made for one task alone are in unimatrix.models.task_presets, other
people's models in peer_presets.
"""

from typing import Any

from unimatrix.errors import UserError, UserTypeError, did_you_mean, shown
from unimatrix.mixers import (
    AssociativeMemoryConfig,
    AttentionConfig,
    ConvolutionConfig,
    DeepEmbedConfig,
    GatedMLPConfig,
    MatrixStateConfig,
    MLPConfig,
    PreviousTokenRoutingConfig,
    RecurrentFFNConfig,
    RMSNormConfig,
    ScaledHeadConfig,
    SlotMemoryConfig,
    StepEmbeddingsConfig,
    SuffixRoutingConfig,
    SuffixVotesConfig,
    TripleLatentConfig,
)
from unimatrix.models.config import ModelConfig, Parts
from unimatrix.models.estimate import check_memory
from unimatrix.models.kinds import AnyModel, AnyModelConfig, Preset, is_model_config, model_from_config
from unimatrix.models.language_model import LanguageModel
from unimatrix.models.peer_presets import PEER_PRESETS
from unimatrix.models.settings import edit
from unimatrix.models.task_presets import TASK_PRESETS

TRANSFORMER = ModelConfig(layers=(Parts(mixer=AttentionConfig(), feed_forward=MLPConfig()),) * 3)
CORE = ModelConfig(
    layers=(Parts(mixer=MatrixStateConfig(), feed_forward=MLPConfig()),),
    order=(0, 0, 0),
)
ROSA = edit(CORE, {"parts.routing": PreviousTokenRoutingConfig()})
DISCOVERY = edit(
    ROSA,
    {
        "rule_mixing": True,
        "spectral_norm": True,
        "parts.deep_embed": DeepEmbedConfig(),
        "parts.steps": StepEmbeddingsConfig(),
    },
)
ROSA_EXACT = edit(ROSA, {"parts.routing": SuffixRoutingConfig()})
DISCOVERY_EXACT = edit(DISCOVERY, {"parts.routing": SuffixRoutingConfig()})
ASSOC = edit(CORE, {"layers.0.associations": AssociativeMemoryConfig()})
SPARSE_POINTER = edit(CORE, {"parts.memory": SlotMemoryConfig()})
TRIPLE_LATENT = edit(TRANSFORMER, {"layers.*.mixer": TripleLatentConfig()})
TRIPLE_SLOT = edit(TRIPLE_LATENT, {"num_slots": 2})
TRIPLE_HYBRID = edit(TRIPLE_LATENT, {"parts.convolution": ConvolutionConfig()})
RECURRENT_FFN = edit(TRANSFORMER, {"layers.*.feed_forward": RecurrentFFNConfig()})
RECURRENT_FFN_READOUT = edit(RECURRENT_FFN, {"query": True})
RECURRENT_FFN_HYBRID = edit(RECURRENT_FFN_READOUT, {"local": True})

TRANSFORMER_MODERN = edit(
    TRANSFORMER,
    {
        "max_positions": None,
        "rotary_base": 10_000.0,
        "qk_norm": True,
        "layers.*.feed_forward": GatedMLPConfig(),
        "norm": RMSNormConfig(),
    },
)
# chosen by what single runs said (docs/log.md); its ablation is in docs/results.md
UNIMATRIX = ModelConfig(
    layers=(
        Parts(
            mixer=MatrixStateConfig(kernel_size=4, idle_diag=False, output_norm=True),
            feed_forward=GatedMLPConfig(expansion=4.5, gain=0.5),
        ),
    )
    * 2,
    parts=Parts(suffix=SuffixVotesConfig(gate=True)),
    head=ScaledHeadConfig(scale=12.0),
    max_positions=None,
    init_std=0.01,
)
HYBRID = edit(CORE, {"order": (0, 1, 2), "layers.1.mixer": AttentionConfig()})

PRESETS: dict[str, Preset] = {
    "unimatrix": Preset(
        UNIMATRIX,
        "Two matrix-state layers and votes for what followed the longest match. 171,033 (V = 64: 158,553).",
        use="text, exact recall and streams in one model",
    ),
    "transformer": Preset(
        TRANSFORMER,
        "The baseline: causal attention, depth separate blocks. 174,848 parameters (V = 64: 162,368).",
        use="the attention baseline",
    ),
    "unimatrix-core": Preset(
        CORE,
        "One matrix-state block shared across depth, outer-product writes. 83,140 (V = 64: 70,660).",
        use="text of any length in one small state",
    ),
    "unimatrix-rosa": Preset(
        ROSA,
        "Core and the residual routing path. 103,876 (V = 64: 78,916).",
        use="Core, and a path from the token before",
    ),
    "unimatrix-discovery": Preset(
        DISCOVERY,
        "ROSA, rule mixing, DeepEmbed, step embeddings, spectral normalisation. 115,184 (V = 64: 83,984).",
        use="studying write rules: all extras at once",
    ),
    "unimatrix-rosa-exact": Preset(
        ROSA_EXACT,
        "ROSA by an exact suffix automaton over the whole text. 103,876 (V = 64: 78,916).",
        use="ROSA with an exact look-up of the longest match",
    ),
    "unimatrix-discovery-exact": Preset(
        DISCOVERY_EXACT,
        "Discovery with ROSA by an exact suffix automaton. 115,184 (V = 64: 83,984).",
        use="all extras, with that exact look-up",
    ),
    "unimatrix-assoc": Preset(
        ASSOC,
        "Core and cosine attention over all earlier positions; its state grows. V = 64: 87,108.",
        use="looking back at every earlier position",
    ),
    "unimatrix-sparse-pointer": Preset(
        SPARSE_POINTER,
        "Core and a few slots of exact bindings that vote for tokens. V = 64: 75,014.",
        use="recall of a few pairs in a state of one size",
    ),
    "triple-latent": Preset(
        TRIPLE_LATENT,
        "A retained sum and a pair memory in each of depth separate blocks. 187,928 (d_model 60: 170,424).",
        use="text, by a memory of pairs of tokens",
    ),
    "triple-slot": Preset(
        TRIPLE_SLOT,
        "Triple-Latent with learned slots for the pair memory. 188,024 (d_model 60: 170,520).",
        use="text, in a state of 2 kB",
    ),
    "triple-hybrid": Preset(
        TRIPLE_HYBRID,
        "Triple-Latent and a local convolution past its blocks to the head. 208,472 (d_model 56: 169,424).",
        use="the lowest bits per byte of Table 2",
    ),
    "recurrent-ffn": Preset(
        RECURRENT_FFN,
        "The transformer with a small recurrent memory in each MLP's place. 173,888 (V = 64: 161,408).",
        use="studying recurrence in the MLP's place",
    ),
    "recurrent-ffn-readout": Preset(
        RECURRENT_FFN_READOUT,
        "Recurrent-FFN whose reads are chosen by the token. 198,464 (V = 64: 185,984).",
        use="Recurrent-FFN, its reads chosen by the token",
    ),
    "recurrent-ffn-hybrid": Preset(
        RECURRENT_FFN_HYBRID,
        "Recurrent-FFN-Readout at half the width, and a local gated branch. 174,080 (V = 64: 161,600).",
        use="Recurrent-FFN, with a local branch beside it",
    ),
    "transformer-modern": Preset(
        TRANSFORMER_MODERN,
        "Rotary positions, normalised q and k, a gated MLP, RMSNorm. 163,712 (V = 64: 151,232).",
        use="attention as it is built today",
    ),
    "unimatrix-hybrid": Preset(
        HYBRID,
        "Two matrix-state layers with one of attention between them. 191,368 (V = 64: 178,888).",
        use="a small state, and one layer that looks back",
    ),
}


def presets() -> dict[str, AnyModelConfig]:
    """The presets' names and configs."""
    return {name: preset.config for name, preset in PRESETS.items()}


def preset_config(preset: str | AnyModelConfig, /, **changes: Any) -> AnyModelConfig:
    """The config of a preset, with changes by path (`unimatrix.models.settings`); a config stays what it is.

    Raises:
        UserError: an unknown preset or setting (the near ones are named), or a value that does not fit.
    """
    if is_model_config(preset):
        return edit(preset, changes)
    known = PRESETS | PEER_PRESETS | TASK_PRESETS
    if not isinstance(preset, str):
        raise UserTypeError(f"preset: expected a name or a model's config, got {shown(preset)}")
    if preset not in known:
        raise UserError(f"preset: unknown name {shown(preset)}; {did_you_mean(preset, known)}")
    return edit(known[preset].config, changes, what=f"preset {preset}")


def build(name: str | AnyModelConfig, /, **changes: Any) -> AnyModel:
    """Build a model with fresh weights, drawn from torch's global generator (seed it before).

    Args:
        name: a preset, a key of presets(), peer_presets() or task_presets(); or a config.
        changes: what differs from it, by the name of the setting: vocab_size (259 for bytes: 0..255, BOS,
            EOS, PAD; 64 for the recall task, 53 for triple-interaction), max_positions (learned positions,
            None for streams of any length), d_model, num_heads, depth, state_dim, dropout; any setting of
            any of its parts (`unimatrix.parts()`), such as slots, top_k or qkv_init; or a whole path, as in
            **{"parts.memory.num_slots": 16, "layers.1.mixer": AttentionConfig()}. See
            `unimatrix.models.settings`.

    Raises:
        UserError: an unknown name or setting (the near ones are named), a value that does not fit, or more
            weights than the machine has memory for (the estimate is named).
    """
    config = preset_config(name, **changes)
    check_memory(config, what=f"preset {name}" if isinstance(name, str) else "model")
    return model_from_config(config)


def build_language_model(name: str, **changes: Any) -> LanguageModel:
    """`build`, for what needs the general language model; a UserError for a preset of another kind."""
    config = preset_config(name, **changes)
    if not isinstance(config, ModelConfig):
        why = "is a peer's" if name in PEER_PRESETS else "knows one task's tokens alone"
        raise UserError(f"preset {name}: {why}, expected a language model of this library's own")
    check_memory(config, what=f"preset {name}")
    return LanguageModel(config)
