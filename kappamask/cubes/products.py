"""Products and rasters of one's own to canonical cubes. Imports `cube`, `native`, `scenes`, `base`.

Both read as the pipeline: read the metadata, choose granules and files, choose a grid, read each
chunk of it when it is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kappamask.base.windows import LATTICE, snap_chunks
from kappamask.cubes.cube import beside_area, build_cube, choose_grid, cut_cube
from kappamask.cubes.native import read_lazily
from kappamask.scenes.area import AreaLike
from kappamask.scenes.products import Told, read_product, read_raster

if TYPE_CHECKING:
    import xarray as xr


def open_safe(  # noqa: PLR0913  the public contract fixes the first five
    path: str | os.PathLike[str],
    *,
    resolution: int = 10,
    bands: Sequence[str] | None = None,
    area: AreaLike | None = None,
    chunks: int = LATTICE.core,
    tile: str | None = None,
    dn_offset: int | None = None,
    margin: int = LATTICE.margin,
) -> xr.DataArray:
    """Open a SAFE or EOPF Zarr product as a lazy cube of reflectance.

    L1C and L2A of Sentinel-2A to D, in the format of today, in the one before December 2016
    (long names, several granules), and as EOPF Zarr, ESA's or GeoZarr. Only metadata are read
    here.

    Parameters
    ----------
    path
        The folder ``....SAFE``, a zip archive that holds it, or its ``MTD_MSIL*.xml``; the
        folder ``....zarr`` of an EOPF product; or the https or s3 address of any of these.
    resolution
        Metres per pixel: 10, 20 or 60. Finer than a band's own: its pixels are
        repeated exactly; coarser: the product's own file at that resolution, else the
        mean, by the file's level of 2 x 2 pixels. 60 opens an L2A product of which only
        ``R60m`` is there.
    bands
        Canonical names, in the order wanted, ``AOT`` and ``WVP`` too; None: every
        reflectance band that is there.
    area
        What to cut out, as `load_cube` takes it; the part of its bounding rectangle
        that lies in the product, NaN outside of a polygon. None: all of the product.
    chunks
        Pixels per side of a dask chunk, one band each. JP2 tiles that chunks share are
        decoded once for each: `kappamask.jobs.mask_product` masks whole products faster.
    tile
        MGRS tile, ``"32TPS"``, of a product with several granules. None: all of them
        (or those that the area meets), joined; where they overlap, the first in order
        of tile with data wins.
    dn_offset
        Added to the DN, 0 or -1000, where metadata do not tell it.
    margin
        Pixels of the product beside the area, for the network to see; as in `load_cube`.

    Returns
    -------
    xarray.DataArray
        (time, band, y, x) float32 as `load_cube` gives it: 1.0 = 100 %, offsets
        applied, NaN = no data, `time` the start of sensing. Coordinates along time:
        `source_items`, `tile`, and the mean `sun_azimuth`, `sun_elevation` and
        `sun_zenith` in degrees;
        attributes `product`, `platform`, `processing_baseline` and `footprint` (WKT,
        degrees).

    Raises
    ------
    InputError
        If it is no SAFE product, an argument breaks its rule, or the files are coarser
        than `resolution`.
    ReadError
        If files are absent or damaged; of pixels, when they are computed.
    ItemError
        If metadata lack something, the offset among it.
    NoItemsError
        If the area lies outside.

    Notes
    -----
    Sentinel-2 Products Specification Document, S2-PDGS-TAS-DI-PSD, issues 12 to 15.
    Offsets: ``Radiometric_Offset_List`` (L1C), ``BOA_ADD_OFFSET_VALUES_LIST`` (L2A).

    Examples
    --------
    >>> open_safe("S2A_MSIL1C_nowhere.SAFE")
    Traceback (most recent call last):
    ...
    kappamask.base.errors.ReadError: no SAFE product at ...S2A_MSIL1C_nowhere.SAFE: check the path
    """
    from shapely.geometry import shape

    product = read_product(path)
    scenes = product.scenes(
        resolution=resolution, bands=bands, area=area, tile=tile, dn_offset=dn_offset
    )
    names = list(scenes[0].files)
    grid = choose_grid(scenes, area, resolution=resolution, within=True)
    margins = beside_area(scenes, grid, most=margin)
    layout = margins.widen(snap_chunks(grid, chunks))
    pixels = read_lazily(scenes, names, grid.widened(margins), layout)
    cube = cut_cube(build_cube(pixels, [scenes], names, grid, margins=margins), area, grid)
    metadata, used = product.metadata, {scene.tile for scene in scenes}
    tiles = [granule.metadata for granule in product.granules if granule.metadata.tile in used]
    told = {
        "product": metadata.name,
        "platform": metadata.platform,
        "processing_baseline": metadata.baseline,
        "footprint": shape(scenes[0].footprint).wkt if scenes[0].footprint else None,
    }
    cube.attrs |= {key: text for key, text in told.items() if text}
    return cube.assign_coords(
        tile=("time", [" ".join(tile.tile for tile in tiles)]),
        sun_zenith=90 - cube["sun_elevation"],
    )


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
