"""What the triple latent refuses, and in which words."""

import pytest
import torch
from torch import Tensor

from unimatrix import UserError
from unimatrix.ops import TripleLatentState, triple_latent

SUM, PAIRS = torch.zeros(2, 3, 8), torch.zeros(2, 3, 8, 8)


def make_inputs(dim: int = 8, slots: int | None = None) -> dict[str, Tensor]:
    inputs = {name: torch.zeros(2, 6, 3, dim) for name in ("a", "b", "q_l", "q_r")}
    inputs |= {name: torch.zeros(2, 6, 3) for name in ("log_retention", "log_pair_retention")}
    return inputs if slots is None else inputs | {"addresses": torch.zeros(slots, dim)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backend": "chunkd"}, "did you mean 'chunked'"),
        ({"a": torch.zeros(2, 6, 8)}, r"a: expected \[batch, time, heads, state_dim\], got \[2, 6, 8\]"),
        ({"b": torch.zeros(2, 6, 3, 4)}, r"b: expected shape \[2, 6, 3, 8\], got \[2, 6, 3, 4\]"),
        ({"q_l": torch.zeros(2, 5, 3, 8)}, "q_l: expected"),
        ({"q_r": torch.zeros(2, 6, 2, 8)}, "q_r: expected"),
        ({"log_retention": torch.zeros(2, 6)}, r"log_retention: expected shape \[2, 6, 3\]"),
        ({"log_pair_retention": torch.zeros(2, 6, 3, 1)}, "log_pair_retention: expected"),
        ({"addresses": torch.zeros(5, 4)}, r"addresses: expected \[slots, 8\], got \[5, 4\]"),
        ({"addresses": torch.zeros(0, 8)}, "addresses: expected"),
        ({"state": TripleLatentState(torch.zeros(2, 8), PAIRS)}, r"state.sum: expected shape \[2, 3, 8\]"),
        (
            {"state": TripleLatentState(SUM, torch.zeros(2, 3, 5, 8))},
            r"state.pairs: expected shape \[2, 3, 8, 8\]",
        ),
        (
            {"addresses": torch.zeros(5, 8), "state": TripleLatentState(SUM, PAIRS)},
            r"state.pairs: expected shape \[2, 3, 5, 8\], got \[2, 3, 8, 8\]",
        ),
    ],
)
def test_wrong_arguments_are_named(change, message):
    with pytest.raises(UserError, match=message):
        triple_latent(**make_inputs() | change)


@pytest.mark.parametrize(
    ("dim", "slots", "why"),
    [
        (12, None, "power of two from 2 to 32, got 12"),
        (64, 2, "power of two from 2 to 32, got 64"),
        (8, 33, "at most 32 slots, got 33"),
    ],
)
def test_compiled_says_why_it_cannot_run(dim, slots, why):
    with pytest.raises(UserError, match=f"backend 'compiled' of triple_latent cannot run here: .*{why}"):
        triple_latent(**make_inputs(dim, slots), backend="compiled")
