"""Pure functions on tensors: the recurrences and memories, each with a reference and its fast forms."""

from unimatrix.ops.backend import BACKENDS, Backend, chosen_backends
from unimatrix.ops.matrix_state import matrix_state

__all__ = ["BACKENDS", "Backend", "chosen_backends", "matrix_state"]
