"""Evaluations: a model in, numbers out."""

from unimatrix.evals.bits_per_byte import BitsPerByte, bits_per_byte, nats_of_share

__all__ = ["BitsPerByte", "bits_per_byte", "nats_of_share"]
