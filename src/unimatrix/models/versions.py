"""Version numbers of what a model's numbers depend on besides its settings.

One is raised by hand whenever the same settings come to give other numbers: results of the version before are
then no longer taken for those of this one (see unimatrix.lab.identity). A change of rounding raises none. A
part's own stands with its config (`PartConfig.version`, `versions`).
"""

from unimatrix.models.config import ModelConfig
from unimatrix.models.kinds import AnyModelConfig

LANGUAGE_MODEL = 1
PEERS = {"mamba2": 1, "typed_latent": 1}


def versions_of(config: AnyModelConfig) -> dict[str, int]:
    """The version number of everything that a model of this config is made of."""
    if not isinstance(config, ModelConfig):
        return {config.kind: PEERS[config.kind]}
    found = {"language_model": LANGUAGE_MODEL}
    for part in config.all_parts.values():
        found |= part.versions()
    return found
