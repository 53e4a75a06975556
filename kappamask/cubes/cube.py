"""STAC items to canonical cubes. Row 4: imports rows 0-3; reads through stackstac or odc-stac.

`load_cube` reads as the pipeline: resolve assets, choose a grid, read digital
numbers with an engine, turn them into reflectance, join items of one solar day.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kappamask.base.bands import AUXILIARY, BANDS
from kappamask.base.dn import to_reflectance
from kappamask.base.errors import UnknownNameError
from kappamask.base.grid import Grid, snap_chunks
from kappamask.base.windows import LATTICE
from kappamask.cubes.engines import ENGINES, Source, read_dn
from kappamask.scenes.catalogs import resolve_assets
from kappamask.scenes.sift import (
    Resolve,
    Scene,
    check_scenes,
    choose_bands,
    choose_grid,
    read_scene,
)

if TYPE_CHECKING:
    import dask.array as da
    import xarray as xr

LOG = logging.getLogger(__name__)


def load_cube(  # noqa: PLR0913  the public contract fixes the first six
    items: Iterable[Any],
    area: Any = None,
    *,
    resolution: float = 10,
    bands: Sequence[str] | None = None,
    chunks: int = LATTICE.core,
    engine: str = "stackstac",
    crs: Any = None,
    resolve: Resolve = resolve_assets,
) -> xr.DataArray:
    """Assemble STAC items into one lazy cube of reflectance.

    Parameters
    ----------
    items
        pystac Items or their dicts, of one processing level.
    area
        What to cut out: a bbox in degrees, a GeoJSON geometry or file, or a shapely
        geometry; its bounding rectangle on the grid is loaded. None: all of the items.
    resolution
        Metres per pixel. Finer than a band's own: its pixels are repeated exactly;
        coarser than 10: they are averaged.
    bands
        Canonical names, in the order wanted; None: every reflectance band that an
        item holds.
    chunks
        Pixels per side of a dask chunk. Chunk edges lie on the window lattice.
    engine
        ``"stackstac"``, or ``"odc"`` for odc-stac; both give the same cube.
    crs
        Anything pyproj knows with an EPSG code, in metres; None: the one that most
        items are in, to which the others are warped (nearest neighbour).
    resolve
        How to find an item's files and offsets. Only needed for items that do not
        tell: ``functools.partial(resolve_assets, dn_offset=-1000)``.

    Returns
    -------
    xarray.DataArray
        (time, band, y, x) float32 reflectance, 1.0 = 100 %, offsets applied, NaN =
        no data; AOT (1) and WVP (cm) where asked for. Coordinate `source_items`
        names the items of each date, separated by spaces. One date per solar day:
        where items overlap, the first with valid data wins, in order of time and id.

    Raises
    ------
    NoItemsError
        If there are no items, or none of them reaches the area.
    ItemError
        If an item cannot be read as Sentinel-2; the message names it.
    InputError, UnknownNameError
        If an argument breaks its rule, or the items are of two levels.

    Examples
    --------
    >>> from kappamask import load_cube, search
    >>> from kappamask.sample import SCENES, catalog_path
    >>> scene = SCENES[0]
    >>> items = search(scene.bbox, scene.dates, catalog=catalog_path(), level=scene.level)
    >>> cube = load_cube(items, scene.bbox, bands=["B04", "B03", "B02"])
    >>> cube.dims, cube.dtype, cube.attrs["level"]
    (('time', 'band', 'y', 'x'), dtype('float32'), 'L1C')
    """
    scenes = sorted(
        (read_scene(item, bands, resolve=resolve) for item in items),
        key=lambda scene: (scene.time, scene.id),
    )
    level = check_scenes(scenes)
    names = choose_bands(scenes, bands, level)
    if engine not in ENGINES:
        raise UnknownNameError.of("engine", engine, list(ENGINES))
    grid = choose_grid(scenes, area, resolution=resolution, crs=crs)
    sources = [to_source(scene) for scene in scenes]
    kept, dn = read_dn(sources, names, grid, chunks=snap_chunks(grid, chunks), engine=engine)
    if missed := [scene.id for index, scene in enumerate(scenes) if index not in set(kept)]:
        LOG.warning("left out %d items that miss the area: %s", len(missed), ", ".join(missed))
    scenes = [scenes[index] for index in kept]
    reflectance = apply_offsets(dn, scenes, names)
    groups = group_by_solar_day(scenes)
    mosaics = [join_first_valid([reflectance[index] for index in group]) for group in groups]
    return build_cube(mosaics, [[scenes[i] for i in group] for group in groups], names, grid, level)


def find_place(href: str) -> str:
    """Give a path that begins in the working folder from the root: odc-stac takes no other.

    Examples
    --------
    >>> find_place("https://host/B02.tif"), find_place("/vsizip/a.zip/B02.jp2")
    ('https://host/B02.tif', '/vsizip/a.zip/B02.jp2')
    >>> find_place("B02.tif").endswith("/B02.tif")
    True
    """
    return href if "://" in href or href.startswith("/") else os.path.abspath(href)  # noqa: PTH100


def to_source(scene: Scene) -> Source:
    """Say which files an engine opens, and where they lie."""
    return Source(
        id=scene.id,
        time=scene.time,
        footprint=scene.footprint,
        crs=scene.crs,
        hrefs={name: find_place(asset.href) for name, asset in scene.assets.items()},
        keys={name: asset.key for name, asset in scene.assets.items()},
        placement=scene.placement,
        gdal_options=scene.gdal_options,
    )


def apply_offsets(dn: da.Array, scenes: Sequence[Scene], names: Sequence[str]) -> da.Array:
    """Turn DN (item, band, y, x) into reflectance, each item and band by its own offset."""
    import dask.array as da

    shape = (len(scenes), len(names), 1, 1)
    offset, scale = np.zeros(shape, np.float32), np.ones(shape, np.float32)
    for i, scene in enumerate(scenes):
        for j, name in enumerate(names):
            if name in scene.assets:
                offset[i, j] = scene.assets[name].dn_offset
                scale[i, j] = scene.assets[name].scale
    per_block = [da.from_array(values, chunks=(1, -1, 1, 1)) for values in (offset, scale)]
    return da.map_blocks(to_reflectance, dn, *per_block, dtype=np.float32)


def group_by_solar_day(scenes: Sequence[Scene]) -> list[list[int]]:
    """List the indices of the scenes of each solar day, days and scenes in order of time."""
    groups: dict[np.datetime64, list[int]] = {}
    for index, scene in enumerate(scenes):
        groups.setdefault(scene.solar_day, []).append(index)
    return [groups[day] for day in sorted(groups)]


def join_first_valid(layers: Sequence[da.Array]) -> da.Array:
    """Lay arrays (band, y, x) over each other; the first finite value wins."""
    import dask.array as da

    joined, *others = layers
    for other in others:
        joined = da.where(da.isnan(joined), other, joined)
    return joined


def build_cube(
    mosaics: Sequence[da.Array],
    groups: Sequence[Sequence[Scene]],
    names: Sequence[str],
    grid: Grid,
    level: str,
) -> xr.DataArray:
    """Dress the blocks as the canonical cube."""
    import dask.array as da
    import rioxarray  # noqa: F401  registers cube.rio
    import xarray as xr

    known = {band.name: band for band in BANDS + AUXILIARY}
    x, y = grid.centres
    cube = xr.DataArray(
        da.stack(mosaics),
        dims=("time", "band", "y", "x"),
        coords={
            "time": np.array([group[0].time for group in groups], "M8[ns]"),
            "band": list(names),
            "y": y,
            "x": x,
            "common_name": ("band", [known[name].common_name for name in names]),
            "source_items": ("time", [" ".join(s.id for s in group) for group in groups]),
        },
        name="reflectance",
        attrs={"level": level, "units": "1", "long_name": f"{level} reflectance"},
    )
    return cube.rio.write_crs(grid.epsg)  # type: ignore[no-any-return]
