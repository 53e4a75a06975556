"""What becomes of single flipped bits: how many a codec notices, and how many change pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import rasterio
from rasterio.errors import RasterioError
from rasterio.io import MemoryFile

from faults.scene import DN, encode, encode_jp2

CODECS = {
    "COG, DEFLATE": {"compress": "DEFLATE"},
    "COG, DEFLATE, predictor": {"compress": "DEFLATE", "predictor": "YES"},
    "COG, ZSTD": {"compress": "ZSTD"},
    "COG, LZW": {"compress": "LZW"},
    "COG, not compressed": {"compress": "NONE"},
    "JP2, reversible": None,
}


@dataclass
class Flips:
    """Of so many files with one bit flipped each."""

    tried: int = 0
    noticed: int = 0  # reading fails
    harmless: int = 0  # the pixels are what they were
    unnoticed: int = 0  # pixels are others, and nobody says so


def count_flips(codec: str, *, tries: int, seed: int = 0) -> Flips:
    """Flip one bit anywhere in a file, read it, and compare; again with other bits."""
    whole = DN[1, 1]
    options = CODECS[codec]
    content = encode_jp2(whole) if options is None else encode(whole, **options)
    generator = np.random.default_rng(seed)
    flips = Flips()
    for position in generator.integers(0, 8 * len(content), tries):
        spoiled = bytearray(content)
        spoiled[position // 8] ^= 1 << (position % 8)
        flips.tried += 1
        try:
            with MemoryFile(bytes(spoiled)) as memory, memory.open() as raster:
                same = raster.shape == whole.shape and np.array_equal(raster.read(1), whole)
        except (RasterioError, OSError, RuntimeError, ValueError):
            flips.noticed += 1
            continue
        if same:
            flips.harmless += 1
        else:
            flips.unnoticed += 1
    return flips


def flip_noticed(content: bytes) -> bytes:
    """Flip the first bit in the second quarter of a file that makes decoding fail."""
    for position in range(len(content) // 4, len(content)):
        spoiled = content[:position] + bytes([content[position] ^ 16]) + content[position + 1 :]
        with MemoryFile(spoiled) as memory, memory.open() as raster:
            try:
                raster.read(1)
            except RasterioError:
                return spoiled
    raise AssertionError("a codec notices one of all flips")


def gdal_version() -> str:
    """Tell which GDAL decoded them."""
    return str(rasterio.__gdal_version__)
