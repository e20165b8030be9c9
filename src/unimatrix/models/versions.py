"""Version numbers of what a model's numbers depend on besides its settings.

One is raised by hand whenever the same settings come to give other numbers: results of the version before are
then no longer taken for those of this one (see unimatrix.paper.identity). A change of rounding raises none.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from unimatrix.models.kinds import AnyModelConfig

# by the kind of a model or of a part of it (part and op together), or by a setting that is switched on
VERSIONS: dict[str, int] = {
    "language_model": 1,
    "mamba2": 1,
    "typed_latent": 1,
    "attention": 1,
    "matrix_state": 1,
    # in 1 the weights were drawn again after the normalisation had got to know them
    "spectral_norm": 2,
    "triple_latent": 1,
    "mlp": 1,
    "recurrent_ffn": 1,
    "previous_token": 1,
    "deep_embed": 1,
    "convolution": 1,
    "classes": 1,
    "associative": 1,
    "slots": 1,
}


def versions_of(config: AnyModelConfig) -> dict[str, int]:
    """The version number of everything that a model of this config is made of."""
    values = config.to_dict()
    return {name: VERSIONS[name] for name in _names({"kind": "language_model"} | values) if name in VERSIONS}


def _names(values: Mapping[str, Any]) -> Iterator[str]:
    yield values["kind"]
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _names(value)
        elif value is True:
            yield name
