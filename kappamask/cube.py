"""STAC items to canonical cubes. Row 4: imports rows 0-3; reads through stackstac or odc-stac.

`load_cube` reads as the pipeline: resolve assets, choose a grid, read digital
numbers with an engine, turn them into reflectance, join items of one solar day.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kappamask.area import parse_area
from kappamask.bands import AUXILIARY, BANDS, NAMES, check_names
from kappamask.catalogs import ResolvedAsset, profile_of, resolve_assets
from kappamask.engines import ENGINES, Grid, Source, read_dn
from kappamask.errors import InputError, ItemError, NoItemsError, UnknownNameError
from kappamask.items import level_of, sensing_time
from kappamask.windows import LATTICE

if TYPE_CHECKING:
    import dask.array as da
    import xarray as xr

LOG = logging.getLogger(__name__)
Resolve = Callable[..., dict[str, ResolvedAsset]]


@dataclass(frozen=True)
class Scene:
    """One item, read: what the cube needs of it."""

    id: str
    time: np.datetime64  # sensing start, UTC
    level: str
    footprint: Any  # GeoJSON geometry, degrees
    crs: int | None  # EPSG code that its assets are in
    assets: dict[str, ResolvedAsset]
    placement: dict[str, dict[str, Any]]  # band: proj:transform and proj:shape, where told
    gdal_options: dict[str, str]

    @property
    def solar_day(self) -> np.datetime64:
        """The local date: one hour per 15 degrees east of Greenwich."""
        from shapely.geometry import shape

        longitude = shape(self.footprint).representative_point().x
        day: np.datetime64 = (self.time + _solar_shift(longitude)).astype("M8[D]")
        return day


def _solar_shift(longitude: float) -> np.timedelta64:
    return np.timedelta64(round(longitude / 15 * 3600), "s")


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
    scenes = [scenes[index] for index in kept]
    reflectance = apply_offsets(dn, scenes, names)
    groups = group_by_solar_day(scenes)
    mosaics = [join_first_valid([reflectance[index] for index in group]) for group in groups]
    return build_cube(mosaics, [[scenes[i] for i in group] for group in groups], names, grid, level)


def read_scene(item: Any, bands: Sequence[str] | None, *, resolve: Resolve) -> Scene:
    """Read what the cube needs of an item, without opening any file."""
    content = item if isinstance(item, dict) else item.to_dict(include_self_link=False)
    held = resolve(item, bands)
    properties = content["properties"]
    placement, codes = {}, set()
    for name, asset in held.items():
        fields = properties | content["assets"][asset.key]
        placement[name] = {
            key: fields[key] for key in ("proj:transform", "proj:shape") if fields.get(key)
        }
        codes.add(_epsg(fields))
    if len(codes) > 1:
        raise ItemError(f"item {content['id']}: its bands are in several CRS, got {codes}")
    try:
        options = dict(profile_of(item).gdal_options)
    except ItemError:  # a profile of the user's own
        options = {}
    return Scene(
        id=content["id"],
        time=np.datetime64(sensing_time(item).replace(tzinfo=None), "ns"),
        level=level_of(item),
        footprint=content["geometry"],
        crs=codes.pop(),
        assets=held,
        placement=placement,
        gdal_options=options,
    )


def _epsg(fields: dict[str, Any]) -> int | None:
    code = fields.get("proj:code") or fields.get("proj:epsg")
    return int(str(code).upper().removeprefix("EPSG:")) if code else None


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
    return [name for name in NAMES if any(name in scene.assets for scene in scenes)]


def choose_grid(scenes: Sequence[Scene], area: Any, *, resolution: float, crs: Any) -> Grid:
    """Settle CRS, origin and size of the cube; edges lie on the items' own pixel edges.

    The CRS is, in this order: 1. the caller's; 2. the one of most items.
    """
    if not resolution > 0:
        raise InputError(f"resolution is metres per pixel, above 0, got {resolution!r}")
    epsg = _projected(crs) if crs is not None else _commonest_crs(scenes)
    reach = [bounds for scene in scenes if (bounds := scene_bounds(scene, epsg))]
    if area is None:
        if not reach:
            raise ItemError(f"item {scenes[0].id} does not tell its extent: pass area=...")
        wanted = _union(reach)
    else:
        wanted = project_bounds(parse_area(area), epsg)
        if reach and not any(_overlap(bounds, wanted) for bounds in reach):
            raise NoItemsError(
                f"the area lies outside all {len(scenes)} items ({scenes[0].id}...): "
                f"got {_rounded(wanted)}, the items cover {_rounded(_union(reach))} "
                f"in EPSG:{epsg}: search with the same area"
            )
    anchor = reach[0] if reach else (0.0, 0.0, 0.0, 0.0)
    return Grid.covering(wanted, epsg=epsg, resolution=resolution, anchor=(anchor[0], anchor[3]))


def _projected(crs: Any) -> int:
    from pyproj import CRS

    found = CRS.from_user_input(crs)
    epsg = found.to_epsg()
    if epsg is None or not found.is_projected:
        raise InputError(
            f"a cube needs a projected CRS in metres with an EPSG code, got {crs!r}: "
            "give a UTM zone such as 'EPSG:32632'"
        )
    return int(epsg)


def _commonest_crs(scenes: Sequence[Scene]) -> int:
    counts = Counter(scene.crs for scene in scenes if scene.crs)
    if not counts:
        raise ItemError(f"item {scenes[0].id} does not tell its CRS (proj:code): pass crs=...")
    epsg, most = counts.most_common(1)[0]
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


def scene_bounds(scene: Scene, epsg: int) -> tuple[float, float, float, float] | None:
    """Where a scene's pixels lie (left, bottom, right, top); from its grid, never its bbox.

    The bbox of an item is broken at the antimeridian.
    """
    from pyproj import Transformer

    for placed in scene.placement.values():
        if len(placed) == 2 and scene.crs:
            a, _, left, _, e, top = placed["proj:transform"][:6]
            height, width = placed["proj:shape"]
            bounds = (left, top + e * height, left + a * width, top)
            if scene.crs == epsg:
                return bounds
            there = Transformer.from_crs(scene.crs, epsg, always_xy=True)
            left, bottom, right, top = there.transform_bounds(*bounds, densify_pts=21)
            return left, bottom, right, top
    return None


def project_bounds(geometry: Any, epsg: int) -> tuple[float, float, float, float]:
    """Bounding rectangle, in a projected CRS, of a geometry in degrees."""
    import shapely
    from pyproj import Transformer

    there = Transformer.from_crs(4326, epsg, always_xy=True)
    dense = shapely.segmentize(geometry, 0.02)  # straight in degrees is curved on the grid
    moved = shapely.transform(dense, there.transform, interleaved=False)
    left, bottom, right, top = moved.bounds
    if not np.isfinite([left, bottom, right, top]).all():
        raise InputError(f"the area {geometry.bounds} cannot be projected to EPSG:{epsg}")
    return left, bottom, right, top


def _union(all_bounds: Sequence[tuple[float, ...]]) -> tuple[float, float, float, float]:
    left, bottom, right, top = zip(*all_bounds, strict=True)
    return min(left), min(bottom), max(right), max(top)


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _rounded(bounds: tuple[float, ...]) -> tuple[int, ...]:
    return tuple(round(value) for value in bounds)


def snap_chunks(grid: Grid, chunks: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Chunk sizes along y and x, cut where the projected grid's multiples of `chunks` lie."""
    if isinstance(chunks, bool) or not isinstance(chunks, int) or chunks < 1:
        raise InputError(f"chunks is pixels per side, an integer above 0, got {chunks!r}")
    row, column = grid.origin
    return _snap(grid.height, row, chunks), _snap(grid.width, column, chunks)


def _snap(length: int, origin: int, chunk: int) -> tuple[int, ...]:
    if chunk >= LATTICE.core and length <= LATTICE.whole:
        return (length,)  # one window labels it: one chunk feeds that
    cuts = [0, *range(-origin % chunk or chunk, length, chunk), length]
    return tuple(int(size) for size in np.diff(cuts))


def to_source(scene: Scene) -> Source:
    """Say which files an engine opens, and where they lie."""
    return Source(
        id=scene.id,
        time=scene.time,
        footprint=scene.footprint,
        crs=scene.crs,
        hrefs={name: asset.href for name, asset in scene.assets.items()},
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


def to_reflectance(dn: np.ndarray, offset: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Compute ``(dn + offset) * scale``, NaN where `dn` is 0.

    Examples
    --------
    >>> to_reflectance(np.array([0, 1500], "uint16"), np.float32(-1000), np.float32(1e-4))
    array([ nan, 0.05], dtype=float32)
    """
    reflectance = dn.astype(np.float32)
    reflectance += offset
    reflectance *= scale
    reflectance[dn == 0] = np.nan
    return reflectance


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
