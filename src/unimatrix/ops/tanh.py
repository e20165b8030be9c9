"""tanh inside compiled loops: the C library's for float64, for float32 one that vectorises.

Imported only when a kernel runs, so that importing unimatrix.ops does not import numba. The float32 one is
exact at 0 and where float32's is 1, within 2e-7 elsewhere; `close_tanh` is within 6e-7 of the result's size.
"""

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic, overload

LARGEST = 10.0  # beyond it float32's tanh is 1
# 2^r = sum (r ln 2)^n / n!; beyond the seventh term nothing is left of float32 where |r| <= 1/2
NEAR = 0.25  # below it a series in x^2 leaves nothing of float32
SERIES = (-1 / 3, 2 / 15, -17 / 315, 62 / 2835)
EXP2 = [math.log(2.0) ** n / math.factorial(n) for n in range(8)]


@intrinsic
def exp2(typing: Any, y: Any) -> Any:
    """2^y for a float32 -126 < y <= 0, within 2 units of the last digit: arithmetic that vectorises."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        single, integer = ir.FloatType(), ir.IntType(32)
        y = args[0]
        # towards zero, so that the nearest whole number comes out; whatever k a NaN makes, r is NaN again
        k = builder.fptosi(builder.fsub(y, ir.Constant(single, 0.5)), integer)
        r = builder.fsub(y, builder.sitofp(k, single))
        power = ir.Constant(single, EXP2[-1])
        for coefficient in reversed(EXP2[:-1]):
            power = builder.fadd(
                builder.fmul(power, r, flags=("contract",)),
                ir.Constant(single, coefficient),
                flags=("contract",),
            )
        exponent = builder.shl(builder.add(k, ir.Constant(integer, 127)), ir.Constant(integer, 23))
        return builder.fmul(power, builder.bitcast(exponent, single))

    return types.float32(types.float32), emit


def tanh(x):
    """tanh of one number; float32 has its own below."""
    return math.tanh(x)


@overload(tanh)
def _tanh_of(x):
    if x != types.float32:
        return tanh
    one, largest, scale = np.float32(1.0), np.float32(LARGEST), np.float32(-2.0 / math.log(2.0))

    def of_single(x):
        size = abs(x)
        # so that a NaN stays one
        size = largest if size > largest else size
        e = exp2(size * scale)  # pyright: ignore[reportCallIssue]  # an intrinsic
        t = (one - e) / (one + e)
        return -t if x < 0 else t

    return of_single


def close_tanh(x):
    """tanh of one number, small ones too to the last digits; float32 has its own below."""
    return math.tanh(x)


@overload(close_tanh)
def _close_tanh_of(x):
    if x != types.float32:
        return close_tanh
    near, one = np.float32(NEAR), np.float32(1.0)
    c3, c5, c7, c9 = (np.float32(c) for c in SERIES)

    def of_single(x):
        y = x * x
        series = x * (one + y * (c3 + y * (c5 + y * (c7 + y * c9))))
        return series if abs(x) < near else tanh(x)

    return of_single
