"""A text's documents in one stream: every byte is asked once, of its own document; no BOS is asked."""

import numpy as np
import pytest
import torch

from unimatrix.data import BOS, Corpus
from unimatrix.data.documents import PackedBatch, begins_of, packed
from unimatrix.data.tasks import IGNORE
from unimatrix.errors import UserError

DATA = np.frombuffer(b"onetwothree!", dtype=np.uint8)
BEGINS = begins_of([3, 3, 5, 1])


def test_each_document_stands_behind_a_bos():
    assert BEGINS.tolist() == [0, 3, 6, 11]
    assert begins_of([]).tolist() == []
    words = [BOS, *b"one", BOS, *b"two", BOS, *b"three", BOS, *b"!"]
    assert packed(DATA, BEGINS).tolist() == words
    assert packed(DATA[:0], BEGINS[:0]).tolist() == []


def test_every_byte_is_asked_once_and_no_bos():
    tokens = torch.from_numpy(packed(DATA, BEGINS).astype(np.int64))
    batch = PackedBatch.of(tokens[None])
    assert torch.equal(batch.input_ids[0], tokens[:-1])
    assert batch.labels[batch.labels != IGNORE].tolist() == DATA.tolist()
    assert batch.starts[0].nonzero()[:, 0].tolist() == [0, 4, 8, 14]
    # what a document's last byte is read for is nothing
    assert (batch.labels[0, :-1][batch.starts[0, 1:]] == IGNORE).all()


@pytest.mark.parametrize("begins", [[1, 3], [0, 3, 3], [0, 5, 4], [0, 12], [], [[0, 3]], [0.0, 3.0]], ids=str)
def test_what_is_no_beginning_is_refused(begins):
    wrong = np.array(begins, dtype=np.int64 if begins != [0.0, 3.0] else None)
    for refuse in (
        lambda: packed(DATA, wrong),
        lambda: Corpus(name="own", train=DATA, valid=DATA, test=DATA, begins={"valid": wrong}),
    ):
        with pytest.raises(UserError, match=r"^begins: expected"):
            refuse()
