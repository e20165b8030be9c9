"""Training batches that ask unevenly, for tests of what counts how much."""

import torch

from unimatrix.data.tasks import IGNORE, Batch
from unimatrix.train.sources import TaskSource


def ragged(real=TaskSource.batch):
    """A TaskSource.batch whose row r asks r times, the first one not at all."""

    def batch(self, **arguments):
        drawn = real(self, **arguments)
        labels = torch.full_like(drawn.labels, IGNORE)
        for row in range(1, len(labels)):
            labels[row, -row:] = drawn.labels[row, -1]
        return Batch(drawn.input_ids, labels)

    return batch
