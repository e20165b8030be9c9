"""The slot memory as its tests run it: all that comes out, every gradient, and when two runs are the same."""

import torch
from tolerances import assert_close
from torch import Tensor

from unimatrix.ops import slot_memory
from unimatrix.ops.slot_memory import SlotMemoryState

CHUNK = 16


def run(inputs: dict, backend: str, **options) -> dict[str, Tensor]:
    """Reads, last state and the gradient of every floating input, for fixed random output gradients."""
    leaves = {
        name: x.detach().clone().requires_grad_() if isinstance(x, Tensor) and x.is_floating_point() else x
        for name, x in inputs.items()
    }
    if leaves.get("state") is not None:
        leaves["state"] = SlotMemoryState(
            *(x.detach().clone().requires_grad_(x.is_floating_point()) for x in leaves["state"])
        )
    reads, last = slot_memory(**leaves, backend=backend, chunk_len=CHUNK, **options)
    outputs = {"context": reads.context, "weights": reads.weights}
    outputs |= {name: getattr(last, name) for name in ("keys", "values", "strengths")}
    rng = torch.Generator().manual_seed(99)
    loss = torch.zeros((), dtype=torch.float64)
    for x in outputs.values():
        loss = loss + (x.double() * torch.randn(x.shape, generator=rng, dtype=torch.float64)).sum()
    loss.backward()
    found = {name: x.detach() for name, x in outputs.items()}
    found |= {"read ids": reads.token_ids}
    found |= {} if reads.slots is None else {"read slots": reads.slots}
    found |= {"last ids": last.token_ids, "last ages": last.ages}
    floating = {name: x for name, x in leaves.items() if isinstance(x, Tensor) and x.is_floating_point()}
    if leaves.get("state") is not None:
        floating |= {
            f"state.{name}": getattr(leaves["state"], name) for name in ("keys", "values", "strengths")
        }
    # without any position a query reaches no output: no gradient is a gradient of zero
    return found | {
        f"grad {name}": torch.zeros_like(x) if x.grad is None else x.grad for name, x in floating.items()
    }


def assert_same(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        if not value.is_floating_point():
            assert torch.equal(got[name], value), name
            continue
        quantity = "gradient" if name.startswith("grad") else "output"
        assert_close(got[name], value, quantity)
