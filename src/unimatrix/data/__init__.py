"""Bytes, corpora and batches. Importing this room loads neither `datasets` nor a network client."""

from unimatrix.data.batches import check_one_window, random_windows
from unimatrix.data.corpora import Corpus, load_corpus, load_data_dir
from unimatrix.data.splits import SPLITS, Split
from unimatrix.data.tokenizer import BOS, EOS, PAD, VOCAB_SIZE, decode, encode

__all__ = [
    "BOS",
    "EOS",
    "PAD",
    "SPLITS",
    "VOCAB_SIZE",
    "Corpus",
    "Split",
    "check_one_window",
    "decode",
    "encode",
    "load_corpus",
    "load_data_dir",
    "random_windows",
]
