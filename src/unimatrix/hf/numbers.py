"""Weights that training has driven to NaN or infinity give no text: who generates from them is told which."""

import torch
from torch import Tensor, nn
from transformers import LogitsProcessor

from unimatrix.codec import described, fits
from unimatrix.errors import UserError, UserTypeError, shown


def check_plain(name: str, value: object, kind: type) -> None:
    """Raise a UserError unless a setting is of this plain type (int, float, bool), or None."""
    if value is not None and not fits(value, kind):
        raise UserTypeError(f"{name}: expected {described(kind)} or None, got {shown(value)}")


def check_weights(model: nn.Module, *, name: str = "model") -> None:
    """Raise a UserError for weights that are not finite: `name`, and the first of them."""
    for weight, tensor in model.state_dict().items():
        # the sum, in one pass and no copy, is finite only if all are, but overflows in float16
        if tensor.is_floating_point() and not (tensor.sum().isfinite() or tensor.isfinite().all()):
            raise UserError(f"{name}: the weights hold NaN or infinities, in {weight}")


class NumbersOnly(LogitsProcessor):
    """Raises a UserError for logits from which no token can be chosen."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        check_logits(self._model, scores)
        return scores


def check_logits(model: nn.Module, logits: Tensor) -> None:
    """Raise a UserError if the logits hold NaN or infinity, naming the weights that do if any does.

    -infinity is a token that is ruled out.
    """
    if not bool((logits < torch.inf).all()):
        with torch.no_grad():
            check_weights(model)
        raise UserError("model: the logits hold NaN or infinity, though the weights are finite")
