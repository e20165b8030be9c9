"""Presets made for one task alone, triple-interaction: its answers' classes, its vocabulary, its length.

The counts are those the paper prints (V = 53, 49 positions); tests count the built models.
"""

from unimatrix.data.tasks.triple_interaction import Symbols
from unimatrix.mixers import AttentionConfig, ClassHeadConfig, MLPConfig
from unimatrix.models.config import ModelConfig, Parts
from unimatrix.models.kinds import AnyModelConfig, Preset
from unimatrix.models.typed_latent import TypedLatentConfig

_SYMBOLS = Symbols()

TASK_PRESETS: dict[str, Preset] = {
    "transformer-triple": Preset(
        ModelConfig(
            vocab_size=53,
            max_positions=49,
            layers=(Parts(mixer=AttentionConfig(), feed_forward=MLPConfig()),) * 2,
            head=ClassHeadConfig(num_classes=_SYMBOLS.num_values, first_token=_SYMBOLS.first_value),
        ),
        "The attention baseline: two blocks, a head of 16 classes. 107,664 parameters.",
        use="that task's attention baseline",
    ),
    "typed-latent": Preset(
        TypedLatentConfig(vocab_size=53, max_positions=49, rank=288),
        "Parses the bindings, knows three rules, learns the table of the fourth. 18,496 parameters.",
        use="that task, with its rules built in",
    ),
}


def task_presets() -> dict[str, AnyModelConfig]:
    """Names and configs of the presets for one task."""
    return {name: preset.config for name, preset in TASK_PRESETS.items()}
