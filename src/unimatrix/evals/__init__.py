"""Evaluations: a model in, numbers out."""

from unimatrix.evals.bits_per_byte import BitsPerByte, bits_per_byte, nats_of_share, rates_text
from unimatrix.evals.tasks import TaskScore, task_score, task_sums

__all__ = [
    "BitsPerByte",
    "TaskScore",
    "bits_per_byte",
    "nats_of_share",
    "rates_text",
    "task_score",
    "task_sums",
]
