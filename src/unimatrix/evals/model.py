"""What an evaluation has to know and do about any model, ours or not."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from unimatrix.data.documents import check_bytes
from unimatrix.errors import NotFinite, UserError
from unimatrix.memory import host_bytes


def max_positions(model: nn.Module) -> int | None:
    """The longest sequence that the model has positions for; None where it has none, or does not say."""
    return getattr(getattr(model, "config", None), "max_positions", None)


def vocab_size(model: nn.Module) -> int | None:
    """How many tokens the model knows; None where it does not say."""
    return getattr(getattr(model, "config", None), "vocab_size", None)


def device_of(model: nn.Module) -> torch.device:
    """Where the model's first parameter is; the CPU without parameters."""
    for parameter in model.parameters():
        return parameter.device
    return torch.device("cpu")


def memory_of(device: torch.device) -> int | None:
    """Bytes of memory where the device computes; None where nobody says."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return host_bytes() if device.type in ("cpu", "mps") else None


def sum_dtype(device: torch.device) -> torch.dtype:
    """What long sums are kept in: float64, or float32 on MPS, which has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def check_text(data: np.ndarray) -> None:
    """Raise a UserError unless it is a text as bytes, uint8 [N], with a byte to predict."""
    check_bytes("evaluation text", data)
    if len(data) == 0:
        raise UserError("evaluation text: expected at least 1 byte, got none")


def check_finite(loss: float, *, unit: str) -> None:
    """Raise a NotFinite unless a loss, in nats per `unit`, is a finite number."""
    if not math.isfinite(loss):
        raise NotFinite(f"evaluation: expected a finite loss, got {loss:g} nats per {unit}")


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within the block the model is in evaluation mode and nothing keeps gradients; then as before."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(was_training)
