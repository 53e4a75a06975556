"""Scenes to canonical cubes. Imports `engines`, `scenes` and `base`.

`load_cube` reads as the pipeline: resolve assets, choose a grid, read digital
numbers with an engine, turn them into reflectance, join items of one solar day.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from kappamask.base.bands import BY_NAME, NAMES, check_names
from kappamask.base.errors import InputError, ItemError, NoItemsError, UnknownNameError
from kappamask.base.pixels import to_reflectance
from kappamask.base.windows import (
    INSIDE,
    LATTICE,
    NO_MARGINS,
    SURROUNDINGS,
    Chunks,
    Grid,
    Margins,
    snap_chunks,
)
from kappamask.cubes.engines import ENGINES, read_dn
from kappamask.cubes.levels import at_grid
from kappamask.cubes.native import check_band, fits, is_native, read_lazily
from kappamask.scenes.area import (
    MAX_PIXELS,
    AreaLike,
    check_size,
    is_bbox,
    parse_area,
    project,
)
from kappamask.scenes.catalogs import resolve_assets
from kappamask.scenes.scene import Bounds, Frame, Scene, overlap, rounded, sun_of
from kappamask.scenes.sources import Resolve, listed, scene_of

if TYPE_CHECKING:
    import dask.array as da
    import xarray as xr
    from shapely.geometry.base import BaseGeometry

SPREAD = 4  # times what their items cover: from here on a cube is a mistake
READERS = 8  # files read side by side where one date is read: they wait for servers, not for cores
LOG = logging.getLogger(__name__)


def load_cube(  # noqa: PLR0913  the public contract fixes the first six
    items: Iterable[Any],
    area: AreaLike | None = None,
    *,
    resolution: float = 10,
    bands: Sequence[str] | None = None,
    chunks: int = LATTICE.core,
    engine: str = "stackstac",
    crs: Any = None,
    margin: int = LATTICE.margin,
    resolve: Resolve = resolve_assets,
    max_pixels: int | None = MAX_PIXELS,
) -> xr.DataArray:
    """Assemble STAC items into one lazy cube of reflectance.

    Parameters
    ----------
    items
        pystac Items, their dicts or scenes (`kappamask.scenes.sources.scene_of`), of one
        processing level; one alone is a list of one.
    area
        What to cut out: a bbox in degrees, a GeoJSON geometry or file, or a shapely
        geometry. Its bounding rectangle on the grid is loaded; a polygon is cut out of it,
        outside is NaN. None: all of the items.
    resolution
        Metres per pixel. Finer than a band's own: its pixels are repeated exactly;
        coarser than 10: they are averaged, from 20 on out of the files' own overviews, where
        these hold means, or resolution levels, where these lie edge on edge with the cube
        (`kappamask.cubes.levels`); levels only if all bands of the item do.
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
    margin
        Pixels beside the area, as far as there are any, that `predict_cube` lets the network
        see: a small field gets the labels that it has in a large cube. They are read with the
        chunks at the area's edges, and belong to no cube. 0: nothing beyond the area is read.
    resolve
        How to find an item's files and offsets. Only needed for items that do not
        tell: ``functools.partial(resolve_assets, dn_offset=-1000)``.
    max_pixels
        Of a date: a larger area is refused, as a mistake; None allows any.

    Returns
    -------
    xarray.DataArray
        (time, band, y, x) float32 reflectance, 1.0 = 100 %, offsets applied, NaN =
        no data; AOT (1) and WVP (cm) where asked for. Coordinate `source_items`
        names the items of each date, separated by spaces; `sun_azimuth` (from north) and
        `sun_elevation` are degrees, as the items tell them, else of their time and place.
        One date per solar day: where items overlap, the first with valid data wins, in order
        of time and id.

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
    return load_scenes(
        [scene_of(item, bands, resolve=resolve) for item in listed(items)],
        area,
        resolution=resolution,
        bands=bands,
        chunks=chunks,
        engine=engine,
        crs=crs,
        margin=margin,
        max_pixels=max_pixels,
    )


def load_scenes(  # noqa: PLR0913  those of `load_cube`
    scenes: Sequence[Scene],
    area: AreaLike | None,
    *,
    resolution: float,
    bands: Sequence[str] | None,
    engine: str,
    margin: int,
    max_pixels: int | None,
    chunks: int = LATTICE.core,
    crs: Any = None,
    apart: bool = False,
) -> xr.DataArray:
    """Assemble scenes as `load_cube` does items.

    `apart` makes a task of each band of a date, not one of all: jobs that go date by date then read
    them side by side. Of many dates others are read meanwhile, and so many tasks gain nothing.
    """
    import dask.array as da

    scenes = sorted(scenes, key=lambda scene: (scene.time, scene.id))
    level = check_scenes(scenes)
    names = choose_bands(scenes, bands, level)
    if engine not in ENGINES:
        raise UnknownNameError.of("engine", engine, list(ENGINES))
    grid = choose_grid(scenes, area, resolution=resolution, crs=crs, max_pixels=max_pixels)
    margins = beside_area(scenes, grid, most=margin)
    # What lies beside the area alone would make dates of its own.
    near = [index for index, scene in enumerate(scenes) if _meets(scene, grid)]
    layers = _read_scenes(
        {index: _at_grid(scenes[index], grid) for index in near},
        names,
        grid.widened(margins),
        chunks=margins.widen(snap_chunks(grid, chunks)),
        engine=engine,
        apart=apart,
    )
    if missed := [scene.id for index, scene in enumerate(scenes) if index not in layers]:
        LOG.warning("left out %d items that miss the area: %s", len(missed), ", ".join(missed))
    kept = sorted(layers)
    scenes = [scenes[index] for index in kept]
    groups = group_by_solar_day(scenes)
    dates = [join_first_valid([layers[kept[index]] for index in group]) for group in groups]
    grouped = [[scenes[index] for index in group] for group in groups]
    cube = build_cube(da.stack(dates), grouped, names, grid, margins=margins)
    return cut_cube(cube, area, grid)


def _at_grid(scene: Scene, grid: Grid) -> Scene:
    """View a scene at coarser pixels, unless an engine then could not warp what has to be warped.

    Levels of JPEG 2000 are read without an engine, and the other bands of the scene with them:
    those of 60 m do not divide pixels of 80 m.
    """
    coarse = at_grid(scene, grid)
    if is_native(coarse) and not is_native(scene) and not fits(coarse, grid):
        return scene
    return coarse


def _read_scenes(
    scenes: Mapping[int, Scene],
    names: Sequence[str],
    grid: Grid,
    *,
    chunks: Chunks,
    engine: str,
    apart: bool,
) -> dict[int, da.Array]:
    """Read those that reach the grid as reflectance (band, y, x), lazily; numbers stay."""
    layers: dict[int, da.Array] = {}
    if plain := [number for number, scene in scenes.items() if not is_native(scene)]:
        some = [scenes[number] for number in plain]
        kept, dn = read_dn(some, names, grid, chunks=chunks, engine=engine, apart=apart)
        reflectance = apply_offsets(dn, [some[place] for place in kept], names, grid)
        layers = {plain[place]: reflectance[layer] for layer, place in enumerate(kept)}
    for number, scene in scenes.items():
        if is_native(scene):
            layers[number] = read_lazily([scene], names, grid, chunks)[0].rechunk({0: -1})
    return layers


def check_scenes(scenes: Sequence[Scene]) -> str:
    """Check that there is something to load, of one level; return the level."""
    if not scenes:
        raise NoItemsError("a cube needs at least one item, got none: widen area or dates")
    levels = {scene.level: scene.id for scene in scenes}
    if len(levels) > 1:
        raise InputError(
            "the items of a cube are of one processing level, got "
            f"{' and '.join(f'{level} ({name})' for level, name in levels.items())}: "
            "search one level at a time"
        )
    return scenes[0].level


def choose_bands(scenes: Sequence[Scene], bands: Sequence[str] | None, level: str) -> list[str]:
    """Keep the caller's order, or list every reflectance band that a scene holds."""
    if bands is not None:
        return list(check_names(bands, level))
    return [name for name in NAMES if any(name in scene.files for scene in scenes)]


def choose_grid(
    scenes: Sequence[Scene],
    area: AreaLike | None,
    *,
    resolution: float,
    crs: Any = None,
    within: bool = False,
    max_pixels: int | None = MAX_PIXELS,
) -> Grid:
    """Settle CRS, origin and size of the cube; edges lie on the items' own pixel edges.

    The CRS is, in this order: 1. the caller's; 2. the one of most items. `within` leaves out
    what of the area's rectangle lies outside the scenes.

    Raises
    ------
    InputError
        If there are more than `max_pixels`: in the area, or between items that lie far apart.
    """
    if not resolution > 0:
        raise InputError(f"resolution is metres per pixel, above 0, got {resolution!r}")
    if any(scene.frame for scene in scenes):
        return _grid_of_frame(scenes, area)
    epsg = _projected(crs) if crs is not None else _commonest_crs(scenes)
    reach = [bounds for scene in scenes if (bounds := scene.bounds_in(epsg))]
    if area is None:
        if not reach:
            raise ItemError(f"item {scenes[0].id} does not tell its extent: pass area=...")
        wanted = _union(reach)
        _check_together(reach, wanted, resolution=resolution, max_pixels=max_pixels)
    else:
        if not within:
            check_size(area, resolution=resolution, max_pixels=max_pixels)
        wanted = project(parse_area(area), epsg).bounds
        if reach and not any(overlap(bounds, wanted) for bounds in reach):
            raise NoItemsError(
                f"the area lies outside all {len(scenes)} items ({scenes[0].id}...): "
                f"got {rounded(wanted)}, the items cover {rounded(_union(reach))} "
                f"in EPSG:{epsg}: search with the same area"
            )
    if within and reach:
        (west, south, east, north), (left, bottom, right, top) = wanted, _union(reach)
        wanted = max(west, left), max(south, bottom), min(east, right), min(north, top)
    anchor = reach[0] if reach else (0.0, 0.0, 0.0, 0.0)
    return Grid.covering(wanted, epsg=epsg, resolution=resolution, anchor=(anchor[0], anchor[3]))


def find_inside(geometry: BaseGeometry, grid: Grid) -> np.ndarray:
    """Find the pixels of a grid whose centres lie in a polygon in degrees: bool (y, x).

    Of a polygon that holds no centre, those that it touches.
    """
    from rasterio.features import geometry_mask
    from rasterio.transform import from_origin

    place = from_origin(grid.left, grid.top, grid.resolution, grid.resolution)
    outline, shape = project(geometry, grid.epsg), (grid.height, grid.width)
    for touched in (False, True):
        inside: np.ndarray = geometry_mask(
            [outline], shape, place, invert=True, all_touched=touched
        )
        if inside.any():
            break
    return inside


def cut_cube(cube: xr.DataArray, area: AreaLike | None, grid: Grid) -> xr.DataArray:
    """Cut a polygon out of a lazy cube: NaN outside of it; a bbox is the cube as it is.

    What was there goes with the cube in its encoding: `predict_cube` lets the network see it.
    """
    import dask.array as da
    import xarray as xr

    geometry = None if area is None else parse_area(area)
    if geometry is None or is_bbox(geometry):
        return cube
    inside = find_inside(geometry, grid)
    mask = da.from_array(inside, chunks=cube.data.chunks[2:])
    cut = cube.copy(data=da.where(mask, cube.data, np.float32(np.nan)))
    there = xr.DataArray(inside, dims=("y", "x"), coords={"y": cube["y"], "x": cube["x"]})
    cut.encoding = {SURROUNDINGS: cube.encoding.get(SURROUNDINGS, cube), INSIDE: there}
    return cut


def hold_date(cube: xr.DataArray, time: np.datetime64) -> xr.DataArray:
    """Read one date of a cube of `load_cube`, and what lies beside it, now and once.

    Gives a cube (time, band, y, x) of that date alone, which `predict_cube` labels as it does the
    lazy one; its pixels, 4 bytes each and band, are in memory.
    """
    import dask.array as da

    around = cube.encoding.get(SURROUNDINGS, cube)
    values = around.sel(time=[time]).data.compute(num_workers=READERS)
    held = around.sel(time=[time]).copy(data=da.from_array(values, chunks=-1, name=False))
    rows, columns = (
        slice(start := int(np.abs(around[dim].values - cube[dim].values[0]).argmin()),
              start + cube.sizes[dim])
        for dim in "yx"
    )  # fmt: skip
    part: xr.DataArray = held.isel(y=rows, x=columns)
    if around is not cube:
        part.encoding[SURROUNDINGS] = held
    if (inside := cube.encoding.get(INSIDE)) is None:
        return part
    cut: xr.DataArray = part.copy(data=da.where(inside.values, part.data, np.float32(np.nan)))
    cut.encoding = {SURROUNDINGS: held, INSIDE: inside}
    return cut


def _check_together(
    reach: Sequence[Bounds], whole: Bounds, *, resolution: float, max_pixels: int | None
) -> None:
    """Refuse items without an area whose common rectangle is nearly empty, and large."""
    own, around = (
        sum((right - left) * (top - bottom) for left, bottom, right, top in rectangles)
        for rectangles in (set(reach), [whole])
    )
    pixels = around / resolution**2
    if max_pixels is not None and pixels > max_pixels and around > SPREAD * own:
        raise InputError(
            f"items without an area share one cube of at most {max_pixels:,} pixels a date, got "
            f"{pixels:,.0f} around items that lie far apart: pass area=..., or take one tile at a "
            "time"
        )


def beside_area(scenes: Sequence[Scene], grid: Grid, *, most: int = LATTICE.margin) -> Margins:
    """Say how many pixels there are beside an area that any of its scenes holds."""
    reach = [scene.bounds_in(grid.epsg) for scene in scenes if _meets(scene, grid)]
    known = [bounds for bounds in reach if bounds]
    return grid.margins(_union(known) if len(known) == len(reach) > 0 else None, most=most)


def _meets(scene: Scene, grid: Grid) -> bool:
    bounds = scene.bounds_in(grid.epsg)
    return bounds is None or overlap(bounds, grid.bounds)


def _grid_of_frame(scenes: Sequence[Scene], area: Any) -> Grid:
    """Give the pixels themselves for a grid, of a raster that has none in metres."""
    if area is not None or len(scenes) > 1:
        raise InputError(
            f"{scenes[0].id} has no place on a grid in metres with north up: mask all of it, "
            "without an area, or warp it to a UTM zone first"
        )
    file = min(scenes[0].files.values(), key=lambda file: file.gsd)
    return Grid(0, 1.0, 0.0, 0.0, file.height, file.width)


def _projected(crs: Any) -> int:
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    try:
        found = CRS.from_user_input(crs)
    except CRSError:
        found = None
    epsg = found.to_epsg() if found else None
    if found is None or epsg is None or not found.is_projected:
        raise InputError(
            f"a cube needs a projected CRS in metres with an EPSG code, got {crs!r}: "
            "give a UTM zone such as 'EPSG:32632'"
        )
    return int(epsg)


def _commonest_crs(scenes: Sequence[Scene]) -> int:
    counts = Counter(scene.epsg for scene in scenes if scene.epsg)
    if not counts:
        raise ItemError(f"item {scenes[0].id} does not tell its CRS (proj:code): pass crs=...")
    epsg, most = counts.most_common(1)[0]
    _projected(epsg)
    if len(counts) > 1:
        LOG.warning(
            "items lie in %d CRS: the cube is in EPSG:%d as %d of %d items are, the others are "
            "warped",
            len(counts),
            epsg,
            most,
            len(scenes),
        )
    return epsg


def _union(all_bounds: Sequence[Bounds]) -> Bounds:
    left, bottom, right, top = zip(*all_bounds, strict=True)
    return min(left), min(bottom), max(right), max(top)


def apply_offsets(
    dn: da.Array, scenes: Sequence[Scene], names: Sequence[str], grid: Grid
) -> da.Array:
    """Turn DN (item, band, y, x) into reflectance, each item and band by its own offset."""
    import dask.array as da

    shape = (len(scenes), len(names), 1, 1)
    offset, scale = np.zeros(shape, np.float32), np.ones(shape, np.float32)
    for i, scene in enumerate(scenes):
        for j, name in enumerate(names):
            if name in scene.files:
                offset[i, j] = scene.files[name].dn_offset
                scale[i, j] = scene.files[name].scale
    per_block = [da.from_array(values, chunks=(1, -1, 1, 1)) for values in (offset, scale)]
    held = [(f"item {s.id}", [n if n in s.files else "" for n in names]) for s in scenes]
    reflect = partial(_reflect, held, grid)
    return da.map_blocks(reflect, dn, *per_block, dtype=np.float32, meta=np.empty((0,) * 4, "f4"))


def _reflect(
    held: Sequence[tuple[str, Sequence[str]]],
    grid: Grid,
    dn: np.ndarray,
    offset: np.ndarray,
    scale: np.ndarray,
    block_info: Any = None,
) -> np.ndarray:
    """Turn the DN (1, band, y, x) of one scene into reflectance, if no band of it is lost."""
    where, names = held[block_info[0]["array-location"][0][0]]
    layers = {band: layer for band, layer in zip(names, dn[0], strict=True) if band}

    for band in layers:
        check_band(
            band,
            layers,
            lambda name: layers[name] != 0,
            where=where,
            resolution=grid.resolution,
            whole=(grid.height, grid.width),
        )
    return to_reflectance(dn, offset, scale)


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
    data: da.Array,
    groups: Sequence[Sequence[Scene]],
    names: Sequence[str],
    grid: Grid,
    *,
    margins: Margins = NO_MARGINS,
) -> xr.DataArray:
    """Dress blocks (time, band, y, x), of a group of scenes each date, as the canonical cube.

    `data` holds the pixels of the grid and, beside them, those of the margins, which go with the
    cube in its encoding (`SURROUNDINGS`).
    """
    import rioxarray  # noqa: F401  registers cube.rio
    import xarray as xr

    level, frame = groups[0][0].level, groups[0][0].frame
    x, y = grid.widened(margins).centres if frame is None else _centres_of_frame(frame, grid)
    azimuth, elevation = np.transpose([sun_of(group) for group in groups])
    cube = xr.DataArray(
        data,
        dims=("time", "band", "y", "x"),
        coords={
            "time": np.array([group[0].time for group in groups], "M8[ns]"),
            "band": list(names),
            "y": y,
            "x": x,
            "common_name": ("band", [BY_NAME[name].common_name for name in names]),
            "source_items": ("time", [" ".join(s.id for s in group) for group in groups]),
            "sun_azimuth": ("time", azimuth, {"units": "degree"}),
            "sun_elevation": ("time", elevation, {"units": "degree"}),
        },
        name="reflectance",
        attrs={"level": level, "units": "1", "long_name": f"{level} reflectance"},
    )
    if frame is not None:
        if frame.crs_wkt is None or _is_turned(frame):
            return cube.assign_attrs(georeferenced=False)
        return cube.rio.write_crs(frame.crs_wkt)  # type: ignore[no-any-return]
    whole: xr.DataArray = cube.rio.write_crs(grid.epsg)
    if margins == NO_MARGINS:
        return whole
    rows, columns = margins.crop((whole.sizes["y"], whole.sizes["x"]))
    cube = whole.isel(y=rows, x=columns)
    cube.encoding[SURROUNDINGS] = whole
    return cube


def _is_turned(frame: Frame) -> bool:
    return bool(frame.transform[1] or frame.transform[3])


def _centres_of_frame(frame: Frame, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of pixel centres; of pixels without a place, or turned, how they are counted."""
    columns, rows = np.arange(grid.width) + 0.5, np.arange(grid.height) + 0.5
    if frame.crs_wkt is None or _is_turned(frame):
        return columns, rows
    a, _, c, _, e, f = frame.transform
    return c + a * columns, f + e * rows
