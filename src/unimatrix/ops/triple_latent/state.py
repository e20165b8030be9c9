"""What the triple latent carries from token to token, and how addresses spread a vector over slots."""

from typing import NamedTuple

from torch import Tensor


class TripleLatentState(NamedTuple):
    """Both of one size however long the text; float32, or float64 for float64 inputs."""

    sum: Tensor  # [B, H, S], the retained sum
    pairs: Tensor  # [B, H, S, S], the pair memory; [B, H, M, S] with M slots


def address(vectors: Tensor, addresses: Tensor | None) -> Tensor:
    """The vectors [..., S] themselves, or their softmax weights [..., M] over slots with addresses [M, S]."""
    if addresses is None:
        return vectors
    return (vectors @ addresses.to(vectors.dtype).mT).softmax(-1)
