"""Where every random number comes from: a stream of its own for each purpose and each tuple of numbers.

numpy's SeedSequence takes numbers apart into as many 32-bit words as each needs and joins them, so that
(5 + 7 * 2^32, 1) and (5, 7, 1) are one seed to it; torch's generator on the CPU looks at the lowest 32 bits
alone. Here each number has two words, at fixed places: the low ones as they always were, so that every draw
of small numbers stays what it was, and after the purpose's own word the high ones.
"""

import operator
from typing import Literal

import numpy as np

from unimatrix.errors import UserError, UserTypeError, shown

# windows: of a text, by seed and step. starts: which of them start with BOS, likewise.
# sequences: of a task, by seed, step and stream. table: of the triple interaction's lookup, by its seed.
# weights: before training, by seed. process: dropout, by seed and process. sampling: of generated text.
# ruler: of one of RULER's samples, by seed, task and index. search: what a search of settings draws, by seed
# and place
Purpose = Literal[
    "windows", "starts", "sequences", "table", "weights", "process", "sampling", "ruler", "search"
]
_CODES: dict[Purpose, int] = {
    "table": 1, "windows": 2, "sequences": 3, "process": 4, "weights": 5, "sampling": 6, "starts": 7,
    "ruler": 8, "search": 9,
}  # fmt: skip
# drawn without the purpose's word where all numbers are small: published numbers hang on it. A run reads a
# text or a task, and a process's seed goes to another generator
_WITHOUT_CODE = ("windows", "sequences", "process")
# a small number is torch's seed itself
_AS_IT_IS = ("weights", "sampling")
_WORD = 2**32


def bit_generator(purpose: Purpose, **numbers: int) -> np.random.PCG64:
    """The stream of these numbers; its raw 64-bit draws are what numpy promises for good.

    Args:
        numbers: each at least 0 and below 2^64, the same names in the same order for one purpose.
    Raises:
        UserError: a number out of range, by its name.
    """
    return np.random.PCG64(_seed_sequence(purpose, numbers))


def torch_seed(purpose: Purpose, **numbers: int) -> int:
    """A seed for a generator of torch, in [0, 2^64); Args and Raises as for `bit_generator`."""
    sequence = _seed_sequence(purpose, numbers)
    if purpose in _AS_IT_IS and not any(number >= _WORD for number in numbers.values()):
        (number,) = numbers.values()
        return number
    return int(sequence.generate_state(1, np.uint64)[0])


def _seed_sequence(purpose: Purpose, numbers: dict[str, int]) -> np.random.SeedSequence:
    for name, number in numbers.items():
        try:
            numbers[name] = number = operator.index(number)
        except TypeError:
            raise UserTypeError(f"{name}: expected a whole number, got {shown(number)}") from None
        if not 0 <= number < _WORD**2:
            raise UserError(f"{name}: expected at least 0 and below 2^64, got {number}")
    low = [number % _WORD for number in numbers.values()]
    high = [number // _WORD for number in numbers.values()]
    if any(high):
        return np.random.SeedSequence(low, spawn_key=(_CODES[purpose], *high))
    return np.random.SeedSequence(low, spawn_key=() if purpose in _WITHOUT_CODE else (_CODES[purpose],))
