"""Lazy layers to cloud-optimised GeoTIFFs, block by block. Row 5: imports `limits`.

Memory holds the blocks that dask works on, however large the raster is.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
import rasterio.shutil
from rasterio import Affine
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.windows import Window

from kappamask.base.limits import refuse_limit

if TYPE_CHECKING:
    import dask.array as da

BLOCK = 512  # pixels; the tile of the COG layout
GDAL_CACHE = 64 * 2**20  # bytes; GDAL takes a twentieth of the memory otherwise


class BlockError(RuntimeError):
    """A block that could not be computed, as its cause says: no fault of the file."""


@dataclass(frozen=True)
class Layer:
    """One file to be: its pixels and what they mean."""

    name: str  # of the file
    pixels: da.Array  # (band, y, x), of the type that is stored
    bands: tuple[str, ...]  # band descriptions
    nodata: float | None
    resampling: str  # of the overviews, as GDAL calls it
    scale: float = 1.0  # value = stored * scale
    unit: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    colors: dict[int, tuple[int, int, int]] = field(default_factory=dict)  # by value, of band 1

    @property
    def dtype(self) -> str:
        """Of what is stored."""
        return str(self.pixels.dtype)


@dataclass(frozen=True)
class Placement:
    """Where the pixels of all layers lie."""

    crs: CRS
    transform: Affine
    shape: tuple[int, int]  # rows, columns


def write_layers(
    layers: Sequence[Layer],
    folder: Path,
    placement: Placement,
    *,
    on_block: Callable[[], object] | None = None,
) -> list[Path]:
    """Compute several layers together, once, and write a COG of each.

    Parameters
    ----------
    layers
        Of the same pixels.
    folder
        Where there is room for the files twice over: first as they come, then as COGs.
    placement
        Of the pixels.
    on_block
        Called after each block of the first layer.

    Raises
    ------
    OSError
        If a file cannot be written, or does not hold what was computed: GDAL may only log
        that a disk is full.
    ResourceError
        If memory or threads run out.
    BlockError
        If the pixels cannot be computed, whatever the other reason.
    """
    import dask.array as da

    paths = [folder / layer.name for layer in layers]
    with rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE):
        targets = [
            BlockTarget(path.with_suffix(".raw.tif"), layer, placement)
            for path, layer in zip(paths, layers, strict=True)
        ]
        targets[0].on_block = on_block
        try:
            da.store([layer.pixels for layer in layers], targets, lock=False)
        except Exception as error:
            refuse_limit(error)
            for target in targets:
                if target.broken:
                    raise OSError(
                        f"{target.layer.name} cannot be written: {_why(error)}"
                    ) from error
            raise BlockError(str(error)) from error
        finally:
            for target in targets:
                target.close()
        for path, target in zip(paths, targets, strict=True):
            to_cog(target, path)
    return paths


class BlockTarget:
    """A raster file that takes blocks in any order, as `dask.array.store` brings them."""

    def __init__(self, path: Path, layer: Layer, placement: Placement) -> None:
        self.path = path
        self.layer = layer
        self.on_block: Callable[[], object] | None = None
        self.checksums: list[tuple[list[int], Window, int]] = []
        self._lock = Lock()
        self._closed = False
        self.broken = False  # the file, not what was to be written
        rows, columns = placement.shape
        self._raster = rasterio.open(
            path,
            "w",
            driver="GTiff",
            width=columns,
            height=rows,
            count=len(layer.bands),
            dtype=layer.dtype,
            nodata=layer.nodata,
            crs=placement.crs,
            transform=placement.transform,
            tiled=True,
            blockxsize=BLOCK // 2,
            blockysize=BLOCK // 2,
            interleave="band",
            BIGTIFF="IF_SAFER",
        )
        self._raster.descriptions = layer.bands
        if layer.scale != 1:
            self._raster.scales = (layer.scale,) * len(layer.bands)
        self._raster.units = (layer.unit,) * len(layer.bands)
        self._raster.update_tags(**layer.tags)
        if layer.colors:
            self._raster.write_colormap(1, layer.colors)

    def __setitem__(self, key: tuple[slice, ...], block: np.ndarray) -> None:
        """Write one block, and keep a checksum to hold the finished file against."""
        bands, rows, columns = key
        indexes = list(range(bands.start + 1, bands.stop + 1))
        window = Window.from_slices(rows, columns)
        with self._lock:
            if self._closed:
                return
            self.broken = True
            self._raster.write(block, indexes, window=window)
            self.broken = False
            self.checksums.append((indexes, window, zlib.crc32(block.tobytes())))
            if self.on_block is not None:
                self.on_block()

    def close(self) -> None:
        """Finish the file. When one block fails, others are still on their way: they find it so."""
        with self._lock:
            self._closed = True
            self._raster.close()


def to_cog(target: BlockTarget, path: Path) -> None:
    """Lay a raster out as a cloud-optimised GeoTIFF, and see that all of it is there."""
    try:
        rasterio.shutil.copy(
            target.path,
            path,
            driver="COG",
            compress="DEFLATE",
            predictor="YES",
            blocksize=BLOCK,
            overview_resampling=target.layer.resampling,
            bigtiff="IF_SAFER",
        )
        target.path.unlink()
        with rasterio.open(path) as raster:
            for indexes, window, checksum in target.checksums:
                block = raster.read(indexes, window=window)
                if zlib.crc32(block.tobytes()) != checksum:
                    raise OSError(f"{path.name} does not hold what was written")
    except RasterioError as error:
        raise OSError(f"{path.name} cannot be written: {_why(error)}") from error


def _why(error: BaseException) -> str:
    """Quote GDAL; rasterio's own words only point to it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split()) or type(error).__name__


def describe_file(path: Path) -> dict[str, Any]:
    """Size and checksum as the STAC file extension words them."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    # multihash: 0x12 is sha2-256, 0x20 its 32 bytes
    return {"file:size": path.stat().st_size, "file:checksum": f"1220{digest}"}
