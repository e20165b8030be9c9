"""A projection whose largest singular value is 1, and how that value is followed while the weights learn.

Letters: W the stored matrix [out, in], sigma its largest singular value, u and v its vectors.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimatrix.ops.shapes import without_autocast

_ROUNDS, _ITERATIONS = 100, 10  # at most so many rounds of so many power iterations until sigma stands still
_STILL = 1e-7  # relative change of sigma in one round
_TINY = 1e-12  # a vector of zeros stays one


class SpectralLinear(nn.Module):
    """y = (W / sigma) x, [..., in] to [..., out], without bias.

    It is no nn.Linear: what adapts one adds to its weight, and here the division would take most of it away
    again. The stored matrix is `original`, the divided one `weight`.

    u and v follow W by one power iteration in the first call after `renew`, which the model says once a
    forward pass in training: a block that is applied several times has the same weights each time. In
    evaluation they stay. The gradient goes through sigma with u and v held fixed, as in PyTorch's own
    parametrisation.
    """

    u: Tensor
    v: Tensor

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.original = nn.Parameter(torch.empty(out_features, in_features))
        self.register_buffer("u", torch.zeros(out_features))
        self.register_buffer("v", torch.zeros(in_features))
        self.due = False
        nn.init.kaiming_uniform_(self.original, a=5**0.5)  # as nn.Linear starts
        self.settle()

    @torch.no_grad()
    def init_weights(self, std: float) -> None:
        """Draw W from N(0, std) and find its u and v."""
        nn.init.normal_(self.original, std=std)
        self.settle()

    @torch.no_grad()
    def settle(self) -> None:
        """Find u and v of W from nothing, whatever they were."""
        if not self.original.is_meta:
            u, v = singular_vectors(self.original)
            self.u.copy_(u)
            self.v.copy_(v)

    def renew(self) -> None:
        """Let the next call begin with a power iteration."""
        self.due = True

    @property
    def weight(self) -> Tensor:
        """W / sigma."""
        # clones: the next power iteration writes into u and v, perhaps before this one's gradient is taken
        u, v = _wide(self.u).clone(), _wide(self.v).clone()
        # no product of matrices, which autocast would round
        sigma = (self.original * torch.outer(u, v)).sum()
        sigma = sigma + (sigma == 0)  # a matrix of zeros stays one
        return self.original / sigma.to(self.original.dtype)

    def forward(self, x: Tensor) -> Tensor:
        if self.due and self.training:  # a pass that was broken off may have left it due
            self.due = False
            self._iterate()
        return F.linear(x, self.weight)

    @torch.no_grad()
    def _iterate(self) -> None:
        # sums of products: autocast would round a product of matrices
        weight = _wide(self.original)
        u = F.normalize((weight * _wide(self.v)).sum(1), dim=0, eps=_TINY)
        self.v.copy_(F.normalize((weight * u[:, None]).sum(0), dim=0, eps=_TINY))
        self.u.copy_(u)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"


class SameEachTime:
    """Calls a module's method with the singular vectors of its first call, however far they have come.

    What torch.utils.checkpoint computes again for the gradient is then what was computed.
    """

    def __init__(self, module: nn.Module, call: Callable[..., Any]) -> None:
        self.call = call
        self.linears = [part for part in module.modules() if isinstance(part, SpectralLinear)]
        self.first: list[tuple[Tensor, Tensor]] | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.first is None:
            result = self.call(*args, **kwargs)
            self.first = self._vectors()
            return result
        latest = self._vectors()
        self._write(self.first)
        try:
            return self.call(*args, **kwargs)
        finally:
            self._write(latest)

    def _vectors(self) -> list[tuple[Tensor, Tensor]]:
        return [(linear.u.clone(), linear.v.clone()) for linear in self.linears]

    @torch.no_grad()
    def _write(self, vectors: list[tuple[Tensor, Tensor]]) -> None:
        for linear, (u, v) in zip(self.linears, vectors, strict=True):
            linear.u.copy_(u)
            linear.v.copy_(v)


@torch.no_grad()
def singular_vectors(weight: Tensor) -> tuple[Tensor, Tensor]:
    """u [out] and v [in] of a matrix's largest singular value, float32 or wider, by power iterations."""
    weight = _wide(weight.detach())
    # one fixed draw for all: it must not be orthogonal to v, and no other draw may depend on it
    start = torch.randn(weight.shape[1], generator=torch.Generator().manual_seed(0), device="cpu")
    v, before = start.to(weight), 0.0
    with without_autocast(weight.device):
        for _ in range(_ROUNDS):
            for _ in range(_ITERATIONS):
                u = F.normalize(weight @ v, dim=0, eps=_TINY)
                v = F.normalize(weight.mT @ u, dim=0, eps=_TINY)
            sigma = float((weight @ v).norm())
            if not abs(sigma - before) > _STILL * sigma:
                break
            before = sigma
        return F.normalize(weight @ v, dim=0, eps=_TINY), v


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
