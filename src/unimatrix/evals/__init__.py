"""Evaluations: a model in, numbers out."""

from unimatrix.evals.bits_per_byte import BitsPerByte, bits_per_byte, nats_of_share, rates_text
from unimatrix.evals.depth import at_depth
from unimatrix.evals.streaming import PositionBits, StreamBits, parts_that_look_back, stream_bits
from unimatrix.evals.tasks import TaskScore, task_score, task_sums

__all__ = [
    "BitsPerByte",
    "PositionBits",
    "StreamBits",
    "TaskScore",
    "at_depth",
    "bits_per_byte",
    "nats_of_share",
    "parts_that_look_back",
    "rates_text",
    "stream_bits",
    "task_score",
    "task_sums",
]
