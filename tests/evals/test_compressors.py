"""Compressors give back the text, and cost what their files have bytes."""

import argparse
import gzip
import inspect
import lzma

import numpy as np
import pyppmd
import pytest
import zstandard

from unimatrix.errors import UserError
from unimatrix.evals.compressors import COMPRESSORS, PPMD_MEMORY, PPMD_ORDER, compressor_bits
from unimatrix.extras import MissingPackage

RANDOM = np.random.default_rng(0).integers(0, 256, 20_000).astype(np.uint8)
WORDS = np.random.default_rng(1).choice(["the ", "sea ", "and ", "sky\n"], 20_000)
TEXT = np.frombuffer("".join(WORDS).encode(), dtype=np.uint8)
UNPACKED = {
    "gzip": gzip.decompress,
    "xz": lzma.decompress,
    "zstd": zstandard.decompress,
    "ppmd": lambda packed: pyppmd.Ppmd7Decoder(PPMD_ORDER, PPMD_MEMORY).decode(packed, len(TEXT)),
}


def test_there_is_a_way_back_from_each():
    assert UNPACKED.keys() == COMPRESSORS.keys()


@pytest.mark.parametrize("name", COMPRESSORS)
def test_a_text_costs_what_its_file_has_bits(name):
    packed = COMPRESSORS[name].compress(TEXT.tobytes())
    assert UNPACKED[name](packed) == TEXT.tobytes()
    found = compressor_bits(TEXT, name)
    assert found.num_bytes == len(TEXT)
    assert found.bpb == pytest.approx(8 * len(packed) / len(TEXT), rel=1e-12)
    # two bits for each word of four bytes, and no program does better
    assert 0.5 < found.bpb < 1.0
    # nothing makes random bytes smaller, and no program makes them much larger
    assert 8.0 <= compressor_bits(RANDOM, name).bpb < 8.4
    assert compressor_bits(TEXT[:1], name).num_bytes == 1


def test_the_strongest_settings_are_no_worse_than_the_defaults():
    data = inspect.getsource(argparse).encode()
    size = {name: len(compressor.compress(data)) for name, compressor in COMPRESSORS.items()}
    assert size["gzip"] <= len(gzip.compress(data, 6))
    assert size["xz"] <= len(lzma.compress(data))
    assert size["zstd"] < len(zstandard.compress(data))
    # as on every text of some length
    assert size["ppmd"] < size["xz"] < size["gzip"]


def test_bad_input_is_named(monkeypatch):
    with pytest.raises(UserError, match=r"^unknown compressor 'bzip'; did you mean gzip"):
        compressor_bits(TEXT, "bzip")
    with pytest.raises(UserError, match=r"^evaluation text: expected at least 1 byte, got none$"):
        compressor_bits(TEXT[:0], "gzip")
    monkeypatch.setattr("unimatrix.extras.find_spec", lambda name: None)
    for name, package in (("zstd", "zstandard"), ("ppmd", "pyppmd")):
        with pytest.raises(MissingPackage, match=rf"^needs {package}; pip install 'unimatrix-lm\[paper\]'$"):
            compressor_bits(TEXT, name)
