"""Pure functions on tensors: the recurrences and memories, each with a reference and its fast forms."""

from unimatrix.ops.backend import BACKENDS, Backend, chosen_backends
from unimatrix.ops.matrix_state import matrix_state
from unimatrix.ops.slot_memory import SlotMemoryState, SlotReads, slot_memory

__all__ = [
    "BACKENDS",
    "Backend",
    "SlotMemoryState",
    "SlotReads",
    "chosen_backends",
    "matrix_state",
    "slot_memory",
]
