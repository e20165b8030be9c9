"""Bytes in, bytes out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unimatrix.data import BOS, EOS, PAD, VOCAB_SIZE, decode, encode
from unimatrix.errors import UserError


@given(st.binary())
def test_any_bytes_round_trip(raw):
    ids = encode(raw)
    assert ids.dtype == np.int64
    assert ids.tolist() == list(raw)
    assert decode(ids) == raw


@given(st.binary())
def test_bytes_that_are_no_utf8_round_trip_through_str(raw):
    assert encode(raw.decode("utf-8", "surrogateescape")).tolist() == list(raw)


@given(st.text())
def test_text_is_its_utf8_bytes(text):
    assert decode(encode(text)).decode() == text


def test_special_tokens_are_no_bytes():
    assert (BOS, EOS, PAD, VOCAB_SIZE) == (256, 257, 258, 259)
    assert decode([PAD, BOS, 104, 105, EOS]) == b"hi"
    assert decode([]) == b""


@pytest.mark.parametrize(("ids", "message"), [([1, 259], "259 at position 1"), ([-1], "-1 at position 0")])
def test_ids_outside_the_vocabulary_are_named(ids, message):
    with pytest.raises(UserError, match=message):
        decode(ids)


def test_ids_that_are_no_integers_are_refused():
    with pytest.raises(UserError, match="integers"):
        decode(np.array([1.5]))
