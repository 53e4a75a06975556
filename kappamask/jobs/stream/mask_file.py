"""A mask's COG written from top to bottom, without holding its pixels."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import rasterio
from rasterio.io import MemoryFile
from rasterio.shutil import copy
from rasterio.windows import Window

from kappamask.base.files import staging
from kappamask.outputs.label_cube import count_codes
from kappamask.outputs.masks import BLOCK, COG, cog_grid, describe_raster, publish_mask
from kappamask.outputs.stac_item import MaskRecord

# Labels compress thirtyfold, so that a product is 4 MB until it is laid out as a COG: on disk
# GDAL might only log that it is full.
DRAFT = {
    "driver": "GTiff",
    "tiled": True,
    "blockxsize": BLOCK,
    "blockysize": BLOCK,
    "compress": "DEFLATE",
    "zlevel": 1,
    "bigtiff": "IF_SAFER",
}


def write_strips(strips: Iterable[np.ndarray], path: Path, record: MaskRecord) -> None:
    """Write a mask with its STAC item, as `write_mask` does, from strips of its rows.

    Parameters
    ----------
    strips
        (rows, columns) uint8, from top to bottom; all columns of the mask.
    path
        Of the COG.
    record
        What the mask is.

    Raises
    ------
    WriteError
        If the folder cannot be written to; nothing half-written is left.
    """
    with MemoryFile() as draft, MemoryFile() as cog:
        counts = write_draft(strips, draft, record)
        with staging(path.parent, path.name) as aside:
            with draft.open() as source:
                size = {"blocksize": cog_grid(record)["blocksize"]}
                options = {key: COG[key] for key in ("driver", "compress", "overview_resampling")}
                copy(source, cog.name, **options, **size)
            publish_mask(aside, bytes(cog.read()), counts, path, record)


def write_draft(strips: Iterable[np.ndarray], draft: MemoryFile, record: MaskRecord) -> np.ndarray:
    """Write strips into a compressed GeoTIFF in memory; return pixels per class code."""
    counts = np.zeros(6, np.int64)
    grid = {key: value for key, value in cog_grid(record).items() if key != "blocksize"}
    pending = np.empty((0, record.shape[1]), np.uint8)
    top = 0
    with draft.open(**DRAFT, **grid, count=1, dtype="uint8", nodata=COG["nodata"]) as raster:
        describe_raster(raster, record)
        for strip in strips:
            counts += count_codes(strip, where=f"on {record.timestamp}")
            pending = np.concatenate([pending, strip])
            whole = len(pending) // BLOCK * BLOCK
            top = _write(raster, pending[:whole], top)
            pending = pending[whole:].copy()
        _write(raster, pending, top)
    return counts


def _write(raster: rasterio.io.DatasetWriter, rows: np.ndarray, top: int) -> int:
    """Write whole rows of blocks, so that none is compressed twice."""
    if len(rows):
        raster.write(rows, 1, window=Window(0, top, rows.shape[1], len(rows)))
    return top + len(rows)
