"""Presets of other people's models, to compare with: same training, same tasks, about as many parameters.

The counts are for V = 259 bytes (V = 64 for recall); tests count the built models.
"""

from unimatrix.mixers import LSTMConfig, M2RNNConfig, MLPConfig, RMSNormConfig
from unimatrix.models.config import ModelConfig, Parts
from unimatrix.models.kinds import AnyModelConfig, Preset
from unimatrix.models.mamba2 import Mamba2Config

M2RNN = ModelConfig(
    layers=(Parts(mixer=M2RNNConfig(), feed_forward=MLPConfig()),) * 3,
    max_positions=None,
    norm=RMSNormConfig(),
)

LSTM = ModelConfig(
    layers=(Parts(mixer=LSTMConfig()),) * 2, d_model=90, max_positions=None, norm=RMSNormConfig()
)

PEER_PRESETS: dict[str, Preset] = {
    "mamba2": Preset(
        Mamba2Config(),
        "Mamba-2, transformers' own: a selective recurrence, separate blocks. 174,008 (V = 64: 161,528).",
        use="Mamba-2 of transformers, to compare with",
    ),
    "m2rnn": Preset(
        M2RNN,
        "M2RNN from its equation: a matrix goes through a tanh, separate blocks. 173,810 (V = 64: 161,330).",
        use="M2RNN, to compare with",
    ),
    "lstm": Preset(
        LSTM,
        "torch's LSTM, separate blocks without an MLP. 171,000 (V = 64: 153,450).",
        use="an LSTM, to compare with",
    ),
}


def peer_presets() -> dict[str, AnyModelConfig]:
    """Names and configs of the peers' presets."""
    return {name: preset.config for name, preset in PEER_PRESETS.items()}
