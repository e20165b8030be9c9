"""How far a fast form may be from the reference: one table, relative root mean square, by quantity and dtype.

A test may not bring its own number; loosening one here needs an entry in docs/log.md.
"""

import torch
from torch import Tensor

TOLERANCE = {
    ("output", torch.float64): 1e-12,
    ("output", torch.float32): 5e-6,
    ("state", torch.float64): 1e-12,
    ("state", torch.float32): 5e-6,
    ("gradient", torch.float64): 1e-11,
    ("gradient", torch.float32): 1e-5,
    ("output", torch.bfloat16): 2e-2,
    ("state", torch.bfloat16): 2e-2,
    ("logits", torch.float32): 1e-5,
}


def relative_error(got: Tensor, expected: Tensor) -> float:
    """RMS of the difference over that of the expected; absolute where the expected is all zero."""
    difference = (got.double() - expected.double()).square().mean().sqrt().item()
    scale = expected.double().square().mean().sqrt().item()
    return difference / scale if scale > 0 else difference


def assert_close(got: Tensor, expected: Tensor, quantity: str, dtype: torch.dtype | None = None) -> None:
    """Same shape, finite, and within TOLERANCE of the quantity."""
    assert got.shape == expected.shape, (
        f"{quantity}: shape {list(got.shape)}, expected {list(expected.shape)}"
    )
    assert torch.isfinite(got).all(), f"{quantity}: not finite"
    if got.numel() == 0:
        return
    error = relative_error(got, expected)
    limit = TOLERANCE[quantity, dtype or expected.dtype]
    assert error <= limit, f"{quantity}: relative error {error:.2e}, allowed {limit:.0e}"
