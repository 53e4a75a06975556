"""Files read as their own pixels lie, without an engine. Imports `rasters`, `scenes` and `base`.

Where pixels meet those of the grid they are repeated or averaged exactly; where they do not,
or lie in another CRS, each pixel of the grid takes the nearest one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from kappamask.base.errors import InputError
from kappamask.base.windows import Chunks, Grid
from kappamask.cubes.levels import at_grid, is_level
from kappamask.cubes.rasters import Access, BandOnGrid, FileReader, check_band
from kappamask.scenes.area import transformer
from kappamask.scenes.scene import BandFile, Scene
from kappamask.scenes.zarr_store import split_array

if TYPE_CHECKING:
    import dask.array as da
    import xarray as xr


def is_own(scene: Scene) -> bool:
    """Tell whether it is a raster of one's own."""
    return any(file.own for file in scene.files.values())


def is_native(scene: Scene) -> bool:
    """Tell whether engines cannot read its files: arrays, levels, rasters of one's own."""
    return is_own(scene) or any(
        split_array(file.href) or is_level(file) for file in scene.files.values()
    )


def read_lazily(
    scenes: Sequence[Scene], names: Sequence[str], grid: Grid, chunks: Chunks
) -> da.Array:
    """Make (time, band, y, x) reflectance of one date, of which each chunk reads its own window."""
    import dask.array as da
    from dask.base import tokenize

    scenes = [at_grid(scene, grid) for scene in scenes]
    layout = ((1,), (1,) * len(names), *chunks)
    token = tokenize([(scene.id, scene.files) for scene in scenes], names, grid, layout)
    return da.map_blocks(
        partial(read_chunk, tuple(scenes), tuple(names), grid, Access.to(scenes).options),
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
    options: Mapping[str, str],
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
            with FileReader({name: scene.files[name]}, options) as reader:
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
