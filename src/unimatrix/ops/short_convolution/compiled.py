"""The short convolution as one compiled CPU loop: a window's sum and its SiLU while its tokens are at hand.

Apart, each place of the kernel reads and writes all of the text, and its gradients do so three times. The
loops are numba's (unimatrix.ops.short_convolution.kernels). They keep nothing for the backward: it sums the
windows again.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from unimatrix.ops.operator import Operator
from unimatrix.ops.shapes import Stream
from unimatrix.ops.short_convolution.chunked import short_convolution_chunked


def short_convolution_compiled(x: Stream, recent: Tensor, weight: Tensor, inside: Tensor | None) -> Stream:
    """y [B, T, C]; `recent` [B, K - 1, C] are the tokens before x, `inside` as in the chunked form."""
    (y,) = _convolve(x, recent, weight, inside)
    return y


@cache
def _loops() -> Any:
    from unimatrix.ops.short_convolution import kernels

    return kernels


def _shapes(x: Tensor, *_: object) -> tuple[Tensor, ...]:
    return (x.new_empty(x.shape),)


def _plain(x: Tensor, recent: Tensor, weight: Tensor, inside: Tensor | None) -> tuple[Tensor, ...]:
    return (short_convolution_chunked(torch.cat([recent, x], dim=1), weight, inside),)


_convolve = Operator(
    "short_convolution",
    "Tensor x, Tensor recent, Tensor weight, Tensor? inside",
    outputs="y",
    loops=_loops,
    shapes=_shapes,
    plain=_plain,
    constant="inside",
    shared="weight",
)
