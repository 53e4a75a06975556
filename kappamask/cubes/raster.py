"""Rasters of one's own to canonical cubes. Imports `cube`, `native`, `scenes` and `base`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kappamask.base.windows import LATTICE, snap_chunks
from kappamask.cubes.cube import build_cube, choose_grid
from kappamask.cubes.native import read_lazily
from kappamask.scenes.raster import Told, read_raster

if TYPE_CHECKING:
    import xarray as xr


def open_raster(  # noqa: PLR0913  the public contract fixes the first six
    path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    bands: Sequence[str] | None = None,
    level: str | None = None,
    scale: float | None = None,
    offset: float | None = None,
    nodata: float | None = None,
    time: Any = None,
    chunks: int = LATTICE.core,
) -> xr.DataArray:
    """Open rasters of one's own as a lazy cube of reflectance.

    Parameters
    ----------
    path
        A raster with several bands (GeoTIFF, VRT, JPEG 2000...), or a list of files, of one
        band or more each, that cover one area; with a place on the globe or without.
    bands
        Names of all bands in order, of several files one after the other; ``"-"`` for one that
        is no band of Sentinel-2. None: what descriptions of bands, or names of files of one
        band (``..._B02.tif``), say.
    level
        ``"L1C"`` or ``"L2A"``; None: what the tag ``level`` says.
    scale, offset
        Reflectance is ``(value + offset) / scale``. None: the file's own scale and offset;
        where it says none 10000 and 0 for integers. Floating point wants a scale.
    nodata
        The value that stands for no data; None: what the file declares, and 0 below an offset.
        Pixels that are 0 in all bands are missing anyway.
    time
        When it was seen, UTC; None: the cube has no time.
    chunks
        Pixels per side of a dask chunk.

    Returns
    -------
    xarray.DataArray
        (band, y, x), with `time` (time, band, y, x), float32 reflectance, 1.0 = 100 %, NaN = no
        data, at the pixel size of the finest band. A raster that has no CRS, or is turned,
        counts its pixels along x and y, and ``attrs["georeferenced"]`` is False.

    Raises
    ------
    InputError, UnknownNameError
        If something is missing that the files do not say, or they do not cover one area; the
        message names what to pass.
    ReadError
        If a file cannot be read.

    Examples
    --------
    >>> from kappamask.sample import SCENES, catalog_path
    >>> path = next(catalog_path().parent.rglob("*.tif"))
    >>> open_raster(path, level="L2A")
    Traceback (most recent call last):
    ...
    kappamask.base.errors.InputError: ...
    """
    scene = read_raster(path, Told(bands, level, scale, offset, nodata, time))
    finest = min(file.gsd for file in scene.files.values())
    grid, names = choose_grid([scene], None, resolution=finest), list(scene.files)
    pixels = read_lazily([scene], names, grid, snap_chunks(grid, chunks))
    cube = build_cube(pixels, [[scene]], names, grid)
    return cube.isel(time=0, drop=True) if np.isnat(scene.time) else cube
