"""A pointer's votes on the logits: what memories that keep token ids have in common.

Letters: D model width, V vocabulary, k entries that were read.
"""

import torch
from torch import Tensor, nn

from unimatrix.ops.shapes import Stream


def pointer_votes(gate: nn.Linear, h: Stream, weights: Tensor, token_ids: Tensor, vocab_size: int) -> Tensor:
    """What the pointer adds to the logits, [..., V]: eq. (14) of the paper times a gate of h [..., D].

    weights, token_ids: [..., k], of the reads. The gate is a sigmoid: a vote adds at most 1 to a logit.
    """
    pointer = weights.new_zeros(*h.shape[:-1], vocab_size)
    # an empty entry's weight is 0: it may vote for token 0
    pointer = pointer.scatter_add(-1, token_ids.clamp_min(0), weights)
    return torch.sigmoid(gate(h)) * pointer.to(h.dtype)
