"""Files read as their own pixels lie, without an engine. Imports `rasters`, `scenes` and `base`.

Where pixels meet those of the grid they are repeated or averaged exactly; where they do not,
or lie in another CRS, each pixel of the grid takes the nearest one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from kappamask.base.bands import get_band
from kappamask.base.errors import InputError, ReadError
from kappamask.base.pixels import average_dn, repeat_pixels
from kappamask.base.windows import Chunks, Grid
from kappamask.cubes.levels import at_grid, is_level
from kappamask.cubes.rasters import Access, FileReader, Reader
from kappamask.scenes.area import transformer
from kappamask.scenes.scene import BandFile, Scene, split_array

if TYPE_CHECKING:
    import dask.array as da
    import xarray as xr


LOST_M = 5120.0  # side of a square; where a scene begins, neighbouring bands end 2 km apart
_SMALLEST_SQUARE = 32  # pixels per side; below, nothing is said of bands without data
_WHOLE = 0.99  # share of pixels with data


def check_band(
    band: str,
    bands: Iterable[str],
    valid: Callable[[str], np.ndarray],
    *,
    where: str,
    resolution: float,
    whole: tuple[int, int],
) -> None:
    """Refuse a scene one band of which has no data where all others have it.

    Decoders give zeros for what is damaged, and zeros are "no data".

    Parameters
    ----------
    band
        The one that is looked at.
    bands
        All that were read of the scene.
    valid
        Gives (y, x) bool of a band, True where it has data; asked for others only if needed.
    where
        The item or product, for the message.
    resolution
        Metres per pixel.
    whole
        Rows and columns of the grid that this is a part of: a strip of a large one is too narrow
        to tell damage from where a scene begins. Of a small one squares are two thirds of a side;
        in a part that holds no square nothing is lost.

    Raises
    ------
    ReadError
        If a square of `LOST_M` is lost, or as large a one as there is.
    """
    others = [other for other in bands if other != band and get_band(other).is_reflectance]
    if not (others and get_band(band).is_reflectance):
        return
    has_data = valid(band)
    step = min(max(round(LOST_M / resolution / 2), 1), *(size // 3 for size in whole))
    if step < _SMALLEST_SQUARE // 2 or min(has_data.shape) < 2 * step:
        return

    lost = _in_squares(_in_cells(~has_data, step).all(axis=(1, 3)))
    for other in others:
        if not lost.any():
            return
        lost &= _in_squares(_in_cells(valid(other), step).mean(axis=(1, 3)) > _WHOLE)
    if lost.any():
        raise ReadError(
            f"bands of one scene have data in the same places, {band} of {where} has none where "
            "all others have: its file is damaged, download it again or leave the item out"
        )


def _in_cells(pixels: np.ndarray, step: int) -> np.ndarray:
    """Cut (y, x) into cells, halves of a square: (y, step, x, step)."""
    rows, columns = (size // step for size in pixels.shape)
    return pixels[: rows * step, : columns * step].reshape(rows, step, columns, step)


def _in_squares(cells: Any) -> np.ndarray:
    """Tell of each two by two cells whether all of them are selected."""
    in_rows = cells[1:] & cells[:-1]
    squares: np.ndarray = in_rows[:, 1:] & in_rows[:, :-1]
    return squares


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

    def native(self, span: slice) -> slice:
        """Pixels of the file that a span of the grid needs; empty where the file ends."""
        fine = self._fine(span)
        start = min(max(fine.start // self.repeat, 0), self.length)
        return slice(start, max(start, min(-(-fine.stop // self.repeat), self.length)))

    def overlap(self, span: slice) -> tuple[slice, slice, int]:
        """Where a span of the grid lies in what `native` reads, in fine pixels.

        Gives the slice of those read, the slice of those wanted, and how many are wanted.
        """
        fine, native = self._fine(span), self.native(span)
        origin = native.start * self.repeat
        low, high = max(fine.start, origin), min(fine.stop, native.stop * self.repeat)
        there = slice(low - origin, high - origin), slice(low - fine.start, high - fine.start)
        return *there, fine.stop - fine.start

    def _fine(self, span: slice) -> slice:
        """Fine pixels, counted from the file's edge, of a span of the grid."""
        return slice(self.start + span.start * self.average, self.start + span.stop * self.average)


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


# --- scenes ---------------------------------------------------------------------------------


def is_own(scene: Scene) -> bool:
    """Tell whether it is a raster of one's own."""
    return any(file.own for file in scene.files.values())


def is_native(scene: Scene) -> bool:
    """Tell whether engines cannot read its files: arrays, levels, rasters of one's own."""
    return is_own(scene) or any(
        split_array(file.href) or is_level(file) for file in scene.files.values()
    )


def fits(scene: Scene, grid: Grid) -> bool:
    """Tell whether pixels of all of its files meet those of a grid edge on edge."""
    try:
        for file in scene.files.values():
            BandOnGrid.fit(file, grid)
    except InputError:
        return False
    return all(file.height and file.epsg == grid.epsg for file in scene.files.values())


def read_lazily(
    scenes: Sequence[Scene], names: Sequence[str], grid: Grid, chunks: Chunks
) -> da.Array:
    """Make (time, band, y, x) reflectance of one date, of which each chunk reads its own window."""
    import dask.array as da
    from dask.base import tokenize

    scenes = [at_grid(scene, grid) for scene in scenes]
    layout = ((1,), (1,) * len(names), *chunks)
    token = tokenize([(scene.id, scene.files) for scene in scenes], names, grid, layout)
    # Of one job: what a chunk has read of a file on a server, such as its header, serves others.
    access = replace(Access.to(scenes), claims={})  # readers know their files
    return da.map_blocks(
        partial(read_chunk, tuple(scenes), tuple(names), grid, access),
        chunks=layout,
        dtype=np.float32,
        meta=np.empty((0, 0, 0, 0), np.float32),
        name=f"read-native-{token}",
    )


def read_small(scene: Scene, names: Sequence[str], grid: Grid, factor: int) -> xr.DataArray:
    """Read bands of a scene for a picture: (band, y, x) reflectance, `factor` times as coarse.

    By the overviews of the files, so that little of them is decoded. The grid lies within the
    scene.
    """
    import rioxarray  # noqa: F401  registers .rio
    import xarray as xr

    shape = -(-grid.height // factor), -(-grid.width // factor)
    layers = []
    with FileReader({name: scene.files[name] for name in names}) as reader:
        for name in names:
            file = scene.files[name]
            band = BandOnGrid.fit(file, grid)
            rows = band.rows.native(slice(0, grid.height))
            columns = band.columns.native(slice(0, grid.width))
            layers.append(file.to_reflectance(reader.read_small(name, rows, columns, shape)))
    left, bottom, right, top = grid.bounds
    step_y, step_x = (top - bottom) / shape[0], (right - left) / shape[1]
    cube = xr.DataArray(
        np.stack(layers),
        dims=("band", "y", "x"),
        coords={
            "time": scene.time,
            "band": list(names),
            "y": top - step_y * (np.arange(shape[0]) + 0.5),
            "x": left + step_x * (np.arange(shape[1]) + 0.5),
        },
        attrs={"level": scene.level},
    )
    return cube.rio.write_crs(grid.epsg)  # type: ignore[no-any-return]


def read_chunk(
    scenes: Sequence[Scene],
    names: Sequence[str],
    grid: Grid,
    access: Access,
    *,
    block_info: Any = None,
) -> np.ndarray:
    """Read (1, 1, y, x) of one band; where scenes overlap the first with data wins."""
    _, (first, _), *axes = block_info[None]["array-location"]
    rows, columns = (slice(*axis) for axis in axes)
    shape = [span.stop - span.start for span in (rows, columns)]
    chunk = np.full(shape, np.nan, np.float32)
    for scene in scenes:
        held = [name for name in names if name in scene.files]
        if names[first] not in held:
            continue

        @cache
        def read(name: str, scene: Scene = scene) -> np.ndarray:
            with FileReader({name: scene.files[name]}, access) as reader:
                return read_window(scene.files[name], grid, reader, rows, columns)

        layer = read(names[first])
        if not scene.files[names[first]].own:
            # The others are read only where this one has no data, until one has none there either.
            check_band(
                names[first],
                held,
                lambda name, read=read: np.isfinite(read(name)),  # type: ignore[misc]
                where=f"product {scene.id}",
                resolution=grid.resolution,
                whole=(grid.height, grid.width),
            )
        np.copyto(chunk, layer, where=np.isnan(chunk))
    return chunk[None, None]


def read_window(
    file: BandFile, grid: Grid, reader: FileReader, rows: slice, columns: slice
) -> np.ndarray:
    """Read reflectance (y, x) float32 of a window of the grid, NaN = no data."""
    try:
        placed = BandOnGrid.fit(file, grid) if file.epsg == grid.epsg else None
    except InputError:
        placed = None
    if placed is not None:
        return placed.read(reader, rows, columns)
    if grid.resolution > file.gsd:
        raise InputError(
            f"pixels are averaged where they lie only, got {file.gsd:g} m in EPSG:{file.epsg} for "
            f"a grid of {grid.resolution:g} m in EPSG:{grid.epsg}: load it at {file.gsd:g} m, or "
            "each zone by itself"
        )
    return _nearest(file, grid, reader, rows, columns)


def _nearest(
    file: BandFile, grid: Grid, reader: FileReader, rows: slice, columns: slice
) -> np.ndarray:
    x, y = np.meshgrid(grid.centres[0][columns], grid.centres[1][rows])
    there = transformer(grid.epsg, file.epsg)
    x, y = there.transform(x, y)
    row = np.floor((file.top - y) / file.gsd)
    column = np.floor((x - file.left) / file.gsd)
    inside = (row >= 0) & (row < file.height) & (column >= 0) & (column < file.width)
    found = np.full(x.shape, np.nan, np.float32)
    if not inside.any():
        return found
    row, column = row[inside].astype(int), column[inside].astype(int)
    top, left = int(row.min()), int(column.min())
    window = slice(top, int(row.max()) + 1), slice(left, int(column.max()) + 1)
    found[inside] = file.to_reflectance(reader.read(file.band, *window))[row - top, column - left]
    return found
