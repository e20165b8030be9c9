"""Bytes as tokens: 0..255 are the bytes themselves, 256 BOS, 257 EOS, 258 PAD.

There is nothing to learn and nothing to download, so any file is text. Only numpy is needed here; the
Hugging Face tokenizer of `unimatrix.hf` speaks the same vocabulary.
"""

import numpy as np

from unimatrix.errors import UserError

BOS = 256
EOS = 257
PAD = 258
VOCAB_SIZE = 259


def encode(text: str | bytes) -> np.ndarray:
    """Token ids of a text, without special tokens.

    A str is taken as UTF-8; lone surrogates as Python's "surrogateescape" makes them become the bytes that
    they stand for, so that `encode(decode(ids).decode("utf-8", "surrogateescape"))` gives back any ids.

    Returns:
        [N] int64, each in 0..255; N counts bytes, not characters.
    """
    raw = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else bytes(text)
    return np.frombuffer(raw, dtype=np.uint8).astype(np.int64)


def token_name(token: int) -> str:
    """A token for a person: the character itself, ␣ for a space, an escape such as \\n or \\xff, or BOS."""
    if token >= BOS:
        return ("BOS", "EOS", "PAD")[token - BOS]
    return "␣" if token == ord(" ") else chr(token) if 32 < token < 127 else repr(bytes([token]))[2:-1]


def decode(ids) -> bytes:
    """The bytes of token ids ([N], any integer type or sequence); BOS, EOS and PAD stand for no byte.

    Raises:
        UserError: an id outside 0..258 (names the first one and its position).
    """
    flat = np.asarray(ids).reshape(-1)
    if flat.size == 0:
        return b""
    if not np.issubdtype(flat.dtype, np.integer):
        raise UserError(f"token ids: expected integers in 0..{VOCAB_SIZE - 1}, got {flat.dtype}")
    outside = np.flatnonzero((flat < 0) | (flat >= VOCAB_SIZE))
    if outside.size:
        position = int(outside[0])
        raise UserError(
            f"token ids: expected 0..{VOCAB_SIZE - 1}, got {int(flat[position])} at position {position}"
        )
    return flat[flat < BOS].astype(np.uint8).tobytes()
