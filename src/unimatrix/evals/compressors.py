"""Bits per byte of a text by programs that compress files: what a model of the text is held against.

Each runs at a strong setting, named beside it (`COMPRESSORS`): the highest level of gzip and zstd, xz's
highest preset, PPMd as 7-Zip's highest level has it. Single settings may go beyond these, such as a longer
window of zstd's or a higher order of PPMd's. The text is one stream, and its file is counted with all that a
program needs to unpack it but the text's name and length.
"""

import gzip
import lzma
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from unimatrix.errors import UserError, did_you_mean, shown
from unimatrix.evals.bits_per_byte import BitsPerByte
from unimatrix.evals.model import check_text
from unimatrix.extras import needs

# as 7-Zip's -mx=9 has it
PPMD_ORDER, PPMD_MEMORY = 32, 192 * 2**20
GZIP_LEVEL, XZ_PRESET, ZSTD_LEVEL = 9, 9, 22


@dataclass(frozen=True, kw_only=True, slots=True)
class Compressor:
    """A program: what it is in a line, for people, and what it does; a package that is missing is told."""

    settings: str
    compress: Callable[[bytes], bytes]


def compressor_bits(data: np.ndarray, name: str) -> BitsPerByte:
    """What a text costs a compressor.

    Args:
        data: [N] uint8.
        name: of one of `COMPRESSORS`.
    Raises:
        UserError: no text, an unknown compressor, or one whose package is not installed (names it).
    """
    if name not in COMPRESSORS:
        raise UserError(f"unknown compressor {shown(name)}; {did_you_mean(name, COMPRESSORS)}")
    check_text(data)
    packed = COMPRESSORS[name].compress(data.astype(np.uint8, copy=False).tobytes())
    return BitsPerByte.from_nats(len(packed) * 8 * math.log(2.0), len(data))


def _zstd(data: bytes) -> bytes:
    needs("zstandard")
    import zstandard

    return zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(data)


def _ppmd(data: bytes) -> bytes:
    needs("pyppmd")
    import pyppmd

    encoder = pyppmd.Ppmd7Encoder(PPMD_ORDER, PPMD_MEMORY)
    return encoder.encode(data) + encoder.flush()


COMPRESSORS: dict[str, Compressor] = {
    "gzip": Compressor(
        settings=f"gzip, level {GZIP_LEVEL}",
        compress=lambda data: gzip.compress(data, GZIP_LEVEL, mtime=0),
    ),
    "xz": Compressor(
        settings=f"xz, preset {XZ_PRESET} extreme",
        compress=lambda data: lzma.compress(data, preset=XZ_PRESET | lzma.PRESET_EXTREME),
    ),
    "zstd": Compressor(settings=f"zstd, level {ZSTD_LEVEL}", compress=_zstd),
    "ppmd": Compressor(
        settings=f"PPMd variant H, order {PPMD_ORDER}, {PPMD_MEMORY // 2**20} MiB", compress=_ppmd
    ),
}
