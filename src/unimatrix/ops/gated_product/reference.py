"""The gated product: the equation itself, in plain torch, which runs on any device."""

import torch.nn.functional as F
from torch import Tensor


def gated_product_reference(gate_and_up: Tensor) -> Tensor:
    """silu(gate) * up; arguments as in `gated_product`, already checked."""
    gate, up = gate_and_up.chunk(2, dim=-1)
    return F.silu(gate) * up
