"""Files of single bands, read window by window onto a grid. Row 3: imports `engines` and below.

Without warping: the pixel edges of a file lie on those of the grid, or between whole
numbers of its pixels. What is read is exactly what `load_cube` gives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import get_ident
from typing import Any, Protocol, Self

import numpy as np
import rasterio
from rasterio.errors import RasterioError
from rasterio.windows import Window

from kappamask.base.dn import average_dn, repeat_pixels
from kappamask.base.errors import InputError, ReadError
from kappamask.base.grid import Grid
from kappamask.base.retry import read_patiently
from kappamask.cubes.readers import HTTP_OPTIONS, forget_file
from kappamask.scenes.scene import BandFile

# OpenJPEG decodes the JP2 tiles that a window touches in so many threads.
GDAL_OPTIONS = {"GDAL_NUM_THREADS": "ALL_CPUS", "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR"}


class Reader(Protocol):
    """Where the DN of one scene come from."""

    def read(self, band: str, rows: slice, columns: slice) -> np.ndarray:
        """Read DN (y, x) uint16 of a window of a band's own pixels, 0 = no data."""

    def block_shape(self, band: str) -> tuple[int, int]:
        """Tell rows and columns of the blocks that a band is stored in."""


class FileReader:
    """Reads the files of one scene with GDAL; opens each when it is first asked for.

    Threads may share it: each opens the files for itself, as GDAL wants. Use it in a
    ``with`` statement, which closes them.
    """

    def __init__(self, files: Mapping[str, BandFile]) -> None:
        self.files = files
        self._open: dict[tuple[int, str], Any] = {}

    def __enter__(self) -> Self:
        """Open nothing yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close what was opened."""
        for raster in self._open.values():
            raster.close()
        self._open.clear()

    def read(self, band: str, rows: slice, columns: slice) -> np.ndarray:
        """Read DN (y, x) uint16 of a window of a band's own pixels, 0 = no data.

        Raises
        ------
        ReadError
            If the file is gone, damaged, or not of the size its metadata say.
        """
        window = Window.from_slices(rows, columns)
        dn: np.ndarray = self._patiently(band, lambda raster: raster.read(1, window=window))
        return dn

    def block_shape(self, band: str) -> tuple[int, int]:
        """Tell rows and columns of the blocks that a band is stored in."""
        rows, columns = self._patiently(band, lambda raster: raster.block_shapes[0])
        return int(rows), int(columns)

    def _patiently(self, band: str, use: Callable[[Any], Any]) -> Any:
        """Open and use a file, again if it lies on a server that may recover."""

        def read() -> Any:
            with rasterio.Env(**GDAL_OPTIONS, **HTTP_OPTIONS):
                return use(self._opened(band))

        return read_patiently(
            read,
            self.files[band].path,
            name=f"band {band}",
            forget=lambda cached: self._forget(band, cached=cached),
            errors=(RasterioError, RuntimeError, OSError),
        )

    def _forget(self, band: str, *, cached: bool) -> None:
        if raster := self._open.pop((get_ident(), band), None):
            raster.close()
        if cached:
            forget_file(self.files[band].path)

    def _opened(self, band: str) -> Any:
        key = get_ident(), band
        if key not in self._open:
            file = self.files[band]
            raster = rasterio.open(file.path)
            if raster.shape != (file.height, file.width) or raster.dtypes[0] != "uint16":
                raster.close()
                raise ReadError(
                    f"{file.path} must hold {file.height} x {file.width} pixels of uint16, got "
                    f"{raster.height} x {raster.width} of {raster.dtypes[0]}: download it again"
                )
            self._open[key] = raster
        return self._open[key]


@dataclass(frozen=True)
class Fit:
    """One axis of a file against the same axis of a grid.

    Both are counted in fine pixels, the smaller of the two.
    """

    start: int  # fine pixels from the file's edge to the grid's edge
    length: int  # pixels of the file
    repeat: int  # fine pixels per pixel of the file
    average: int  # fine pixels per pixel of the grid; it or `repeat` is 1

    @classmethod
    def along(cls, *, distance: float, length: int, gsd: float, resolution: float) -> Fit:
        """Fit an axis whose grid begins `distance` metres after the file does.

        Raises
        ------
        InputError
            If pixel edges do not meet.

        Examples
        --------
        >>> Fit.along(distance=50, length=9, gsd=20, resolution=10)
        Fit(start=5, length=9, repeat=2, average=1)
        """
        fine = min(gsd, resolution)
        counts = (distance / fine, gsd / fine, resolution / fine)
        start, repeat, average = (round(count) for count in counts)
        if max(abs(count - round(count)) for count in counts) > 1e-6:
            raise InputError(
                f"pixels of {gsd:g} m must meet those of {resolution:g} m edge on edge, got a "
                f"distance of {distance:g} m: load it with load_cube, which warps"
            )
        return cls(start, length, repeat, average)

    def fine(self, span: slice) -> slice:
        """Fine pixels, counted from the file's edge, of a span of the grid."""
        return slice(self.start + span.start * self.average, self.start + span.stop * self.average)

    def native(self, span: slice) -> slice:
        """Pixels of the file that a span of the grid needs; empty where the file ends.

        Examples
        --------
        >>> Fit(start=5, length=9, repeat=2, average=1).native(slice(0, 4))
        slice(2, 5, None)
        """
        fine = self.fine(span)
        start = min(max(fine.start // self.repeat, 0), self.length)
        return slice(start, max(start, min(-(-fine.stop // self.repeat), self.length)))

    def overlap(self, span: slice) -> tuple[slice, slice, int]:
        """Where a span of the grid lies in the fine pixels of what `native` reads.

        Returns
        -------
        tuple
            Slice of the fine pixels read, slice of the fine pixels wanted, and how many
            are wanted.

        Examples
        --------
        >>> Fit(start=-1, length=9, repeat=2, average=1).overlap(slice(0, 4))
        (slice(0, 3, None), slice(1, 4, None), 4)
        """
        fine, native = self.fine(span), self.native(span)
        origin = native.start * self.repeat
        low, high = max(fine.start, origin), min(fine.stop, native.stop * self.repeat)
        there = slice(low - origin, high - origin), slice(low - fine.start, high - fine.start)
        return *there, fine.stop - fine.start


@dataclass(frozen=True)
class BandOnGrid:
    """One band's file and how it lies on a grid."""

    file: BandFile
    rows: Fit
    columns: Fit

    @classmethod
    def fit(cls, file: BandFile, grid: Grid) -> BandOnGrid:
        """Lay a file on a grid of the same CRS.

        Raises
        ------
        InputError
            If pixel edges do not meet.
        """
        sizes = {"gsd": file.gsd, "resolution": grid.resolution}
        return cls(
            file,
            Fit.along(distance=file.top - grid.top, length=file.height, **sizes),
            Fit.along(distance=grid.left - file.left, length=file.width, **sizes),
        )

    def read(self, reader: Reader, rows: slice, columns: slice) -> np.ndarray:
        """Read reflectance (y, x) float32 of a window of the grid, NaN = no data."""
        native = self.rows.native(rows), self.columns.native(columns)
        shape = rows.stop - rows.start, columns.stop - columns.start
        if any(span.start == span.stop for span in native):
            return np.full(shape, np.nan, np.float32)
        dn = reader.read(self.file.band, *native)
        if self.rows.average > 1:
            dn = average_dn(self._cut(dn, rows, columns, fill=0), self.rows.average)
            return self.file.to_reflectance(dn)
        reflectance = repeat_pixels(self.file.to_reflectance(dn), self.rows.repeat)
        return self._cut(reflectance, rows, columns, fill=np.nan)

    def _cut(self, fine: np.ndarray, rows: slice, columns: slice, *, fill: float) -> np.ndarray:
        """Cut a window of the grid out of fine pixels; `fill` where the file ends."""
        (from_rows, to_rows, height), (from_columns, to_columns, width) = (
            fit.overlap(span) for fit, span in ((self.rows, rows), (self.columns, columns))
        )
        inside = fine[from_rows, from_columns]
        if inside.shape == (height, width):
            return inside
        cut = np.full((height, width), fill, fine.dtype)
        cut[to_rows, to_columns] = inside
        return cut
