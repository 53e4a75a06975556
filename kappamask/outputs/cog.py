"""Layers of pixels to cloud-optimised GeoTIFFs, block by block. Imports `base`.

Memory holds the blocks that are worked on, however large the raster is.
"""

from __future__ import annotations

import hashlib
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import rasterio
import rasterio.shutil
from rasterio import Affine
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import MemoryFile
from rasterio.transform import array_bounds
from rasterio.windows import Window

from kappamask.base.errors import refuse_limit
from kappamask.scenes.formats import open_pixels

if TYPE_CHECKING:
    import dask.array as da

BLOCK = 512  # pixels; the tile of the COG layout
GDAL_CACHE = 64 * 2**20  # bytes; GDAL takes a twentieth of the memory otherwise


class BlockError(RuntimeError):
    """A block that could not be computed, as its cause says: no fault of the file."""


@dataclass(frozen=True)
class Strips:
    """Pixels that come as strips of rows, from top to bottom; of one band for each layer."""

    rows: Generator[np.ndarray]  # each (rows, all columns), or (layer, rows, all columns)
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class Layer:
    """One file to be: its pixels and what they mean."""

    name: str  # of the file
    # (band, y, x) of the type that is stored; layers of strips have one band and share them.
    pixels: da.Array | Strips
    bands: tuple[str, ...]  # band descriptions
    nodata: float | None
    resampling: str  # of the overviews, as GDAL calls it
    scale: float = 1.0  # value = stored * scale
    unit: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    band_tags: dict[str, str] = field(default_factory=dict)  # of band 1
    colors: Mapping[int, tuple[int, ...]] = field(default_factory=dict)  # by value, of band 1
    blocksize: int = BLOCK
    # Labels compress thirtyfold: a whole tile of 4 MB is laid out in memory, and Python, which
    # writes it then, hears of a full disk. GDAL may only log it while it closes a file.
    compact: bool = False
    counts: Counter[int] | None = None  # how often each of its keys is there, as blocks come
    kept: bool = True  # False: counted, not written


@dataclass(frozen=True)
class Placement:
    """Where the pixels of all layers lie."""

    crs: Any  # rasterio.crs.CRS; None: its pixels have no place
    transform: Affine  # (column, row) of a pixel corner -> x, y; north up
    shape: tuple[int, int]  # rows, columns

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Outer edges: left, bottom, right, top in units of the CRS."""
        return array_bounds(*self.shape, self.transform)  # type: ignore[no-any-return]


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
        Of the same pixels, the first one kept. A file is written of those that are.
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
    with rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE), ExitStack() as open_drafts:
        targets: list[Draft | Tally] = [
            open_drafts.enter_context(Draft(folder / layer.name, layer, placement))
            if layer.kept
            else Tally(layer)
            for layer in layers
        ]
        drafts = [target for target in targets if isinstance(target, Draft)]
        drafts[0].on_block = on_block
        try:
            _fill(targets)
        except Exception as error:
            refuse_limit(error)
            for draft in drafts:
                if draft.broken:
                    raise OSError(f"{draft.layer.name} cannot be written: {_why(error)}") from error
            raise BlockError(str(error)) from error
        for draft in drafts:
            draft.to_cog()
    return [draft.path for draft in drafts]


def _fill(targets: Sequence[Tally]) -> None:
    first = targets[0].layer.pixels
    if isinstance(first, Strips):
        top = 0
        with closing(first.rows):  # its threads end, whatever happens here
            for strip in first.rows:
                rows, columns = strip.shape[-2:]
                planes = strip.reshape(-1, 1, rows, columns)
                for target, plane in zip(targets, planes, strict=True):
                    target[0:1, top : top + rows, 0:columns] = plane
                top += rows
        return
    import dask.array as da

    da.store([target.layer.pixels for target in targets], targets, lock=False)


class Tally:
    """Counts the values of blocks that come in any order, as `dask.array.store` brings them."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        self._lock = Lock()

    def __setitem__(self, key: tuple[slice, ...], block: np.ndarray) -> None:
        """Count one block."""
        counts = self.layer.counts or Counter()
        for value in counts:
            times = int(np.count_nonzero(block == value))
            with self._lock:
                counts[value] += times


class Draft(Tally):
    """A raster that takes blocks."""

    def __init__(self, path: Path, layer: Layer, placement: Placement) -> None:
        super().__init__(layer)
        self.path = path
        self.on_block: Callable[[], object] | None = None
        self.checksums: list[tuple[list[int], Window, int]] = []
        self.broken = False  # the file, not what was to be written
        self._closed = False
        self._memory = MemoryFile()
        self._raw = self._memory.name if layer.compact else path.with_suffix(".raw.tif")
        with warnings.catch_warnings():
            # Some pixels have no place, as their record says.
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            self._raster = rasterio.open(self._raw, "w", **_profile(layer, placement))
        self._raster.descriptions = layer.bands
        if layer.scale != 1:
            self._raster.scales = (layer.scale,) * len(layer.bands)
        self._raster.units = (layer.unit,) * len(layer.bands)
        self._raster.update_tags(**layer.tags)
        self._raster.update_tags(1, **layer.band_tags)
        if layer.colors:
            self._raster.write_colormap(1, dict(layer.colors))

    def __enter__(self) -> Self:
        """Take blocks."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file and let go of what memory holds of it."""
        self.close()
        self._memory.close()

    def __setitem__(self, key: tuple[slice, ...], block: np.ndarray) -> None:
        """Write one block, and keep a checksum to hold the finished file against."""
        super().__setitem__(key, block)
        bands, rows, columns = key
        window = Window.from_slices(rows, columns)
        indexes = list(range(bands.start + 1, bands.stop + 1))
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

    def to_cog(self) -> None:
        """Lay the raster out as a cloud-optimised GeoTIFF, and see that all of it is there."""
        self.close()
        options = {} if self.layer.compact else {"predictor": "YES", "bigtiff": "IF_SAFER"}
        try:
            with MemoryFile() as memory:
                target = memory.name if self.layer.compact else self.path
                rasterio.shutil.copy(
                    self._raw,
                    target,
                    driver="COG",
                    compress="DEFLATE",
                    blocksize=self.layer.blocksize,
                    overview_resampling=self.layer.resampling,
                    **options,
                )
                if self.layer.compact:
                    self.path.write_bytes(memory.getbuffer())
                else:
                    Path(self._raw).unlink()
            with open_pixels(str(self.path)) as raster:
                for indexes, window, checksum in self.checksums:
                    if zlib.crc32(raster.read(indexes, window=window).tobytes()) != checksum:
                        raise OSError(f"{self.path.name} does not hold what was written")
        except RasterioError as error:
            raise OSError(f"{self.path.name} cannot be written: {_why(error)}") from error


def _profile(layer: Layer, placement: Placement) -> dict[str, Any]:
    rows, columns = placement.shape
    profile = {
        "driver": "GTiff",
        "width": columns,
        "height": rows,
        "count": len(layer.bands),
        "dtype": str(layer.pixels.dtype),
        "nodata": layer.nodata,
        "crs": placement.crs,
        "transform": placement.transform,
        "tiled": True,
        "blockxsize": BLOCK // 2,
        "blockysize": BLOCK // 2,
        "interleave": "band",
        "bigtiff": "IF_SAFER",
    }
    return profile | ({"compress": "DEFLATE", "zlevel": 1} if layer.compact else {})


def _why(error: BaseException) -> str:
    """Quote GDAL; rasterio's own words only point to it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split()) or type(error).__name__


def read_blocks(path: Path) -> Iterator[np.ndarray]:
    """Read back the first band of what was written, block by block."""
    with open_pixels(str(path)) as raster:
        for _, window in raster.block_windows(1):
            yield raster.read(1, window=window)


def describe_file(path: Path) -> dict[str, Any]:
    """Size and checksum as the STAC file extension words them."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    # multihash: 0x12 is sha2-256, 0x20 its 32 bytes
    return {"file:size": path.stat().st_size, "file:checksum": f"1220{digest}"}
