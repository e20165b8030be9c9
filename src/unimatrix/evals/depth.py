"""A trained model with its one shared layer applied more often than in training, or less often."""

from dataclasses import replace

import torch
from torch import nn

from unimatrix.errors import UserError
from unimatrix.mixers import StepEmbeddings
from unimatrix.models import LanguageModel
from unimatrix.models.upgrade import MAX_DEPTH
from unimatrix.ops.shapes import check_count


def at_depth(model: nn.Module, depth: int) -> LanguageModel:
    """A copy of the model with the same weights, whose one layer is applied `depth` times.

    Step embeddings, a vector for each depth step, have no more of them than in training: fewer steps take the
    first ones, and every step beyond the trained ones takes the last one's vector again.

    Raises:
        UserError: the model has several layers, which nobody can apply more often and call it the same
            model, or the depth is no count.
    """
    check_count("depth", depth, MAX_DEPTH, limit="the largest depth")
    if not isinstance(model, LanguageModel) or len(model.config.layers) != 1:
        layers = f"{len(model.config.layers)} layers" if isinstance(model, LanguageModel) else "another"
        raise UserError(
            f"depth: expected a language model of one layer that is shared over depth, got {layers}"
        )
    # weights are drawn and then overwritten: the global generator is left as it was
    with torch.random.fork_rng(devices=[]):
        other = LanguageModel(replace(model.config, order=(0,) * depth))
    weight = model.embedding.weight
    other.to(device=weight.device, dtype=weight.dtype)
    weights = model.state_dict()
    for name, part in other.named_modules():
        if isinstance(part, StepEmbeddings):
            trained = weights[f"{name}.weight"]
            steps = torch.arange(depth, device=trained.device).clamp_max(len(trained) - 1)
            weights[f"{name}.weight"] = trained[steps]
    other.load_state_dict(weights)
    return other.train(model.training)
