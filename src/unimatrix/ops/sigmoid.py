"""The logistic sigmoid inside compiled loops: for float32 one that vectorises, off by a share of |x| 6e-8.

Imported only when a kernel runs, so that importing unimatrix.ops does not import numba.
"""

import math

import numpy as np
from numba.core import types
from numba.extending import overload

from unimatrix.ops.tanh import exp2

LARGEST = 87.0  # float32's smallest ordinary numbers; what is left beyond it, below 2e-38, is 0


def sigmoid(x):
    """1 / (1 + e^-x) of one number; float32 has its own below."""
    return 1.0 / (1.0 + math.exp(-x))


@overload(sigmoid)
def _sigmoid_of(x):
    if x != types.float32:

        def of_double(x):
            e = math.exp(-abs(x))
            return (1.0 if x > 0 else e) / (1.0 + e)

        return of_double
    zero, one = np.float32(0.0), np.float32(1.0)
    largest, scale = np.float32(LARGEST), np.float32(-1.0 / math.log(2.0))

    def of_single(x):
        size = abs(x)
        # so that a NaN stays one
        beyond = size > largest
        size = largest if beyond else size
        e = exp2(size * scale)  # pyright: ignore[reportCallIssue]  # an intrinsic
        e = zero if beyond else e
        return (one if x > 0 else e) / (one + e)

    return of_single
